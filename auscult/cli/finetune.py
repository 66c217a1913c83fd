"""`auscult finetune`: a pretrained encoder learns to transcribe."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import (
    MOST_SEED,
    AllowSharedSpeakers,
    CorpusSpec,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
    command_line,
)
from auscult.device import choose_device
from auscult.errors import UserError, unknown

if TYPE_CHECKING:
    from auscult.contracts import UpstreamSpec
    from auscult.dataset import Corpus
    from auscult.downstreams.split import LabelledCorpus
    from auscult.record import Provenance, Record
    from auscult.score import Score
    from auscult.upstreams.w2v_bert.finetuning import Config

TASK = "speech_recognition_transducer"
Encoder = Annotated[str, typer.Argument(help="Encoder to go on with: w2v_bert:FOLDER.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to the preset.")
]


def finetune(
    upstream: Encoder,
    corpus: CorpusSpec,
    out: Annotated[Path, typer.Option("--out", help="Folder for the recogniser and checkpoints.")],
    settings: Settings = None,
    preset: Annotated[
        str, typer.Option(help="published, or tiny, which is made for a CPU.")
    ] = "published",
    beam: Annotated[
        int, typer.Option(help="Hypotheses kept, beside greedy decoding.", min=1, max=1000)
    ] = 4,
    split: SplitColumn = None,
    seed: Annotated[
        int, typer.Option(help="Seed of new weights and of the order.", min=0, max=MOST_SEED)
    ] = 0,
    skip_bad: SkipBad = False,
    allow_shared_speakers: AllowSharedSpeakers = False,
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a w2v-BERT for speech recognition with an RNN transducer.

    Trains on train, keeps the state that is best on dev, and prints word and character error rates
    on dev and test, of greedy decoding and of beam search, with 95 % intervals. Run the same
    command again to go on after a kill; Ctrl-C keeps the step that it comes in, where there is one
    process. OUT receives the recogniser, whose encoder loads as w2v_bert:OUT, results.sqlite
    (unless --store), dev.jsonl, curve.jsonl and checkpoints.

    Examples:
      auscult finetune w2v_bert:models/w2v-bert -c tsv:data/mine --preset tiny --out models/asr
      auscult finetune w2v_bert:M -c librispeech:LibriSpeech total_steps=50000 --out models/asr
    """
    import auscult
    from auscult.dataset import check_speakers
    from auscult.pretraining import pretrain
    from auscult.process import Processes
    from auscult.speech_pool import SpeechPool
    from auscult.studies.bench import Bench
    from auscult.training_run import Run, check_settings, other_code
    from auscult.upstreams.w2v_bert.finetuning import build
    from auscult.watch import check_content

    processes = Processes.of_environment()
    output = Output(json=json, quiet=quiet or not processes.leads)
    config = _configure(preset, settings or [])
    folder = _encoder_folder(upstream)
    where = processes.device(choose_device(device))
    bench = Bench(out=out, store=store, device=where, processes=processes)
    origin = bench.provenance(command_line())
    with processes.joined(where):
        with processes.leader_first():
            found = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
            check_speakers(found, allow_shared_speakers)
            labelled = _transcribed(found, skip_bad)
            _check_lengths(labelled, config)
            train, dev = (_texts(labelled, name) for name in ("train", "dev"))
            transcripts = {str(cut.id): text for cut, text in train}
            objective = build(folder, transcripts, dev, config, seed)
            encoder = auscult.load(upstream).spec
        pool = SpeechPool.of(
            [cut for cut, _ in train],
            crop_seconds=config.crop_seconds,
            batch_seconds=config.batch_seconds,
            seed=seed,
        )
        run = Run(
            objective=objective,
            config=config,
            pool=pool,
            seed=seed,
            folder=out,
            about={"upstream": upstream, "corpus": corpus, "split": found.split_column},
            reads={"upstream": encoder.sha256} | {s: found.sha256[s] for s in ("train", "dev")},
            also_read=[cut for cut, _ in dev],
            device=where,
            processes=processes,
        )
        check_settings(run)
        if processes.leads:
            bench.prepare()
        steps = pretrain(run)
        if not processes.leads:
            return
        if before := other_code(run):
            origin = replace(origin, code_version=f"{origin.code_version}, trained by {before}")
        finetuned = _Finetuned(encoder, out, found, labelled, config, seed, where, origin)
        records = finetuned.score(beam)
        check_content([cut for split in ("dev", "test") for cut in labelled.splits[split].cuts])
    bench.save(records, [])
    columns = ["split", "beam", "metric", "value", "low", "high", "num_items", "num_speakers"]
    rows = [[_shown(_cell(record, column)) for column in columns] for record in records]
    output.table(f"{upstream} on {corpus}", columns, rows)
    output.print(f"{steps} steps made; the encoder as it is now loads as w2v_bert:{out}")
    output.finish(records, upstream=f"w2v_bert:{out}", steps=steps)


