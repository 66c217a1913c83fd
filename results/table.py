"""Records as tables: flat for machines, layers by encoders for people and papers."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from auscult.record import Record
from auscult.shown import csv_cell, latex_cell, markdown_cell

from .cell import cell, number, place
from .curve import (
    Choice,
    Curve,
    Subject,
    chooser,
    gather,
    held_out,
    metric_order,
    subject_names,
)
from .fold import FoldMean
from .series import Series
from .summary import summary_text

BEST_COLUMNS = (  # of best_rows
    *("task", "upstream", "probe", "layer"),
    *("accuracy", "95 %", "macro", "majority", "n", "spk"),
)

FOLD_COLUMNS = ("task", "corpus", "upstream", "probe", "metric", "mean [95 %]", "folds", "items")


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Scores of one task, probe and metric: a row for each layer, a column for each encoder."""

    subject: str  # task, corpus and split
    title: str
    caption: str
    curves: tuple[Curve, ...]
    cells: pd.DataFrame  # text; the index names the layers


def layer_tables(records: Iterable[Record]) -> list[LayerTable]:
    """Return one table for each corpus, task, split, metric and probe; scores before measures."""
    curves = gather(records)
    names = subject_names(curves)
    groups: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        first = curve.first
        key = (names[curve.subject], first.selected_on, first.metric, first.unit, first.probe)
        groups.setdefault(key, []).append(curve)
    order = sorted(groups, key=lambda key: (bool(key[3]), key[0], metric_order(key[2]), key))
    return [_layer_table(key[0], groups[key]) for key in order]


def best_rows(records: Iterable[Record]) -> list[list[object]]:
    """Return one row of :data:`BEST_COLUMNS` for each task, encoder and probe.

    The layer is the one that the selecting split prefers, the lowest where several tie; a star
    marks one that was picked on the split reported on. Scores are means over seeds.
    """
    every = list(records)
    shown = gather(held_out(every))
    choose = chooser(gather(every))
    macros = {_identity(c): c for c in shown if c.first.metric == "macro_accuracy"}
    rows = []
    for curve in shown:
        choice = choose(curve) if curve.first.metric == "accuracy" else None
        if choice:
            rows.append(_best_row(choice, macros.get(_identity(curve))))
    return rows


def fold_rows(means: Iterable[FoldMean]) -> list[list[object]]:
    """Return one row of :data:`FOLD_COLUMNS` for each mean over folds."""
    rows = []
    for mean in means:
        first = mean.choices[0].curve.first
        folds = ", ".join(map(str, mean.folds))
        measured = [first.task, first.corpus, first.upstream, first.probe, first.metric]
        rows.append([*measured, cell(mean.point, first.unit), folds, mean.num_items])
    return rows


def csv_lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield one line for each record after the header, numbers with all their digits.

    Configuration and libraries are JSON text; what a spreadsheet would calculate has ``'`` before.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for index, record in enumerate(records):
        row = record.to_dict()
        row |= {name: json.dumps(row[name], sort_keys=True) for name in ("config", "libraries")}
        if index == 0:
            writer.writerow(row)
        writer.writerow(map(csv_cell, row.values()))
        yield buffer.getvalue()
        buffer.seek(buffer.truncate(0))


def json_lines(records: Iterable[Record]) -> Iterator[str]:
    """Yield ``{"records": [...]}``, as every command prints it with ``--json``."""
    before = '{\n "records": ['
    for record in records:
        text = json.dumps(record.to_dict(), indent=1, allow_nan=False)
        yield f"{before}\n  " + text.replace("\n", "\n  ")
        before = ","
    yield "\n ]\n}\n" if before == "," else f"{before}]\n}}\n"


def to_csv(records: Iterable[Record]) -> str:
    """Write the lines of :func:`csv_lines`."""
    return "".join(csv_lines(records))


def to_json(records: Iterable[Record]) -> str:
    """Write the lines of :func:`json_lines`."""
    return "".join(json_lines(records))


def to_markdown(records: Iterable[Record]) -> str:
    """Write layer tables in GitHub's Markdown."""
    return "\n".join(_markdown(table) for table in layer_tables(records))


def to_latex(records: Iterable[Record]) -> str:
    """Write layer tables for a document that uses the package booktabs."""
    return "\n".join(_latex(table) for table in layer_tables(records))


