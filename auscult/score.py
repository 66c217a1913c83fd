"""What was right of what there was, by utterance: one resampler, and the one maker of records.

Accuracies, error rates and losses are quotients of sums over utterances. A :class:`Tally` keeps the
sums apart by utterance, so that any of them can be resampled by speaker, also on another day and
against another encoder. The formulas are those of shared reporting practice: speakers are drawn
with replacement, then utterances within them, frames never; where there are several seeds, they
are drawn too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.errors import UserError
from auscult.interval import cluster_weights, quantiles
from auscult.metric import DIRECTIONS, SAID
from auscult.record import Provenance, Record, with_origins

if TYPE_CHECKING:
    from auscult.contracts import TaskSpec, UpstreamSpec
    from auscult.dataset import Corpus

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tally:
    """Counts of one reader on one split, by utterance and label."""

    right: Array  # (item, label) what is counted, by true class: right answers, errors, nats
    total: Array  # (item, label) of how many
    items: tuple[str, ...]  # utterance ids
    speakers: tuple[str | None, ...]  # of each utterance
    answered: Array | None = None  # (item, label) answers by the class that was answered, for F1

    def __post_init__(self) -> None:
        size = len(self.items)
        shapes = {array.shape for array in (self.right, self.total) if array is not None}
        if len(shapes) != 1 or self.right.ndim != 2 or len(self.right) != size:
            raise ValueError(f"Tally: expected ({size}, label) counts, got {sorted(shapes)}.")
        if len(self.speakers) != size:
            raise ValueError(f"Tally: {len(self.speakers)} speakers for {size} utterances.")

    @classmethod
    def of_ratio(
        cls,
        parts: ArrayLike,
        totals: ArrayLike,
        items: Sequence[str],
        speakers: Sequence[str | None],
    ) -> "Tally":
        """Return the tally of a quotient of sums: (item,) errors, say, of (item,) words."""
        right, total = (np.asarray(x, dtype=float)[:, None] for x in (parts, totals))
        return cls(right=right, total=total, items=tuple(items), speakers=tuple(speakers))

    @property
    def num_items(self) -> int:
        """Return how much was counted, in whatever the totals count."""
        return int(self.total.sum())

    @property
    def num_speakers(self) -> int | None:
        """Return how many speakers there are, None where none is known."""
        return count_speakers(self.speakers)

    def always(self, label: int) -> "Tally":
        """Return the tally of a reader that always answers one class."""
        mine = np.arange(self.total.shape[1]) == label
        answered = self.total.sum(1, keepdims=True) * mine
        return replace(self, right=np.where(mine, self.total, 0.0), answered=answered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric with its 95 % interval."""

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    majority: float | None = None  # what always answering train's commonest class scores
    num_items: int
    num_speakers: int | None


def count_speakers(speakers: Sequence[str | None]) -> int | None:
    """Return how many speakers there are, None where none is known."""
    return len(set(speakers) - {None}) or None


Sums = tuple[Array, Array, Array | None]  # right, total, answered; each (..., label)


def _share(sums: Sums) -> Array:
    return np.asarray(sums[0].sum(-1) / sums[1].sum(-1).clip(min=1e-12))


def _mean_recall(sums: Sums) -> Array:
    """Return the mean recall of the classes that occur."""
    right, total, _ = sums
    recalls = np.divide(right, total, out=np.full(right.shape, np.nan), where=total > 0)
    return np.asarray(np.nanmean(recalls, axis=-1))


def _mean_f1(sums: Sums) -> Array:
    """Return the mean F1 of the classes that occur or are answered, as scikit-learn's macro F1."""
    right, total, answered = sums
    if answered is None:
        raise ValueError("macro_f1 needs answers by class.")
    both = total + answered
    scores = np.divide(2 * right, both, out=np.full(right.shape, np.nan), where=both > 0)
    return np.asarray(np.nanmean(scores, axis=-1))


MEASURES: Mapping[str, Callable[[Sums], Array]] = {  # others are quotients of sums
    "macro_accuracy": _mean_recall,
    "balanced_accuracy": _mean_recall,
    "macro_f1": _mean_f1,
}


def value_of(metric: str, tally: Tally) -> float:
    """Return a metric of all utterances."""
    return float(_measured(metric, tally, None))


def resamples_of(metric: str, tally: Tally) -> Array:
    """Return a metric on each resample of speakers, then utterances, (resample,).

    The same draws serve every tally of the same speakers, so that differences are paired.
    """
    return _measured(metric, tally, _weights(tally.speakers))


def score_of(metric: str, tally: Tally, commonest: int | None = None) -> Score:
    """Return a metric with its interval.

    Args:
        metric: A key of ``MEASURES``, or the name of a quotient of sums: accuracy, wer, loss, ...
        tally: Of one reader.
        commonest: Train's commonest class, for the majority's score.
    """
    low, high = quantiles(resamples_of(metric, tally))
    return Score(
        metric=metric,
        value=value_of(metric, tally),
        low=low,
        high=high,
        majority=None if commonest is None else value_of(metric, tally.always(commonest)),
        num_items=tally.num_items,
        num_speakers=tally.num_speakers,
    )


