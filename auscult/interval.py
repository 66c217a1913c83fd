"""How far a score would move with other speakers: the cluster bootstrap.

Frames and utterances of one speaker are not independent, so whole speakers are resampled, then
utterances within them; frames never. Without speaker labels every utterance is its own cluster.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 1000
LEVEL = 0.95


def cluster_weights(
    speakers: Sequence[str | None] | None,
    num_items: int,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return how often each resample draws each utterance, (resample, item).

    Speakers are drawn with replacement, then as many utterances of each drawn speaker as it has.

    Args:
        speakers: The speaker of each utterance; None, or an empty one, is a cluster of its own.
        num_items: Number of utterances.
        num_resamples: Bootstrap resamples.
        seed: Seed of the draws; the same draws serve every score of a task, so that differences
            between layers and encoders are paired.
    """
    labels = speakers if speakers is not None else [None] * num_items
    names = [label or f"\0{i}" for i, label in enumerate(labels)]
    _, cluster_of = np.unique(names, return_inverse=True)
    members = [np.flatnonzero(cluster_of == c) for c in range(cluster_of.max() + 1)]
    generator = np.random.default_rng(seed)
    weights = np.zeros((num_resamples, num_items))
    for row in weights:
        for c in generator.integers(len(members), size=len(members)):
            drawn = members[c][generator.integers(len(members[c]), size=len(members[c]))]
            np.add.at(row, drawn, 1.0)
    return weights


def quantiles(samples: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile interval of bootstrap ``samples`` (resample,)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
