"""`auscult run`: a SUPERB task, its head trained by s3prl's runner on frozen encoders."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.company import Baselines
from auscult.cli.head import HeadRun, TrainedHead, draw, save_head, train
from auscult.cli.output import (
    MOST,
    MOST_SEED,
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
    command_line,
    parse_rates,
)
from auscult.config import parse_bytes
from auscult.device import choose_device
from auscult.errors import UserError

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.downstreams import HeadTask
    from auscult.downstreams.split import LabelledCorpus
    from auscult.process import Processes
    from auscult.record import Provenance, Record
    from auscult.upstream import Upstream

Task = Annotated[
    str, typer.Option("-t", "--task", help="A task of SUPERB, such as keyword_spotting.")
]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the protocol.")
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Train this long instead; dev is looked at 40 times, as in the protocol, but at "
        "most every 25 steps.",
        min=1,
        max=MOST,
    ),
]
LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Several, each trained in full, of which dev chooses: 1e-2,1e-3,1e-4; or superb, "
        "the grid from 1e-1 to 1e-7."
    ),
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="Train the encoder too, with the head's learning rate.")
]
Limit = Annotated[
    int | None,
    typer.Option(help="Only this many utterances of each split, evenly over it.", min=1, max=MOST),
]
Seed = Annotated[
    int, typer.Option(help="Seed of the head and of the data order.", min=0, max=MOST_SEED)
]
TestSplit = Annotated[
    str, typer.Option("--test-split", help="Score on this split, such as test-other.")
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
    from auscult.downstreams import find_task
    from auscult.precision import check_precision
    from auscult.process import Processes

    processes = Processes.of_environment()
    output = Output(json=json, quiet=quiet or not processes.leads)
    found = find_task(task)
    _check_training(found, steps=steps, learning_rates=learning_rates, finetune=finetune)
    where = processes.device(choose_device(device))
    shared = HeadRun(
        task=found,
        config=configure(found, steps, settings or []),
        learning_rates=read_rates(learning_rates, settings or []),
        finetune=finetune,
        limit=limit,
        budget=parse_bytes(budget),
        precision=check_precision(precision, where),
        skip_bad=skip_bad,
        seed=seed,
        out=out,
        store=store,
        device=where,
        processes=processes,
        provenance=provenance_here(processes, where),
    )
    from auscult.studies.company import with_baselines

    specs = list(dict.fromkeys(with_baselines(upstream) if baselines else upstream))
    if dry_run:
        return _show_config(output, shared, specs, corpus)
    with processes.joined(where):
        heads = _train_all(shared, specs, corpus, (split, test_split), allow_shared_speakers)
        if processes.leads:
            _show(output, found, heads)


def _train_all(
    shared: HeadRun,
    specs: Sequence[str],
    corpus: str,
    splits: tuple[str | None, str],
    allow: bool,
) -> list[tuple[TrainedHead, "list[Record]", Path | None]]:
    """Train a head on each encoder; save its records at once, and draw its layer weights."""
    import auscult
    from auscult.dataset import check_speakers
    from auscult.studies.bench import Bench

    if shared.processes.leads:
        Bench(out=shared.out, store=shared.store).prepare()
    with shared.processes.leader_first():  # weights and corpora may have to be fetched
        encoders = [auscult.load(spec) for spec in specs]
        data = auscult.corpus(corpus, split=splits[0], skip_bad=shared.skip_bad)
        data = data.tested_on(splits[1]).limited(shared.limit)
    check_speakers(data, allow or shared.task.about_speakers)
    labelled = shared.task.prepare(data, shared.config, skip_unlabelled=shared.skip_bad)
    found = (train_and_save(encoder, shared, data, labelled) for encoder in encoders)
    return [head for head in found if head is not None]


def train_and_save(
    encoder: "Upstream", shared: HeadRun, corpus: "Corpus", labelled: "LabelledCorpus"
) -> "tuple[TrainedHead, list[Record], Path | None] | None":
    """Train a head and keep its records, weights and figure; None in processes that do not lead."""
    try:
        head = train(encoder.to(shared.device), shared, corpus, labelled)
    finally:
        encoder.cpu()
    return None if head is None else (head, save_head(head), draw(head))


def _check_training(task: "HeadTask", **options: object) -> None:
    asked = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if asked and not task.trains:
        raise UserError(f"{task.spec.name} trains nothing, so {asked[0]} does not apply to it.")


def read_rates(text: str | None, settings: Sequence[str]) -> tuple[float, ...]:
    """Read --learning-rates; empty where it was not given.

    Raises:
        UserError: Not positive numbers, or ``learning_rate=`` was given too.
    """
    from auscult.downstreams.search import SUPERB_RATES

    if text is None:
        return ()
    if any(setting.startswith("learning_rate=") for setting in settings):
        raise UserError("--learning-rates and learning_rate= were both given; choose one.")
    return SUPERB_RATES if text == "superb" else parse_rates(text)


def configure(task: "HeadTask", steps: int | None, settings: Sequence[str]) -> Any:
    """Return the published protocol with the command line's changes."""
    from auscult.config import override

    shorter = []
    if steps is not None:
        protocol = task.config()
        evaluations = protocol.total_steps // protocol.eval_step
        saves = protocol.total_steps // protocol.save_step
        shorter = [
            f"total_steps={steps}",
            f"eval_step={max(steps // evaluations, 25)}",
            f"save_step={max(steps // saves, 25)}",
            f"log_step={min(max(steps // evaluations, 25), protocol.log_step)}",
        ]
    return override(task.config(), [*shorter, *settings])


