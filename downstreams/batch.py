"""Batches of utterances whose order depends on seed and epoch alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .split import LabelledSplit, Utterance

Batch = tuple[list[Utterance], list[str], list[Any]]  # utterances, their ids, their labels


def batches(split: LabelledSplit, order: Sequence[int], size: int) -> list[Batch]:
    """Return the utterances of a split in some order, ``size`` in a batch; the last may be less."""
    utterances, ids = split.utterances, split.ids
    chunks = [order[i : i + size] for i in range(0, len(order), size)]
    return [
        ([utterances[i] for i in c], [ids[i] for i in c], [split.labels[i] for i in c])
        for c in chunks
    ]


def generator_of(*seeds: int) -> torch.Generator:
    """Return a generator of random numbers that is a function of ``seeds``."""
    state = np.random.SeedSequence(seeds).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def shuffled(num_items: int, seed: int, epoch: int) -> list[int]:
    """Return the items of an epoch in their order."""
    return torch.randperm(num_items, generator=generator_of(seed, epoch)).tolist()
