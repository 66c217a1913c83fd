"""`auscult superb run`: all of SUPERB on one or more encoders, one task after the other."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.option import (
    Baselines,
    ExecutorName,
    Finetune,
    LearningRates,
    Limit,
    Seed,
    Steps,
    Threads,
)
from auscult.cli.output import (
    AllowSharedSpeakers,
    Budget,
    ComputePrecision,
    Device,
    Json,
    OutDir,
    Output,
    Quiet,
    SkipBad,
    StoreUrl,
    Upstreams,
)
from auscult.cli.superb_plan import show_records, show_superb_plan

if TYPE_CHECKING:
    from auscult.record import Record
    from auscult.studies.item import Failure
    from auscult.studies.superb import SuperbPlan


def run_(
    upstream: Upstreams,
    data: Annotated[Path, typer.Option("--data", help="Folder that holds SUPERB's corpora.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK.KEY=VALUE ...]", help="Changes to the protocol of a task."),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Some tasks, with commas between, instead of all.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=SPEC", help="Another corpus for a task. Repeatable."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=COLUMN,...", help="Split columns, a run each. Repeatable."),
    ] = None,
    test_split: Annotated[
        list[str] | None,
        typer.Option(
            "--test-split",
            metavar="TASK=SPLIT",
            help="Score on this split, such as test-other. Repeatable.",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", "--dry-run", help="Show the plan and stop.")
    ] = False,
    out: OutDir = Path("auscult-out"),
    steps: Steps = None,
    learning_rates: LearningRates = None,
    finetune: Finetune = False,
    limit: Limit = None,
    seed: Seed = 0,
    baselines: Baselines = True,
    budget: Budget = "8GB",
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    precision: ComputePrecision = "float32",
    device: Device = "auto",
    executor: ExecutorName = "serial",
    threads: Threads = None,
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train and score the heads of SUPERB's tasks on one or more encoders.

    Corpora are found below --data by the names of their folders (LibriSpeech,
    speech_commands_v0.01, VoxCeleb1, IEMOCAP, fluent_speech_commands, SNIPS, LibriMix,
    quesst14Database), and SUPERB's lexicon and language model by those of their files. The plan is
    shown first. Each head is trained as by `auscult run`; what fails is told at the end, with exit
    status 1, and does not stop the rest. Run the same command again to go on after a kill.

    Examples:
      auscult superb run -u hf:models/wavlm-base --data /data --plan
      auscult superb run -u fbank --data /data --tasks keyword_spotting,emotion_recognition
      auscult superb run -u fbank --data . --corpus keyword_spotting=tsv:words --steps 300
    """
    import auscult.studies as studies
    from auscult.studies.superb import SuperbPlan, by_task

    output = Output(json=json, quiet=quiet)
    given: dict[str, Any] = {"tasks": tasks.split(",") if tasks else ()}
    given |= {"corpora": by_task(corpus or [], "--corpus")}
    given |= {"splits": {k: v.split(",") for k, v in by_task(split or [], "--split").items()}}
    given |= {"test_splits": by_task(test_split or [], "--test-split"), "settings": settings or []}
    given |= {"steps": steps, "learning_rates": learning_rates, "finetune": finetune}
    given |= {"limit": limit, "seed": seed, "baselines": baselines, "budget": budget}
    given |= {"precision": precision, "device": device, "executor": executor, "threads": threads}
    given |= {"skip_bad": skip_bad, "allow_shared_speakers": allow_shared_speakers, "out": out}
    given |= {"store": store}
    if plan:
        planned = studies.plan_superb(upstream, data, **given)
        show_superb_plan(output, planned)
        planned.expect_corpora(data)
        return _finish(output, planned, (), planned.failures)
    announce = partial(show_superb_plan, output)
    found = studies.superb(upstream, data, announce=announce, **given)
    show_records(output, found.records, out, store)
    assert isinstance(found.plan, SuperbPlan)
    _finish(output, found.plan, found.records, found.failures)


def _finish(
    output: Output, plan: "SuperbPlan", records: "Sequence[Record]", failures: "Sequence[Failure]"
) -> None:
    """Say what failed, and end with status 1 where something did."""
    if failures:
        output.table(
            f"{len(failures)} failed",
            ("task", "upstream", "why"),
            [(failure.name, failure.upstream, failure.reason) for failure in failures],
        )
    output.finish(
        records,
        plan=[line.to_dict() | {"state": state} for line, state in plan.lines()],
        missing=[asdict(one) for one in plan.missing],
        failures=[failure.to_dict() for failure in failures],
    )
    if failures:
        raise SystemExit(1)
