"""By how much one encoder is read better than another, with an interval of the difference.

Two intervals that overlap say little about a difference: a hard speaker is hard for both encoders.
Here both are scored on the same resamples of the same speakers, and their difference is resampled.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auscult.interval import quantiles


@dataclass(frozen=True, slots=True)
class Resampled:
    """The accuracy of one probe on test, and that on each resample of its utterances."""

    upstream: str
    task: str
    probe: str
    layer: int
    dev: float  # accuracy
    test: float
    resamples: NDArray[np.float64]  # (resample,) accuracies
    utterances: tuple[str, ...]  # that were resampled, by id


@dataclass(frozen=True, slots=True)
class Margin:
    """Accuracy of ``upstream`` minus that of ``over``, each at the layer that dev prefers."""

    upstream: str
    over: str
    task: str
    probe: str
    layer: int
    over_layer: int
    value: float
    low: float  # 95 % interval of the difference
    high: float


def margins(probes: Sequence[Resampled], upstream: str, over: str) -> list[Margin]:
    """Compare two encoders in each task and probe that both have, over the mean of their seeds.

    Where they did not hear the same utterances, as one can be too short for an encoder, there is
    nothing to be paired and no margin.

    Args:
        probes: Of both encoders and any others; one for each layer and seed.
        upstream: Name of the encoder that is to be better.
        over: Name of the one that it is compared with.
    """
    of_both: dict[tuple[str, str], dict[str, list[Resampled]]] = defaultdict(dict)
    for probe in probes:
        of_both[probe.task, probe.probe].setdefault(probe.upstream, []).append(probe)
    found = []
    for (task, name), of in of_both.items():
        if upstream not in of or over not in of:
            continue
        one, other = _best_layer(of[upstream]), _best_layer(of[over])
        if one[0].utterances != other[0].utterances:
            continue
        resampled = _mean_resamples(one) - _mean_resamples(other)
        value = float(np.mean([p.test for p in one]) - np.mean([p.test for p in other]))
        layers = one[0].layer, other[0].layer
        found.append(Margin(upstream, over, task, name, *layers, value, *quantiles(resampled)))
    return found


def _best_layer(probes: Sequence[Resampled]) -> list[Resampled]:
    """Return the seeds of the layer that is best on dev in the mean; the lowest of equal ones."""
    layers: dict[int, list[Resampled]] = defaultdict(list)
    for probe in probes:
        layers[probe.layer].append(probe)
    return max(
        (layers[layer] for layer in sorted(layers)),
        key=lambda seeds: float(np.mean([probe.dev for probe in seeds])),
    )


def _mean_resamples(seeds: Sequence[Resampled]) -> NDArray[np.float64]:
    """Return the mean over seeds, (resample,)."""
    mean: NDArray[np.float64] = np.mean([probe.resamples for probe in seeds], axis=0)
    return mean
