"""The probing study: small readers of every layer of every encoder, with their company."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from auscult.contracts import TaskSpec, UpstreamSpec
from auscult.dataset import SPLITS, check_speakers
from auscult.errors import UserError, quoted, unknown
from auscult.feature import FeatureStore, encode_stores, open_stores
from auscult.origin import made_by
from auscult.precision import precision_of
from auscult.probing import (
    PROBE_TABLE,
    PROBES,
    FrameExamples,
    PooledExamples,
    ProbeTask,
    TrainingPlan,
    build_targets,
    check_labels,
    majority_class,
    resolve_tasks,
    sweep_layers,
)
from auscult.progress import logger
from auscult.record import fingerprint, provenance, with_origins
from auscult.score import Tally, record_of, score_of

from .bench import Bench
from .call import unless_default
from .desk import Desk
from .item import Item, Outcome, TallyKey
from .plan import Plan
from .plugin import check_unchanged, movable, origins_of, theirs_of

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.probing import Examples, ProbeScore, Targets
    from auscult.record import Record
    from auscult.upstream import Upstream

KIND, ENCODE = "probe", "encode"
POOLINGS = ("mean", "statistics")


def plan_probe(
    desk: Desk,
    upstreams: Sequence[str],
    corpus: str,
    tasks: Sequence[str | ProbeTask],
    *,
    split: str | None = None,
    limit: int | None = None,
    probes: Sequence[str] = tuple(PROBES),
    layers: str = "all",
    seeds: int = 1,
    learning_rates: Sequence[float] = (1e-3,),
    max_epochs: int | None = None,
    pooling: str = "mean",
) -> Plan:
    """Return the items of a probing study: encode, then one item for each encoder and task.

    Args:
        desk: Gives encoders and the corpus.
        upstreams: Addresses, company included.
        corpus: Address.
        tasks: Names that :func:`auscult.probing.resolve_tasks` reads, or tasks.
        split: Split column.
        limit: Utterances of each split.
        probes: Depths.
        layers: ``all``, or such as ``0,3,6-12``.
        seeds: How many.
        learning_rates: Of which dev chooses.
        max_epochs: Instead of 30 for frames, 60 for utterances.
        pooling: ``mean`` or ``statistics``.

    Raises:
        UserError: Something of that cannot be measured.
    """
    _check(probes, pooling)
    specs = {
        address: _looked_at(desk.encoder(address), layers) for address in dict.fromkeys(upstreams)
    }
    data = desk.corpus(corpus, split, limit)
    wanted = _tasks(desk.bench, data, tasks)
    options: dict[str, Any] = {
        "probes": list(dict.fromkeys(probes)),
        "seeds": seeds,
        "learning_rates": list(learning_rates),
        "max_epochs": max_epochs,
        "split": split,
    }
    about_corpus = {
        "address": corpus,
        "split_column": data.split_column,
        "limit": limit,
        "sha256": {name: data.sha256[name] for name in SPLITS},
    }
    items = []
    for address, (spec, maker) in specs.items():
        about: dict[str, Any] = {
            "upstream": {"address": address, "sha256": spec.sha256},
            "corpus": about_corpus,
            "how": {**desk.bench.how, "code": maker},
        }
        frames = any(task.frames for task in wanted)
        encode = Item(kind=ENCODE, what={"frames": frames, "split": split}, kept=False, **about)
        items.append(encode)
        for task in wanted:
            what = {**_said(task), **options, "layers": read_layers(layers, spec)}
            what["pooling"] = "" if task.frames else pooling
            what |= theirs_of(task, probes)
            said = _given(task, {**options, "layers": layers, "pooling": pooling, "limit": limit})
            call = desk.bench.call("probe", upstream=address, corpus=corpus, **said)
            items.append(Item(kind=KIND, what=what, call=call, needs=(encode.key,), **about))
    return Plan(items=tuple(items), desk=desk)


def _looked_at(encoder: "Upstream", layers: str) -> "tuple[UpstreamSpec, str]":
    """Return what an encoder is and by what code; the next may take its place in memory."""
    read_layers(layers, encoder.spec)
    return encoder.spec, made_by(__name__, *encoder.modules())


def encode(item: Item, desk: Desk) -> Outcome:
    """Encode the corpus, once for all tasks."""
    encoder, stores, _ = _stores(item, desk, frames=bool(item.what["frames"]), say=True)
    encode_stores(encoder.spec.name, stores.values())
    return Outcome(key=item.key, records=())


def measure(item: Item, desk: Desk) -> Outcome:
    """Train and score the probes of one task on one encoder."""
    task = _task(item.what)
    check_unchanged(task, item.what)
    encoder, stores, skipped = _stores(item, desk, frames=task.frames)
    encode_stores(encoder.spec.name, stores.values())  # where nothing was encoded before
    corpus = desk.corpus(item.corpus["address"], item.what["split"], item.corpus["limit"])
    pooled = {name: found.pooled() for name, found in stores.items()}
    cuts = {name: found.cuts for name, found in stores.items()}
    frames = {name: found.num_frames for name, found in pooled.items()}
    classes, targets = build_targets(task, cuts, frames, encoder.spec.geometry)
    examples: dict[str, Examples] = {
        name: FrameExamples(stores[name].frames(), pooled[name], targets[name])
        if task.frames
        else PooledExamples(pooled[name], targets[name], item.what["pooling"])
        for name in SPLITS
    }
    _warn_constant(task, examples["train"], encoder.spec, item.what["layers"])
    plan = training_plan(item.what)
    theirs = [encoder.spec.origin, corpus.origin, *origins_of(item.what)]
    made = with_origins(provenance(item.command, desk.bench.device), *theirs)
    config = _config(task, encoder, item, plan, len(classes), desk.bench, corpus)
    scores = sweep_layers(
        examples,
        len(classes),
        item.what["layers"],
        plan,
        title=f"Probing {task.spec.name} in {encoder.spec.name}",
        identity=_identity(task, encoder, item, desk.bench, corpus),
        folder=desk.bench.out / ".probe",
        device=desk.bench.device,
        made_by=made_by("auscult.probing.sweep", *encoder.modules()),
        provenance=made,
    )
    tallies: dict[TallyKey, Tally] = {}
    records: list[Record] = []
    for name, found in scores.items():
        counted = _tallies(task, name, found, cuts[name], targets[name])
        tallies |= counted
        records += _records(
            encoder.spec, corpus, task, counted, found, commonest=majority_class(targets["train"]),
            num_skipped=skipped[name] + targets[name].num_unlabelled, config=config,
            made=made,
        )  # fmt: skip
    _warn_alone(task, next(x for key, x in tallies.items() if key.split == "test"))
    return Outcome(key=item.key, records=tuple(records), tallies=tallies)


def read_layers(text: str, spec: UpstreamSpec) -> list[int]:
    """Read ``all`` or ``0,3,6-12``.

    Raises:
        UserError: Unreadable, or a layer that the encoder lacks.
    """
    last = spec.num_layers
    if text == "all" or last == 0:
        return list(range(last + 1))
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        first = int(ends[1]) if ends else 1
        final = int(ends[2] or first) if ends else 0
        if final < first:
            raise UserError(f"layers (--layers) {text[:80]!r}: expected all, or such as 0,3,6-12.")
        if final > last:
            raise UserError(
                f"layers (--layers) {text[:80]!r}: {spec.name} has hidden states 0 to {last} only."
            )
        found |= set(range(first, final + 1))
    return sorted(found)


def training_plan(what: Mapping[str, Any]) -> TrainingPlan:
    """Return how the probes of an item are trained."""
    plan = TrainingPlan(
        probes=tuple(what["probes"]),
        seeds=tuple(range(what["seeds"])),
        learning_rates=tuple(what["learning_rates"]),
    )
    plan = plan.adapted(frames=what["output"] == "frame")
    if what["max_epochs"] is not None:
        plan = replace(plan, max_epochs=what["max_epochs"], min_steps=0)
    return plan


def _check(probes: Sequence[str], pooling: str) -> None:
    for probe in probes:
        PROBE_TABLE.find(probe)
    if pooling not in POOLINGS:
        raise unknown("pooling", pooling, POOLINGS)


def _tasks(bench: Bench, corpus: "Corpus", wanted: Sequence[str | ProbeTask]) -> list[ProbeTask]:
    """Return the tasks, each of which the corpus has labels for."""
    cuts = {name: list(corpus.split(name)) for name in SPLITS}
    flat = [cut for found in cuts.values() for cut in found]
    tasks: list[ProbeTask] = []
    for one in dict.fromkeys(wanted):
        if not isinstance(one, str | ProbeTask):
            raise UserError(
                f"{quoted(one)} is no probing task; expected a name such as phone39 or "
                "label:COLUMN, or a ProbeTask."
            )
        tasks += [movable(one)] if isinstance(one, ProbeTask) else resolve_tasks(one, flat)
    for task in tasks:
        check_labels(task, cuts, skip_unlabelled=bench.skip_bad)
    if not all(task.about_speakers for task in tasks):
        check_speakers(corpus, bench.allow_shared_speakers)
    return tasks


def _said(task: ProbeTask) -> dict[str, Any]:
    """Return a task as JSON values."""
    spec = task.spec
    return {
        "task": spec.name,
        "version": spec.version,
        "output": spec.output,
        "metrics": list(spec.metrics),
        "label": task.label,
        "aligned": task.aligned,
        "origin": spec.origin,
        **unless_default(direction=(spec.direction, "")),
    }


def _task(what: Mapping[str, Any]) -> ProbeTask:
    """Return the task of an item; somebody's own is looked up, as it may be more than values."""
    if what["origin"]:
        return resolve_tasks(what["task"], ())[0]

    spec = TaskSpec(
        name=what["task"],
        version=what["version"],
        output=what["output"],
        metrics=tuple(what["metrics"]),
        direction=what.get("direction", ""),
    )
    return ProbeTask(spec, what["label"], what["aligned"])


