"""`auscult probe`: small readers of every layer of every encoder, with their company."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.company import Baselines, with_baselines
from auscult.cli.output import (
    MOST,
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
    check_speakers,
    choose_device,
    command_line,
    parse_bytes,
    parse_rates,
    prepare,
    save,
)
from auscult.errors import UserError, unknown

if TYPE_CHECKING:
    from auscult.address import Address
    from auscult.dataset import Corpus
    from auscult.precision import Precision
    from auscult.probing import Examples, Margin, ProbeTask, Resampled, TrainingPlan
    from auscult.record import Artifact, Provenance, Record
    from auscult.upstream import Upstream

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What all encoders and tasks of one command share."""

    corpus: "Corpus"
    plan: "TrainingPlan"
    pooling: str
    layers: str
    budget: int
    skip_bad: bool
    out: Path
    device: str
    precision: "Precision"
    provenance: "Provenance"
    max_epochs: int | None = None

    def plan_for(self, task: "ProbeTask") -> "TrainingPlan":
        """Adapt the plan to the task."""
        plan = plan_for(task, self.plan)
        if self.max_epochs is None:
            return plan
        return replace(plan, max_epochs=self.max_epochs, min_steps=0)


def plan_for(task: "ProbeTask", plan: "TrainingPlan") -> "TrainingPlan":
    """Adapt a plan to utterance labels: small batches, more epochs, more patience."""
    if task.frames:
        return plan
    return replace(plan, batch_size=64, max_epochs=60, patience=8, min_steps=400)


