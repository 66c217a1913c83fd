"""The head study: a task of SUPERB, its head trained by s3prl's runner on frozen encoders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torch import distributed

from auscult.config import assignments, override, parse_rates, whole_number
from auscult.dataset import check_speakers
from auscult.device import choose_device
from auscult.downstreams import find_task
from auscult.downstreams.schedule import files_sha256
from auscult.downstreams.search import SUPERB_RATES
from auscult.errors import UserError
from auscult.origin import made_by
from auscult.process import ALONE, Processes
from auscult.record import with_origins
from auscult.results.figure import draw

from .bench import Bench, Where, expect_keywords
from .call import unless_default
from .company import with_baselines
from .desk import Desk
from .execution import execute
from .executor import Executor
from .finding import Findings
from .head import HeadRun, outcome_of, train
from .item import Item, Outcome
from .live import Encoder, Speech, named
from .plan import Plan

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.downstreams import HeadTask
    from auscult.downstreams.split import LabelledCorpus
    from auscult.upstream import Upstream

KIND = "head"


def run(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    task: str,
    *,
    executor: str | Executor = "serial",
    device: str = "auto",
    out: str | Path | None = None,
    store: str | None = None,
    **options: Any,
) -> Findings:
    """Train the head of a SUPERB task on one or more encoders and score it on test.

    The head is s3prl's featurizer (a softmax over all layers) and downstream model, trained by
    its runner; dev chooses the step. The same call goes on after a kill.

    Args:
        upstreams: Addresses such as ``hf:models/wavlm-base``, encoders, or modules as they are.
        corpus: Address such as ``tsv:my/speech``, a corpus, a data frame, or cuts by split.
        task: Such as ``keyword_spotting``.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: Folder for checkpoints, answers, the store and a figure of the layer weights of each
            head; the cache, no store and no figures where None.
        store: SQLAlchemy URL of the store instead of OUT's.
        options: As :func:`plan_run` takes them.

    Raises:
        UserError: Nothing could be trained as asked; the sentence says why.
    """
    expect_keywords("run", plan_run, options)
    processes = Processes.of_environment()
    with processes.joined(processes.device(choose_device(device))):
        if processes.leads:
            # neither fails after work was done
            Bench.of(together=True, out=out, store=store).prepare()
        options |= {"device": device, "out": out, "store": store, "executor": executor}
        plan = plan_run(upstreams, corpus, task, **options)
        outcomes, failures = execute(plan, executor)
        drawn = out is not None and processes.leads
        weights = [x for found in outcomes.values() for x in found.artifacts] if drawn else []
        return Findings(
            outcomes=tuple(outcomes.values()),
            failures=tuple(failures),
            files=tuple(path for artifact in weights for path in draw(artifact, plan.bench.out)),
            plan=plan,
        )


def plan_run(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    task: str,
    *,
    settings: str | Sequence[str] | Mapping[str, object] = (),
    steps: int | None = None,
    learning_rates: str | Sequence[float] | None = None,
    finetune: bool = False,
    limit: int | None = None,
    seed: int = 0,
    baselines: bool = True,
    split: str | None = None,
    test_split: str = "test",
    **where: Unpack[Where],
) -> Plan:
    """Return one item for each encoder.

    Args:
        upstreams: See :func:`run`.
        corpus: See :func:`run`.
        task: See :func:`run`.
        settings: ``KEY=VALUE``, changes to the published protocol; or values by key.
        steps: Train this long instead; dev is looked at 40 times, as in the protocol, but at most
            every 25 steps.
        learning_rates: Several, each trained in full, of which dev chooses, also as text with
            commas between; ``superb`` is the grid from 1e-1 to 1e-7.
        finetune: Train the encoder too, with the head's learning rate.
        limit: Only this many utterances of each split, spread evenly over it.
        seed: Of the head and of the data order.
        baselines: Add log-mel and each encoder's random twin.
        split: Split column, where a corpus has several.
        test_split: The split that is scored, such as ``test-other``.
        where: As in :class:`Where`.

    Raises:
        UserError: Something cannot be trained as asked.
    """
    expect_keywords("plan_run", plan_run, where)
    for name, value in {"steps": steps, "limit": limit}.items():
        whole_number(name, value)
    whole_number("seed", seed, 0)
    settings = assignments(settings)
    found = find_task(task)
    _check_training(found, steps=steps, learning_rates=learning_rates, finetune=finetune)
    config = configure(found, steps, settings)
    rates = read_rates(learning_rates, settings)
    bench = Bench.of(together=True, **where)
    names, address, bench = named(bench, upstreams, corpus, split)
    wanted = with_baselines(names, bench.live) if baselines else list(dict.fromkeys(names))
    desk = Desk(bench)
    met = distributed.is_initialized()  # else nobody waits, as for a plan
    with (
        bench.processes if met else ALONE
    ).leader_first():  # weights and corpora may have to be fetched
        heads = Heads(
            task=found,
            config=config,
            learning_rates=rates,
            finetune=finetune,
            seed=seed,
            address=address,
            corpus=desk.corpus(address, split, limit, test_split),
            split=split,
            tested=test_split,
            limit=limit,
        )
        items = [heads.item(desk, name) for name in wanted]
    check_speakers(heads.corpus, bench.allow_shared_speakers or found.about_speakers)
    heads.labelled(desk)
    return Plan(items=tuple(items), desk=desk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What the heads of all encoders share: a task on one corpus."""

    task: "HeadTask"
    config: Any  # the task's, a Schedule
    learning_rates: tuple[float, ...]  # of which dev chooses; empty: the configuration's
    finetune: bool
    seed: int
    address: str  # of the corpus
    corpus: "Corpus"  # what that leads to, limited
    split: str | None  # column
    tested: str  # the split that is scored
    limit: int | None  # utterances of each split

    def labelled(self, desk: Desk) -> "LabelledCorpus":
        """Return the task's labels, read once for all encoders.

        Raises:
            UserError: A missing split or label.
        """
        key = (self.task.spec.name, repr(self.config), id(self.corpus))
        skip = desk.bench.skip_bad
        return desk.once(
            key, lambda: self.task.prepare(self.corpus, self.config, skip_unlabelled=skip)
        )

    def item(self, desk: Desk, upstream: str) -> Item:
        """Return the training of one encoder's head."""
        encoder = desk.encoder(upstream)
        protocol, config = asdict(self.task.config()), asdict(self.config)
        return Item(
            kind=KIND,
            upstream={"address": upstream, "sha256": encoder.spec.sha256},
            corpus={
                "address": self.address,
                "split_column": self.corpus.split_column,
                "limit": self.limit,
                "sha256": dict(self.corpus.sha256),
            },
            what={
                "task": self.task.spec.name,
                "version": self.task.spec.version,
                "origin": self.task.spec.origin,
                "config": config,
                "files": files_sha256(self.config),
                "learning_rates": list(self.learning_rates),
                "finetune": self.finetune,
                "seed": self.seed,
                "split": self.split,
                "tested": self.tested,
            },
            how={**desk.bench.how, "code": self.code(encoder)},
            call=desk.bench.call(
                "run",
                [f"{key}={value}" for key, value in config.items() if value != protocol[key]],
                upstream=upstream,
                corpus=self.address,
                task=self.task.spec.name,
                baselines=False,
                **unless_default(
                    learning_rates=(",".join(f"{rate:g}" for rate in self.learning_rates), ""),
                    finetune=(self.finetune, False),
                    limit=(self.limit, None),
                    seed=(self.seed, 0),
                    split=(self.split, None),
                    test_split=(self.tested, "test"),
                ),
            ),
            kept=False,
        )

    def code(self, encoder: "Upstream") -> str:
        """Return the fingerprint of the code that an encoder's head is trained by."""
        return made_by(__name__, self.task.module, *encoder.modules())

    @classmethod
    def of(cls, item: Item, desk: Desk) -> "Heads":
        """Return what the item of a head says."""
        what, task = item.what, find_task(item.what["task"])
        return cls(
            task=task,
            config=type(task.config())(**what["config"]),
            learning_rates=tuple(what["learning_rates"]),
            finetune=what["finetune"],
            seed=what["seed"],
            address=item.corpus["address"],
            corpus=desk.corpus_of(item),
            split=what["split"],
            tested=what["tested"],
            limit=item.corpus["limit"],
        )


