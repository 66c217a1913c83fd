"""`auscult superb run`: all of SUPERB on one or more encoders, one task after the other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.company import Baselines
from auscult.cli.head import HeadRun
from auscult.cli.output import (
    MOST_SEED,
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
from auscult.cli.run import (
    Finetune,
    LearningRates,
    Limit,
    Steps,
    provenance_here,
    read_rates,
    train_and_save,
)
from auscult.cli.superb_plan import (
    Choice,
    Cost,
    Failure,
    Job,
    Missing,
    by_task,
    cost,
    failed,
    read_jobs,
    real_time_factor,
    settings_by_task,
    show,
)
from auscult.config import parse_bytes
from auscult.device import choose_device
from auscult.errors import UserError
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.precision import Precision
    from auscult.record import Provenance, Record
    from auscult.upstream import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all heads of one command share."""

    learning_rates: Mapping[str, tuple[float, ...]]  # by task; empty: the configuration's
    finetune: bool
    limit: int | None
    budget: int  # bytes
    precision: "Precision"
    skip_bad: bool
    seed: int
    out: Path
    store: str | None
    device: str
    provenance: "Provenance"

    def rates(self, job: Job) -> tuple[float, ...]:
        """Return the learning rates that dev chooses among, none where nothing is trained."""
        return self.learning_rates[job.task.spec.name] if job.task.trains else ()

    def head_run(self, job: Job) -> HeadRun:
        """Return how the heads of a job are trained."""
        from auscult.process import ALONE

        return HeadRun(
            task=job.task,
            config=job.config,
            learning_rates=self.rates(job),
            finetune=self.finetune and job.task.trains,
            limit=self.limit,
            budget=self.budget,
            precision=self.precision,
            skip_bad=self.skip_bad,
            seed=self.seed,
            out=self.out,
            store=self.store,
            device=self.device,
            processes=ALONE,
            provenance=self.provenance,
        )


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
    seed: Annotated[
        int, typer.Option(help="Seed of the heads and of the data order.", min=0, max=MOST_SEED)
    ] = 0,
    baselines: Baselines = True,
    budget: Budget = "8GB",
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    precision: ComputePrecision = "float32",
    device: Device = "auto",
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
    from auscult.address import parse_address
    from auscult.precision import check_precision
    from auscult.process import ALONE

    output = Output(json=json, quiet=quiet)
    _refuse_torchrun()
    changes = settings_by_task(settings or [])
    choice = Choice(
        root=data,
        tasks=tuple(dict.fromkeys(tasks.split(","))) if tasks else (),
        corpora=by_task(corpus or [], "--corpus"),
        columns={k: tuple(v.split(",")) for k, v in by_task(split or [], "--split").items()},
        tests=by_task(test_split or [], "--test-split"),
        settings=changes,
        steps=steps,
        limit=limit,
        skip_bad=skip_bad,
        allow_shared_speakers=allow_shared_speakers,
    )
    where = choose_device(device)
    shared = Shared(
        learning_rates={task: read_rates(learning_rates, found) for task, found in changes.items()},
        finetune=finetune,
        limit=limit,
        budget=parse_bytes(budget),
        precision=check_precision(precision, where),
        skip_bad=skip_bad,
        seed=seed,
        out=out,
        store=store,
        device=where,
        provenance=provenance_here(ALONE, where),
    )
    from auscult.studies.company import with_baselines

    asked = list(dict.fromkeys(str(parse_address(spec)) for spec in upstream))
    specs = with_baselines(asked) if baselines else asked
    _carry_out(output, choice, shared, asked, specs, plan_only=plan)


def _carry_out(
    output: Output,
    choice: Choice,
    shared: Shared,
    asked: Sequence[str],
    specs: Sequence[str],
    *,
    plan_only: bool,
) -> None:
    """Show the plan, train the heads, and say what came of them.

    Raises:
        UserError: There is nothing to run.
        SystemExit: Something failed.
    """
    from auscult.studies.bench import Bench

    if not plan_only:
        Bench(out=shared.out, store=shared.store).prepare()
    failures: list[Failure] = []
    encoders = dict(_encoders(specs, failures))
    if encoders.keys().isdisjoint(asked):  # baselines alone are no run
        raise UserError(f"There is no encoder to run. {failures[0].upstream}: {failures[0].reason}")
    found = list(read_jobs(choice))
    jobs = [job for job in found if isinstance(job, Job)]
    others = [other for other in found if not isinstance(other, Job)]
    failures += [other for other in others if isinstance(other, Failure)]
    costs = list(_costs(jobs, encoders, shared, failures))
    show(output, jobs, others, costs)
    if not found or all(isinstance(other, Missing) for other in found):
        raise UserError(
            f"No corpus of SUPERB was found in {choice.root}; the plan says which folders were "
            "looked for. --corpus TASK=READER:FOLDER names one elsewhere."
        )
    records = [] if plan_only else list(_run_all(jobs, encoders, shared, failures))
    if not plan_only:
        _show_records(output, records, shared)
    if failures:
        output.table(
            f"{len(failures)} failed",
            ("task", "upstream", "why"),
            [(failure.name, failure.upstream, failure.reason) for failure in failures],
        )
    output.finish(
        records,
        plan=[_flat(line) for line in costs],
        missing=[asdict(other) for other in others if isinstance(other, Missing)],
        failures=[asdict(failure) for failure in failures],
    )
    if failures:
        raise SystemExit(1)


