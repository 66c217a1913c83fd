"""Scores of one run that differ in layer, head, seed and result alone.

A store of a hundred thousand records holds a few thousand of these, which is what lists of what
was measured are made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from auscult.record import Record


class Score(NamedTuple):
    """The part of a record that is its own within a series."""

    layer: int | str | None
    head: int | None
    seed: int
    value: float
    low: float | None
    high: float | None


Scored = Score | Record  # what a curve over layers is made from


@dataclass(frozen=True, slots=True)
class Series:
    """Scores, and the first of their records, off which all else is read."""

    first: Record
    scores: Sequence[Scored]


def record_order(record: Record, key: str) -> tuple[object, ...]:
    """Return the sort key that puts records in one order, whoever wrote them."""
    return (
        *(record.corpus, record.task, record.split, record.metric, record.probe, record.upstream),
        *place_order(record.layer, record.head, record.seed, key),
    )


def place_order(
    layer: int | str | None, head: int | None, seed: int, key: str
) -> tuple[str, int, int, int, str]:
    """Return the part of :func:`record_order` in which records of one series differ."""
    name, number = ("", layer) if isinstance(layer, int) else (str(layer), -1)
    return (name, number, -1 if head is None else head, seed, key)
