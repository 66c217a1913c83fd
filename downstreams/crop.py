"""A random part of a long training utterance, as frames of the whole."""

import torch
from torch import Tensor

from auscult.contracts import SAMPLE_RATE

Crop = tuple[float, float]  # from where to where, as shares of the utterance


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