def _encoders(specs: Sequence[str], failures: list[Failure]) -> "Iterator[tuple[str, Upstream]]":
    import auscult

    for spec in specs:  # before hours of reading
        try:
            yield spec, auscult.load(spec)
        except Exception as error:  # the other encoders go on; Ctrl-C is no Exception
            failures.append(failed("all tasks", spec, error))


def _costs(
    jobs: Sequence[Job],
    encoders: "dict[str, Upstream]",
    shared: Shared,
    failures: list[Failure],
) -> Iterator[Cost]:
    """Yield what each head takes; an encoder that cannot encode noise is taken out."""
    for spec in list(encoders):
        try:
            factor = real_time_factor(encoders[spec], shared.device)
        except Exception as error:  # as above
            failures.append(failed("all tasks", spec, error))
            del encoders[spec]
            continue
        for job in jobs:
            rates = max(len(shared.rates(job)), 1)
            yield cost(
                job,
                encoders[spec],
                factor,
                budget=shared.budget,
                num_rates=rates,
                finetune=shared.finetune,
            )


def _run_all(
    jobs: Sequence[Job],
    encoders: "Mapping[str, Upstream]",
    shared: Shared,
    failures: list[Failure],
) -> "Iterator[Record]":
    """Train each head and keep its records at once."""
    pairs = [(job, spec) for job in jobs for spec in encoders]
    for number, (job, spec) in enumerate(pairs, start=1):
        logger.info(f"[{number}/{len(pairs)}] {job.name}, {spec}")
        run = shared.head_run(job)
        try:
            trained = train_and_save(encoders[spec], run, job.corpus, job.labelled)
        except Exception as error:  # the other heads go on; Ctrl-C is no Exception
            failures.append(failed(job.name, spec, error))
            continue
        if trained is not None:
            yield from trained[1]


def _show_records(output: Output, records: "Sequence[Record]", shared: Shared) -> None:
    """Print what was run: SUPERB's tasks as `auscult superb table` does, then any others."""
    from auscult.cli.superb import protocols
    from auscult.results.superb import BESIDE, TASKS, find_published
    from auscult.results.superb_table import own_rows, tables

    own = own_rows(records, protocols())
    if own:
        beside = find_published(BESIDE)
        results, _scores, particulars = tables(own, [beside], beside)
        for table in (results, particulars):
            output.table(table.title, table.columns, table.rows)
    others = [record for record in records if record.task not in TASKS]
    if others:
        rows = [(r.task, r.upstream, r.metric, f"{r.value:.3f}", r.num_items) for r in others]
        output.table(
            "Tasks that SUPERB has not", ("task", "upstream", "metric", "on test", "n"), rows
        )
    if records:
        place = "the store" if shared.store else shared.out  # whose URL may hold a password
        table_of = "STORE" if shared.store else shared.out
        output.print(
            f"Results are in {place}; `auscult superb table {table_of}` shows them beside all "
            "published ones."
        )


def _flat(line: Cost) -> dict[str, Any]:
    job = line.job
    return {
        "task": job.task.spec.name,
        "split_column": job.corpus.split_column,
        "corpus": job.spec,
        "utterances": {name: len(split.cuts) for name, split in job.labelled.splits.items()},
        "seconds": {name: job.seconds(name) for name in job.labelled.splits},
        "steps": job.config.total_steps if job.task.trains else 0,
        "config": asdict(job.config),
        "upstream": line.upstream,
        "feature_bytes": line.num_bytes,
        "kept": line.kept,
        "finetuned": line.finetuned,
        "encoding_seconds_guessed": line.seconds,
    }


def _refuse_torchrun() -> None:
    from auscult.process import Processes

    if Processes.of_environment().size > 1:
        raise UserError(
            "auscult superb run is one process, so that a failure stops nothing else; under "
            "torchrun use `auscult run` for one task at a time."
        )
