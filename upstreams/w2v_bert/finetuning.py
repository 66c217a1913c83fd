"""A w2v-BERT learns to transcribe: an RNN transducer on it, trained by the loop of pretraining.

The same as published: the projection block, the prediction network of two LSTMs of 640, batches of
256 utterances (as 16 s each), and SpecAugment of the filterbanks, with the masks of Gulati et al.
(Interspeech 2020, arXiv 2005.08100), whose encoder this is. Not published, so decided here: rate
and number of steps, dropout, and that the encoder stays as it was pretrained in the first steps.
Not the same: labels are the characters of the training transcripts, where the paper has 1,024 word
pieces, which little speech does not fill; no noisy student, no language model.

Whatever is saved is the best on dev so far: by word error rate, then by character error rate, of
greedy decoding.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jiwer
import numpy as np
import torch
from torch import Tensor

from auscult.audio import read_samples
from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term, Training
from auscult.progress import logger
from auscult.seed import seeded
from auscult.whole_file import write_text

from .checkpoint import load_w2v_bert
from .encoder import compute_filterbanks
from .transducer import Recognizer, Transducer, TransducerSize

DEV = "dev.jsonl"  # what each saving found

PRESETS: Mapping[str, tuple[str, ...]] = {
    "tiny": (
        "projection_dim=128",
        "predictor_dim=128",
        "predictor_layers=1",
        "joint_dim=128",
        "freeze_steps=200",
        "total_steps=2000",
        "batch_seconds=40",
        "crop_seconds=20",
        "learning_rate=2e-3",
        "save_step=200",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Training):
    """Sizes, augmentation and training; the defaults are the published protocol."""

    projection_dim: int = 640
    predictor_dim: int = 640
    predictor_layers: int = 2
    joint_dim: int = 640
    dropout: float = 0.1
    freeze_steps: int = 2_000  # updates at first that leave the encoder as it is
    frequency_masks: int = 2
    frequency_width: int = 27  # filters, at most, of each
    time_masks: int = 10
    time_share: float = 0.05  # of the utterance, at most, in each

    total_steps: int = 20_000
    batch_seconds: float = 256 * 16.0
    crop_seconds: float = 40.0  # longer utterances are refused: their transcript is of the whole
    learning_rate: float = 3e-4

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *Training.may_be_zero,
        "dropout",
        "freeze_steps",
        "frequency_masks",
        "time_masks",
    )

    def __post_init__(self) -> None:
        Training.__post_init__(self)  # super() does not know a class with slots
        if self.time_share >= 1:
            raise UserError(f"time_share={self.time_share:g}: expected a share below 1.")

    @property
    def size(self) -> TransducerSize:
        """The widths alone."""
        return TransducerSize(
            projection_dim=self.projection_dim,
            predictor_dim=self.predictor_dim,
            predictor_layers=self.predictor_layers,
            joint_dim=self.joint_dim,
        )


@dataclass(frozen=True, slots=True)
class Errors:
    """Shares of words and of characters that are wrong."""

    wer: float
    cer: float


class Finetuning(Objective):
    """A recogniser, the transcripts that it learns, and those that choose among its states.

    Args:
        recognizer: What is trained.
        transcripts: Of the training utterances, by id.
        dev: Cuts and transcripts.
        config: The protocol.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        transcripts: Mapping[str, str],
        dev: Sequence[tuple[Any, str]],
        config: Config,
    ) -> None:
        super().__init__()
        self.transducer = recognizer.transducer
        self.recognizer = recognizer
        number = {label: i for i, label in enumerate(self.transducer.labels)}
        self._texts = {name: [number[c] for c in text] for name, text in transcripts.items()}
        self._dev = dev
        self.config = config
        self._step = 0
        self._lines: list[dict[str, float]] | None = None  # what each saving found
        self._best: dict[str, Tensor] = {}

    def before_step(self, step: int, total_steps: int) -> None:
        """Freeze the encoder, its statistics included, or let it learn."""
        self._step = step
        learns = step >= self.config.freeze_steps
        self.transducer.encoder.requires_grad_(learns).train(learns)

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return -log p(transcript | audio), a mean over utterances."""
        recipe = self.recognizer.recipe
        steps = recipe.num_frames(batch.audio.lengths)
        filterbanks = compute_filterbanks(batch.audio, recipe)
        hidden = self.augment(steps, filterbanks.shape[1], batch.draws)
        filterbanks = filterbanks.masked_fill(hidden.to(filterbanks.device), 0.0)  # the mean
        texts = [self._texts[name] for name in batch.ids]
        losses = self.transducer(filterbanks, steps, texts)
        per_label = Term(losses.detach().sum(), float(sum(map(len, texts))), weight=0.0)
        return {"transducer": Term(losses.sum(), float(len(texts))), "per_label": per_label}

    def augment(self, steps: Tensor, longest: int, draws: Sequence[int]) -> Tensor:
        """Return what SpecAugment hides, (batch, step, filter), drawn from each row's own seed."""
        config = self.config
        hidden = np.zeros((len(draws), longest, self.recognizer.recipe.size), dtype=bool)
        for row, length, seed in zip(hidden, steps.tolist(), draws, strict=True):
            generator = np.random.default_rng(seed)
            widest = min(config.frequency_width, row.shape[1])
            for start, end in _spans(generator, config.frequency_masks, widest, row.shape[1]):
                row[:, start:end] = True
            widest = int(config.time_share * length)
            for start, end in _spans(generator, config.time_masks, widest, length):
                row[start:end] = True
        return torch.from_numpy(hidden)

    def save(self, folder: Path) -> Sequence[Path]:
        """Decode dev, and write the recogniser if it is better than any before."""
        step = self._step + 1
        found = self.decode_dev()
        if self._lines is None:  # at first, and after a checkpoint of an older version
            self._lines = [line for line in _read_dev(folder / DEV) if line["step"] < step]
        best = min(((line["wer"], line["cer"]) for line in self._lines), default=None)
        better = best is None or (found.wer, found.cer) < best
        logger.info(
            f"Step {step}: dev WER {found.wer:.4f}, CER {found.cer:.4f}{', kept' if better else ''}"
        )
        self._lines = [*self._lines, {"step": step, "wer": found.wer, "cer": found.cer}]
        written = [self._write_dev(folder)]
        if better:
            self._best = {name: x.detach().cpu().clone() for name, x in self.state_dict().items()}
            written += self.recognizer.save(folder)
        return written

    def save_again(self, folder: Path) -> Sequence[Path]:
        """Write the best recogniser so far, which the checkpoint has."""
        if not self._best:  # of a version that did not keep it
            return [self._write_dev(folder)]
        now = {name: x.clone() for name, x in self.state_dict().items()}
        self.load_state_dict(self._best)
        written = self.recognizer.save(folder)
        self.load_state_dict(now)
        return [self._write_dev(folder), *written]

    def progress(self) -> Mapping[str, Any]:
        """Return what each saving found, and the best state so far."""
        return {"dev": self._lines, "best": self._best}

    def set_progress(self, progress: Mapping[str, Any]) -> None:
        """Put back what :meth:`progress` returned."""
        self._lines, self._best = progress["dev"], progress["best"]

    def _write_dev(self, folder: Path) -> Path:
        lines = "".join(f"{json.dumps(line)}\n" for line in self._lines or ())
        write_text(lines, folder / DEV)
        return folder / DEV

    def decode_dev(self) -> Errors:
        """Return the errors of greedy decoding."""
        self.eval()
        texts = [self.recognizer(read_samples(cut)) for cut, _ in self._dev]
        self.train()  # the encoder too: the next step freezes it again where it must
        return count_errors([text for _, text in self._dev], texts)


