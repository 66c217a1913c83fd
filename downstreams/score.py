"""What a head's answers are worth: metrics with the interval that other speakers would move in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.interval import accuracies, cluster_interval, cluster_weights, quantiles

from .split import LabelledCorpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric on test with its 95 % interval."""

    metric: str
    value: float
    low: float | None
    high: float | None
    majority: float | None = None  # what always answering train's commonest class scores
    num_items: int
    num_speakers: int | None


def classification_scores(
    answers: Mapping[str, Sequence[Any]], corpus: LabelledCorpus
) -> list[Score]:
    """Return micro and class-macro accuracy of ``target`` and ``prediction``, one an utterance.

    Args:
        answers: Lists ``target`` and ``prediction`` in the order of the test split.
        corpus: Its train split says the commonest class.
    """
    test, train, classes = corpus.splits["test"], corpus.splits["train"], corpus.classes
    targets, found = np.array(answers["target"]), np.array(answers["prediction"])
    total = np.array([[float(label == c) for c in classes] for label in targets])
    correct = total * (targets == found)[:, None]
    commonest = max(classes, key=lambda c: (train.labels.count(c), -classes.index(c)))
    always = total * np.array([c == commonest for c in classes])
    return [
        accuracy_score(metric, correct, total, test.speakers, always=always)
        for metric in ("accuracy", "macro_accuracy")
    ]


def accuracy_score(
    metric: str,
    correct: NDArray[np.float64],
    total: NDArray[np.float64],
    speakers: Sequence[str | None],
    *,
    always: NDArray[np.float64],
) -> Score:
    """Return an accuracy of counts; class-macro where the metric is ``macro_accuracy``.

    Args:
        metric: Its name.
        correct: (item, label) right answers in each utterance by true class.
        total: (item, label) answers in each utterance by true class.
        speakers: Of each utterance.
        always: (item, label) right answers of one that always answers train's commonest class.
    """
    macro = metric == "macro_accuracy"
    low, high = cluster_interval(correct, total, speakers, macro=macro)
    return Score(
        metric=metric,
        value=float(accuracies(correct.sum(0), total.sum(0), macro=macro)),
        low=low,
        high=high,
        majority=float(accuracies(always.sum(0), total.sum(0), macro=macro)),
        num_items=int(total.sum()),
        num_speakers=count_speakers(speakers),
    )


def ratio_score(
    metric: str, parts: ArrayLike, totals: ArrayLike, speakers: Sequence[str | None]
) -> Score:
    """Return a metric that is a quotient of sums over utterances, as error rates are.

    Args:
        metric: Its name.
        parts: (item,) such as the errors in each utterance.
        totals: (item,) such as the tokens of each reference.
        speakers: Of each utterance.
    """
    above, below = np.asarray(parts, dtype=float), np.asarray(totals, dtype=float)
    weights = cluster_weights(speakers, len(above))
    resampled: NDArray[np.float64] = (weights @ above) / (weights @ below).clip(min=1e-12)
    low, high = quantiles(resampled)
    return Score(
        metric=metric,
        value=float(above.sum() / below.sum()),
        low=low,
        high=high,
        num_items=len(above),
        num_speakers=count_speakers(speakers),
    )


def count_speakers(speakers: Sequence[str | None]) -> int | None:
    """Return how many speakers there are, None where none is known."""
    return len(set(speakers) - {None}) or None