def score_of_seeds(metric: str, tallies: Sequence[Tally]) -> Score:
    """Return the mean of a metric over seeds; seeds are drawn along with the speakers.

    Args:
        metric: See :func:`score_of`.
        tallies: One for each seed, of the same utterances.
    """
    _check_same(tallies)
    first = tallies[0]
    low, high = quantiles(_over_seeds(metric, tallies))
    return Score(
        metric=metric,
        value=float(np.mean([value_of(metric, tally) for tally in tallies])),
        low=low,
        high=high,
        num_items=first.num_items,
        num_speakers=first.num_speakers,
    )


def difference_of(metric: str, ours: Sequence[Tally], theirs: Sequence[Tally]) -> Score:
    """Return the mean of one reader minus that of another, on the same resamples of speakers.

    Two intervals that overlap say little about a difference: a hard speaker is hard for both.

    Args:
        metric: See :func:`score_of`.
        ours: One tally for each seed.
        theirs: One for each seed of the reader that is subtracted, of the same utterances.

    Raises:
        UserError: They did not hear the same utterances, so that nothing can be paired.
    """
    _check_same([*ours, *theirs])
    of_each = [np.mean([value_of(metric, tally) for tally in side]) for side in (ours, theirs)]
    low, high = quantiles(_over_seeds(metric, ours) - _over_seeds(metric, theirs, side=1))
    return Score(
        metric=metric,
        value=float(of_each[0] - of_each[1]),
        low=low,
        high=high,
        num_items=ours[0].num_items,
        num_speakers=ours[0].num_speakers,
    )


def record_of(
    score: Score,
    *,
    encoder: "UpstreamSpec",
    corpus: "Corpus",
    split: str,
    task: "TaskSpec",
    layer: int | str | None,
    probe: str,
    seed: int,
    config: Mapping[str, Any],
    provenance: Provenance,
    num_skipped: int = 0,
    selected_on: str = "dev",
    unit: str = "",
    head: int | None = None,
) -> Record:
    """Return what is kept of a score: the one place that makes records.

    Args:
        score: The number.
        encoder: Of what.
        corpus: On what; the fingerprint is that of ``split``.
        split: What it is reported on.
        task: Of what task.
        layer: Hidden state, ``weighted`` for a learned sum, None for the model.
        probe: Probe, downstream head or measurement.
        seed: Of the probe or head.
        config: What else the number depends on.
        provenance: The run that measured it.
        num_skipped: Items left out.
        selected_on: The split that chose; empty where nothing was chosen.
        unit: Empty for a share of 0 to 1.
        head: Attention head.
    """
    said = {SAID: task.direction} if task.direction and score.metric not in DIRECTIONS else {}
    return Record(
        **encoder.record_fields(),
        **asdict(score),
        corpus=corpus.spec,
        corpus_sha256=corpus.sha256[split],
        task=task.name,
        task_version=task.version,
        layer=layer,
        head=head,
        probe=probe,
        unit=unit,
        split=corpus.tested if split == "test" else split,
        selected_on=selected_on,
        num_skipped=num_skipped,
        seed=seed,
        config={**config, **said},
        provenance=with_origins(provenance, encoder.origin, corpus.origin, task.origin),
    )


def _measured(metric: str, tally: Tally, weights: Array | None) -> Array:
    def summed(counts: Array) -> Array:
        if weights is None:
            return np.asarray(counts.sum(0))
        if counts.shape[1] == 1:  # the product of a matrix and a vector, whatever its last bit
            return np.asarray((weights @ counts[:, 0])[:, None])
        return np.asarray(weights @ counts)

    answered = None if tally.answered is None else summed(tally.answered)
    sums = summed(tally.right), summed(tally.total), answered
    found: Array = MEASURES.get(metric, _share)(sums)
    return found


def _over_seeds(metric: str, tallies: Sequence[Tally], side: int = 0) -> Array:
    """Return the mean over as many drawn seeds on each resample, (resample,)."""
    values = np.stack([resamples_of(metric, tally) for tally in tallies])  # (seed, resample)
    if len(tallies) == 1:
        return np.asarray(values[0])
    drawn = np.random.default_rng([side, len(tallies)]).integers(len(tallies), size=values.shape)
    return np.asarray(np.take_along_axis(values, drawn, axis=0).mean(0))


def _check_same(tallies: Sequence[Tally]) -> None:
    for other in tallies[1:]:
        if other.items != tallies[0].items:
            raise UserError(
                f"Scores of {len(tallies[0].items)} and {len(other.items)} utterances cannot be "
                "compared: they are not the same utterances; measure both on the same split."
            )


@lru_cache(maxsize=32)
def _weights(speakers: tuple[str | None, ...]) -> Array:
    found: Array = cluster_weights(speakers, len(speakers))
    return found
