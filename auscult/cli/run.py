"""`auscult run`: a SUPERB task, its head trained by s3prl's runner on frozen encoders."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.company import Baselines, with_baselines
from auscult.cli.output import (
    Budget,
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
    prepare,
    save,
)

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.downstreams import HeadTask
    from auscult.downstreams.split import LabelledCorpus
    from auscult.downstreams.training import HeadResult
    from auscult.record import Artifact, Provenance, Record
    from auscult.upstream import Upstream

NOT_IN_IDENTITY = ("save_step",)  # changes no number, so a run goes on although it changed


@dataclass(frozen=True, slots=True)
class _Run:
    """What all encoders of one command share."""

    task: "HeadTask"
    config: Any
    corpus: "Corpus"
    labelled: "LabelledCorpus"
    budget: int
    skip_bad: bool
    seed: int
    out: Path
    device: str
    provenance: "Provenance"

    def seen_by(self, encoder: "Upstream") -> "_Run":
        """Label the frames of this encoder; leave out, if allowed, what is too short for one."""
        from auscult.downstreams.split import drop_short

        labelled = drop_short(self.labelled, encoder, skip_bad=self.skip_bad)
        return replace(self, labelled=self.task.at_frames(labelled, self.config, encoder))


def run(
    upstream: Upstreams,
    corpus: CorpusSpec,
    task: Annotated[str, typer.Option("-t", "--task", help="keyword_spotting.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the protocol.")
    ] = None,
    out: OutDir = Path("auscult-out"),
    steps: Annotated[
        int | None,
        typer.Option(
            help="Train this long instead; dev is looked at 40 times, as in the protocol, but at "
            "most every 25 steps.",
            min=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the head and of the data order.", min=0)] = 0,
    baselines: Baselines = True,
    budget: Budget = "8GB",
    split: SplitColumn = None,
    allow_shared_speakers: Annotated[
        bool, typer.Option(help="Go on although splits share speakers.")
    ] = False,
    skip_bad: SkipBad = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print the resolved configuration and stop.")
    ] = False,
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the head of a SUPERB task on one or more frozen encoders and score it on test.

    The head is s3prl's featurizer (a softmax over all layers) and downstream model, trained by
    its runner; dev chooses the step. The defaults are the published protocol; KEY=VALUE changes it,
    and --dry-run shows it. Run the same command again to go on after a kill.

    Examples:
      auscult run -u fbank -u hf:models/wavlm-base -c demo -t keyword_spotting --steps 300
      auscult run -u log_mel -c tsv:data/words -t keyword_spotting label=word learning_rate=1e-3
    """
    import auscult
    from auscult.downstreams import find_task
    from auscult.record import provenance

    output = Output(json=json, quiet=quiet)
    found = find_task(task)
    config = _configure(found, steps, settings or [])
    size = parse_bytes(budget)
    where = choose_device(device)
    specs = list(dict.fromkeys(with_baselines(upstream) if baselines else upstream))
    if dry_run:
        _show_config(output, found, config, specs, corpus)
        return
    prepare(out, store)
    encoders = [auscult.load(spec) for spec in specs]
    data = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
    check_speakers(data, allow_shared_speakers or found.about_speakers)
    labelled = found.prepare(data, config, skip_unlabelled=skip_bad)
    origin = provenance(command_line(), where)
    shared = _Run(found, config, data, labelled, size, skip_bad, seed, out, where, origin)
    rows: list[list[object]] = []
    records: list[Record] = []
    figures: list[Path] = []
    for encoder in encoders:
        mine = shared.seen_by(encoder.to(where))
        result = _train(encoder, mine)
        encoder.cpu()
        scores, weights = _records(encoder, result, mine), _weights(encoder, result, mine)
        save(scores, [weights], out, store)
        figures.append(_draw(weights, shared))
        rows.append(_row(encoder, result, scores))
        records += scores
    metrics = [metric.replace("_", " ") for metric in found.spec.metrics]
    columns = ["upstream", metrics[0], "95 %", *metrics[1:], "majority", "n", "spk", "best step"]
    output.table(f"{task}, scored on test", [*columns, "heaviest layer"], rows)
    for figure in figures:
        output.print(f"Layer weights: {figure}")
    output.finish(records, figures=[str(figure) for figure in figures])


def _configure(task: "HeadTask", steps: int | None, settings: Sequence[str]) -> Any:
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
        ]
    return override(task.config(), [*shorter, *settings])


def _show_config(
    output: Output, task: "HeadTask", config: Any, upstreams: Sequence[str], corpus: str
) -> None:
    values = {"upstreams": " ".join(upstreams), "corpus": corpus, **asdict(config)}
    title = f"{task.spec.name} (version {task.spec.version})"
    output.table(title, ["key", "value"], [[key, value] for key, value in values.items()])
    output.finish(config=asdict(config))


