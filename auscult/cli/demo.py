"""`auscult demo`: the main job on synthetic speech, by the same commands a user would type."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from auscult.cli import INTERRUPTED
from auscult.cli.output import Json, Output, Quiet, prepare
from auscult.errors import UserError

HUBERT = ("-u", "random(hubert_tiny)")
ENCODERS = ("-u", "fbank", *HUBERT)
PROBES = ("--probe", "linear", "--probe", "mlp1", "--max-epochs", "8")
RATE = "learning_rate=1e-3"  # the published 1e-4 is for 200,000 steps
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Read phones and keywords from every layer (splits by speaker)",
        ("probe", *ENCODERS, "-c", "demo", "-t", "phone", "-t", "keyword", *PROBES),
    ),
    (
        "Read the speaker from every layer (splits by sentence)",
        ("probe", *ENCODERS, "-c", "demo", "--split", "sid_split", "-t", "speaker", *PROBES),
    ),
    (
        "Map what the attention heads repeat",
        ("attention", *HUBERT, "-c", "demo"),
    ),
    (
        "Train SUPERB's keyword-spotting head with s3prl's runner, 300 steps",
        ("run", *HUBERT, "-c", "demo", "-t", "keyword_spotting", "--steps", "300", RATE),
    ),
)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path(
        "demo-out"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the whole of Auscult in a few minutes, without any data of yours.

    The speech is synthetic (espeak-ng, 24 voices) and the HuBERT is tiny and untrained: the
    numbers show the machinery, not an encoder.

    Example:
      auscult demo --out demo-out
    """
    from auscult.results import open_store

    output = Output(json=json, quiet=quiet)
    prepare(out, None)
    started = time.monotonic()
    store = f"sqlite:///{out / 'results.sqlite'}"
    for title, words in STEPS:
        folder = out / ("speaker" if "speaker" in words else words[0])
        _run(title, [*words, "--out", str(folder), "--store", store], output)
    report = out / "report.html"
    _run("Write the report", ["report", str(out), "--out", str(report)], output)
    spent = time.monotonic() - started
    output.print(f"Done in {spent:.0f} s. Open the report in a browser:\n{report.resolve()}")
    output.finish(open_store(out).records() if json else (), report=str(report.resolve()))


def _run(title: str, words: list[str], output: Output) -> None:
    """Run one command as a user would, in a process of its own, and show it."""
    output.print(f"\n== {title}\n$ {shlex.join(['auscult', *words])}")
    sys.stdout.flush()
    command = [sys.executable, "-m", "auscult", *words, *(["--quiet"] if output.quiet else [])]
    done = subprocess.run(command, stdout=sys.stderr if output.json else None)
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(
            f"The demo stopped: `auscult {shlex.join(words)}` ended with status {done.returncode}; "
            "its own message stands above. Run `auscult demo` again to go on from there."
        )
