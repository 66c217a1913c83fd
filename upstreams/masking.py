"""Which frames pretraining hides: spans drawn for each row from the row's own seed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def span_mask(
    lengths: Tensor, seeds: Sequence[int], *, probability: float, span: int, least: int = 1
) -> Tensor:
    """Hide spans of ``span`` frames, which may overlap, as fairseq draws them.

    A row of n frames has ``int(probability * n / span + u)`` spans, u uniform in [0, 1), but at
    least ``least``, with distinct starts. No span reaches the last frame; rows shorter than a span
    are hidden up to their last frame, and a row of one frame whole. Not the same: fairseq opens
    frames again until all rows of a batch hide as many, and here a row does not depend on its
    batch.

    Args:
        lengths: (batch,) valid frames.
        seeds: Of each row.
        probability: Share of frames that spans would cover if they never overlapped.
        span: Frames of a span.
        least: Spans of a row, where there is room.

    Returns:
        (batch, frame) bool on the device of ``lengths``.

    Reference: fairseq, data/data_utils.py, compute_mask_indices (static spans).
    """
    counts = lengths.tolist()
    mask = np.zeros((len(counts), max(counts)), dtype=bool)
    for row, (frames, seed) in enumerate(zip(counts, seeds, strict=True)):
        generator = np.random.default_rng(seed)
        width = max(min(span, frames - 1), 1)
        room = max(frames - width, 1)
        spans = min(max(int(probability * frames / span + generator.random()), least), room)
        for start in generator.choice(room, spans, replace=False):
            mask[row, start : start + width] = True
    return torch.from_numpy(mask).to(lengths.device)
