"""Rows of the store's tables as records and artifacts: what is equal in many is kept once.

A row may have been changed by anyone since it was written; what no record of ours has is refused
in a sentence that names the row.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from auscult.errors import UserError
from auscult.record import LARGEST, Provenance, Record, fingerprint
from auscult.value import check_mapping, shorten

from .series import Score, Series, place_order, record_order

RESULT = (  # columns in which rows of one series differ
    *("layer", "head", "seed", "value", "low", "high"),
    *("majority", "num_items", "num_speakers", "num_skipped"),
)
SHARED = tuple(
    name
    for name in (*(f.name for f in fields(Record)), *(f.name for f in fields(Provenance)))
    if name not in (*RESULT, "provenance")
) + ("config_sha256",)
COLUMNS = ("key", *RESULT, *SHARED)  # what is read of a record, in this order

Row = tuple[Any, ...]
_END = 1 + len(RESULT)  # of what is a row's own: its key, then its result
_NAMES = tuple(f.name for f in fields(Record) if f.name not in RESULT)
_RUN = tuple(f.name for f in fields(Provenance))


def read_records(rows: Iterable[Row], store: str) -> list[Record]:
    """Return records of rows of :data:`COLUMNS`, in one order whoever wrote them.

    Args:
        rows: From the table.
        store: What messages call the store.

    Raises:
        UserError: A row is none of ours.
    """
    read = _Reader(store)
    found = [(row[0], read.record(row)) for row in rows]
    return [r for _, r in sorted(found, key=lambda pair: record_order(pair[1], pair[0]))]


def read_series(rows: Iterable[Row], store: str) -> list[Series]:
    """Return the records of rows as series, in the order of their first records.

    Raises:
        UserError: A row is none of ours.
    """
    read = _Reader(store)
    groups: dict[Row, _Group] = {}
    for row in rows:
        group = groups.get(row[_END:])
        if group is None:
            group = groups[row[_END:]] = _Group(read.like(row), row)
        elif not read.is_plain(row, row[:_END]):
            read.like(row)
        score = Score(read.layers[row[1]], *row[2:7])
        group.scores.append(score)
        order = place_order(score.layer, score.head, score.seed, row[0])
        if group.order is None or order < group.order:
            group.order, group.row = order, row
    for group in groups.values():
        if group.row is not group.made_of:
            group.first = read.record(group.row)
    found = sorted(groups.values(), key=lambda group: record_order(group.first, group.row[0]))
    return [Series(group.first, group.scores) for group in found]


class _Group:
    """The rows of one series, and the first of them in their order."""

    __slots__ = ("first", "made_of", "order", "row", "scores")

    def __init__(self, first: Record, row: Row) -> None:
        self.first, self.made_of, self.row = first, row, row
        self.order: tuple[Any, ...] | None = None
        self.scores: list[Score] = []


class _Reader:
    """Makes records of rows; those that share all but their result share it in memory too.

    A row gets every check there is unless one of its types did before it: then its JSON and the
    size of its numbers alone.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._likes: dict[Row, Record] = {}  # what rows of one series share -> one of its records
        self._mappings: dict[tuple[Any, Any], dict[str, Any]] = {}  # by text and fingerprint
        self._types: set[tuple[type, ...]] = set()  # of whole rows, and of their own parts
        self.layers: dict[str | None, int | str | None] = {}  # by its text

    def record(self, row: Row) -> Record:
        """Return a row as a record."""
        like = self.like(row)
        values = {name: getattr(like, name) for name in _NAMES}
        return _restored(
            values | dict(zip(RESULT, (self.layers[row[1]], *row[2:_END]), strict=True))
        )

    def like(self, row: Row) -> Record:
        """Check a row, and return a record that agrees with it in all but the result."""
        like = self._likes.get(row[_END:])
        if like is not None and self.is_plain(row, row[:_END]):
            return like
        with explained(f"{self._store}, table auscult_records, row {shorten(row[0])}"):
            return self._likes.setdefault(row[_END:], self._check(row))

    def is_plain(self, row: Row, part: Row) -> bool:
        """Say whether a row of such types was checked, and all numbers of this one are sizeable.

        Args:
            row: The row.
            part: It, or the part of it that is its own, where the rest was seen before.
        """
        value, low, high, majority = row[4:8]
        return (
            tuple(map(type, part)) in self._types
            and row[1] in self.layers
            and -LARGEST <= value <= LARGEST
            and (low is None or -LARGEST <= low <= LARGEST)
            and (high is None or -LARGEST <= high <= LARGEST)
            and (majority is None or -LARGEST <= majority <= LARGEST)
        )

    def _check(self, row: Row) -> Record:
        flat = dict(zip(COLUMNS, row, strict=True))
        if not isinstance(flat.pop("key"), str):
            raise ValueError("key: expected text")
        flat["libraries"] = self._mapping("libraries", flat["libraries"])
        flat["config"] = self._mapping("config", flat["config"], flat.pop("config_sha256"))
        if self.is_plain(row, row):
            provenance = Provenance(**{name: flat.pop(name) for name in _RUN})
            return _restored(flat | {"layer": self.layers[row[1]], "provenance": provenance})
        flat["layer"] = from_json("layer", flat["layer"])
        record = Record.from_checked(flat)
        self._types |= {tuple(map(type, row)), tuple(map(type, row[:_END]))}
        self.layers[row[1]] = record.layer
        return record

    def _mapping(self, name: str, text: Any, sha256: Any = None) -> Any:
        """Return a column's mapping, the same one for the same text."""
        found = self._mappings.get((text, sha256))
        if found is None:
            found = from_json(name, text)
            check_mapping(name, found, of_text=name == "libraries")
            if sha256 is not None and fingerprint(found) != sha256:
                raise ValueError(f"{name}: its fingerprint is not {shorten(sha256)}")
            self._mappings[text, sha256] = found
        return found


def _restored(values: Mapping[str, Any]) -> Record:
    """Return a record of values that were checked, a fifth of the time of making it."""
    record: Record = object.__new__(Record)
    for name, value in values.items():
        object.__setattr__(record, name, value)
    return record


def from_json(name: str, text: Any) -> Any:
    """Return the value of a column that holds JSON.

    Raises:
        ValueError: It does not.
    """
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: expected JSON, got {shorten(text)}") from error


@contextmanager
def explained(row: str) -> Iterator[None]:
    """Turn what is wrong with a row into one sentence that says what can be done.

    Args:
        row: What messages call it.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(
            f"{row}: {str(error).removesuffix('.')}. It was changed or damaged after Auscult wrote "
            "it: take another copy of the store, or delete that row and measure it again."
        ) from error