def _given(task: ProbeTask, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that measure one task alone; what is the default is left out."""
    rates = ",".join(f"{rate:g}" for rate in options["learning_rates"])
    return {
        "task": task.spec.name,
        "baselines": False,
        **unless_default(
            probe=(options["probes"], list(PROBES)),
            layers=(options["layers"], "all"),
            seeds=(options["seeds"], 1),
            learning_rates=(rates, "0.001"),
            max_epochs=(options["max_epochs"], None),
            pooling=(options["pooling"], "mean"),
            split=(options["split"], None),
            limit=(options["limit"], None),
        ),
    }


def _stores(
    item: Item, desk: Desk, *, frames: bool, say: bool = False
) -> "tuple[Upstream, dict[str, FeatureStore], dict[str, int]]":
    """Return the encoder, the features of each split, and how many items of each were left out."""
    from auscult.extraction import long_enough

    encoder = desk.encoder_of(item)
    desk.expect_code(item, made_by(__name__, *encoder.modules()))
    corpus = desk.corpus_of(item)
    kept = {
        name: long_enough(encoder, list(corpus.split(name)), skip_bad=desk.bench.skip_bad)
        for name in SPLITS
    }
    skipped = {name: len(corpus.skipped) + len(short) for name, (_, short) in kept.items()}
    bench = desk.bench
    stores = open_stores(
        encoder,
        {name: cuts for name, (cuts, _) in kept.items()},
        budget=bench.budget,
        frames=frames,
        precision=bench.precision,
        say=say,
    )
    return encoder, stores, skipped


def _config(
    task: ProbeTask,
    encoder: "Upstream",
    item: Item,
    plan: TrainingPlan,
    num_classes: int,
    bench: Bench,
    corpus: "Corpus",
) -> dict[str, Any]:
    """Return what a record says of how it was measured."""
    limit = item.corpus["limit"]
    return {
        "learning_rates": list(plan.learning_rates),
        "batch_size": plan.batch_size,
        "max_epochs": plan.max_epochs,
        "patience": plan.patience,
        "min_steps": plan.min_steps,
        "pooling": None if task.frames else item.what["pooling"],
        "precision": precision_of(encoder, bench.precision),
        "split_column": corpus.split_column,
        "num_classes": num_classes,
        "train_sha256": corpus.sha256["train"],
        "dev_sha256": corpus.sha256["dev"],
        **({} if limit is None else {"limit": limit}),
    }


def _identity(
    task: ProbeTask, encoder: "Upstream", item: Item, bench: Bench, corpus: "Corpus"
) -> list[str]:
    """Return what scores depend on beside their plan."""
    splits = [corpus.sha256[name] for name in SPLITS]
    where = [corpus.split_column, precision_of(encoder, bench.precision)]
    where += [f"threads={bench.how['threads']}"] if "threads" in bench.how else []
    limit = [] if item.corpus["limit"] is None else [f"limit={item.corpus['limit']}"]
    found = [*where, task.spec.name, encoder.spec.sha256, *splits, item.what["pooling"], *limit]
    about = [task.label, task.aligned, item.what.get("theirs", {})]
    return [*found, fingerprint(about)]


def _tallies(
    task: ProbeTask,
    split: str,
    scores: "Sequence[ProbeScore]",
    cuts: Sequence[Any],
    targets: "Targets",
) -> dict[TallyKey, Tally]:
    """Return the counts of each probe, with the utterances that they are of."""
    rows = scores[0].items
    items = tuple(str(cuts[i].id) for i in rows)
    speakers = tuple(targets.speakers[i] for i in rows)
    total = scores[0].total  # of all alike
    return {
        TallyKey(task.spec.name, x.key.probe, x.key.layer, x.key.seed, split): Tally(
            right=x.correct, total=total, items=items, speakers=speakers
        )
        for x in scores
    }


def _records(
    spec: UpstreamSpec,
    corpus: "Corpus",
    task: ProbeTask,
    tallies: Mapping[TallyKey, Tally],
    scores: "Sequence[ProbeScore]",
    *,
    commonest: int,
    num_skipped: int,
    config: Mapping[str, Any],
    made: Any,
) -> "list[Record]":
    """Return a record for each probe, layer, seed and metric of one split."""
    records = []
    for (key, tally), probed in zip(tallies.items(), scores, strict=True):
        make = partial(
            record_of,
            encoder=spec,
            corpus=corpus,
            split=key.split,
            task=task.spec,
            layer=key.layer,
            probe=key.probe,
            seed=key.seed,
            num_skipped=num_skipped,
            config={**config, "learning_rate": probed.key.learning_rate},
            provenance=probed.provenance or made,
        )
        records += [make(score_of(metric, tally, commonest)) for metric in task.spec.metrics]
    return records


def _warn_alone(task: ProbeTask, tally: Tally) -> None:
    """Say it where there is nothing to resample."""
    speakers = tally.speakers
    if len(speakers) == 1 or len(set(speakers)) == 1 and speakers[0] is not None:
        of = "utterance" if len(speakers) == 1 else "speaker"
        logger.warning(
            f"{task.spec.name}: test has one {of}; its intervals have no width and say nothing."
        )


def _warn_constant(
    task: ProbeTask, train: "Examples", spec: UpstreamSpec, layers: Sequence[int]
) -> None:
    """Say it where pooling leaves nothing to read."""
    if not isinstance(train, PooledExamples):
        return
    same = [layer for layer in layers if train.constant(layer)]
    if same:
        logger.warning(
            f"{spec.name}: pooled over time, layer {same[0]} is the same for every "
            f"utterance (its normalisation per utterance fixes mean and deviation), so "
            f"{task.spec.name} cannot be read from it; log_mel is the baseline that says something."
        )
