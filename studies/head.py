"""The head of one encoder: trained, asked about test, and kept as records."""

from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from auscult import kept
from auscult.dataset import Corpus
from auscult.downstreams import HeadTask
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.prediction import RUN, PredictionRun, find_run, write_predictions
from auscult.downstreams.schedule import HeadResult, files_sha256
from auscult.downstreams.search import Trial, search_learning_rate
from auscult.downstreams.split import LabelledCorpus, drop_short
from auscult.downstreams.training import HeadTraining, fit_head
from auscult.origin import made_by
from auscult.precision import precision_of
from auscult.progress import logger
from auscult.record import Artifact, Provenance, Record, fingerprint
from auscult.score import record_of
from auscult.snapshot import remove_snapshots, snapshots
from auscult.upstream import Upstream
from auscult.watch import same_audio

from .bench import Bench
from .item import Outcome

NOT_IN_IDENTITY = ("save_step", "log_step")  # change no number, so a run goes on without them

MADE_WITH = ("train", "dev", "documents")  # splits that a score on test depends on


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRun:
    """How a head is trained."""

    task: HeadTask
    config: Any  # the task's, a Schedule
    learning_rates: tuple[float, ...]  # of which dev chooses; empty: the configuration's
    finetune: bool
    limit: int | None
    seed: int
    bench: Bench
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """One encoder's head, and how it was trained."""

    run: HeadRun
    encoder: Upstream
    corpus: Corpus
    labelled: LabelledCorpus  # as this encoder reads it
    config: Any  # with the learning rate that dev chose
    finetuned: bool
    trials: tuple[Trial, ...]  # empty where one learning rate was given
    result: HeadResult
    provenance: Provenance  # of the command that finished it and asked it about test

    @property
    def layer(self) -> int | str:
        """What a record says of the hidden states: the one that dev chose, or a learned sum."""
        return "weighted" if self.run.task.trains else int(self.result.layer_weights.argmax())

    def _made_with(self) -> dict[str, str]:
        """Return the fingerprints of other splits than test, whose own stands in the record."""
        found = self.corpus.sha256
        return {f"{name}_sha256": found[name] for name in MADE_WITH if name in found}

    def settings(self) -> dict[str, Any]:
        """Return the configuration as a record has it."""
        found = {
            **_settings(self.run, self.encoder, self.config, self.finetuned),
            **files_sha256(self.config),
            "limit": self.run.limit,
            "split_column": self.corpus.split_column,
            **self._made_with(),
            "num_classes": len(self.labelled.classes),
            "head_parameters": self.result.num_parameters,
        }
        if not self.run.task.trains:
            found["dev_scores"] = {str(layer): score for layer, score in self.result.curve}
        if self.trials:
            found["dev_scores"] = {f"{t.learning_rate:g}": t.score for t in self.trials}
        return found


def train(
    encoder: Upstream, run: HeadRun, corpus: Corpus, labelled: LabelledCorpus
) -> TrainedHead | None:
    """Train one head, or one for each learning rate; None in processes that do not lead.

    Where the task has nothing to train, the hidden states are compared as they are.
    """
    labelled = drop_short(
        labelled, encoder, skip_bad=run.bench.skip_bad, min_frames=run.task.min_frames
    )
    labelled = run.task.at_frames(labelled, run.config, encoder)
    if run.task.trains:
        head = _train(encoder, run, corpus, labelled)
    else:
        head = _evaluate(encoder, run, corpus, labelled) if run.bench.processes.leads else None
    if head is not None:
        _write_answers(head)
    return head


