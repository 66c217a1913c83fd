"""Statistics over the frames of utterances, and whether they say anything about the utterance."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAME = 2.0**-10  # of its size: a dimension that varies less over utterances says nothing of them


@dataclass(frozen=True, slots=True)
class Pooled:
    """Statistics over the valid frames of each utterance."""

    mean: Tensor  # (item, layer, dim) float32
    std: Tensor  # (item, layer, dim) float32, biased
    num_frames: NDArray[np.int64]  # (item,)

    def vectors(self, layer: int, pooling: str = "mean") -> Tensor:
        """Return one vector for each utterance, (item, dim), or (item, 2 dim) for ``statistics``.

        Args:
            layer: Hidden state.
            pooling: ``mean``, or ``statistics``: the mean and then the deviation.
        """
        parts = {"mean": [self.mean], "statistics": [self.mean, self.std]}[pooling]
        return torch.cat([part[:, layer] for part in parts], dim=-1)

    def sizes(self, layer: int, pooling: str = "mean") -> Tensor:
        """Return how large each dimension of :meth:`vectors` is, (dim,) float64.

        That is the root mean square of its own frames: what rounding is relative to, and no less
        than they deviate.
        """
        mean, std = self.mean[:, layer].double(), self.std[:, layer].double()
        own = (mean**2 + std**2).mean(0).sqrt()
        return own if pooling == "mean" else own.repeat(2)

    def constant(self, layer: int, pooling: str = "mean") -> bool:
        """Say whether a layer says the same of every utterance, as a mean after CMVN does.

        It does where that holds of every dimension: over utterances it deviates by at most 2^-10
        of its own size, whatever the size of others. Less is not information. Two neighbours among
        float16 numbers are so far apart, so that it may be rounding; and the means of utterances
        that say nothing, but are not made equal, differ by more than that by sampling alone, up to
        a million frames an utterance. Of fewer than two utterances nothing is known.
        """
        if len(self.mean) < 2:
            return False
        spread = self.vectors(layer, pooling).double().std(0, correction=0)
        return bool((spread <= SAME * self.sizes(layer, pooling)).all())

    def constant_layers(self) -> list[int]:
        """Return the layers whose mean over time is :meth:`constant`."""
        return [layer for layer in range(self.mean.shape[1]) if self.constant(layer)]
