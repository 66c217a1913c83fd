"""All of SUPERB on one or more encoders: tasks, their corpora, what they take, and the run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from auscult.address import parse_address
from auscult.config import assignments, several
from auscult.corpora import READERS
from auscult.dataset import check_speakers
from auscult.downstreams import TASKS, HeadTask, find_task, protocols
from auscult.errors import UserError, quoted
from auscult.progress import logger
from auscult.results.figure import draw
from auscult.results.superb.official import OFFICIAL
from auscult.value import shorten

from .bench import Bench, Where, expect_keywords
from .company import with_baselines
from .cost import Cost, Job, cost
from .desk import Desk
from .estimate import real_time_factor
from .execution import execute
from .executor import Executor
from .finding import Findings
from .item import Failure, Item
from .live import Encoder, named_encoders
from .plan import Plan
from .task import Heads, configure, read_rates

if TYPE_CHECKING:
    from auscult.record import Record
    from auscult.results.superb.score import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a user says of tasks and their data."""

    root: Path
    tasks: tuple[str, ...]  # empty: all of SUPERB and those that have a corpus
    corpora: Mapping[str, str]  # by task, instead of what is below the folder
    columns: Mapping[str, tuple[str, ...]]  # split columns by task
    tests: Mapping[str, str]  # split that is scored on, by task, instead of test
    settings: Mapping[str, Sequence[str]]  # KEY=VALUE by task
    steps: int | None = None
    learning_rates: str | Sequence[float] | None = None
    finetune: bool = False
    limit: int | None = None
    seed: int = 0

    def rates(self, task: str) -> tuple[float, ...]:
        """Return the learning rates of which dev chooses; empty where none were given."""
        return read_rates(self.learning_rates, self.settings.get(task, ()))


@dataclass(frozen=True, slots=True)
class Missing:
    """A task without data that nobody asked for by name."""

    name: str
    reason: str


def read_jobs(choice: Choice, desk: Desk) -> Iterator[Job | Missing | Failure]:
    """Find, read and check the corpus of every task.

    Raises:
        UserError: An unknown task or setting, or the folder does not exist.
    """
    if not choice.root.is_dir():
        raise UserError(
            f"The data folder {choice.root} is no folder; expected one that holds the corpora."
        )
    tasks = [find_task(name) for name in choice.tasks or {**OFFICIAL, **choice.corpora}]
    _refuse_unused(choice, [task.spec.name for task in tasks])
    # mistakes in settings come before hours of reading
    configs = [_configured(task, find_corpus(task.spec.name, choice), choice) for task in tasks]
    for task, config in zip(tasks, configs, strict=True):
        name = task.spec.name
        spec = find_corpus(name, choice)
        if spec is None:
            reason = _not_found(name)
            yield Failure(name, "", reason) if choice.tasks else Missing(name, reason)
            continue
        for column in _columns(name, spec, choice):
            try:
                yield _job(task, config, spec, column, choice, desk)
            except Exception as error:  # the other tasks go on; Ctrl-C is no Exception
                yield Failure.of(error, f"{name}, {column}" if column else name)


def _job(
    task: HeadTask, config: Any, spec: str, column: str | None, choice: Choice, desk: Desk
) -> Job:
    name = task.spec.name
    logger.info(f"Reading {spec}{f', {column}' if column else ''} ...")
    tested = choice.tests.get(name, "test")
    corpus = desk.corpus(spec, column, choice.limit, tested)
    check_speakers(corpus, desk.bench.allow_shared_speakers or task.about_speakers)
    heads = Heads(
        task=task,
        config=config,
        learning_rates=choice.rates(name) if task.trains else (),
        finetune=choice.finetune and task.trains,
        seed=choice.seed,
        address=spec,
        corpus=corpus,
        split=column,
        tested=tested,
        limit=choice.limit,
    )
    return Job(heads=heads, labelled=heads.labelled(desk))


def find_corpus(task: str, choice: Choice) -> str | None:
    """Return the address of a task's corpus, None where there is none."""
    if task in choice.corpora:
        return choice.corpora[task]
    if task not in OFFICIAL:
        return None
    place = OFFICIAL[task]
    for name in place.folders:
        if READERS[place.reader].matches(choice.root / name):
            return f"{place.reader}:{choice.root / name}"
    return None


