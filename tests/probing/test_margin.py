"""Differences between encoders on the same resamples."""

from dataclasses import replace

import numpy as np
import pytest

from auscult.interval import accuracies, cluster_weights, quantiles
from auscult.probing import Resampled, margins

SPEAKERS = ["a", "a", "b", "b", "c", "c", "d", "d"]
TOTAL = np.full((8, 1), 50.0)
HARD = np.array([45, 44, 30, 31, 20, 19, 40, 42])[:, None] * 1.0  # right answers of the first


def scored(name: str, correct: np.ndarray, layer: int = 0, dev: float = 0.5) -> Resampled:
    weights = cluster_weights(SPEAKERS, len(SPEAKERS))
    return Resampled(
        upstream=name,
        task="phone",
        probe="linear",
        layer=layer,
        dev=dev,
        test=float(accuracies(correct.sum(0), TOTAL.sum(0))),
        resamples=accuracies(weights @ correct, weights @ TOTAL),
        utterances=tuple("12345678"),
    )


def test_hard_speakers_are_hard_for_both() -> None:
    """The intervals of the two overlap widely; that of the difference is narrow."""
    one, other = scored("one", HARD + 2), scored("other", HARD)
    (found,) = margins([one, other], "one", "other")
    assert found.value == pytest.approx(0.04)
    assert found.low == pytest.approx(0.04) and found.high == pytest.approx(0.04)
    low, high = quantiles(one.resamples)
    assert high - low > 0.1


def test_swapped_encoders_have_the_opposite_margin() -> None:
    probes = [scored("one", HARD + np.arange(8)[:, None]), scored("other", HARD)]
    (found,), (swapped,) = margins(probes, "one", "other"), margins(probes, "other", "one")
    assert found.low < found.value < found.high
    expected = (-swapped.value, -swapped.high, -swapped.low)
    assert (found.value, found.low, found.high) == pytest.approx(expected)


def test_dev_chooses_the_layer_and_seeds_are_averaged() -> None:
    one = [
        scored("one", HARD, layer=0, dev=0.7),
        scored("one", HARD - 3, layer=1, dev=0.9),
        scored("one", HARD + 3, layer=1, dev=0.6),
    ]
    (found,) = margins([*one, scored("other", HARD - 1, layer=2)], "one", "other")
    assert (found.layer, found.over_layer) == (1, 2)
    assert found.value == pytest.approx(0.02)


def test_other_utterances_are_not_compared() -> None:
    one, other = scored("one", HARD), scored("other", HARD)
    fewer = replace(other, utterances=("1",))
    assert margins([one, fewer], "one", "other") == []
    assert margins([one], "one", "other") == []