def _show_config(output: Output, shared: HeadRun, upstreams: Sequence[str], corpus: str) -> None:
    if not shared.processes.leads:
        return
    task = shared.task.spec
    values = {"upstreams": " ".join(upstreams), "corpus": corpus, **asdict(shared.config)}
    values |= {"finetune": shared.finetune, "limit": shared.limit}
    if shared.learning_rates:
        values["learning_rate"] = " ".join(f"{rate:g}" for rate in shared.learning_rates)
    rows = [[key, value] for key, value in values.items()]
    output.table(f"{task.name} (version {task.version})", ["key", "value"], rows)
    output.finish(config=asdict(shared.config))


def provenance_here(processes: "Processes", device: str) -> "Provenance":
    """Return what a record says of this command."""
    from auscult.record import provenance

    command = command_line()
    if processes.size > 1:
        command = f"torchrun --nproc_per_node {processes.size} -m {command}"
        device = f"{device.partition(':')[0]} x {processes.size}"
    return provenance(command, device)


def _show(
    output: Output,
    task: "HeadTask",
    heads: "Sequence[tuple[TrainedHead, Sequence[Record], Path | None]]",
) -> None:
    (_, first, _), *_others = heads
    metrics = [record.metric.replace("_", " ") for record in first]
    columns = ["upstream", metrics[0], "95 %", *metrics[1:], "majority", "n", "spk", "best step"]
    columns += ["learning rate", "heaviest layer" if task.trains else "best layer"]
    rows = [_row(head, records) for head, records, _ in heads]
    output.table(f"{task.spec.name}, scored on test", columns, rows)
    figures = [str(figure) for _, _, figure in heads if figure is not None]
    for figure in figures:
        output.print(f"Layer weights: {figure}")
    found = [record for _, records, _ in heads for record in records]
    output.finish(found, figures=figures)


def _row(head: TrainedHead, records: "Sequence[Record]") -> list[object]:
    first, *others = records
    trains = head.run.task.trains
    return [
        f"{first.upstream} (fine-tuned)" if head.finetuned else first.upstream,
        f"{first.value:.3f}",
        "" if first.low is None else f"{first.low:.3f} - {first.high:.3f}",
        *(f"{record.value:.3f}" for record in others),
        "" if first.majority is None else f"{first.majority:.3f}",
        first.num_items,
        first.num_speakers,
        *([head.result.step, f"{head.config.learning_rate:g}"] if trains else ["", ""]),
        int(head.result.layer_weights.argmax()),
    ]