def build(
    folder: Path,
    transcripts: Mapping[str, str],
    dev: Sequence[tuple[Any, str]],
    config: Config,
    seed: int,
) -> Finetuning:
    """Put a transducer, with weights from ``seed``, on a pretrained encoder.

    Args:
        folder: With the encoder, or its file.
        transcripts: Of the training utterances, by id; their characters are the labels.
        dev: Cuts and transcripts.
        config: The protocol.
        seed: Of the new weights.

    Raises:
        UserError: The encoder cannot be read.
    """
    pretrained = load_w2v_bert(folder, config.dropout)
    labels = sorted({c for text in transcripts.values() for c in text})
    with seeded(seed):
        transducer = Transducer(
            pretrained.encoder, pretrained.dimensions.dim, labels, config.size, config.dropout
        )
    return Finetuning(Recognizer(pretrained, transducer), transcripts, dev, config)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """Return the errors of all utterances together."""
    found = list(references), list(hypotheses)
    return Errors(jiwer.wer(*found), jiwer.cer(*found))


def _spans(
    generator: np.random.Generator, number: int, widest: int, size: int
) -> Iterable[tuple[int, int]]:
    """Yield starts and ends of ``number`` masks, each uniformly wide and then uniformly placed."""
    for _ in range(number):
        width = int(generator.integers(widest + 1))
        start = int(generator.integers(size - width + 1))
        yield start, start + width


def _read_dev(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
