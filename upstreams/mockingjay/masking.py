"""Which frames a masked acoustic model predicts, and what stands in their place.

Once for each utterance it is decided whether its chosen frames become zero (80 %), become other
frames of the utterance (10 %) or stay (10 %).

Source: Liu et al., ICASSP 2020, arXiv 1910.12638.
Reference: s3prl 0.4.18, pretrain/mockingjay/task.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ZEROED, REPLACED = 0.8, 0.1  # share of the utterances; the rest keep their chosen frames
BUCKET = 1.2  # spans, where they must not overlap: one starts in each, or none

_Frames = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Masks:
    """What happens to each frame of a batch."""

    chosen: Tensor  # (batch, frame) bool: to be predicted; padding never is
    zeroed: Tensor  # (batch, frame) bool, some of the chosen
    source: Tensor  # (batch, frame) int64, the frame that is put here; mostly its own number

    def to(self, device: torch.device) -> "Masks":
        """Return the same masks on ``device``."""
        return Masks(self.chosen.to(device), self.zeroed.to(device), self.source.to(device))

    def alter(self, features: Tensor) -> Tensor:
        """Return features (batch, frame, dim) as the encoder is to see them."""
        moved = features.take_along_dim(self.source[..., None], dim=1)
        return moved.masked_fill(self.zeroed[..., None], 0.0)


def draw_masks(
    lengths: Sequence[int], seeds: Sequence[int], *, share: float, span: int, overlap: bool = True
) -> Masks:
    """Choose ``round(frames * share / span)`` spans in each row, at least one.

    As in s3prl no span reaches the last frame, where there is another place for it.

    Args:
        lengths: Frames of each row.
        seeds: Of each row.
        share: Of the frames that spans would cover if they never overlapped.
        span: Frames of a span; shorter rows are chosen whole.
        overlap: Whether spans may start anywhere; otherwise they start at multiples of 1.2
            spans from a first start that is drawn.
    """
    shape = len(lengths), max(lengths)
    chosen, zeroed = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    source = np.tile(np.arange(shape[1]), (shape[0], 1))
    for row, (frames, seed) in enumerate(zip(lengths, seeds, strict=True)):
        generator = np.random.default_rng(seed)
        policy = generator.random()
        starts = _starts(generator, frames, share, span, overlap)
        places = _spread(starts, span, frames)
        chosen[row, places] = True
        if policy < ZEROED:
            zeroed[row, places] = True
        elif policy < ZEROED + REPLACED:
            others = generator.permutation(_room(frames, span))[: len(starts)]
            source[row, places] = _spread(others, span, frames)
    return Masks(torch.from_numpy(chosen), torch.from_numpy(zeroed), torch.from_numpy(source))


def _starts(
    generator: np.random.Generator, frames: int, share: float, span: int, overlap: bool
) -> _Frames:
    """Return where the spans of a row start."""
    room = _room(frames, span)
    places = np.arange(room)
    if not overlap:
        places = places[int(generator.integers(min(span + 1, room))) :: round(BUCKET * span)]
    return generator.permutation(places)[: max(round(frames * share / span), 1)]


def _room(frames: int, span: int) -> int:
    """Return how many starts there are."""
    return max(frames - span, 1)


def _spread(starts: _Frames, span: int, frames: int) -> _Frames:
    """Return the frames of the spans, one span after another."""
    found: _Frames = (starts[:, None] + np.arange(min(span, frames))).ravel()
    return found
