"""SUPERB's scores, as its leaderboard and as papers compute them, and published results.

Percents throughout, as SUPERB prints them: error rates are the lower the better, and MTWV is
multiplied by 100. The definitions are those of the leaderboard's public code: a metric earns 0
points at FBANK's result and 1000 at the best of the SUPERB paper, unclipped on both sides; slot
filling is the mean of its two metrics; ``superb_s`` is the mean of the ten tasks. The reference
points are the leaderboard's own constants, more digits than its table shows.

What papers call overall is something else and never mixed with it: a plain mean of percents in
which error rates count as 100 minus themselves. Two are in use. Over the eleven columns it gives
what DistilHuBERT (75.9) and LightHuBERT (80.8 for HuBERT Base, 79.1 for its small one) print; over
ten tasks, with slot filling averaged and recognition averaged with and without a language model, it
gives the same 80.8 for HuBERT Base, but not the others.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from statistics import fmean

from auscult.errors import unknown

from .official import BOARD, OFFICIAL

Values = Mapping[str, float]  # column -> percent


@dataclass(frozen=True, slots=True)
class Column:
    """A metric that counts: 0 points at ``fbank``, 1000 at ``best``; both in percent."""

    name: str
    task: str
    metric: str
    fbank: float
    best: float  # of the SUPERB paper
    speech: str  # what the test utterances are from: scores on the same speech move together

    @property
    def is_error(self) -> bool:
        """Whether less is better."""
        return self.best < self.fbank

    def points(self, percent: float) -> float:
        """Return the points of a result, below 0 and above 1000 too."""
        return 1000 * (percent - self.fbank) / (self.best - self.fbank)


COLUMNS = tuple(  # the leaderboard's order
    Column(name, task, metric.name, metric.fbank, metric.best, row.speech)
    for name in BOARD
    for task, row in OFFICIAL.items()
    for metric in row.metrics
    if metric.column == name
)
BESIDE = "HuBERT Base"  # the published model that results stand beside where none is chosen
WITH_LM = "ASR+LM"  # a column that only one of the overall means counts
TASKS = tuple(dict.fromkeys(column.task for column in COLUMNS))


@dataclass(frozen=True, slots=True)
class Cell:
    """One result, in percent."""

    value: float
    low: float | None = None
    high: float | None = None
    num_items: int | None = None
    corpus: str = ""
    setting: str = ""  # what tells the run from others of the same encoder
    remarks: tuple[str, ...] = ()  # why it cannot stand beside published results

    @property
    def comparable(self) -> bool:
        """Whether it may be held against published results."""
        return not self.remarks


@dataclass(frozen=True, slots=True)
class Row:
    """What one model scores."""

    name: str
    source: str  # where it was published; "" for our own
    million_parameters: float | None
    cells: Mapping[str, Cell] = field(default_factory=dict)  # by column

    @property
    def values(self) -> dict[str, float]:
        """The percents that may be held against published results."""
        return {name: cell.value for name, cell in self.cells.items() if cell.comparable}


def missing_columns(values: Values) -> list[str]:
    """Return the columns without which there is no score."""
    return [column.name for column in COLUMNS if column.name not in values]


def superb_s(values: Values) -> float | None:
    """Return the leaderboard's score (it prints it rounded), None where a task is missing."""
    if missing_columns(values):
        return None
    return sum(_weight(c) * c.points(values[c.name]) for c in COLUMNS)


def superb_r(board: Sequence[Values]) -> list[float]:
    """Return the leaderboard's rank of each model: how many it beats, the mean over tasks.

    Models with equal results beat the same ones; a missing task beats none. A rank says something
    only about the models on this board.
    """
    ranks = [0.0] * len(board)
    for column in COLUMNS:
        earned = [
            column.points(values[column.name]) if column.name in values else None
            for values in board
        ]
        for i, mine in enumerate(earned):
            if mine is not None:
                beaten = sum(other is not None and other < mine for other in earned)
                ranks[i] += _weight(column) * beaten
    return ranks


def overall_columns(values: Values) -> float | None:
    """Return the mean of the eleven columns, errors as 100 minus themselves; None if one lacks."""
    if missing_columns(values):
        return None
    return fmean(_goodness(column, values) for column in COLUMNS)


def overall_tasks(values: Values) -> float | None:
    """Return the mean of the ten tasks, recognition with and without a language model averaged.

    None where a task or the result with a language model is missing.
    """
    if missing_columns(values) or WITH_LM not in values:
        return None
    total = sum(_weight(column) * _goodness(column, values) for column in COLUMNS)
    return total + (values["ASR"] - values[WITH_LM]) / 2 / len(TASKS)


def superb_s_interval(cells: Mapping[str, Cell]) -> tuple[float, float] | None:
    """Return how far the score would move with other test speakers, from the metrics' intervals.

    Metrics on different speech vary independently, so their half-widths add in quadrature; those
    on the same speech (PR, ASR and SD on LibriSpeech's test-clean, SID and ASV on VoxCeleb1, the
    two of slot filling) are taken to move together, so theirs add up, which is too wide rather
    than too narrow. Nothing here is about other seeds.

    Returns:
        None where a metric is missing or has no interval.
    """
    below: dict[str, float] = {}
    above: dict[str, float] = {}
    score = 0.0
    for column in COLUMNS:
        cell = cells.get(column.name)
        if cell is None or cell.low is None or cell.high is None:
            return None
        middle = column.points(cell.value)
        low, high = sorted((column.points(cell.low), column.points(cell.high)))
        weight = _weight(column)
        score += weight * middle
        below[column.speech] = below.get(column.speech, 0.0) + weight * (middle - low)
        above[column.speech] = above.get(column.speech, 0.0) + weight * (high - middle)
    return score - math.hypot(*below.values()), score + math.hypot(*above.values())


@cache
def published() -> tuple[Row, ...]:
    """Return published results; a model may lack tasks."""
    text = (
        resources.files("auscult.results.superb")
        .joinpath("published.tsv")
        .read_text(encoding="utf-8")
    )
    names = [*(column.name for column in COLUMNS), WITH_LM]
    return tuple(
        Row(
            name=line["name"],
            source=line["source"],
            million_parameters=float(line["million_parameters"]),
            cells={name: Cell(float(line[name])) for name in names if line[name]},
        )
        for line in csv.DictReader(text.splitlines(), delimiter="\t")
    )


def find_published(name: str) -> Row:
    """Return the published results of ``name``, upper and lower case alike.

    Raises:
        UserError: There are none.
    """
    for row in published():
        if row.name.lower() == name.lower():
            return row
    raise unknown("published model", name, (row.name for row in published()))


def _weight(column: Column) -> float:
    """Return a column's part in the mean over tasks."""
    return 1 / len(TASKS) / sum(other.task == column.task for other in COLUMNS)


def _goodness(column: Column, values: Values) -> float:
    value = values[column.name]
    return 100 - value if column.is_error else value