def probe(
    upstream: Upstreams,
    corpus: CorpusSpec,
    task: Annotated[
        list[str],
        typer.Option(
            "-t",
            "--task",
            help="phone, phone39, phone61, frame_speaker, speaker, sex, keyword, emotion, intent, "
            "slot:NAME, label:COLUMN or alignment:NAME. Repeatable.",
        ),
    ],
    out: OutDir = Path("auscult-out"),
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="linear, mlp1, mlp2; all by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of each probe.", min=1, max=1000)] = 1,
    layers: Annotated[str, typer.Option(help="all, or such as 0,3,6-12.")] = "all",
    learning_rates: Annotated[
        str, typer.Option(help="One, or several of which dev chooses: 1e-2,1e-3,1e-4.")
    ] = "1e-3",
    max_epochs: Annotated[
        int | None, typer.Option(help="Limit; 30 for frames, 60 for utterances.", min=1, max=MOST)
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="Utterance tasks: mean, or statistics (mean and deviation).")
    ] = "mean",
    baselines: Baselines = True,
    budget: Budget = "8GB",
    split: SplitColumn = None,
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    precision: ComputePrecision = "float32",
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Probe every layer of one or more encoders.

    Each utterance is encoded once; all layers, probe depths, seeds and tasks read those features.
    Scores are on test; dev chooses the epoch and the learning rate. By how much an encoder is read
    better than its random twin and log-mel is said with its own interval. OUT receives
    results.sqlite, a layer-curve PNG and, below .probe, what a killed run goes on from.

    Examples:
      auscult probe -u fbank -u "random(hubert_base)" -c tsv:data/timit -t phone39 --out phones
      auscult probe -u hf:models/wavlm-base -c demo --split sid_split -t speaker --probe linear
    """
    import auscult
    from auscult.address import parse_address
    from auscult.precision import check_precision
    from auscult.probing import TrainingPlan, check_labels, resolve_tasks
    from auscult.record import provenance

    output = Output(json=json, quiet=quiet)
    where = choose_device(device)
    bits = check_precision(precision, where)
    plan = TrainingPlan(
        probes=_probes(probe), seeds=tuple(range(seeds)), learning_rates=parse_rates(learning_rates)
    )
    if pooling not in ("mean", "statistics"):
        raise unknown("pooling", pooling, ["mean", "statistics"])
    size = parse_bytes(budget)
    prepare(out, store)
    specs = list(dict.fromkeys(with_baselines(upstream) if baselines else upstream))
    encoders = [auscult.load(spec) for spec in specs]
    names = {e.spec.name: parse_address(spec) for e, spec in zip(encoders, specs, strict=True)}
    for encoder in encoders:
        _layers(layers, encoder)
    data = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
    cuts = {name: list(data.split(name)) for name in SPLITS}
    flat = [cut for found in cuts.values() for cut in found]
    tasks = [found for name in dict.fromkeys(task) for found in resolve_tasks(name, flat)]
    for wanted in tasks:
        check_labels(wanted, cuts, skip_unlabelled=skip_bad)
    if not all(t.about_speakers for t in tasks):
        check_speakers(data, allow_shared_speakers)
    run = provenance(command_line(), where)
    sweep = _Sweep(data, plan, pooling, layers, size, skip_bad, out, where, bits, run, max_epochs)
    records: list[Record] = []
    resampled: list[Resampled] = []
    for encoder in encoders:
        found, on_test = _probe_encoder(encoder.to(where), tasks, sweep)
        save(found, [], out, store)
        records += found
        resampled += on_test
        encoder.cpu()
    margins = _margins(names, resampled)
    differences = [replace(_difference(m, records), provenance=run) for m in margins]
    save([], differences, out, store)
    _show(output, records, differences, out)
    output.finish(records, margins=[asdict(margin) for margin in margins])


def _probe_encoder(
    encoder: "Upstream", tasks: "Sequence[ProbeTask]", sweep: _Sweep
) -> "tuple[list[Record], list[Resampled]]":
    """Encode the corpus once, then sweep every task over it.

    Scores that an earlier command left are not measured again, and say which one that was.
    """
    from auscult.cache import cache_folder
    from auscult.extraction import long_enough
    from auscult.feature import FeatureStore, encode_stores, frame_bytes
    from auscult.origin import made_by
    from auscult.probing import build_targets, sweep_layers
    from auscult.progress import logger

    kept = {
        name: long_enough(encoder, list(sweep.corpus.split(name)), skip_bad=sweep.skip_bad)
        for name in SPLITS
    }
    cuts = {name: found for name, (found, _) in kept.items()}
    skipped = {name: len(sweep.corpus.skipped) + len(short) for name, (_, short) in kept.items()}
    size = sum(frame_bytes(encoder, found) for found in cuts.values())
    need_frames = any(task.frames for task in tasks)
    keep = need_frames and size <= sweep.budget
    folder = cache_folder() / "features"
    logger.info(_size_note(encoder, size, sweep.budget, need_frames, keep, folder))
    stores = {
        name: FeatureStore(
            encoder, found, keep_frames=keep, folder=folder, precision=sweep.precision
        )
        for name, found in cuts.items()
    }
    encode_stores(encoder.spec.name, stores.values())
    pooled = {name: found.pooled() for name, found in stores.items()}
    num_frames = {name: found.num_frames for name, found in pooled.items()}
    records: list[Record] = []
    resampled: list[Resampled] = []
    for task in tasks:
        classes, targets = build_targets(task, cuts, num_frames, encoder.spec.geometry)
        examples = _examples(task, stores, pooled, targets, sweep)
        _warn_constant(task, examples, encoder, sweep)
        scores = sweep_layers(
            examples,
            len(classes),
            _layers(sweep.layers, encoder),
            sweep.plan_for(task),
            title=f"Probing {task.spec.name} in {encoder.spec.name}",
            identity=_identity(task, encoder, sweep),
            folder=sweep.out / ".probe",
            device=sweep.device,
            made_by=made_by("auscult.probing.sweep", *encoder.modules()),
            provenance=sweep.provenance,
        )
        records += _records(task, encoder, sweep, classes, targets, scores, skipped)
        ids = [cuts["test"][i].id for i in scores["test"][0].items]
        speakers = [targets["test"].speakers[i] for i in scores["test"][0].items]
        _warn_alone(task, speakers)
        resampled += _resampled(task, encoder, scores, ids, speakers)
    return records, resampled


def _examples(
    task: "ProbeTask",
    stores: Mapping[str, Any],
    pooled: Mapping[str, Any],
    targets: Mapping[str, Any],
    sweep: _Sweep,
) -> "dict[str, Examples]":
    from auscult.probing import FrameExamples, PooledExamples

    if task.frames:
        return {s: FrameExamples(stores[s].frames(), pooled[s], targets[s]) for s in SPLITS}
    return {s: PooledExamples(pooled[s], targets[s], sweep.pooling) for s in SPLITS}


def _records(
    task: "ProbeTask",
    encoder: "Upstream",
    sweep: _Sweep,
    classes: Sequence[str],
    targets: Mapping[str, Any],
    scores: Mapping[str, Any],
    skipped: Mapping[str, int],
) -> "list[Record]":
    """Turn counts into accuracies with intervals; all share one set of resamples."""
    import numpy as np

    from auscult.interval import accuracies, cluster_weights, quantiles
    from auscult.probing import majority_class
    from auscult.record import Record

    commonest = majority_class(targets["train"])
    config = _config(task, encoder, sweep, len(classes))
    records = []
    for split, found in scores.items():
        speakers = [targets[split].speakers[i] for i in found[0].items]
        weights = cluster_weights(speakers, len(speakers))
        total = found[0].total
        always = np.where(np.arange(total.shape[1]) == commonest, total, 0.0)
        sums = weights @ total
        for score in found:
            for metric in task.spec.metrics:
                macro = metric == "macro_accuracy"
                right = score.correct.sum(0), weights @ score.correct
                low, high = quantiles(accuracies(right[1], sums, macro=macro))
                records.append(
                    Record(
                        **encoder.spec.record_fields(),
                        corpus=sweep.corpus.spec,
                        corpus_sha256=sweep.corpus.sha256[split],
                        task=task.spec.name,
                        task_version=task.spec.version,
                        layer=score.key.layer,
                        probe=score.key.probe,
                        metric=metric,
                        value=float(accuracies(right[0], total.sum(0), macro=macro)),
                        low=low,
                        high=high,
                        majority=float(accuracies(always.sum(0), total.sum(0), macro=macro)),
                        split=split,
                        selected_on="dev",
                        num_items=int(total.sum()),
                        num_speakers=len(set(speakers) - {None}) or None,
                        num_skipped=skipped[split] + targets[split].num_unlabelled,
                        seed=score.key.seed,
                        config=config | {"learning_rate": score.key.learning_rate},
                        provenance=score.provenance or sweep.provenance,
                    )
                )
    return records


def _warn_alone(task: "ProbeTask", speakers: Sequence[str | None]) -> None:
    """Say it where there is nothing to resample."""
    from auscult.progress import logger

    if len(speakers) == 1 or len(set(speakers)) == 1 and speakers[0] is not None:
        of = "utterance" if len(speakers) == 1 else "speaker"
        logger.warning(
            f"{task.spec.name}: test has one {of}; its intervals have no width and say nothing."
        )


def _resampled(
    task: "ProbeTask",
    encoder: "Upstream",
    scores: Mapping[str, Any],
    ids: Sequence[str],
    speakers: Sequence[str | None],
) -> "list[Resampled]":
    """Return what pairs this encoder's scores on test with those of others."""
    from auscult.interval import accuracies, cluster_weights
    from auscult.probing import Resampled

    weights = cluster_weights(speakers, len(speakers))
    dev = {x.key: float(accuracies(x.correct.sum(0), x.total.sum(0))) for x in scores["dev"]}
    return [
        Resampled(
            upstream=encoder.spec.name,
            task=task.spec.name,
            probe=score.key.probe,
            layer=score.key.layer,
            dev=dev[score.key],
            test=float(accuracies(score.correct.sum(0), score.total.sum(0))),
            resamples=accuracies(weights @ score.correct, weights @ score.total),
            utterances=tuple(ids),
        )
        for score in scores["test"]
    ]