def _configure(preset: str, settings: list[str]) -> "Config":
    from auscult.config import override
    from auscult.upstreams.w2v_bert.finetuning import PRESETS, Config

    presets = {"published": (), **PRESETS}
    if preset not in presets:
        raise unknown("preset", preset, presets)
    return override(Config(), [*presets[preset], *settings])


def _encoder_folder(upstream: str) -> Path:
    from auscult.address import parse_address

    address = parse_address(upstream)
    if address.family != "w2v_bert" or not address.checkpoint or address.random:
        raise UserError(
            f"{upstream} cannot be fine-tuned here; expected w2v_bert:FOLDER, such as `auscult "
            "pretrain w2v_bert` makes. Heads on frozen encoders of any family: `auscult run`."
        )
    return Path(address.checkpoint)


def _transcribed(corpus: Any, skip_bad: bool) -> "LabelledCorpus":
    """Return train, dev and test with their characters."""
    from auscult.dataset import supervision_of
    from auscult.downstreams.ctc import Unlabelled, label_sequences
    from auscult.downstreams.text import spelled

    def characters(cut: Any) -> tuple[str, ...]:
        text = spelled(supervision_of(cut).text or "")
        if not text:
            raise Unlabelled("has no transcript")
        return tuple(text)

    return label_sequences(corpus, characters, skip_unlabelled=skip_bad)


def _texts(corpus: "LabelledCorpus", split: str) -> list[tuple[Any, str]]:
    data = corpus.splits[split]
    return [(cut, "".join(label)) for cut, label in zip(data.cuts, data.labels, strict=True)]


def _check_lengths(corpus: "LabelledCorpus", config: "Config") -> None:
    """Refuse utterances that would be cut, which their transcripts would not be."""
    longest = max(corpus.splits["train"].cuts, key=lambda cut: cut.duration)
    if longest.duration > config.crop_seconds:
        raise UserError(
            f"Utterance {longest.id} lasts {longest.duration:.1f} s and would be cut to "
            f"crop_seconds={config.crop_seconds:g}, its transcript not; pass "
            f"crop_seconds={longest.duration + 0.1:.1f} or leave such utterances out."
        )


@dataclass(frozen=True, slots=True)
class _Finetuned:
    """A recogniser that is trained, and where it comes from."""

    encoder: "UpstreamSpec"  # of what it was made from
    folder: Path
    corpus: "Corpus"
    labelled: "LabelledCorpus"
    config: "Config"
    seed: int
    device: str
    provenance: "Provenance"

    def score(self, beam: int) -> "list[Record]":
        """Return error rates of dev and test, greedy and with the beam."""
        from auscult.audio import read_samples
        from auscult.downstreams.ctc import character_errors, word_errors
        from auscult.downstreams.score import ratio_score
        from auscult.progress import track
        from auscult.upstreams.w2v_bert.transducer import load_recognizer

        recognizer = load_recognizer(self.folder)
        recognizer.transducer.to(self.device)
        metrics: dict[str, Callable[..., Any]] = {"wer": word_errors, "cer": character_errors}
        records = []
        for split in ("dev", "test"):
            data = self.labelled.splits[split]
            wanted = [text for _, text in _texts(self.labelled, split)]
            for width in sorted({1, beam}):
                cuts = track(data.cuts, f"Decoding {split}, beam {width}", unit="utterance")
                found = [recognizer(read_samples(cut), width) for cut in cuts]
                for metric, count in metrics.items():
                    edits, totals = count(wanted, found)
                    score = ratio_score(metric, edits, totals, data.speakers)
                    records.append(self._record(score, split, width))
        return records

    def _record(self, score: "Score", split: str, beam: int) -> "Record":
        from auscult.contracts import TaskSpec
        from auscult.score import record_of

        task = TaskSpec(name=TASK, version=1, output="sequence", metrics=("wer", "cer"))
        return record_of(
            score,
            encoder=self.encoder,
            corpus=self.corpus,
            split=split,
            task=task,
            layer=None,
            probe="rnn_transducer, fine-tuned",
            seed=self.seed,
            config={
                **asdict(self.config),
                "beam": beam,
                "split_column": self.corpus.split_column,
                "train_sha256": self.corpus.sha256["train"],
                "dev_sha256": self.corpus.sha256["dev"],
            },
            provenance=self.provenance,
            num_skipped=len(self.corpus.skipped) + len(self.labelled.skipped),
        )


def _cell(record: "Record", column: str) -> object:
    return record.config["beam"] if column == "beam" else getattr(record, column)


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
