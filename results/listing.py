"""What a store holds, a row for each encoder, task, probe and metric: the list of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from auscult.errors import UserError
from auscult.record import Record

from .cell import cell, place, span
from .curve import (
    Choice,
    Curve,
    chosen,
    corpus_label,
    metric_order,
    short_names,
)
from .place import without_password
from .store import Store, collecting_later

COLUMNS = (
    *("upstream", "corpus", "task", "split", "probe", "metric", "layers", "value", "at"),
    *("items", "speakers"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve and what it is summarised by."""

    shown: tuple[object, ...]  # of COLUMNS, names short, for people
    flat: Mapping[str, object]  # by COLUMNS and the split column, for machines


def listing(store: Store) -> tuple[int, list[Line]]:
    """Return the number of records of a store, and a line for each group of them.

    The layer of a line scores best on the split that chose the epoch; where no such scores are kept
    it is picked on the split reported, and marked with *.

    Raises:
        UserError: There is no store, or it cannot be read.
    """
    with collecting_later():
        series = store.series()
        shown = sorted(chosen(series), key=lambda pair: _order(pair[0]))
        groups = [_group(curve, choice) for curve, choice in shown]
    corpora = short_names(one.first.corpus for one in series)
    lines = [
        Line(
            (curve.label, _shown_corpus(curve, corpora), *list(group.values())[2:]),
            group | {"split_column": curve.first.config.get("split_column")},
        )
        for (curve, _), group in zip(shown, groups, strict=True)
    ]
    return sum(len(one.scores) for one in series), lines


def some_records(where: str, wanted: Mapping[str, str | None]) -> list[Record]:
    """Return a store's records that agree with every field of ``wanted`` that is not None.

    Raises:
        UserError: There are none.
    """
    from . import open_store

    found = open_store(where).records(**wanted)
    if not found:
        shown = without_password(where)
        raise UserError(
            f"No record in {shown} fits; `auscult results ls {shown}` lists what there is."
        )
    return found


def _order(curve: Curve) -> tuple[object, ...]:
    """Sort key of the lines: folds stand together."""
    first = curve.first
    column = str(first.config.get("split_column", ""))
    return (first.corpus, first.task, metric_order(first.metric), column)


def _shown_corpus(curve: Curve, corpora: Mapping[str, str]) -> str:
    """Return the corpus of a line, with its split column where that is not the usual."""
    column = curve.first.config.get("split_column", "split")
    name = corpus_label(corpora[curve.first.corpus])
    return name if column == "split" else f"{name}, {column}"


def _group(curve: Curve, choice: Choice | None) -> dict[str, object]:
    """Return a line by :data:`COLUMNS`."""
    first = curve.first
    if choice:
        best = cell(choice.point, first.unit) + "*" * choice.optimistic
    else:
        best = span(curve.points, first.unit)
    cells = (
        *(first.upstream, first.corpus, first.task, first.split, first.probe, first.metric),
        *(len(curve.points), best, place(choice.point) if choice else None),
        *(first.num_items, first.num_speakers),
    )
    return dict(zip(COLUMNS, cells, strict=True))
