import numpy as np
import pytest

from auscult.interval import cluster_weights, quantiles


def test_resamples_draw_whole_speakers() -> None:
    speakers = ["a"] * 4 + ["b"] * 2
    weights = cluster_weights(speakers, 6, num_resamples=200)
    by_speaker = np.stack([weights[:, :4].sum(1), weights[:, 4:].sum(1)])
    assert set(np.unique(by_speaker[0])) <= {0.0, 4.0, 8.0}
    assert set(np.unique(by_speaker[1])) <= {0.0, 2.0, 4.0}


@pytest.mark.slow
def test_coverage_of_the_mean() -> None:
    """About 95 of 100 intervals hold the true mean when speakers are many."""
    generator = np.random.default_rng(1)
    held = 0
    for trial in range(100):
        level = np.repeat(generator.normal(size=40), 3)
        values = level + generator.normal(size=120)
        speakers = [f"s{i // 3}" for i in range(120)]
        weights = cluster_weights(speakers, 120, num_resamples=200, seed=trial)
        low, high = quantiles(weights @ values / weights.sum(-1))
        held += low <= 0.0 <= high
    assert 87 <= held <= 100


def test_same_seed_same_draws() -> None:
    first = cluster_weights(["a", "b", "a"], 3, seed=3)
    np.testing.assert_array_equal(first, cluster_weights(["a", "b", "a"], 3, seed=3))
    assert (first != cluster_weights(["a", "b", "a"], 3, seed=4)).any()


@pytest.mark.parametrize("missing", [None, ""])
def test_unknown_speakers_are_clusters_of_their_own(missing: str | None) -> None:
    weights = cluster_weights([missing] * 3, 3, num_resamples=50)
    assert (weights.sum(1) == 3).all() and weights.max() > 1
