"""`auscult demo`: the main job on synthetic speech, by the same commands a user would type."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from auscult.cli import INTERRUPTED
from auscult.cli.output import Json, Output, Quiet
from auscult.errors import UserError

HUBERT = ("-u", "tiny_hubert")  # its random twin and log_mel keep it company
OTHERS = tuple(f"tiny_{name}" for name in ("lighthubert", "mockingjay", "audio_albert", "w2v_bert"))
DEPTHS = ("--probe", "linear", "--probe", "mlp1")
BY_SENTENCE = ("--split", "sid_split")
RATE = "learning_rate=1e-3"  # the published 1e-4 is for 200,000 steps


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo."""

    title: str
    folder: str  # below the demo's own
    words: tuple[str, ...]
    shared: bool = True  # whether its records go to the demo's store


STEPS = (
    Step(
        "Read phones from every frame of every layer (splits by speaker)",
        "phone",
        ("probe", *HUBERT, "-c", "demo", "-t", "phone", *DEPTHS, "--max-epochs", "8"),
    ),
    Step(
        "The same with the other tiny encoders that come with Auscult",
        "phone-others",
        (
            "probe",
            *(word for name in OTHERS for word in ("-u", name)),
            *("-c", "demo", "-t", "phone", "--probe", "linear", "--max-epochs", "8"),
        ),
    ),
    Step(
        "Search tiny_lighthubert for the subnets that are worth their parameters",
        "subnets",
        (
            *("subnet", "search", "tiny_lighthubert", "-c", "demo", "--objective", "probe:phone"),
            *("--cost", "params", "-n", "16", "--limit", "24"),
        ),
        shared=False,  # scored on a few utterances
    ),
    Step(
        "Read keywords from every layer (splits by speaker)",
        "keyword",
        ("probe", *HUBERT, "-c", "demo", "-t", "keyword", *DEPTHS),
    ),
    Step(
        "Read the speaker from every layer (splits by sentence)",
        "speaker",
        ("probe", *HUBERT, "-c", "demo", *BY_SENTENCE, "-t", "speaker", *DEPTHS),
    ),
    Step(
        "Map what the attention heads repeat",
        "attention",
        ("attention", *HUBERT, "-c", "demo"),
    ),
    Step(
        "Train SUPERB's keyword-spotting head with s3prl's runner, 300 steps",
        "head",
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

    The speech is synthetic (espeak-ng, 24 voices) and the encoders are the tiny ones that come
    with Auscult: the numbers show what it does, and say little of encoders of any use.

    Example:
      auscult demo --out demo-out
    """
    from auscult.results import open_store
    from auscult.studies.bench import Bench

    output = Output(json=json, quiet=quiet)
    Bench(out=out).prepare()
    started = time.monotonic()
    store = f"sqlite:///{out / 'results.sqlite'}"
    for step in STEPS:
        words = [*step.words, "--out", str(out / step.folder)]
        if step.shared:
            words += ["--store", store]
        _run(step.title, words, output)
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