def _train(
    encoder: Upstream, run: HeadRun, corpus: Corpus, labelled: LabelledCorpus
) -> TrainedHead | None:
    upstream = _upstream(encoder, run, labelled)
    expert = run.task.expert_class()

    rate, trials = run.config.learning_rate, tuple[Trial, ...]()
    configs = {r: replace(run.config, learning_rate=r) for r in run.learning_rates or (rate,)}
    folders = {
        rate: _folder(encoder, run, config, corpus, labelled, upstream.finetuned)
        for rate, config in configs.items()
    }
    kept.say_made_otherwise(folders.values(), encoder.spec.name, f"heads of {run.task.spec.name}")

    def fit(rate: float) -> HeadTraining:
        config = configs[rate]
        return fit_head(
            upstream,
            lambda dim: expert(dim, labelled, config, run.seed),
            config,
            task=run.task.spec.name,
            seed=run.seed,
            device=run.bench.device,
            folder=folders[rate],
            processes=run.bench.processes,
            metric=run.task.spec.metrics[0],
        )

    read_again = upstream.audio_read_again() if run.bench.processes.leads else []  # the others wait
    with same_audio(read_again, partial(remove_snapshots, *folders.values())):
        if run.learning_rates:
            training, rate, trials = search_learning_rate(run.learning_rates, fit)
        else:
            training = fit(rate)
        if not run.bench.processes.leads:
            return None
        result = training.result()
    head = TrainedHead(
        run=run,
        encoder=encoder,
        corpus=corpus,
        labelled=labelled,
        config=configs[rate],
        finetuned=upstream.finetuned,
        trials=trials,
        result=result,
        provenance=run.provenance,
    )
    return _as_measured_before(head) if training.was_finished else head


def _upstream(encoder: Upstream, run: HeadRun, labelled: LabelledCorpus) -> CorpusUpstream:
    upstream = CorpusUpstream(
        encoder,
        labelled,
        budget=run.bench.budget,
        device=run.bench.device,
        precision=run.bench.precision,
        finetune=run.finetune,
        processes=run.bench.processes,
    )
    _warn_constant(upstream, run)
    return upstream


def _as_measured_before(head: TrainedHead) -> TrainedHead:
    """Return a head that was found finished, its provenance that of the command that finished it.

    That holds where the earlier command asked it the same; where this one decodes otherwise, say,
    its answers are this one's. A head that several commands trained says the last of them. What the
    earlier one did not note of its files is taken to be the same.
    """
    earlier = find_run(_folder_of(head))
    if earlier is None or earlier.provenance is None:
        return head
    named = {key: x for key, x in head.settings().items() if key in earlier.config}
    added = head.settings().keys() - named.keys() - files_sha256(head.config).keys()
    same = not added and fingerprint(earlier.config) == fingerprint(named)
    return replace(head, provenance=earlier.provenance) if same else head


def _evaluate(
    encoder: Upstream, run: HeadRun, corpus: Corpus, labelled: LabelledCorpus
) -> TrainedHead:
    """Let dev choose a hidden state, and use it as it is."""
    with same_audio(cut for split in labelled.splits.values() for cut in split.cuts):
        result = run.task.evaluate(
            encoder,
            labelled,
            budget=run.bench.budget,
            device=run.bench.device,
            precision=run.bench.precision,
        )
    return TrainedHead(
        run=run,
        encoder=encoder,
        corpus=corpus,
        labelled=labelled,
        config=run.config,
        finetuned=False,
        trials=(),
        result=result,
        provenance=run.provenance,
    )


def outcome_of(head: TrainedHead, key: str) -> Outcome:
    """Return the records and the layer weights of a head."""
    result = head.result
    return Outcome(
        key=key,
        records=tuple(_records(head)),
        artifacts=(_weights(head),) if head.run.task.trains else (),
        files=tuple(path.relative_to(head.run.bench.out).as_posix() for path in _files(head)),
        notes={
            "finetuned": head.finetuned,
            "layer": int(result.layer_weights.argmax()),
            **(
                {"step": result.step, "learning_rate": head.config.learning_rate}
                if head.run.task.trains
                else {}
            ),
        },
    )


def _warn_constant(upstream: CorpusUpstream, run: HeadRun) -> None:
    spec = upstream.encoder.spec
    pooled = run.task.spec.output == "utterance"
    if pooled and len(upstream.constant_layers()) > spec.num_layers:
        logger.warning(
            f"{spec.name}: the mean over time is the same for every utterance "
            "(normalisation per utterance removes it), so a head that pools by the mean cannot "
            "rise above chance; log_mel and s3prl:fbank_no_cmvn keep the mean."
        )