def by_task(assignments: Sequence[str], option: str) -> dict[str, str]:
    """Read ``TASK=VALUE``.

    Raises:
        UserError: No ``=``, an unknown task, or a task given twice.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        task, equals, value = assignment.partition("=")
        if not equals or not value:
            raise UserError(f"{option} {assignment!r}: expected {option} TASK=VALUE.")
        find_task(task)
        if task in found:
            raise UserError(f"{option} was given twice for {task}; choose one.")
        found[task] = value
    return found


def settings_by_task(settings: Sequence[str]) -> dict[str, list[str]]:
    """Read ``TASK.KEY=VALUE``; every task has an entry.

    Raises:
        UserError: No dot, or an unknown task.
    """
    found: dict[str, list[str]] = {name: [] for name in TASKS}
    for setting in settings:
        task, dot, rest = setting.partition("=")[0].partition(".")
        if not dot or not rest:
            raise UserError(f"Setting {setting!r}: expected TASK.KEY=VALUE.")
        found[find_task(task).spec.name].append(setting.removeprefix(f"{task}."))
    return found


def _refuse_unused(choice: Choice, tasks: Sequence[str]) -> None:
    """Raise where something was said of a task that is not run."""
    settings = [name for name, found in choice.settings.items() if found]
    for name in (*choice.corpora, *choice.columns, *choice.tests, *settings):
        if name not in tasks:
            raise UserError(
                f"{name} was given a corpus, split or setting, but is not run; add it to the tasks."
            )


def _configured(task: HeadTask, spec: str | None, choice: Choice) -> Any:
    """Return the published protocol of a task with the command line's changes."""
    name = task.spec.name
    files = list(_files(name, spec, choice)) if spec else []
    for file in files:
        logger.info(f"{name}: {file}")
    steps = choice.steps if task.trains else None
    return configure(task, steps, [*files, *choice.settings.get(name, ())])


def _files(task: str, spec: str, choice: Choice) -> Iterator[str]:
    """Yield settings that name SUPERB's own files, where these are found and none were named."""
    place = OFFICIAL.get(task)
    reader, _, folder = spec.partition(":")
    if place is None or reader != place.reader:
        return
    named = {setting.partition("=")[0] for setting in choice.settings.get(task, ())}
    for setting, names in place.files:
        for parent in (choice.root, Path(folder)):
            if setting not in named and all((parent / name).is_file() for name in names):
                yield f"{setting}={','.join(str(parent / name) for name in names)}"
                break


def _columns(task: str, spec: str, choice: Choice) -> Sequence[str | None]:
    """Return the split columns that a task is run on."""
    if task in choice.columns:
        return choice.columns[task]
    place = OFFICIAL.get(task)
    official = place is not None and spec.partition(":")[0] == place.reader
    return place.columns if place is not None and official else (None,)


def _address(task: str, spec: object) -> str:
    if not isinstance(spec, str):
        raise UserError(f"corpora={{{task!r}: ...}}: expected an address, got {shorten(spec)}.")
    return spec


def _not_found(task: str) -> str:
    if task not in OFFICIAL:
        return "SUPERB has no corpus for it; name one with corpora= (--corpus)"
    place = OFFICIAL[task]
    return f"no {place.reader} corpus; looked for {', '.join(place.folders)}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SuperbPlan(Plan):
    """Heads of all tasks and encoders, what they take, and tasks without a corpus."""

    jobs: tuple[Job, ...]
    costs: tuple[Cost, ...]
    missing: tuple[Missing, ...]

    def lines(self) -> list[tuple[Cost, str]]:
        """Return what each head takes, and whether it is ``there`` or ``to do``."""
        there = self.done()
        states = ["there" if item.key in there else "to do" for item in self.items]
        return list(zip(self.costs, states, strict=True))

    def expect_corpora(self, data: str | Path) -> None:
        """Refuse a plan for which no corpus was found, and none failed either.

        Raises:
            UserError: There is none.
        """
        unread = [failure for failure in self.failures if not failure.upstream]
        if not self.jobs and not unread:
            raise UserError(
                f"No corpus of SUPERB was found in {data}; the plan says which folders were "
                "looked for. corpora= (--corpus TASK=READER:FOLDER) names one elsewhere."
            )


def superb(
    upstreams: Encoder | Iterable[Encoder],
    data: str | Path,
    *,
    executor: str | Executor = "serial",
    out: str | Path | None = None,
    store: str | None = None,
    announce: Callable[[SuperbPlan], None] | None = None,
    **options: Any,
) -> Findings:
    """Train and score the heads of all of SUPERB's tasks whose corpora are found.

    A task, an encoder or a head that fails is in ``failures``; the others go on.

    Args:
        upstreams: Addresses such as ``hf:models/wavlm-base``, encoders, or modules as they are.
        data: Folder that holds SUPERB's corpora.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        out: Folder for checkpoints, answers, the store and figures; the cache, no store and no
            figures where None.
        store: SQLAlchemy URL of the store instead of OUT's.
        announce: Called with the plan, before hours of work.
        options: As :func:`plan_superb` takes them.

    Raises:
        UserError: There is nothing to run.
    """
    expect_keywords("superb", plan_superb, options)
    Bench.of(out=out, store=store).prepare()  # neither fails after work was done
    options |= {"out": out, "store": store, "executor": executor}
    plan = plan_superb(upstreams, data, **options)
    if announce is not None:
        announce(plan)
    plan.expect_corpora(data)
    outcomes, failures = execute(plan, executor, strict=False)
    weights = [x for found in outcomes.values() for x in found.artifacts if out is not None]
    return Findings(
        outcomes=tuple(outcomes.values()),
        failures=tuple(failures),
        files=tuple(path for artifact in weights for path in draw(artifact, plan.bench.out)),
        plan=plan,
    )


