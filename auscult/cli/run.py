"""`auscult run`: a SUPERB task, its head trained by s3prl's runner on frozen encoders."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.company import Baselines
from auscult.cli.option import (
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
    from auscult.studies import Findings, Outcome

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
    given: dict[str, Any] = {
        "settings": settings or [],
        "steps": steps,
        "learning_rates": learning_rates,
        "finetune": finetune,
        "limit": limit,
        "seed": seed,
        "baselines": baselines,
        "split": split,
        "test_split": test_split,
        "budget": budget,
        "precision": precision,
        "device": device,
        "executor": executor,
        "threads": threads,
        "skip_bad": skip_bad,
        "allow_shared_speakers": allow_shared_speakers,
        "out": out,
        "store": store,
    }
    if dry_run and leads:
        show_config(output, upstream, corpus, task, **given)
    if dry_run:
        return
    if plan:
        return show_plan(output, studies.plan_run(upstream, corpus, task, **given))
    found = studies.run(upstream, corpus, task, **given)
    if leads:
        _show(output, found)


def show_config(
    output: Output, upstreams: Sequence[str], corpus: str, task: str, **given: Any
) -> None:
    """Print the resolved configuration; nothing is read for it."""
    from auscult.downstreams import find_task
    from auscult.studies.company import with_baselines
    from auscult.studies.task import configure, read_rates

    found = find_task(task)
    config = configure(found, given["steps"], given["settings"])
    rates = read_rates(given["learning_rates"], given["settings"])
    names = with_baselines(upstreams) if given["baselines"] else upstreams
    values = {"upstreams": " ".join(names), "corpus": corpus, **asdict(config)}
    values |= {"finetune": given["finetune"], "limit": given["limit"]}
    if rates:
        values["learning_rate"] = " ".join(f"{rate:g}" for rate in rates)
    rows = [[key, value] for key, value in values.items()]
    output.table(f"{task} (version {found.spec.version})", ["key", "value"], rows)
    output.finish(config=asdict(config))


def _show(output: Output, found: "Findings") -> None:
    """Print one row for each head, and where its layer weights are drawn."""
    from auscult.downstreams import find_task

    outcomes = [outcome for outcome in found.outcomes if outcome.records]
    first = outcomes[0].records
    trains = find_task(first[0].task).trains
    columns = ["upstream", first[0].metric.replace("_", " "), "95 %"]
    columns += [record.metric.replace("_", " ") for record in first[1:]]
    columns += ["majority", "n", "spk", "best step", "learning rate"]
    columns.append("heaviest layer" if trains else "best layer")
    output.table(f"{first[0].task}, scored on test", columns, map(_row, outcomes))
    for figure in found.files:
        output.print(f"Layer weights: {figure}")
    finish(output, found, figures=[str(figure) for figure in found.files])


def _row(outcome: "Outcome") -> list[object]:
    first, *others = outcome.records
    rate = outcome.notes.get("learning_rate")
    return [
        f"{first.upstream} (fine-tuned)" if outcome.notes["finetuned"] else first.upstream,
        f"{first.value:.3f}",
        "" if first.low is None else f"{first.low:.3f} - {first.high:.3f}",
        *(f"{record.value:.3f}" for record in others),
        "" if first.majority is None else f"{first.majority:.3f}",
        first.num_items,
        first.num_speakers,
        outcome.notes.get("step", ""),
        "" if rate is None else f"{rate:g}",
        outcome.notes["layer"],
    ]