def _settings(run: HeadRun, encoder: Upstream, config: Any, finetuned: bool) -> dict[str, Any]:
    """Return what the numbers depend on, beside encoder, corpus and seed."""
    kept = {key: value for key, value in asdict(config).items() if key not in NOT_IN_IDENTITY}
    precision = "" if finetuned else precision_of(encoder, run.bench.precision)
    return {**kept, "finetuned": finetuned, "precision": precision or config.training_precision}


def _folder(
    encoder: Upstream,
    run: HeadRun,
    config: Any,
    corpus: Corpus,
    labelled: LabelledCorpus,
    finetuned: bool,
) -> Path:
    """Return a folder that belongs to this encoder, corpus, configuration and code alone."""
    spec = run.task.spec
    settings = _settings(run, encoder, config, finetuned)
    for field in fields(config):
        if not field.metadata.get("trained", True):  # such as how answers are decoded
            del settings[field.name]
    identity = [spec.name, spec.version, encoder.spec.sha256, settings, run.seed]
    how = {name: x for name, x in run.bench.how.items() if name != "precision"}  # is in settings
    identity += [how, dict(corpus.sha256), corpus.split_column]
    identity.append([split.ids for split in labelled.splits.values()])
    if spec.output == "sequence":  # a file that they were made with may have changed
        identity.append([split.labels for split in labelled.splits.values()])
    identity += [spec.origin] if spec.origin else []
    maker = made_by("auscult.downstreams.training", run.task.module, *encoder.modules())
    return kept.place(run.bench.out / "heads", identity, maker, prefix=f"{spec.name}-")


def _folder_of(head: TrainedHead) -> Path:
    return _folder(head.encoder, head.run, head.config, head.corpus, head.labelled, head.finetuned)


def _files(head: TrainedHead) -> list[Path]:
    """Return what a finished head consists of: its answers, and the last states of each rate."""
    files = [_folder_of(head) / RUN]
    rates = head.run.learning_rates or (head.config.learning_rate,) if head.run.task.trains else ()
    for config in (replace(head.config, learning_rate=rate) for rate in rates):
        files += snapshots(_folder_of(replace(head, config=config)))
    return files


def _write_answers(head: TrainedHead) -> None:
    """Keep what the head answered on test."""
    spec, encoder = head.run.task.spec, head.encoder.spec
    run = PredictionRun(
        task=spec.name,
        task_version=spec.version,
        upstream=encoder.name,
        upstream_sha256=encoder.sha256,
        stride=encoder.geometry.stride,
        corpus=head.corpus.spec,
        corpus_sha256=head.corpus.sha256["test"],
        split_column=head.corpus.split_column,
        split=head.corpus.tested,
        seed=head.run.seed,
        step=head.result.step,
        classes=head.labelled.classes,
        config=head.settings(),
        provenance=head.provenance,
    )
    write_predictions(run, head.result.answers, _folder_of(head))


def _records(head: TrainedHead) -> list[Record]:
    """Return the task's metrics on test."""
    run, trained = head.run, head.run.task.head
    return [
        record_of(
            score,
            encoder=head.encoder.spec,
            corpus=head.corpus,
            split="test",
            task=run.task.spec,
            layer=head.layer,
            probe=f"{trained}, fine-tuned" if head.finetuned else trained,
            seed=run.seed,
            config=head.settings(),
            provenance=head.provenance,
            num_skipped=len(head.corpus.skipped) + len(head.labelled.skipped),
        )
        for score in run.task.score(head.result.answers, head.labelled)
    ]


def _weights(head: TrainedHead) -> Artifact:
    encoder, result = head.encoder.spec, head.result
    return Artifact(
        kind="layer_weights",
        upstream=encoder.name,
        upstream_sha256=encoder.sha256,
        corpus=head.corpus.spec,
        corpus_sha256=head.corpus.sha256["test"],
        task=head.run.task.spec.name,
        arrays={"weights": result.layer_weights, "dev_curve": np.array(result.curve)},
        meta={
            "seed": head.run.seed,
            "convention": encoder.convention,
            "config": head.settings(),
        },
        provenance=head.provenance,
    )