def plan_superb(
    upstreams: Encoder | Iterable[Encoder],
    data: str | Path,
    *,
    tasks: str | Sequence[str] = (),
    corpora: Mapping[str, str] = {},
    splits: Mapping[str, str | Sequence[str]] = {},
    test_splits: Mapping[str, str] = {},
    settings: str | Sequence[str] | Mapping[str, object] = (),
    steps: int | None = None,
    learning_rates: str | Sequence[float] | None = None,
    finetune: bool = False,
    limit: int | None = None,
    seed: int = 0,
    baselines: bool = True,
    **where: Unpack[Where],
) -> SuperbPlan:
    """Return one item for each task, split column and encoder; corpora are read for it.

    Args:
        upstreams: See :func:`superb`.
        data: See :func:`superb`.
        tasks: Some instead of all that have a corpus.
        corpora: Addresses by task, instead of what is below ``data``.
        splits: Split columns by task.
        test_splits: The split that is scored by task, instead of test.
        settings: ``TASK.KEY=VALUE``, changes to the protocol of a task; or values by that key.
        steps: See :func:`auscult.studies.plan_run`, as all that follow.
        learning_rates: Of which dev chooses.
        finetune: Train the encoders too.
        limit: Utterances of each split.
        seed: Of the heads and of the data order.
        baselines: Add log-mel and each encoder's random twin.
        where: As in :class:`Where`.

    Raises:
        UserError: There is no encoder or no corpus, an unknown task or setting.
    """
    expect_keywords("plan_superb", plan_superb, where)
    if not isinstance(data, str | Path):
        raise UserError(
            f"data={quoted(data)}: expected the folder that holds SUPERB's corpora; corpora= "
            "names the address of one by its task."
        )
    for name, value in {"corpora": corpora, "splits": splits, "test_splits": test_splits}.items():
        if not isinstance(value, Mapping):
            raise UserError(f"{name}={quoted(value)}: expected a dictionary by task.")
    choice = Choice(
        root=Path(data),
        tasks=tuple(dict.fromkeys(several(tasks))),
        corpora={task: _address(task, spec) for task, spec in corpora.items()},
        columns={task: tuple(several(names)) for task, names in splits.items()},
        tests=test_splits,
        settings=settings_by_task(assignments(settings)),
        steps=steps,
        learning_rates=learning_rates,
        finetune=finetune,
        limit=limit,
        seed=seed,
    )
    for task in choice.settings:
        choice.rates(task)  # a mistake in them comes before anything is read
    names, bench = named_encoders(Bench.of(**where), upstreams)
    live = bench.live
    asked = [name if name in live else str(parse_address(name)) for name in dict.fromkeys(names)]
    company = with_baselines(asked, live) if baselines else asked
    return _planned(choice, Desk(bench), list(dict.fromkeys(asked)), company)


def _planned(choice: Choice, desk: Desk, asked: list[str], specs: list[str]) -> SuperbPlan:
    """Read encoders and corpora; what fails is a failure of the plan, said at once."""
    failures: list[Failure] = []
    factors = {}
    for spec in specs:  # before hours of reading
        try:
            factors[spec] = real_time_factor(desk.encoder(spec))
        except Exception as error:  # the other encoders go on; Ctrl-C is no Exception
            failures.append(Failure.of(error, "all tasks", spec))
            failures[-1].say()
    if factors.keys().isdisjoint(asked):  # baselines alone are no run
        raise UserError(f"There is no encoder to run. {failures[0].upstream}: {failures[0].reason}")
    found = list(read_jobs(choice, desk))
    for one in found:
        if isinstance(one, Failure):
            one.say()
            failures.append(one)
    jobs = tuple(job for job in found if isinstance(job, Job))
    items: dict[tuple[int, str], Item] = {}
    costs: dict[tuple[int, str], Cost] = {}
    for spec, factor in factors.items():
        for number, job in enumerate(jobs):
            items[number, spec] = job.heads.item(desk, spec)
            costs[number, spec] = cost(job, desk.encoder(spec), factor, desk.bench.budget)
    places = [(number, spec) for spec in factors for number in range(len(jobs))]  # loads each once
    return SuperbPlan(
        items=tuple(items[place] for place in places),
        desk=desk,
        failures=tuple(failures),
        jobs=jobs,
        costs=tuple(costs[place] for place in places),
        missing=tuple(one for one in found if isinstance(one, Missing)),
    )


def own_rows(records: "Iterable[Record]") -> "list[Row]":
    """Return our results on SUPERB's tasks, each with why it may not be held to published ones."""
    from auscult.results.superb import table

    return table.own_rows(records, protocols())