def measure(item: Item, desk: Desk) -> Outcome:
    """Train the head of an item, or find it trained, and ask it about test."""
    heads, encoder = Heads.of(item, desk), desk.encoder_of(item)
    desk.expect_code(item, heads.code(encoder))
    if files_sha256(heads.config) != item.what["files"]:
        raise UserError(
            f"A file that {item.title} reads is another than when this was planned; run the "
            "command again."
        )
    theirs = (encoder.spec.origin, heads.corpus.origin, heads.task.spec.origin)
    run = HeadRun(
        task=heads.task,
        config=heads.config,
        learning_rates=heads.learning_rates,
        finetune=heads.finetune,
        limit=heads.limit,
        seed=heads.seed,
        bench=desk.bench,
        provenance=with_origins(desk.bench.provenance(item.command), *theirs),
    )
    head = train(encoder, run, heads.corpus, heads.labelled(desk))
    return Outcome(key=item.key, records=()) if head is None else outcome_of(head, item.key)


def configure(task: "HeadTask", steps: int | None, settings: Sequence[str]) -> Any:
    """Return the published protocol with a user's changes.

    Args:
        task: Whose protocol.
        steps: Instead of the protocol's.
        settings: ``KEY=VALUE``.

    Raises:
        UserError: An unknown key, or a value of another type.
    """
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


