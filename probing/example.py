"""Where a probe's examples come from: frames of utterances, or one pooled vector for each."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from auscult.feature import FrameSource
from auscult.pooled import Pooled

from .target import UNLABELLED, Targets

ROUNDING = 1e-5  # of its size: what a dimension in float32 deviates by though it is constant


class Examples(Protocol):
    """Labelled examples of one split, read utterance by utterance."""

    targets: Targets

    @property
    def by_layer(self) -> bool:
        """Whether reading one layer alone is cheap, so that layers can be trained in turn."""
        ...

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """Return the labelled examples of ``items``, (example, dim), for each of ``layers``."""
        ...

    def size(self, item: int) -> int:
        """Return how many examples reading ``item`` brings."""
        ...

    def scale(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (dim,) that standardise a layer."""
        ...


def labels_of(targets: Targets, items: Sequence[int]) -> Tensor:
    """Return the classes (example,) of the labelled examples of ``items``."""
    labels = torch.cat([targets.labels[i] for i in items])
    return labels[labels != UNLABELLED]


class FrameExamples:
    """Every labelled frame is an example."""

    def __init__(self, source: FrameSource, pooled: Pooled, targets: Targets) -> None:
        self.targets = targets
        self._source = source
        self._pooled = pooled

    @property
    def by_layer(self) -> bool:
        """See :class:`Examples`."""
        return self._source.kept

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """See :class:`Examples`."""
        labelled = torch.cat([self.targets.labels[i] for i in items]) != UNLABELLED
        return [frames[labelled] for frames in self._source.read(items, layers)]

    def size(self, item: int) -> int:
        """See :class:`Examples`."""
        return len(self.targets.labels[item])

    def scale(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation over all frames, from each utterance's own statistics."""
        weight = torch.from_numpy(self._pooled.num_frames).double()[:, None]
        mean, std = self._pooled.mean[:, layer].double(), self._pooled.std[:, layer].double()
        centre = (weight * mean).sum(0) / weight.sum()
        square = (weight * (std**2 + mean**2)).sum(0) / weight.sum()
        return _usable(centre, (square - centre**2).clamp(min=0).sqrt(), centre.abs())


class PooledExamples:
    """Every utterance is one example: the mean over its frames, or mean and deviation."""

    by_layer = True

    def __init__(self, pooled: Pooled, targets: Targets, pooling: str = "mean") -> None:
        self.targets = targets
        self._pooled = pooled
        self._pooling = pooling

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """See :class:`Examples`."""
        labelled = [i for i in items if int(self.targets.labels[i][0]) != UNLABELLED]
        return [self._vectors(layer)[labelled] for layer in layers]

    def size(self, item: int) -> int:
        """See :class:`Examples`."""
        return 1

    def scale(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation over utterances."""
        vectors = self._vectors(layer).double()
        centre, spread = vectors.mean(0), vectors.std(0, correction=0)
        return _usable(centre, spread, self._pooled.sizes(layer, self._pooling))

    def constant(self, layer: int) -> bool:
        """Whether a layer says the same of every utterance, as a mean after CMVN does."""
        return self._pooled.constant(layer, self._pooling)

    def _vectors(self, layer: int) -> Tensor:
        return self._pooled.vectors(layer, self._pooling)


def _usable(centre: Tensor, spread: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the deviation of constant dimensions by one, lest rounding noise be blown up.

    Args:
        centre: Mean of each dimension, (dim,).
        spread: Its deviation, (dim,).
        size: How large it is itself, (dim,).
    """
    varies = (spread > ROUNDING * size) & (spread > 0)
    spread = torch.where(varies, spread, torch.ones_like(spread))
    return centre.float(), spread.float()


def chunks(examples: Examples, order: Sequence[int], limit: int) -> list[list[int]]:
    """Cut ``order`` into runs of utterances of at most ``limit`` examples, or one utterance."""
    runs: list[list[int]] = []
    filled = limit
    for item in order:
        size = examples.size(item)
        if filled + size > limit:
            runs.append([])
            filled = 0
        runs[-1].append(item)
        filled += size
    return runs


def shuffled(items: Sequence[int], *seed: int) -> list[int]:
    """Return ``items`` in an order that depends on ``seed`` alone."""
    order = np.random.default_rng(list(seed)).permutation(len(items))
    return [items[i] for i in order]
