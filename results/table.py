"""Records as tables: flat for machines, layers by encoders for people and papers."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from auscult.record import Record

from .curve import (
    Choice,
    Curve,
    Point,
    Subject,
    chooser,
    gather,
    held_out,
    metric_order,
    subject_names,
)
from .fold import FoldMean

BEST_COLUMNS = (  # of best_rows
    *("task", "upstream", "probe", "layer"),
    *("accuracy", "95 %", "macro", "majority", "n", "spk"),
)

FOLD_COLUMNS = ("task", "corpus", "upstream", "probe", "metric", "mean [95 %]", "folds", "items")

LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Scores of one task, probe and metric: a row for each layer, a column for each encoder."""

    subject: str  # task, corpus and split
    title: str
    caption: str
    curves: tuple[Curve, ...]
    cells: pd.DataFrame  # text; the index names the layers


def flat_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row for each record; configuration and libraries as JSON text."""
    rows = [record.to_dict() for record in records]
    for row in rows:
        row["config"] = json.dumps(row["config"], sort_keys=True)
        row["libraries"] = json.dumps(row["libraries"], sort_keys=True)
    return pd.DataFrame(rows).astype({"num_speakers": "Int64", "num_parameters": "Int64"})


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


def cell(point: Point, unit: str = "") -> str:
    """Write a value and its interval: ``0.532 [0.510, 0.553]``."""
    text = _number(point.value, unit)
    if point.low is None or point.high is None:
        return text
    return f"{text} [{_number(point.low, unit)}, {_number(point.high, unit)}]"


def span(points: Sequence[Point], unit: str) -> str:
    """Write the least and the largest value, or the only one with its interval, and the unit."""
    values = [point.value for point in points]
    text = f"{_number(min(values), unit)} to {_number(max(values), unit)}"
    return f"{cell(points[0], unit) if len(points) == 1 else text} {unit}".rstrip()


def place(point: Point) -> str:
    """Name the layer of a point, and the head where it is about one."""
    layer = "model" if point.layer is None else str(point.layer)
    return layer if point.head is None else f"{layer}, head {point.head}"


def to_csv(records: Sequence[Record]) -> str:
    """Write one line for each record, numbers with all their digits."""
    return flat_frame(records).to_csv(index=False, lineterminator="\n")


def to_json(records: Sequence[Record]) -> str:
    """Write ``{"records": [...]}``, as every command prints it with ``--json``."""
    found = {"records": [record.to_dict() for record in records]}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def to_markdown(records: Sequence[Record]) -> str:
    """Write layer tables in GitHub's Markdown."""
    return "\n".join(_markdown(table) for table in layer_tables(records))


def to_latex(records: Sequence[Record]) -> str:
    """Write layer tables for a document that uses the package booktabs."""
    return "\n".join(_latex(table) for table in layer_tables(records))


WRITERS: dict[str, Callable[[Sequence[Record]], str]] = {
    "csv": to_csv,
    "json": to_json,
    "markdown": to_markdown,
    "latex": to_latex,
}


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
        _number(best.value, ""),
        f"{_number(low, '')} - {_number(high, '')}" if best.low is not None else None,
        _number(macros[0], "") if macros else None,
        _number(fmean(majorities), "") if majorities else None,
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


def _number(value: float, unit: str) -> str:
    if not unit:
        return f"{value:.3f}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")


def _markdown(table: LayerTable) -> str:
    def line(words: Iterable[Any]) -> str:
        return "| " + " | ".join(str(word).replace("|", r"\|") for word in words) + " |"

    head = line(["layer", *table.cells.columns])
    rule = "|---:|" + "---:|" * len(table.cells.columns)
    rows = [line(row) for row in table.cells.itertuples()]
    return "\n".join([f"**{table.title}**", "", head, rule, *rows, "", table.caption, ""])


def _latex(table: LayerTable) -> str:
    def escape(text: object) -> str:
        return str(text).translate(LATEX)

    cells = table.cells.reset_index().map(escape).rename(columns=escape)
    caption = escape(f"{table.title}; {table.caption}.")
    columns = "l" + "r" * len(table.curves)
    return cells.to_latex(
        caption=caption, index=False, column_format=columns, position="tb", escape=False
    )