def read_rates(rates: str | Sequence[float] | None, settings: Sequence[str]) -> tuple[float, ...]:
    """Return the learning rates of which dev chooses; empty where none were given.

    Raises:
        UserError: Not positive numbers, or ``learning_rate=`` was given too.
    """
    if rates is None:
        return ()
    if any(setting.startswith("learning_rate=") for setting in settings):
        raise UserError(
            "learning_rates (--learning-rates) and the setting learning_rate= were both given; "
            "choose one."
        )
    if rates == "superb":
        return SUPERB_RATES
    return parse_rates(rates if isinstance(rates, str) else ",".join(map(str, rates)))


def _check_training(task: "HeadTask", **options: object) -> None:
    asked = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if asked and not task.trains:
        raise UserError(f"{task.spec.name} trains nothing, so {asked[0]} does not apply to it.")


def resolved(
    upstreams: Sequence[str], corpus: str, task: str, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return a title, the configuration, and what else is asked for; nothing is read for it.

    Args:
        upstreams: Addresses.
        corpus: Address.
        task: Its name.
        given: Options of :func:`plan_run`.
    """
    found = find_task(task)
    config = asdict(configure(found, given["steps"], given["settings"]))
    rates = read_rates(given["learning_rates"], given["settings"])
    names = with_baselines(upstreams) if given["baselines"] else upstreams
    values = {"upstreams": " ".join(names), "corpus": corpus, **config}
    values |= {"finetune": given["finetune"], "limit": given["limit"]}
    if rates:
        values["learning_rate"] = " ".join(f"{rate:g}" for rate in rates)
    return f"{task} (version {found.spec.version})", config, values


def summary(outcomes: Sequence[Outcome]) -> tuple[str, list[str], list[list[object]]]:
    """Return title, columns and one row for each head."""
    scored = [outcome for outcome in outcomes if outcome.records]
    first, *others = scored[0].records
    columns = ["upstream", first.metric.replace("_", " "), "95 %"]
    columns += [record.metric.replace("_", " ") for record in others]
    columns += ["majority", "n", "spk", "best step", "learning rate"]
    columns.append("heaviest layer" if "step" in scored[0].notes else "best layer")
    return f"{first.task}, scored on test", columns, [_row(outcome) for outcome in scored]


def _row(outcome: Outcome) -> list[object]:
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