def _margins(names: "Mapping[str, Address]", resampled: "Sequence[Resampled]") -> "list[Margin]":
    """Compare each encoder with its random twins and with log-mel, where they are there."""
    from auscult.probing import margins
    from auscult.progress import logger

    differences: list[Margin] = []
    for name in names:
        for over in _company(name, names):
            found = margins(resampled, name, over)
            if not found:
                logger.info(f"{name} minus {over}: not given, as the utterances are not the same.")
            differences += found
    return differences


def _company(name: str, names: "Mapping[str, Address]") -> list[str]:
    """Return the encoder's random twins, of whichever seed, and then log-mel."""
    from auscult.address import Address

    mine, log_mel = names[name], Address("log_mel")
    twins = [
        other
        for other, address in names.items()
        if address.random and replace(address, random=False, seed=None) == mine
    ]
    return twins + [other for other, address in names.items() if address == log_mel != mine]


def _difference(margin: "Margin", records: "Sequence[Record]") -> "Artifact":
    """Return a margin as the store keeps it, as if the command of the first record had made it."""
    from auscult.results.difference import build_difference

    ours, theirs = (
        [
            record
            for record in records
            if (record.upstream, record.task, record.probe) == (name, margin.task, margin.probe)
            and (record.metric, record.split) == ("accuracy", "test")
        ]
        for name in (margin.upstream, margin.over)
    )
    layers, interval = (margin.layer, margin.over_layer), (margin.low, margin.high)
    return build_difference(ours, theirs, layers, margin.value, interval)


