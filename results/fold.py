"""Folds of one cross-validation, and their mean.

A fold is a run on a split column such as ``fold3``; runs of one encoder that differ in nothing else
but what dev chose belong together.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import hypot
from statistics import fmean

from auscult.record import Record

from .curve import Choice, Point, chooser, gather, held_out

OF_ONE_FOLD = {  # settings that follow from the fold, and what dev chose in it
    *("split_column", "train_sha256", "dev_sha256", "num_classes", "head_parameters"),
    *("learning_rate", "dev_scores"),
}


@dataclass(frozen=True, slots=True)
class FoldMean:
    """One encoder's mean over folds, each of which counts the same."""

    choices: tuple[Choice, ...]  # one for each fold, in their order
    point: Point

    @property
    def folds(self) -> tuple[int, ...]:
        """The numbers of the folds that are there."""
        return tuple(fold_of(choice.curve.first) for choice in self.choices)

    @property
    def num_items(self) -> int:
        """The test items of all folds."""
        return sum(choice.curve.first.num_items for choice in self.choices)


def fold_of(record: Record) -> int:
    """Return the number of the fold that a record is about, 0 where it is about none."""
    found = re.search(r"fold\D?([0-9]{1,9})$", str(record.config.get("split_column", "")))
    return int(found[1]) if found else 0


def fold_means(choices: Iterable[Choice]) -> list[FoldMean]:
    """Return the means over two and more folds; of a fold that was run again, the newest."""
    groups: dict[str, dict[int, Choice]] = defaultdict(dict)
    for choice in sorted(choices, key=lambda choice: choice.curve.first.provenance.created):
        first = choice.curve.first
        if fold := fold_of(first):
            groups[_but_fold(first)][fold] = choice
    return [_mean([folds[n] for n in sorted(folds)]) for folds in groups.values() if len(folds) > 1]


def fold_means_of(records: Iterable[Record]) -> list[FoldMean]:
    """Return the means over folds of all scores among records."""
    every = list(records)
    choices = map(chooser(gather(every)), gather(held_out(every)))
    return fold_means(choice for choice in choices if choice is not None)


def _mean(choices: list[Choice]) -> FoldMean:
    """Average; no test item is in two folds, so half-widths add in quadrature."""
    points = [choice.point for choice in choices]
    value = fmean(point.value for point in points)
    below = [point.value - point.low for point in points if point.low is not None]
    above = [point.high - point.value for point in points if point.high is not None]
    whole = len(below) == len(above) == len(points)
    layers = {point.layer for point in points}
    mean = Point(
        layer=layers.pop() if len(layers) == 1 else None,
        head=None,
        value=value,
        low=value - hypot(*below) / len(points) if whole else None,
        high=value + hypot(*above) / len(points) if whole else None,
        spread=None,
        num_seeds=min(point.num_seeds for point in points),
    )
    return FoldMean(tuple(choices), mean)


def _but_fold(record: Record) -> str:
    """Return what the folds of one run share."""
    settings = {k: v for k, v in record.config.items() if k not in OF_ONE_FOLD}
    run = (record.upstream, record.upstream_sha256, record.corpus, record.split, record.probe)
    measured = (record.task, record.task_version, record.metric)
    return repr((run, measured, sorted(settings.items())))
