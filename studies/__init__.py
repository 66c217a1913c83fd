"""The jobs people come for, as functions, and who carries them out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from auscult.config import parse_rates, several, whole_number
from auscult.errors import UserError

from .bench import Bench, Where, expect_keywords
from .company import with_baselines
from .description import Description, describe
from .desk import Desk
from .execution import execute
from .executor import Executor, Pool, Serial
from .extraction import Extracted, extract, plan_extract
from .finding import Findings
from .finetuning import Finetuned, finetune
from .item import Failure, Item, Outcome
from .live import Encoder, Speech
from .pairing import compare
from .plan import Plan
from .pretraining import Pretrained, pretrain
from .search import search
from .stored import findings, report
from .superb import plan_superb, superb
from .task import plan_run, run

if TYPE_CHECKING:
    from auscult.probing import ProbeTask

    from .divergence import Maps

__all__ = [
    "Bench",
    "Description",
    "Executor",
    "Extracted",
    "Failure",
    "Findings",
    "Finetuned",
    "Item",
    "Outcome",
    "Plan",
    "Pool",
    "Pretrained",
    "Serial",
    "Where",
    "attention",
    "compare",
    "describe",
    "execute",
    "extract",
    "findings",
    "finetune",
    "plan_attention",
    "plan_extract",
    "plan_probe",
    "plan_run",
    "plan_superb",
    "pretrain",
    "probe",
    "report",
    "run",
    "search",
    "superb",
]


def probe(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    tasks: "str | ProbeTask | Iterable[str | ProbeTask]",
    *,
    executor: "str | Executor" = "serial",
    out: str | Path | None = None,
    store: str | None = None,
    **options: Any,
) -> Findings:
    """Probe every layer of one or more encoders.

    Each utterance is encoded once; all layers, probe depths, seeds and tasks read those features.
    Scores are on test; dev chooses the epoch and the learning rate.

    Args:
        upstreams: Addresses such as ``hf:models/wavlm-base``, encoders, or modules as they are.
        corpus: Address such as ``tsv:my/speech``, a corpus, a data frame, or cuts by split.
        tasks: ``phone39``, ``speaker``, ``label:COLUMN``, ..., or tasks.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        out: Folder for kept work and the store; the cache, and no store, where None.
        store: SQLAlchemy URL of the store instead of OUT's.
        options: As :func:`plan_probe` takes them.

    Raises:
        UserError: Nothing could be measured as asked; the sentence says why.
    """
    from . import comparison

    expect_keywords("probe", plan_probe, options)
    Bench.of(out=out, store=store).prepare()  # neither fails after work was done
    options |= {"out": out, "store": store, "executor": executor}
    plan = plan_probe(upstreams, corpus, tasks, **options)
    outcomes, failures = execute(plan, executor)
    differences = comparison.compare(outcomes, plan.bench.device)
    plan.bench.save((), differences)
    return Findings(
        outcomes=tuple(outcomes.values()),
        differences=tuple(differences),
        failures=tuple(failures),
        plan=plan,
    )


def plan_probe(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    tasks: "str | ProbeTask | Iterable[str | ProbeTask]",
    *,
    probes: str | Sequence[str] = ("linear", "mlp1", "mlp2"),
    layers: str | Sequence[int] = "all",
    seeds: int = 1,
    learning_rates: str | float | Sequence[float] = (1e-3,),
    max_epochs: int | None = None,
    pooling: str = "mean",
    baselines: bool = True,
    split: str | None = None,
    limit: int | None = None,
    **where: Unpack[Where],
) -> Plan:
    """Return what :func:`probe` would do, with what is there already.

    Args:
        upstreams: See :func:`probe`.
        corpus: See :func:`probe`.
        tasks: See :func:`probe`.
        probes: Depths: ``linear``, ``mlp1``, ``mlp2``.
        layers: ``all``, such as ``0,3,6-12``, or numbers.
        seeds: Number of seeds of each probe.
        learning_rates: One, or several of which dev chooses.
        max_epochs: Limit; 30 for frames, 60 for utterances where None.
        pooling: Utterance tasks: ``mean``, or ``statistics``: mean and deviation.
        baselines: Add log-mel and each encoder's random twin.
        split: Split column, where a corpus has several.
        limit: Only this many utterances of each split, spread evenly over it.
        where: As in :class:`Where`.

    Raises:
        UserError: Something cannot be measured as asked.
    """
    from . import layer
    from .live import named

    expect_keywords("plan_probe", plan_probe, where)
    bench = Bench.of(**where)
    names, address, bench = named(bench, upstreams, corpus, split)
    wanted = [tasks] if isinstance(tasks, str) or not isinstance(tasks, Iterable) else list(tasks)
    numbers = {"seeds": seeds, "limit": limit, "max_epochs": max_epochs}
    for name, value in numbers.items():
        whole_number(name, value)
    if not names or not wanted or not probes:
        raise UserError("There is nothing to probe: expected an encoder, a task and a probe.")
    rates = learning_rates if isinstance(learning_rates, str | Sequence) else [learning_rates]
    return layer.plan_probe(
        Desk(bench),
        with_baselines(names, bench.live) if baselines else names,
        address,
        wanted,
        split=split,
        limit=limit,
        probes=several(probes),
        layers=layers if isinstance(layers, str) else ",".join(map(str, layers)),
        seeds=seeds,
        learning_rates=parse_rates(rates if isinstance(rates, str) else ",".join(map(str, rates))),
        max_epochs=max_epochs,
        pooling=pooling,
    )


def attention(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    *,
    executor: "str | Executor" = "serial",
    out: str | Path | None = None,
    store: str | None = None,
    **options: Any,
) -> "Maps":
    """Map how far the attention heads of one or more encoders diverge from each other.

    Jensen-Shannon divergence of every pair of heads, mean over query frames, then utterances.

    Args:
        upstreams: Addresses such as ``hf:models/wavlm-base``, encoders, or modules as they are.
        corpus: Address such as ``tsv:my/speech``, a corpus, a data frame, or cuts by split.
        executor: ``serial`` or ``local:N``, N processes on this machine.
        out: Folder for kept work, the store, and a figure of each kind and an .npz of the arrays
            for each encoder; the cache, no store and no files where None.
        store: SQLAlchemy URL of the store instead of OUT's.
        options: As :func:`plan_attention` takes them.

    Raises:
        UserError: Nothing could be measured as asked; the sentence says why.
    """
    from .divergence import Maps, draw

    expect_keywords("attention", plan_attention, options, where=False)
    Bench.of(out=out, store=store).prepare()
    options |= {"out": out, "store": store, "executor": executor}
    plan = plan_attention(upstreams, corpus, **options)
    outcomes, failures = execute(plan, executor)
    artifacts = [artifact for found in outcomes.values() for artifact in found.artifacts]
    written = artifacts if out is not None else []
    return Maps(
        outcomes=tuple(outcomes.values()),
        failures=tuple(failures),
        files=tuple(path for artifact in written for path in draw(artifact, plan.bench.out)),
        plan=plan,
    )


def plan_attention(
    upstreams: Encoder | Iterable[Encoder],
    corpus: Speech,
    *,
    split_name: str = "test",
    limit: int | None = None,
    base: str = "2",
    split: str | None = None,
    device: str = "auto",
    executor: "str | Executor" = "serial",
    threads: int | None = None,
    skip_bad: bool = False,
    out: str | Path | None = None,
    store: str | None = None,
) -> Plan:
    """Return what :func:`attention` would do, with what is there already.

    Args:
        upstreams: See :func:`attention`.
        corpus: See :func:`attention`.
        split_name: The split to listen to.
        limit: Only this many utterances, spread evenly over the split.
        base: ``2`` for bits, from 0 to 1, ``e`` for nats.
        split: Split column, where a corpus has several.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        executor: See :func:`probe`; its share of the threads is what an item has.
        threads: Of each item instead of that; the last bits of numbers depend on it.
        skip_bad: Leave bad items out, counted, instead of stopping.
        out: See :func:`attention`.
        store: SQLAlchemy URL of the store instead of OUT's.

    Raises:
        UserError: An encoder has no attention, or something else cannot be measured.
    """
    from . import divergence
    from .live import named

    bench = Bench.of(
        out=out,
        store=store,
        device=device,
        executor=executor,
        threads=threads,
        skip_bad=skip_bad,
    )
    whole_number("limit", limit)
    names, address, bench = named(bench, upstreams, corpus, split)
    if not names:
        raise UserError("There is nothing to listen to: expected an encoder.")
    return divergence.plan_attention(
        Desk(bench), names, address, split_name=split_name, limit=limit, base=base, split=split
    )
