"""Trials of speaker verification: made where a corpus has none, and what scores of them are worth.

A trial is two utterances and whether one speaker says both. The equal error rate is where misses
(one speaker, taken for two) and false alarms (two, taken for one) are equally frequent. The least
detection cost (minDCF) is NIST's at its best threshold: a miss and a false alarm cost the same, one
trial in a hundred is of one speaker, and 1 is what taking all trials for two speakers costs.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.dataset import Trial
from auscult.interval import NUM_RESAMPLES, quantiles
from auscult.score import Score, count_speakers

MOST = 20_000  # made trials of each kind
PRIOR = 0.01  # of one speaker, in the detection cost


class Errors(NamedTuple):
    """Shares of the trials of each kind, each (threshold,), from the highest threshold down."""

    misses: NDArray[np.float64]  # from 1 to 0
    alarms: NDArray[np.float64]  # from 0 to 1


def make_trials(speakers: Mapping[str, str]) -> tuple[Trial, ...]:
    """Pair utterances of one speaker, all or MOST of them, and draw as many pairs of two speakers.

    The same utterances give the same trials. Where no speaker has two utterances, or all utterances
    are of one speaker, trials are of one kind only.

    Args:
        speakers: Who says each utterance.
    """
    generator = np.random.default_rng(0)
    spoken: dict[str, list[str]] = defaultdict(list)
    for utterance, speaker in speakers.items():
        spoken[speaker].append(utterance)
    each = max(MOST // len(spoken), 1)
    same = [
        Trial(names[i], names[j], same=True)
        for names in spoken.values()
        for i, j in _draw_pairs(len(names), each, generator)
    ]
    names = list(speakers)
    drawn = _draw_pairs(len(names), 4 * len(same), generator)
    pairs = ((names[i], names[j]) for i, j in drawn)
    others = [Trial(a, b, same=False) for a, b in pairs if speakers[a] != speakers[b]]
    return (*same, *others[: len(same)])


def _draw_pairs(size: int, count: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Return ``count`` different pairs of ``size`` things, all of them where there are fewer."""
    total = size * (size - 1) // 2
    if not total:
        return []
    codes = generator.choice(total, min(count, total), replace=False)
    pairs = []
    for code in map(int, codes):  # pair (i, j), i < j, has the code j (j - 1) / 2 + i
        j = (1 + math.isqrt(1 + 8 * code)) // 2
        pairs.append((code - j * (j - 1) // 2, j))
    return pairs


def equal_error_rate(same: ArrayLike, scores: ArrayLike) -> float:
    """Return the equal error rate, interpolated between thresholds as s3prl does; nan if undefined.

    Args:
        same: (trial,) whether one speaker says both.
        scores: (trial,) higher is more alike.
    """
    return _equal_errors(_all_errors(same, scores))


def least_detection_cost(same: ArrayLike, scores: ArrayLike) -> float:
    """Return the least detection cost over all thresholds, not interpolated; nan if undefined.

    Args:
        same: (trial,) whether one speaker says both.
        scores: (trial,) higher is more alike.
    """
    return _least_cost(_all_errors(same, scores))


def trial_scores(
    same: Sequence[bool], scores: Sequence[float], speakers: Sequence[tuple[str | None, str | None]]
) -> list[Score]:
    """Return the equal error rate and the least detection cost of trials with their intervals.

    Speakers are resampled: a trial of one speaker counts as often as that speaker is drawn, a trial
    of two as often as the one times the other. Where a speaker is not known, trials are resampled.

    Args:
        same: Of each trial, whether one speaker says both.
        scores: Higher is more alike.
        speakers: Of each trial, the speaker of the first utterance and of the second.
    """
    target, values = np.asarray(same, dtype=bool), np.asarray(scores)
    resampled = [
        (_equal_errors(errors), _least_cost(errors))
        for errors in _errors(target, values, _draws(target, speakers))
        if errors is not None  # some draw trials of one kind only
    ]
    found = {"eer": equal_error_rate, "min_dcf": least_detection_cost}
    intervals = [quantiles(column) for column in np.array(resampled).T]
    return [
        Score(
            metric=metric,
            value=measure(target, values),
            low=low,
            high=high,
            num_items=len(target),
            num_speakers=count_speakers([name for pair in speakers for name in pair]),
        )
        for (metric, measure), (low, high) in zip(found.items(), intervals, strict=True)
    ]


def _draws(
    same: NDArray[np.bool_], speakers: Sequence[tuple[str | None, str | None]]
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each resample has each trial, (trial,)."""
    generator = np.random.default_rng(0)
    names = sorted({str(name) for pair in speakers for name in pair})
    known = all(name is not None for pair in speakers for name in pair)
    number = len(names) if known else len(same)
    first, second = np.searchsorted(names, [[str(name) for name in pair] for pair in speakers]).T
    for _ in range(NUM_RESAMPLES):
        drawn = generator.multinomial(number, np.full(number, 1 / number))
        yield np.where(same, drawn[first], drawn[first] * drawn[second]) if known else drawn


def _all_errors(same: ArrayLike, scores: ArrayLike) -> Errors | None:
    target = np.asarray(same, dtype=bool)
    (errors,) = _errors(target, np.asarray(scores), [np.ones(len(target))])
    return errors


def _errors(
    same: NDArray[np.bool_], scores: NDArray[np.float64], weights: Iterable[NDArray[Any]]
) -> Iterator[Errors | None]:
    """Yield the errors for each of ``weights``, each (trial,); None for trials of one kind only."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # trials of equal scores as one
    kinds = same[order]
    for weight in weights:
        hits = np.cumsum(weight[order] * kinds)[ends]
        alarms = np.cumsum(weight[order] * ~kinds)[ends]
        if hits[-1] == 0 or alarms[-1] == 0:
            yield None
            continue
        yield Errors(
            np.concatenate([[1.0], 1 - hits / hits[-1]]),
            np.concatenate([[0.0], alarms / alarms[-1]]),
        )


def _equal_errors(errors: Errors | None) -> float:
    """Return where the straight lines between neighbouring thresholds cross."""
    if errors is None:
        return math.nan
    miss, alarm = errors
    after = int(np.argmax(alarm >= miss))  # at least 1
    before = after - 1
    gap, over = miss[before] - alarm[before], alarm[after] - miss[after]
    return float(alarm[before] + (alarm[after] - alarm[before]) * gap / (gap + over))


def _least_cost(errors: Errors | None) -> float:
    if errors is None:
        return math.nan
    costs = PRIOR * errors.misses + (1 - PRIOR) * errors.alarms
    return float(costs.min() / PRIOR)
