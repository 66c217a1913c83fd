"""Tallies: any quotient of sums, resampled by speaker, also by seed and in pairs."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from auscult.errors import UserError
from auscult.interval import cluster_weights, quantiles
from auscult.score import (
    Tally,
    difference_of,
    resamples_of,
    score_of,
    score_of_seeds,
    value_of,
)

SPEAKERS = tuple(f"s{i // 5}" for i in range(40))
ITEMS = tuple(f"u{i}" for i in range(40))


def answers(seed: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    truth = chance.integers(4, size=40)
    found = np.where(chance.random(40) < skill, truth, chance.integers(4, size=40))
    return truth, found


def tally(seed: int = 0, skill: float = 0.6) -> Tally:
    truth, _ = answers(0, 1.0)
    _, found = answers(seed, skill)
    found = np.where(np.random.default_rng(seed + 9).random(40) < skill, truth, found)
    total, answered = np.eye(4)[truth], np.eye(4)[found]
    return Tally(
        right=total * answered, total=total, answered=answered, items=ITEMS, speakers=SPEAKERS
    )


def labels(found: Tally) -> tuple[np.ndarray, np.ndarray]:
    assert found.answered is not None
    return found.total.argmax(1), found.answered.argmax(1)


def test_measures_are_scikit_learns() -> None:
    for seed in range(5):
        found = tally(seed)
        truth, said = labels(found)
        assert value_of("accuracy", found) == pytest.approx((truth == said).mean())
        assert value_of("balanced_accuracy", found) == pytest.approx(
            balanced_accuracy_score(truth, said)
        )
        assert value_of("macro_f1", found) == pytest.approx(f1_score(truth, said, average="macro"))


def test_classes_that_do_not_occur_do_not_count() -> None:
    total, right = np.array([[8.0, 2.0, 0.0]]), np.array([[8.0, 1.0, 0.0]])
    found = Tally(right=right, total=total, items=("u",), speakers=("s",))
    assert value_of("accuracy", found) == 0.9
    assert value_of("macro_accuracy", found) == 0.75


def test_intervals_are_those_of_the_cluster_bootstrap() -> None:
    """To the last bit those of the formula: weights times counts, quotients, quantiles."""
    found = tally()
    weights = cluster_weights(SPEAKERS, 40)
    right, total = weights @ found.right, weights @ found.total
    recalls = np.divide(right, total, out=np.full(right.shape, np.nan), where=total > 0)
    wanted = {
        "accuracy": right.sum(-1) / total.sum(-1),
        "macro_accuracy": np.nanmean(recalls, axis=-1),
    }
    for metric, resampled in wanted.items():
        score = score_of(metric, found, commonest=2)
        assert (score.low, score.high) == quantiles(resampled)
    score = score_of("accuracy", found, 2)
    assert score.majority == (found.total.argmax(1) == 2).mean()
    assert (score.num_items, score.num_speakers) == (40, 8)


def test_speakers_widen_the_interval() -> None:
    """One speaker all right, one all wrong: utterances alone would claim far too much."""
    right = np.array([1.0] * 50 + [0.0] * 50)
    items = [str(i) for i in range(100)]
    both = [["a"] * 50 + ["b"] * 50, [None] * 100]
    tallies = [Tally.of_ratio(right, np.ones(100), items, speakers) for speakers in both]
    by_speaker, alone = (score_of("accuracy", found) for found in tallies)
    assert (by_speaker.low, by_speaker.high) == (0.0, 1.0)
    assert alone.low is not None and alone.high is not None
    assert 0.38 < alone.low < 0.45 and 0.55 < alone.high < 0.62


def test_an_error_rate_is_a_quotient_of_sums() -> None:
    rate = Tally.of_ratio([1, 0, 3], [2, 5, 3], ["a", "b", "c"], [None] * 3)
    assert value_of("wer", rate) == 0.4
    score = score_of("wer", rate)
    assert score.low is not None and score.high is not None
    assert score.low <= 0.4 <= score.high and score.num_speakers is None


def test_seeds_are_drawn_too() -> None:
    seeds = [tally(seed, skill) for seed, skill in enumerate((0.2, 0.5, 0.9))]
    score = score_of_seeds("accuracy", seeds)
    assert score.value == pytest.approx(np.mean([value_of("accuracy", s) for s in seeds]))
    fixed = np.mean([resamples_of("accuracy", s) for s in seeds], axis=0)
    assert score.low is not None and score.high is not None
    assert score.high - score.low > np.subtract(*np.quantile(fixed, [0.975, 0.025])) * 1.2
    assert score_of_seeds("accuracy", seeds[:1]).low == score_of("accuracy", seeds[0]).low


def test_differences_are_paired() -> None:
    """A speaker that is hard for both widens each interval and not that of the difference."""
    hard = np.repeat([1.0, 0.0] * 4, 5)[:, None]
    ones = np.ones((40, 1))
    better = hard.copy()
    better[::10] = 1.0
    ours, theirs = (
        Tally(right=right, total=ones, items=ITEMS, speakers=SPEAKERS) for right in (better, hard)
    )
    score, alone = difference_of("accuracy", [ours], [theirs]), score_of("accuracy", ours)
    assert score.low is not None and score.high is not None
    assert alone.low is not None and alone.high is not None
    assert score.value == value_of("accuracy", ours) - value_of("accuracy", theirs)
    assert score.high - score.low < (alone.high - alone.low) / 2
    with pytest.raises(UserError, match="not the same utterances"):
        difference_of("accuracy", [ours], [Tally.of_ratio([1], [1], ["x"], ["y"])])


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="expected"):
        Tally(right=np.ones((3, 1)), total=np.ones((2, 1)), items=("a", "b"), speakers=(None,) * 2)
    with pytest.raises(ValueError, match="speakers"):
        Tally.of_ratio([1, 1], [1, 1], ["a", "b"], ["x"])
