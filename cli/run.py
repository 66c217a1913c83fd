"""`auscult run`: a SUPERB task, its head trained by s3prl's runner on frozen encoders."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.option import (
    Baselines,
    ExecutorName,
    Finetune,
    LearningRates,
    Limit,
    PlanOnly,
    Seed,
    Steps,
    TestSplit,
    Threads,
    finish,
    show_plan,
)
from auscult.cli.output import (
    AllowSharedSpeakers,
    Budget,
    ComputePrecision,
    CorpusSpec,
    Device,
    Json,
    OutDir,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
    Upstreams,
)

if TYPE_CHECKING:
    from auscult.studies import Findings

Task = Annotated[
    str, typer.Option("-t", "--task", help="A task of SUPERB, such as keyword_spotting.")
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the protocol.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")
]


def run(
    upstream: Upstreams,
    corpus: CorpusSpec,
    task: Task,
    settings: Settings = None,
    out: OutDir = Path("auscult-out"),
    steps: Steps = None,
    learning_rates: LearningRates = None,
    finetune: Finetune = False,
    limit: Limit = None,
    seed: Seed = 0,
    baselines: Baselines = True,
    budget: Budget = "8GB",
    split: SplitColumn = None,
    test_split: TestSplit = "test",
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    dry_run: DryRun = False,
    precision: ComputePrecision = "float32",
    device: Device = "auto",
    executor: ExecutorName = "serial",
    threads: Threads = None,
    plan: PlanOnly = False,
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the head of a SUPERB task on one or more encoders and score it on test.

    The head is s3prl's featurizer (a softmax over all layers) and downstream model, trained by
    its runner; dev chooses the step. The defaults are the published protocol; KEY=VALUE changes it,
    and --dry-run shows it. Run the same command again to go on after a kill. OUT receives
    results.sqlite, figures and, below heads, checkpoints, answers and TensorBoard's curves.

    Examples:
      auscult run -u fbank -u hf:models/wavlm-base -c demo -t keyword_spotting --steps 300
      auscult run -u log_mel -c tsv:data/words -t keyword_spotting label=word learning_rate=1e-3
      torchrun --nproc_per_node 2 -m auscult run -u hf:models/wavlm-base -c demo -t keyword_spotting
    """
    import auscult.studies as studies
    from auscult.process import Processes

    leads = Processes.of_environment().leads
    output = Output(json=json, quiet=quiet or not leads)
    given: dict[str, Any] = {"settings": settings or [], "steps": steps}
    given |= {"learning_rates": learning_rates, "finetune": finetune, "limit": limit, "seed": seed}
    given |= {"baselines": baselines, "split": split, "test_split": test_split, "budget": budget}
    given |= {"precision": precision, "device": device, "executor": executor, "threads": threads}
    given |= {"skip_bad": skip_bad, "allow_shared_speakers": allow_shared_speakers, "out": out}
    given |= {"store": store}
    if dry_run:
        return _show_config(output, upstream, corpus, task, given) if leads else None
    if plan:
        return show_plan(output, studies.plan_run(upstream, corpus, task, **given))
    found = studies.run(upstream, corpus, task, **given)
    if leads:
        _show(output, found)


def _show_config(
    output: Output, upstreams: list[str], corpus: str, task: str, given: dict[str, Any]
) -> None:
    """Print the resolved configuration; nothing is read for it."""
    from auscult.studies.task import resolved

    title, config, values = resolved(upstreams, corpus, task, given)
    output.table(title, ["key", "value"], [[key, value] for key, value in values.items()])
    output.finish(config=config)


def _show(output: Output, found: "Findings") -> None:
    """Print one row for each head, and where its layer weights are drawn."""
    from auscult.studies.task import summary

    title, columns, rows = summary(found.outcomes)
    output.table(title, columns, rows)
    for figure in found.files:
        output.print(f"Layer weights: {figure}")
    finish(output, found, figures=[str(figure) for figure in found.files])