WRITERS: dict[str, Callable[[Iterable[Record]], Iterable[str]]] = {
    "csv": csv_lines,
    "json": json_lines,
    "markdown": lambda records: [to_markdown(records)],
    "latex": lambda records: [to_latex(records)],
    "lm-eval": lambda records: [summary_text(Series(record, (record,)) for record in records)],
}
OF_ALL = ("csv", "json", "lm-eval")  # take the scores of the selecting split, too


def _identity(curve: Curve) -> tuple[Subject, str, str]:
    """What curves of several metrics share."""
    return (curve.subject, curve.first.probe, curve.label)


def _best_row(choice: Choice, macro: Curve | None) -> list[object]:
    best, first = choice.point, choice.curve.first
    here = (best.layer, best.head)
    records = [r for r in choice.curve.records if (r.layer, r.head) == here]
    majorities = [r.majority for r in records if r.majority is not None]
    macros = [p.value for p in macro.points if (p.layer, p.head) == here] if macro else []
    low, high = best.interval
    return [
        *(first.task, choice.curve.label, first.probe),
        place(best) + "*" * choice.optimistic,
        number(best.value, ""),
        f"{number(low, '')} - {number(high, '')}" if best.low is not None else None,
        number(macros[0], "") if macros else None,
        number(fmean(majorities), "") if majorities else None,
        *(records[0].num_items, records[0].num_speakers),
    ]


def _layer_table(subject: str, curves: Sequence[Curve]) -> LayerTable:
    first = curves[0].first
    columns = {
        curve.label: {place(point): cell(point, first.unit) for point in curve.points}
        for curve in curves
    }
    longest = sorted(curves, key=lambda curve: -len(curve.points))
    places = dict.fromkeys(place(point) for curve in longest for point in curve.points)
    cells = pd.DataFrame(columns, index=list(places), dtype="object").fillna("")
    cells.index.name = "layer"
    unit = f" ({first.unit})" if first.unit else ""
    title = f"{subject}: {first.metric}{unit}, {first.probe}"
    return LayerTable(subject, title, caption(curves), tuple(curves), cells)


def caption(curves: Sequence[Curve]) -> str:
    """Say what the numbers of a table rest on."""
    records = [record for curve in curves for record in curve.records]
    first = curves[0].first
    parts = [f"epochs or steps selected on {first.selected_on}"] if first.selected_on else []
    parts.append(f"{_span([r.num_items for r in records])} items")
    speakers = [r.num_speakers for r in records if r.num_speakers is not None]
    if speakers:
        parts.append(f"{_span(speakers)} speakers")
    if any(r.num_skipped for r in records):
        parts.append(f"{_span([r.num_skipped for r in records])} items left out")
    majorities = [r.majority for r in records if r.majority is not None]
    if majorities:
        parts.append(f"majority class {_span(majorities)}")
    seeds = [point.num_seeds for curve in curves for point in curve.points]
    if max(seeds) > 1:
        parts.append(f"mean of {_span(seeds)} seeds")
    if any(r.low is not None for r in records):
        parts.append("brackets: 95 % interval")
    return "; ".join(parts)


def _span(numbers: Sequence[int] | Sequence[float]) -> str:
    low, high = _count(min(numbers)), _count(max(numbers))
    return low if low == high else f"{low} to {high}"


def _count(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.3f}"


def _markdown(table: LayerTable) -> str:
    def line(words: Iterable[object]) -> str:
        return "| " + " | ".join(map(str, words)) + " |"

    title, caption = markdown_cell(table.title), markdown_cell(table.caption)
    head = line(["layer", *map(markdown_cell, table.cells.columns)])
    rule = "|---:|" + "---:|" * len(table.cells.columns)
    rows = [line([markdown_cell(name), *row]) for name, *row in table.cells.itertuples()]
    return "\n".join([f"**{title}**", "", head, rule, *rows, "", caption, ""])


def _latex(table: LayerTable) -> str:
    cells = table.cells.reset_index().map(latex_cell).rename(columns=latex_cell)
    caption = latex_cell(f"{table.title}; {table.caption}.")
    columns = "l" + "r" * len(table.curves)
    return cells.to_latex(
        caption=caption, index=False, column_format=columns, position="tb", escape=False
    )
