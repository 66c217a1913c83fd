"""`auscult superb`: results beside published ones, and submissions to SUPERB's leaderboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import unknown
from auscult.progress import logger


def table(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE...", help="Folders, .sqlite files or URLs.", show_default=False
        ),
    ],
    against: Annotated[
        str, typer.Option(help="Published model that differences are taken to.")
    ] = "HuBERT Base",
    form: Annotated[
        str | None,
        typer.Option("--format", help="markdown, latex or csv, instead of the screen's."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File instead of stdout.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show results on SUPERB's tasks beside published ones, with the leaderboard's scores.

    A result may be compared where the corpus is SUPERB's own, complete, and the head was trained
    by the published protocol, but for the learning rate. Any other is marked * and says why; it
    has no difference to published results and no part in a score.

    Examples:
      auscult superb table out
      auscult superb table out --against "WavLM Base" --format markdown --out superb.md
    """
    from auscult.results import open_store
    from auscult.results.superb import find_published, published
    from auscult.results.superb_table import WRITERS, flat_rows, own_rows, tables

    output = Output(json=json, quiet=quiet)
    if form is not None and form not in WRITERS:
        raise unknown("format", form, WRITERS)
    other = find_published(against)
    records = {record.key: record for store in stores for record in open_store(store).records()}
    own = own_rows(records.values(), _protocols())
    if not own:
        logger.warning("No result on a task of SUPERB in these stores; `auscult run` makes some.")
    if form is None and out is None:
        for found in tables(own, published(), other):
            output.table(found.title, found.columns, found.rows)
    else:
        text = WRITERS[form or "markdown"](own, published(), other)
        if out is None:
            output.print(text.removesuffix("\n"))
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, encoding="utf-8")
            logger.info(f"Table written to {out}.")
    output.finish(models=flat_rows(own, published()))


def _protocols() -> Mapping[str, Mapping[str, Any]]:
    """Return the published configuration of every task that trains a head."""
    from dataclasses import asdict

    from auscult.downstreams import TASKS

    return {name: asdict(task.config()) for name, task in TASKS.items()}
