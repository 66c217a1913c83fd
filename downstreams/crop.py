"""A random part of a long training utterance, as frames of the whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from auscult.contracts import SAMPLE_RATE

from .batch import Batch, generator_of

Crop = tuple[float, float]  # from where to where, as shares of the utterance
CROPS = 1  # tells the random numbers of crops from those of the order


def with_crops(batches: Sequence[Batch], seconds: float, seed: int, epoch: int) -> list[Any]:
    """Return the batches with one more list: the part of each utterance to train on."""
    generator = generator_of(seed, epoch, CROPS)
    return [(*b, [draw_crop(len(u), seconds, generator) for u in b[0]]) for b in batches]


def draw_crop(num_samples: int, seconds: float, generator: torch.Generator) -> Crop:
    """Draw ``seconds`` of an utterance; all of it where it is no longer."""
    size = round(seconds * SAMPLE_RATE)
    if num_samples <= size:
        return 0.0, 1.0
    start = int(torch.randint(num_samples - size + 1, (), generator=generator))
    return start / num_samples, (start + size) / num_samples


def take_crop(frames: Tensor, crop: Crop) -> Tensor:
    """Return the frames (frame, dim) of a crop, at least one."""
    start, end = (round(share * len(frames)) for share in crop)
    start = min(start, len(frames) - 1)
    return frames[start : max(end, start + 1)]
