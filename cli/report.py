"""`auscult report`: all numbers of one or more runs on one page."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.output import Json, Output, Quiet


def report(
    stores: Annotated[
        list[str], typer.Argument(metavar="STORE...", help="Folders, .sqlite files or URLs.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one page with every number, figure and command of one or more runs.

    The page needs no network and no other file. Results on SUPERB's tasks stand beside published
    ones, those that may not be compared marked *.

    Examples:
      auscult report phones heads --out report.html
    """
    from auscult import studies

    output = Output(json=json, quiet=quiet)
    studies.report(*stores, out=out)
    output.print(f"Report: {out.resolve()}")
    output.finish(report=str(out))
