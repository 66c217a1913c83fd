"""`auscult report`: all numbers of one or more runs on one page."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import UserError


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
    from auscult.cli.superb import protocols
    from auscult.results import open_store
    from auscult.results.report import write_report

    if out.is_dir():
        raise UserError(f"--out {out} is a folder; expected a file, such as {out}/report.html.")
    output = Output(json=json, quiet=quiet)
    write_report([open_store(store) for store in stores], out, protocols)
    output.print(f"Report: {out.resolve()}")
    output.finish(report=str(out))