def _config(
    task: "ProbeTask", encoder: "Upstream", sweep: _Sweep, num_classes: int
) -> dict[str, Any]:
    from auscult.precision import precision_of

    plan = sweep.plan_for(task)
    return {
        "learning_rates": list(plan.learning_rates),
        "batch_size": plan.batch_size,
        "max_epochs": plan.max_epochs,
        "patience": plan.patience,
        "min_steps": plan.min_steps,
        "pooling": None if task.frames else sweep.pooling,
        "precision": precision_of(encoder, sweep.precision),
        "split_column": sweep.corpus.split_column,
        "num_classes": num_classes,
        "train_sha256": sweep.corpus.sha256["train"],
        "dev_sha256": sweep.corpus.sha256["dev"],
    }


def _identity(task: "ProbeTask", encoder: "Upstream", sweep: _Sweep) -> list[str]:
    from auscult.precision import precision_of

    corpus = [sweep.corpus.sha256[name] for name in SPLITS]
    pooling = "" if task.frames else sweep.pooling
    where = [sweep.corpus.split_column, precision_of(encoder, sweep.precision)]
    return [*where, task.spec.name, encoder.spec.sha256, *corpus, pooling]


def _show(
    output: Output, records: "Sequence[Record]", compared: "Sequence[Artifact]", out: Path
) -> None:
    """Print the best layer of each encoder, task and probe, and draw the curves."""
    from auscult.results import difference
    from auscult.results.curve import gather
    from auscult.results.figures import layer_curves
    from auscult.results.table import BEST_COLUMNS, best_rows

    figure = out / "layer_curves.png"
    layer_curves(records, figure)
    output.table("Best layer by dev accuracy, scored on test", BEST_COLUMNS, best_rows(records))
    if compared:
        rows = difference.difference_rows(difference.differences(compared, gather(records)))
        output.table(difference.TITLE, difference.COLUMNS, rows)
    output.print(f"Layer curves: {figure}")


def _warn_constant(
    task: "ProbeTask", examples: "Mapping[str, Examples]", encoder: "Upstream", sweep: _Sweep
) -> None:
    from auscult.probing import PooledExamples
    from auscult.progress import logger

    train = examples["train"]
    if not isinstance(train, PooledExamples):
        return
    same = [layer for layer in _layers(sweep.layers, encoder) if train.constant(layer)]
    if same:
        logger.warning(
            f"{encoder.spec.name}: pooled over time, layer {same[0]} is the same for every "
            f"utterance (its normalisation per utterance fixes mean and deviation), so "
            f"{task.spec.name} cannot be read from it; log_mel is the baseline that says something."
        )


def _size_note(
    encoder: "Upstream", size: int, budget: int, frames: bool, keep: bool, folder: Path
) -> str:
    states = encoder.spec.num_layers + 1
    text = f"{encoder.spec.name}: {states} states x {encoder.spec.dim} dims in float16"
    if not frames:
        return f"{text}: only means and deviations are kept, in {folder}."
    if keep:
        return f"{text} = {size / 1e9:.2f} GB, kept in {folder}."
    return (
        f"{text} = {size / 1e9:.2f} GB, more than the budget of {budget / 1e9:.2f} GB: the audio "
        "is encoded anew at each epoch (--budget raises the limit)."
    )


def _probes(names: Sequence[str] | None) -> tuple[str, ...]:
    from auscult.probing import PROBES

    for name in names or ():
        if name not in PROBES:
            raise unknown("probe", name, PROBES)
    return tuple(dict.fromkeys(names)) if names else tuple(PROBES)


def _layers(text: str, encoder: "Upstream") -> list[int]:
    """Read ``all`` or ``0,3,6-12``.

    Raises:
        UserError: Unreadable, or a layer that the encoder lacks.
    """
    last = encoder.spec.num_layers
    if text == "all" or last == 0:
        return list(range(last + 1))
    found: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        first = int(ends[1]) if ends else 1
        final = int(ends[2] or first) if ends else 0
        if final < first:
            raise UserError(f"--layers {text[:80]!r}: expected all, or such as 0,3,6-12.")
        found |= set(range(first, final + 1))
    if max(found) > last:
        raise UserError(
            f"--layers {text!r}: {encoder.spec.name} has hidden states 0 to {last} only."
        )
    return sorted(found)
