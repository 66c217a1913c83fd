"""What every verb prints and where: tables or one JSON object on stdout, the rest on stderr."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.shown import on_one_line, shown

if TYPE_CHECKING:
    from auscult.record import Record

MANY_ROWS = 300  # a table of more is printed without lines between, a thousand times as fast
MOST_SEED = 2**32 - 1  # of numpy's older generators
MOST = 10**9  # of whole numbers that options take

Upstreams = Annotated[
    list[str],
    typer.Option(
        "-u", "--upstream", help="Encoder: family[:checkpoint][?options][@subnet]. Repeatable."
    ),
]
CorpusSpec = Annotated[str, typer.Option("-c", "--corpus", help="Corpus: reader[:folder].")]
SplitColumn = Annotated[
    str | None, typer.Option("--split", help="Split column, where a corpus has several.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave bad items out, counted, instead of stopping.")
]
AllowSharedSpeakers = Annotated[
    bool,
    typer.Option("--allow-shared-speakers", help="Go on although splits share speakers."),
]
OutDir = Annotated[Path, typer.Option("--out", help="Folder for figures and results.sqlite.")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", help="SQLAlchemy URL of the store instead of OUT's.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing on stderr but errors.")]
Budget = Annotated[
    str, typer.Option(help="Keep features up to this size on disk; beyond it encode anew.")
]
ComputePrecision = Annotated[
    str,
    typer.Option(
        "--precision", help="What the encoder computes in: float32, bfloat16; on GPUs float16."
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


class _OneLine(logging.Formatter):
    """Messages on one line each, with nothing of a file's names that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return on_one_line(super().format(record))


class Output:
    """Where a verb says things. Made first thing in each verb."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        logger = logging.getLogger("auscult")
        logger.handlers = [logging.StreamHandler(sys.stderr)]
        logger.handlers[0].setFormatter(_OneLine("%(message)s"))
        logger.setLevel(logging.ERROR if quiet else logging.INFO)
        logger.propagate = False
        self.quiet = quiet

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table on stdout, or on stderr where stdout is kept for JSON.

        One of many rows is printed in plain columns, each row on a line of its own.
        """
        if self.json and self.quiet:
            return
        stream = sys.stderr if self.json else sys.stdout
        cells = [["" if cell is None else on_one_line(cell) for cell in row] for row in rows]
        names = list(map(on_one_line, columns))
        if len(cells) > MANY_ROWS:
            stream.writelines(_plain_lines(on_one_line(title), names, cells))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(*names, title=on_one_line(title), title_justify="left")
        for row in cells:
            table.add_row(*row)
        width = None if stream.isatty() else 160
        console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
        console.print(table)

    def print(self, text: str) -> None:
        """Print lines of the result on stdout; nothing where stdout is kept for JSON."""
        if not self.json:
            print(shown(text, lines=True))

    def write(self, parts: Iterable[str]) -> None:
        """Write a result in the form of a file, as it is, on stdout where JSON does not stand."""
        if not self.json:
            sys.stdout.writelines(parts)

    def finish(self, records: "Sequence[Record]" = (), **extra: Any) -> None:
        """Print the JSON object, where it was asked for."""
        if self.json:
            found: Mapping[str, Any] = {"records": [r.to_dict() for r in records], **extra}
            print(json.dumps(found, indent=1, allow_nan=False))


def _plain_lines(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[str]:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    yield f"{title}\n"
    for row in (columns, ["-" * width for width in widths], *rows):
        padded = (cell + " " * (w - cell_len(cell)) for cell, w in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip() + "\n"
