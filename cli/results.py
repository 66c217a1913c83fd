"""`auscult results`: what a store holds, as tables on the screen and in files."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import unknown
from auscult.progress import logger
from auscult.whole_file import whole_file

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
    from auscult.results.listing import COLUMNS, listing
    from auscult.results.place import without_password

    output = Output(json=json, quiet=quiet)
    count, lines = listing(open_store(store))
    title = f"{count:,} records in {without_password(store)}"
    output.table(title, COLUMNS if lines else (), (line.shown for line in lines))
    output.finish(groups=[dict(line.flat) for line in lines])


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
    from auscult.results.listing import some_records
    from auscult.results.table import FOLD_COLUMNS, fold_rows, layer_tables

    output = Output(json=json, quiet=quiet)
    wanted = {"upstream": upstream, "corpus": corpus, "task": task}
    wanted |= {"probe": probe, "metric": metric, "split": split}
    found = some_records(store, wanted)
    records = held_out(found)
    for table in layer_tables(records):
        columns = [str(table.cells.index.name), *table.cells.columns]
        output.table(table.title, columns, table.cells.itertuples())
        output.print(f"{table.caption}\n")
    kept = open_store(store).artifacts(difference.KIND, upstream=upstream, corpus=corpus, task=task)
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
        str,
        typer.Option(
            "--format",
            help="csv, json: every record. markdown, latex: tables. lm-eval: the harness' results.",
        ),
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
    from auscult.results.curve import held_out
    from auscult.results.listing import some_records
    from auscult.results.table import OF_ALL, WRITERS

    output = Output(json=json, quiet=quiet)
    if form not in WRITERS:
        raise unknown("format", form, WRITERS)
    wanted = {"upstream": upstream, "corpus": corpus, "task": task}
    wanted |= {"probe": probe, "metric": metric, "split": split}
    records = some_records(store, wanted)
    parts = WRITERS[form](records if form in OF_ALL else held_out(records))
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
