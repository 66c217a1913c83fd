"""`auscult results`: what a store holds, as tables on the screen and in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.whole_file import whole_file

if TYPE_CHECKING:
    from auscult.record import Record
    from auscult.results.curve import Choice, Curve

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
    from auscult.results.curve import chooser, gather_series, held_out, short_names
    from auscult.results.place import without_password
    from auscult.results.store import collecting_later

    output = Output(json=json, quiet=quiet)
    with collecting_later():
        series = open_store(store).series()
        reported = {id(record) for record in held_out(one.first for one in series)}
        shown = gather_series(one for one in series if id(one.first) in reported)
        shown.sort(key=_order)
        selecting = (one for one in series if one.first.split == one.first.selected_on)
        choose = chooser(gather_series(selecting))
        groups = [_group(curve, choose(curve)) for curve in shown]
    corpora = short_names(one.first.corpus for one in series)
    rows = (
        [curve.label, _shown_corpus(curve, corpora), *list(group.values())[2:]]
        for curve, group in zip(shown, groups, strict=True)
    )
    count = sum(len(one.scores) for one in series)
    title = f"{count:,} records in {without_password(store)}"
    output.table(title, list(groups[0]) if groups else [], rows)
    columns = ({"split_column": curve.first.config.get("split_column")} for curve in shown)
    output.finish(groups=[group | column for group, column in zip(groups, columns, strict=True)])


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

    By how much one encoder is read better than another stands in a table of its own, where probes
    were compared. Where one encoder was scored on several folds of a corpus (split columns such as
    fold1), a last table shows their mean.

    Examples:
      auscult results show out --task phone39 --metric accuracy
      auscult results show out --task emotion_recognition
    """
    from auscult.results import difference, open_store
    from auscult.results.curve import gather, held_out
    from auscult.results.fold import fold_means_of
    from auscult.results.table import FOLD_COLUMNS, fold_rows, layer_tables

    output = Output(json=json, quiet=quiet)
    wanted = {"upstream": upstream, "corpus": corpus, "task": task}
    wanted |= {"probe": probe, "metric": metric, "split": split}
    opened = open_store(store)
    found = opened.records(**wanted)
    records = held_out(_some(found, store))
    for table in layer_tables(records):
        columns = [str(table.cells.index.name), *table.cells.columns]
        output.table(table.title, columns, table.cells.itertuples())
        output.print(f"{table.caption}\n")
    kept = opened.artifacts(difference.KIND, upstream=upstream, corpus=corpus, task=task)
    compared = difference.fitting(kept, wanted)
    if compared:
        rows = difference.difference_rows(difference.differences(compared, gather(found)))
        output.table(difference.TITLE, difference.COLUMNS, rows)
    means = fold_rows(fold_means_of(found))
    if means:
        output.table("Means over folds, each of which counts the same", FOLD_COLUMNS, means)
    output.finish(
        records,
        margins=[difference.flat_difference(artifact) for artifact in compared],
        fold_means=[dict(zip(FOLD_COLUMNS, row, strict=True)) for row in means],
    )


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
    parts = WRITERS[form](records if form in ("csv", "json") else held_out(records))
    if out is None:
        output.write(parts)
    else:
        with (
            whole_file(out) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(parts)
        logger.info(f"{len(records):,} records written to {out}.")
    output.finish(records)


def _some(records: "Sequence[Record]", store: str) -> "Sequence[Record]":
    from auscult.results.place import without_password

    if not records:
        shown = without_password(store)
        raise UserError(
            f"No record in {shown} fits; `auscult results ls {shown}` lists what there is."
        )
    return records


def _order(curve: "Curve") -> tuple[object, ...]:
    """Sort key of the rows of ``ls``: folds stand together."""
    from auscult.results.curve import metric_order

    first = curve.first
    column = str(first.config.get("split_column", ""))
    return (first.corpus, first.task, metric_order(first.metric), column)


def _shown_corpus(curve: "Curve", corpora: "Mapping[str, str]") -> str:
    """Return the corpus of a row of ``ls``, with its split column where that is not the usual."""
    from auscult.results.curve import corpus_label

    column = curve.first.config.get("split_column", "split")
    name = corpus_label(corpora[curve.first.corpus])
    return name if column == "split" else f"{name}, {column}"


def _group(curve: "Curve", choice: "Choice | None") -> dict[str, object]:
    """Return a row of ``ls``, encoder and corpus first."""
    from auscult.results.cell import cell, place, span

    first = curve.first
    if choice:
        best = cell(choice.point, first.unit) + "*" * choice.optimistic
    else:
        best = span(curve.points, first.unit)
    return {
        "upstream": first.upstream,
        "corpus": first.corpus,
        "task": first.task,
        "split": first.split,
        "probe": first.probe,
        "metric": first.metric,
        "layers": len(curve.points),
        "value": best,
        "at": place(choice.point) if choice else None,
        "items": first.num_items,
        "speakers": first.num_speakers,
    }
