"""The fine-tuning study: a pretrained encoder learns to transcribe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.config import assignments
from auscult.dataset import check_speakers
from auscult.errors import UserError, unknown
from auscult.record import fingerprint, with_origins

from .bench import Bench
from .call import unless_default
from .finding import Findings
from .item import Outcome
from .live import named
from .pretraining import curve_of

if TYPE_CHECKING:
    import pandas as pd

    from auscult.contracts import UpstreamSpec
    from auscult.dataset import Corpus
    from auscult.downstreams.split import LabelledCorpus
    from auscult.objective import Objective
    from auscult.record import Provenance, Record
    from auscult.score import Score
    from auscult.training_run import Run
    from auscult.upstream import Upstream
    from auscult.upstreams.w2v_bert.finetuning import Config

TASK = "speech_recognition_transducer"
COLUMNS = ("split", "beam", "metric", "value", "low", "high", "num_items", "num_speakers")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Finetuned(Findings):
    """A recogniser that was made, and its error rates."""

    upstream: str  # the address that its encoder loads as
    steps: int  # made by this call
    folder: Path

    def curve(self) -> "pd.DataFrame":
        """Return the means of the loss's terms, one row for each step that was noted."""
        return curve_of(self.folder)

    def rows(self) -> list[list[object]]:
        """Return one row of :data:`COLUMNS` for each number."""
        return [
            [x.config["beam"] if name == "beam" else getattr(x, name) for name in COLUMNS]
            for x in self.records
        ]

    def _repr_html_(self) -> str:
        """Show the error rates in a notebook."""
        import pandas as pd

        table: str = pd.DataFrame(self.rows(), columns=list(COLUMNS)).to_html(index=False, border=0)
        return table


def finetune(
    upstream: "str | Upstream",
    corpus: "str | Corpus",
    *,
    out: str | Path,
    settings: str | Sequence[str] | Mapping[str, object] = (),
    preset: str = "published",
    beam: int = 4,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    allow_shared_speakers: bool = False,
    device: str = "auto",
    store: str | None = None,
) -> Finetuned:
    """Fine-tune a w2v-BERT for speech recognition with an RNN transducer.

    It trains on train, keeps the state that is best on dev, and finds word and character error
    rates on dev and test, of greedy decoding and of beam search. The same call goes on after a
    kill. Under torchrun each process takes its share; only the first one's findings have numbers.

    Args:
        upstream: ``w2v_bert:FOLDER``, or the encoder that was loaded from there.
        corpus: Address such as ``tsv:my/speech``, or a corpus.
        out: Folder for the recogniser, the store, curves and checkpoints.
        settings: ``KEY=VALUE``, changes to the preset; or values by key.
        preset: ``published``, or ``tiny``, which is made for a CPU.
        beam: Hypotheses kept, beside greedy decoding.
        split: Split column, where a corpus has several.
        limit: Only this many utterances of each split, spread evenly over it.
        seed: Of new weights and of the order.
        skip_bad: Leave bad items out, counted, instead of stopping.
        allow_shared_speakers: Go on although splits share speakers.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        store: SQLAlchemy URL of the store instead of OUT's.

    Raises:
        UserError: Something cannot be as asked; the sentence says why.
    """
    settings = assignments(settings)
    config = _configure(preset, settings)
    address = upstream if isinstance(upstream, str) else upstream.spec.name
    _encoder_folder(address)
    bench = Bench.of(
        together=True,
        out=out,
        store=store,
        device=device,
        skip_bad=skip_bad,
        allow_shared_speakers=allow_shared_speakers,
    )
    _, name, bench = named(bench, address, corpus, split)
    options = unless_default(preset=(preset, "published"), beam=(beam, 4), seed=(seed, 0))
    options |= unless_default(split=(split, None), limit=(limit, None))
    given = {"upstream": address, "corpus": name, "out": str(out)}
    command = str(bench.call("finetune", settings, **given, **options))
    with bench.processes.joined(bench.device):
        with bench.processes.leader_first():
            speech = bench.corpus(name, split).limited(limit)
            study, objective = _begin(bench, address, speech, config, seed, limit)
        return study.carry_out(objective, command, beam)


