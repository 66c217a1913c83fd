"""Rows of the store's tables as records and artifacts: what is equal in many is kept once.

A row may have been changed by anyone since it was written; what no record of ours has is refused
in a sentence that names the row.
"""

import json
from collections.abc import Iterable, Iterator
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
_NAMES = tuple(f.name for f in fields(Record) if f.name not in RESULT)


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
    groups: dict[int, tuple[list[Score], list[tuple[Any, Row]]]] = {}  # by identity of a template
    for row in rows:
        like = read.like(row)
        score = Score(read.layers[row[1]], *row[2:7])
        order = place_order(score.layer, score.head, score.seed, row[0])
        scores, least = groups.setdefault(id(like), ([], [(order, row)]))
        scores.append(score)
        if order < least[0][0]:
            least[0] = (order, row)
    firsts = [(scores, row, read.record(row)) for scores, [(_, row)] in groups.values()]
    firsts.sort(key=lambda found: record_order(found[2], found[1][0]))
    return [Series(record, scores) for scores, _, record in firsts]


class _Reader:
    """Makes records of rows; those that share all but their result share it in memory too."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._likes: dict[Row, Record] = {}  # what rows of one series share -> one of its records
        self._mappings: dict[tuple[Any, Any], dict[str, Any]] = {}  # by text and fingerprint
        self._types: set[tuple[type, ...]] = set()  # of key and result of rows that were checked
        self.layers: dict[str | None, int | str | None] = {}  # by its text

    def record(self, row: Row) -> Record:
        """Return a row as a record."""
        like = self.like(row)
        record: Record = object.__new__(Record)
        for name in _NAMES:
            object.__setattr__(record, name, getattr(like, name))
        for name, value in zip(
            RESULT, (self.layers[row[1]], *row[2 : len(RESULT) + 1]), strict=True
        ):
            object.__setattr__(record, name, value)
        return record

    def like(self, row: Row) -> Record:
        """Check a row, and return a record that agrees with it in all but the result."""
        result, shared = row[1 : len(RESULT) + 1], row[len(RESULT) + 1 :]
        like = self._likes.get(shared)
        types = tuple(map(type, row[: len(RESULT) + 1]))
        if like and types in self._types and result[0] in self.layers and _in_range(result[3:7]):
            return like
        record = self._check(row)
        self._types.add(types)
        self.layers[result[0]] = record.layer
        return self._likes.setdefault(shared, record)

    def _check(self, row: Row) -> Record:
        """Return a record that was made with every check there is."""
        flat = dict(zip(COLUMNS, row, strict=True))
        key = flat.pop("key")
        with explained(f"{self._store}, table auscult_records, row {shorten(key)}"):
            if not isinstance(key, str):
                raise ValueError("key: expected text")
            flat["layer"] = from_json("layer", flat["layer"])
            flat["libraries"] = self._mapping("libraries", flat["libraries"])
            flat["config"] = self._mapping("config", flat["config"], flat.pop("config_sha256"))
            return Record.from_checked(flat)

    def _mapping(self, name: str, text: Any, sha256: Any = None) -> Any:
        """Return a column's mapping, the same one for the same text."""
        found = self._mappings.get((text, sha256))
        if found is None:
            found = from_json(name, text)
            check_mapping(name, found)
            if sha256 is not None and fingerprint(found) != sha256:
                raise ValueError(f"{name}: its fingerprint is not {shorten(sha256)}")
            self._mappings[text, sha256] = found
        return found


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


def _in_range(numbers: Row) -> bool:
    return all(number is None or -LARGEST <= number <= LARGEST for number in numbers)