def _train(encoder: "Upstream", shared: _Run) -> "HeadResult":
    """Train a head in a folder that belongs to this encoder, corpus and configuration alone."""
    from auscult.downstreams.feature import CorpusUpstream
    from auscult.downstreams.prediction import PredictionRun, write_predictions
    from auscult.downstreams.training import train_head
    from auscult.progress import logger
    from auscult.record import fingerprint

    upstream = CorpusUpstream(encoder, shared.labelled, budget=shared.budget, device=shared.device)
    pooled = shared.task.spec.output == "utterance"
    if pooled and len(upstream.constant_layers()) > encoder.spec.num_layers:
        logger.warning(
            f"{encoder.spec.name}: the mean over time is the same for every utterance "
            "(normalisation per utterance removes it), so a head that pools by the mean cannot "
            "rise above chance; log_mel and s3prl:fbank_no_cmvn keep the mean."
        )
    settings = {k: v for k, v in asdict(shared.config).items() if k not in NOT_IN_IDENTITY}
    spec = shared.task.spec
    labels = [shared.labelled.splits[name].ids for name in shared.labelled.splits]
    identity = [spec.name, spec.version, encoder.spec.sha256, settings, shared.seed]
    identity += [dict(shared.corpus.sha256), shared.corpus.split_column, labels]
    head = shared.task.expert_class()
    folder = shared.out / "heads" / f"{spec.name}-{fingerprint(identity)[:16]}"
    result = train_head(
        upstream,
        lambda dim: head(dim, shared.labelled, shared.config, shared.seed),
        shared.config,
        task=spec.name,
        seed=shared.seed,
        device=shared.device,
        folder=folder,
    )
    run = PredictionRun(
        task=spec.name,
        task_version=spec.version,
        upstream=encoder.spec.name,
        upstream_sha256=encoder.spec.sha256,
        stride=encoder.spec.geometry.stride,
        corpus=shared.corpus.spec,
        corpus_sha256=shared.corpus.sha256["test"],
        split_column=shared.corpus.split_column,
        split="test",
        seed=shared.seed,
        step=result.step,
        classes=shared.labelled.classes,
        config=settings,
    )
    write_predictions(run, result.answers, folder)
    return result


def _records(encoder: "Upstream", result: "HeadResult", shared: _Run) -> "list[Record]":
    """Return the task's metrics on test."""
    from auscult.record import Record

    spec = shared.task.spec
    return [
        Record(
            upstream=encoder.spec.name,
            upstream_sha256=encoder.spec.sha256,
            corpus=shared.corpus.spec,
            corpus_sha256=shared.corpus.sha256["test"],
            task=spec.name,
            task_version=spec.version,
            layer="weighted",
            probe=shared.task.head,
            metric=score.metric,
            value=score.value,
            low=score.low,
            high=score.high,
            majority=score.majority,
            split="test",
            selected_on="dev",
            num_items=score.num_items,
            num_speakers=score.num_speakers,
            num_skipped=len(shared.corpus.skipped) + len(shared.labelled.skipped),
            seed=shared.seed,
            num_parameters=encoder.spec.num_parameters,
            convention=encoder.spec.convention,
            subnet=encoder.spec.subnet,
            config=_recorded_config(result, shared),
            provenance=shared.provenance,
        )
        for score in shared.task.score(result.answers, shared.labelled)
    ]


def _recorded_config(result: "HeadResult", shared: _Run) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(shared.config).items() if k not in NOT_IN_IDENTITY}
    return kept | {
        "split_column": shared.corpus.split_column,
        "num_classes": len(shared.labelled.classes),
        "head_parameters": result.num_parameters,
    }


def _weights(encoder: "Upstream", result: "HeadResult", shared: _Run) -> "Artifact":
    import numpy as np

    from auscult.record import Artifact

    return Artifact(
        kind="layer_weights",
        upstream=encoder.spec.name,
        upstream_sha256=encoder.spec.sha256,
        corpus=shared.corpus.spec,
        corpus_sha256=shared.corpus.sha256["test"],
        task=shared.task.spec.name,
        arrays={"weights": result.layer_weights, "dev_curve": np.array(result.curve)},
        meta={
            "seed": shared.seed,
            "convention": encoder.spec.convention,
            "config": _recorded_config(result, shared),
        },
        provenance=shared.provenance,
    )


def _draw(weights: "Artifact", shared: _Run) -> Path:
    from auscult.results.figures import layer_weights

    words = re.sub(r"[^A-Za-z0-9]+", "-", weights.upstream).strip("-")[-60:]
    path = shared.out / f"layer_weights_{words}_{weights.key[:8]}.png"
    layer_weights(weights, path)
    return path


def _row(encoder: "Upstream", result: "HeadResult", records: "Sequence[Record]") -> list[object]:
    first, *others = records
    return [
        encoder.spec.name,
        f"{first.value:.3f}",
        "" if first.low is None else f"{first.low:.3f} - {first.high:.3f}",
        *(f"{record.value:.3f}" for record in others),
        "" if first.majority is None else f"{first.majority:.3f}",
        first.num_items,
        first.num_speakers,
        result.step,
        int(result.layer_weights.argmax()),
    ]