def _begin(
    bench: Bench, address: str, speech: "Corpus", config: "Config", seed: int, limit: int | None
) -> "tuple[_Study, Objective]":
    """Return what is to be trained, and on what."""
    import auscult
    from auscult.upstreams.w2v_bert.finetuning import build

    check_speakers(speech, bench.allow_shared_speakers)
    labelled = _transcribed(speech, bench.skip_bad)
    _check_lengths(labelled, config)
    transcripts = {str(cut.id): text for cut, text in _texts(labelled, "train")}
    dev = _texts(labelled, "dev")
    objective = build(_encoder_folder(address), transcripts, dev, config, seed)
    encoder = auscult.load(address).spec
    return _Study(bench, address, encoder, speech, labelled, config, seed, limit), objective


@dataclass(frozen=True, slots=True)
class _Study:
    """A recogniser, and where it comes from."""

    bench: Bench
    upstream: str  # the address
    encoder: "UpstreamSpec"  # of what it is made from
    corpus: "Corpus"
    labelled: "LabelledCorpus"
    config: "Config"
    seed: int
    limit: int | None

    def carry_out(self, objective: "Objective", command: str, beam: int) -> Finetuned:
        """Train and score; in processes that do not lead there are no numbers."""
        from auscult.watch import check_content

        steps, before = self.train(objective)
        folder, leads = self.bench.out, self.bench.processes.leads
        records = self.score(beam, self.provenance(command, before)) if leads else []
        if leads:
            check_content(x for name in ("dev", "test") for x in self.labelled.splits[name].cuts)
            self.bench.save(records, ())
            self.bench.summarise()
        outcome = Outcome(key=fingerprint([x.key for x in records]), records=tuple(records))
        return Finetuned(
            outcomes=(outcome,), upstream=f"w2v_bert:{folder}", steps=steps, folder=folder
        )

    def train(self, objective: "Objective") -> tuple[int, str]:
        """Train to the end; return the steps made, and the versions of other code that made any."""
        from auscult.pretraining import pretrain
        from auscult.training_run import check_settings, other_code

        run = self._run(objective)
        check_settings(run)
        if self.bench.processes.leads:
            self.bench.prepare()
        return pretrain(run), other_code(run)

    def _run(self, objective: "Objective") -> "Run":
        from auscult.speech_pool import SpeechPool
        from auscult.training_run import Run

        corpus, limited = self.corpus, "" if self.limit is None else f" (limit {self.limit})"
        sha256 = {name: corpus.sha256[name] for name in ("train", "dev")}
        pool = SpeechPool.of(
            self.labelled.splits["train"].cuts,
            crop_seconds=self.config.crop_seconds,
            batch_seconds=self.config.batch_seconds,
            seed=self.seed,
        )
        return Run(
            objective=objective,
            config=self.config,
            pool=pool,
            seed=self.seed,
            folder=self.bench.out,
            about={
                "upstream": self.upstream,
                "corpus": f"{corpus.spec}{limited}",
                "split": corpus.split_column,
            },
            reads={"upstream": self.encoder.sha256, **sha256},
            also_read=self.labelled.splits["dev"].cuts,
            device=self.bench.device,
            processes=self.bench.processes,
        )

    def provenance(self, command: str, before: str) -> "Provenance":
        """Return what records say of the run; ``before`` are versions of other code."""
        made = with_origins(self.bench.provenance(command), self.corpus.origin)
        version = f"{made.code_version}, trained by {before}" if before else made.code_version
        return replace(made, code_version=version)

    def score(self, beam: int, made: "Provenance") -> "list[Record]":
        """Return error rates of dev and test, greedy and with the beam."""
        from auscult.audio import read_samples
        from auscult.downstreams.ctc import character_errors, word_errors
        from auscult.downstreams.score import ratio_score
        from auscult.progress import track
        from auscult.upstreams.w2v_bert.transducer import load_recognizer

        recognizer = load_recognizer(self.bench.out)
        recognizer.transducer.to(self.bench.device)
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
                    records.append(self._record(score, split, width, made))
        return records

    def _record(self, score: "Score", split: str, beam: int, made: "Provenance") -> "Record":
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
                **unless_default(limit=(self.limit, None)),
            },
            provenance=made,
            num_skipped=len(self.corpus.skipped) + len(self.labelled.skipped),
        )


def _configure(preset: str, settings: Sequence[str]) -> "Config":
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
