"""`auscult results`: what a store holds, as tables on the screen and in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import UserError, unknown
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.record import Record
    from auscult.results.curve import Curve

StoreAt = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder, .sqlite file or SQLAlchemy URL.")
]
Upstream = Annotated[str | None, typer.Option("-u", "--upstream", help="Only this encoder.")]
Corpus = Annotated[str | None, typer.Option("-c", "--corpus", help="Only this corpus.")]
Task = Annotated[str | None, typer.Option("-t", "--task", help="Only this task.")]
Probe = Annotated[str | None, typer.Option("--probe", help="Only this probe or head.")]
Metric = Annotated[str | None, typer.Option("--metric", help="Only this metric.")]
Split = Annotated[
    str | None, typer.Option("--split", help="Only this split; else all but the selecting one.")
]


def ls(store: StoreAt = ".", json: Json = False, quiet: Quiet = False) -> None:
    """List what was measured, with the best layer of each encoder.

    The best layer is the one that scores best on the split that chose the epoch; where no such
    scores are kept it is picked on the split reported, and marked with *, for that is optimistic.

    Examples:
      auscult results ls out
    """
    from auscult.results import open_store
    from auscult.results.curve import gather, held_out, metric_order

    output = Output(json=json, quiet=quiet)
    records = open_store(store).records()
    curves = gather(records)
    shown = gather(held_out(records))
    shown.sort(key=lambda c: (c.first.corpus, c.first.task, metric_order(c.first.metric)))
    columns = "upstream corpus task split probe metric layers best at items speakers".split()
    rows = [_summary(curve, curves) for curve in shown]
    output.table(f"{len(records):,} records in {store}", columns, rows)
    output.finish(groups=[dict(zip(columns, row, strict=True)) for row in rows])


def show(
    store: StoreAt = ".",
    upstream: Upstream = None,
    corpus: Corpus = None,
    task: Task = None,
    probe: Probe = None,
    metric: Metric = None,
    split: Split = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show scores with their 95 % intervals, layers down, encoders across.

    Examples:
      auscult results show out --task phone39 --metric accuracy
    """
    from auscult.results import open_store
    from auscult.results.curve import held_out
    from auscult.results.table import layer_tables

    output = Output(json=json, quiet=quiet)
    found = open_store(store).records(
        upstream=upstream, corpus=corpus, task=task, probe=probe, metric=metric, split=split
    )
    records = held_out(_some(found, store))
    for table in layer_tables(records):
        columns = [str(table.cells.index.name), *table.cells.columns]
        output.table(table.title, columns, table.cells.itertuples())
        output.print(f"{table.caption}\n")
    output.finish(records)


def export(
    store: StoreAt = ".",
    form: Annotated[
        str, typer.Option("--format", help="csv, json: every record. markdown, latex: tables.")
    ] = "csv",
    out: Annotated[Path | None, typer.Option("--out", help="File instead of stdout.")] = None,
    upstream: Upstream = None,
    corpus: Corpus = None,
    task: Task = None,
    probe: Probe = None,
    metric: Metric = None,
    split: Split = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write records or tables for other programs and for papers.

    Examples:
      auscult results export out --format csv --out records.csv
      auscult results export out --format latex --metric accuracy --out table.tex
    """
    from auscult.results import open_store
    from auscult.results.curve import held_out
    from auscult.results.table import WRITERS

    output = Output(json=json, quiet=quiet)
    if form not in WRITERS:
        raise unknown("format", form, WRITERS)
    found = open_store(store).records(
        upstream=upstream, corpus=corpus, task=task, probe=probe, metric=metric, split=split
    )
    records = _some(found, store)
    text = WRITERS[form](records if form in ("csv", "json") else held_out(records))
    if out is None:
        output.print(text.removesuffix("\n"))
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
        logger.info(f"{len(records):,} records written to {out}.")
    output.finish(records)


def _some(records: "Sequence[Record]", store: str) -> "Sequence[Record]":
    if not records:
        raise UserError(
            f"No record in {store} fits; `auscult results ls {store}` lists what there is."
        )
    return records


def _summary(curve: "Curve", curves: "Sequence[Curve]") -> list[object]:
    """Return a row of ``ls``."""
    from auscult.results.curve import choose
    from auscult.results.table import cell, place

    first = curve.first
    choice = choose(curve, curves)
    best = cell(choice.point, first.unit) + "*" * choice.optimistic if choice else None
    at = place(choice.point) if choice else None
    subject = [curve.label, first.corpus, first.task, first.split, first.probe, first.metric]
    return [*subject, len(curve.points), best, at, first.num_items, first.num_speakers]
