"""Pretraining of Mockingjay: chosen frames are hidden from the encoder, which predicts them.

The same objective, with one block shared by all layers, pretrains Audio ALBERT.

Source: Liu et al., ICASSP 2020, arXiv 1910.12638.
Reference: s3prl 0.4.18, pretrain/mockingjay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.contracts import Waveforms
from auscult.errors import UserError, unknown
from auscult.objective import Batch, Objective, Term, Training

from .checkpoint import FILE
from .front_end import AlbertFrontEnd, OnlineFrontEnd
from .masking import draw_masks
from .network import INITIAL_STD, LEAST_NEARBY, Dimensions, draw_with_head, valid_keys
from .writing import write_mockingjay

FRONT_ENDS = ("online", "albert")
TARGETS = ("input", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Training):
    """Mockingjay as s3prl pretrains it on 960 hours.

    The paper's BASE is ``front_end=albert``, LARGE ``front_end=albert stack=3 span=3 num_layers=12
    target=linear``, both with ``learning_rate=4e-4 total_steps=500000`` and batches of 6. SUPERB's
    Mockingjay is ``num_layers=12 target=linear total_steps=500000`` on 360 hours.
    """

    total_steps: int = 1_000_000
    batch_seconds: float = 480.0  # 32 crops
    crop_seconds: float = 15.0
    learning_rate: float = 2e-4
    beta2: float = 0.999
    eps: float = 1e-8
    gradient_clipping: float = 5.0
    save_step: int = 10_000
    front_end: str = "online"  # s3prl's features every 10 ms; albert: the papers', every 12.5 ms
    stack: int = 1  # frames of albert that are one for the encoder
    num_layers: int = 3
    dim: int = 768
    heads: int = 12
    inner: int = 3072
    initial_std: float = INITIAL_STD  # of weight matrices; that of wide encoders
    begins_nearby: bool = False  # heads of the first layer begin with one frame nearby each
    dropout: float = 0.1
    mask_share: float = 0.15
    span: int = 7  # (stacked) frames
    overlap: bool = True  # of spans
    target: str = "input"  # the features themselves; linear: the spectrum before mel filters

    share: ClassVar[bool] = False  # one block for all layers
    may_be_zero: ClassVar[tuple[str, ...]] = (*Training.may_be_zero, "dropout")

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        if self.front_end not in FRONT_ENDS:
            raise unknown("front_end", self.front_end, FRONT_ENDS)
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)
        if self.front_end == "online" and self.stack != 1:
            raise UserError(
                f"stack={self.stack}: s3prl's features are not stacked; set stack=1, or "
                "front_end=albert."
            )
        if self.dim % self.heads:
            raise UserError(f"dim={self.dim} is no multiple of heads={self.heads}.")
        if self.begins_nearby and self.dim < LEAST_NEARBY * self.heads:
            raise UserError(
                f"begins_nearby=true: heads need {LEAST_NEARBY} columns or more, and "
                f"dim={self.dim} has {self.dim // self.heads} for each of heads={self.heads}."
            )
        if self.mask_share >= 1:
            raise UserError(f"mask_share={self.mask_share}: expected less than 1.")


# Two of the papers' frames side by side, every 25 ms, halve the steps; half of them are hidden, in
# spans of 150 ms, for single frames are told from their neighbours without knowing any phone.
# Weights begin about the inverse root of the width, at which blocks change what passes them, and
# attention nearby: in so few steps it does not find the neighbours of a hidden frame by itself.
_CPU = (
    *("front_end=albert", "stack=2", "span=6", "mask_share=0.5", "initial_std=0.08", "dropout=0"),
    "begins_nearby=true",
    *("crop_seconds=3", "batch_seconds=48", "learning_rate=1e-3", "beta2=0.98"),
    *("gradient_clipping=1", "save_step=500"),
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "tiny": (*_CPU, "dim=160", "heads=4", "inner=640", "total_steps=3000"),
    "small": (*_CPU, "dim=256", "heads=4", "inner=1024", "total_steps=6000"),
}


def build(config: Training, seed: int) -> Objective:
    """Return the objective with weights from ``seed``."""
    assert isinstance(config, Config)
    return MaskedAcousticModel(config, seed)


class MaskedAcousticModel(Objective):
    """An encoder with a head that predicts the chosen frames from its last layer, in L1."""

    def __init__(self, config: Config, seed: int) -> None:
        super().__init__()
        self.config = config
        self.front_end = (
            AlbertFrontEnd(config.stack) if config.front_end == "albert" else OnlineFrontEnd()
        )
        dimensions = Dimensions(
            input_dim=self.front_end.dim,
            num_layers=config.num_layers,
            share=config.share,
            dim=config.dim,
            heads=config.heads,
            inner=config.inner,
            dropout=config.dropout,
            initial_std=config.initial_std,
            begins_nearby=config.begins_nearby,
        )
        linear = config.target == "linear"
        target_dim = self.front_end.linear_dim if linear else self.front_end.dim
        self.network, self.head = draw_with_head(dimensions, seed, target_dim)
        self.steps = 0  # made, or about to be

    def before_step(self, step: int, total_steps: int) -> None:
        """Count, for the file."""
        self.steps = step + 1

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the mean absolute error at chosen frames, and what it is to be read by.

        ``l1_zeroed`` is that of the frames that were zeroed, which cannot be copied; ``l1_of_mean``
        that of the utterance's mean; ``chosen`` the share of frames.
        """
        features, targets, lengths = self._read(batch.audio)
        masks = draw_masks(
            lengths.tolist(),
            batch.draws,
            share=self.config.mask_share,
            span=self.config.span,
            overlap=self.config.overlap,
        ).to(features.device)
        state = self.network(masks.alter(features), valid_keys(lengths.to(features.device)))[-1]
        predicted = self.head(state[masks.chosen]).float()  # (chosen frame, target dim)
        wanted = targets[masks.chosen]
        errors, zeroed = (predicted - wanted).abs(), masks.zeroed[masks.chosen]
        of_zeroed = errors.detach()[zeroed]
        return {
            "l1": Term(errors.sum(), errors.numel()),
            "l1_zeroed": Term(of_zeroed.sum(), of_zeroed.numel(), weight=0.0),
            "l1_of_mean": Term(wanted.abs().sum(), wanted.numel(), weight=0.0),
            "chosen": Term(masks.chosen.sum(), float(lengths.sum()), weight=0.0),
        }

    @torch.no_grad()
    def _read(self, audio: Waveforms) -> tuple[Tensor, Tensor, Tensor]:
        """Return features and targets, (batch, frame, dim) each, and lengths (batch,)."""
        with torch.autocast(audio.samples.device.type, enabled=False):
            rows = [self.front_end.features(row) for row in audio.rows()]
            features = targets = pad_sequence(rows, batch_first=True)
            if self.config.target == "linear":
                wanted = [self.front_end.linear(row) for row in audio.rows()]
                targets = pad_sequence(wanted, batch_first=True)
        return features, targets, torch.tensor([len(row) for row in rows])

    def save(self, folder: Path) -> Sequence[Path]:
        """Write s3prl's checkpoint, or AlbertNew's, in which crops are the longest sequences."""
        write_mockingjay(
            folder / FILE,
            self.network,
            self.head,
            self.front_end,
            target=self.config.target,
            sequence_length=round(self.config.crop_seconds * 100),
            settings=asdict(self.config),
            step=self.steps,
        )
        return (folder / FILE,)
