"""The fine-tuning study: a pretrained encoder learns to transcribe."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError, unknown

if TYPE_CHECKING:
    from auscult.contracts import UpstreamSpec
    from auscult.dataset import Corpus
    from auscult.downstreams.split import LabelledCorpus
    from auscult.record import Provenance, Record
    from auscult.score import Score
    from auscult.upstreams.w2v_bert.finetuning import Config

TASK = "speech_recognition_transducer"


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
