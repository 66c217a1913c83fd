"""`auscult superb`: results beside published ones, and submissions to SUPERB's leaderboard."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import unknown
from auscult.progress import logger
from auscult.whole_file import write_text

if TYPE_CHECKING:
    from auscult.results.superb.check import PartReport


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
    from auscult.results.store import records_of
    from auscult.results.superb.score import find_published, published
    from auscult.results.superb.table import WRITERS, flat_rows, tables
    from auscult.studies.superb import own_rows

    output = Output(json=json, quiet=quiet)
    if form is not None and form not in WRITERS:
        raise unknown("format", form, WRITERS)
    other = find_published(against)
    own = own_rows(records_of(map(open_store, stores)))
    if not own:
        logger.warning("No result on a task of SUPERB in these stores; `auscult run` makes some.")
    if form is None and out is None:
        for found in tables(own, published(), other):
            output.table(found.title, found.columns, found.rows)
    else:
        text = WRITERS[form or "markdown"](own, published(), other)
        if out is None:
            output.write([text])
        else:
            write_text(text, out)
            logger.info(f"Table written to {out}.")
    output.finish(models=flat_rows(own, published()))


def zip_(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that --out of `auscult run` was given, or below."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The zip to write.")] = Path("predict.zip"),
    upstream: Annotated[
        str | None, typer.Option("-u", "--upstream", help="Encoder, where runs are of several.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one encoder's predictions as SUPERB's leaderboard wants them, and check them.

    Every task of SUPERB that the runs have predictions of is put in, but for those on other data
    than SUPERB's, which are named. Exits with status 1 if the check finds anything wrong.

    Examples:
      auscult superb zip out --out predict.zip
      auscult superb zip out/heads/keyword_spotting-0123456789abcdef more -u fbank
    """
    from auscult.studies.submission import submit

    output = Output(json=json, quiet=quiet)
    found = submit(runs, out, upstream=upstream)
    runs_of = {code: str(folder) for code, folder in found.runs.items()}
    _finish(output, out, found.reports, zip=str(out), runs=runs_of, left_out=list(found.left_out))


def check(
    path: Annotated[Path, typer.Argument(metavar="ZIP", help="The submission.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=CORPUS",
            help="Hold the names of a task against a corpus's test split, or an official list.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what SUPERB's server would not tell: missing, doubled, unknown and broken predictions.

    Tasks are named as in the zip: pr, asr, asr_lm, ks, ic, sid, er, sf, sv, sd, qbe. Without
    --against, their number is held against that of the official test set. Exits with status 1 if
    anything is wrong.

    Examples:
      auscult superb check predict.zip
      auscult superb check predict.zip --against ks=speech_commands:data/sc --against sv=trials.txt
    """
    from auscult.studies import submission

    output = Output(json=json, quiet=quiet)
    _finish(output, path, submission.check(path, against or []))


def _finish(output: Output, path: Path, reports: "Sequence[PartReport]", **extra: Any) -> None:
    rows = [
        [
            report.code,
            f"{report.num_items:,}",
            None if report.num_expected is None else f"{report.num_expected:,}",
            "names" if report.by_name else "number" if report.num_expected else "neither",
            "FAIL" if report.problems else "pass",
        ]
        for report in reports
    ]
    output.table(str(path), ("task", "items", "expected", "held against", "result"), rows)
    for report in reports:
        for problem in report.problems:
            output.print(f"{report.code}: {problem}")
    output.finish(**extra, parts=[asdict(report) for report in reports])
    if any(report.problems for report in reports):
        raise SystemExit(1)
