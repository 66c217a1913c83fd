"""What a head's answers are worth: metrics with the interval that other speakers would move in."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auscult.score import Score, Tally, score_of, value_of

from .split import LabelledCorpus


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
    items = tuple(map(str, range(len(total))))
    tally = Tally(right=correct, total=total, items=items, speakers=tuple(speakers))
    majority = value_of(metric, replace(tally, right=always))
    return replace(score_of(metric, tally), majority=majority)


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
    items = tuple(map(str, range(len(speakers))))
    score = score_of(metric, Tally.of_ratio(parts, totals, items, speakers))
    return replace(score, num_items=len(items))
