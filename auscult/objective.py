"""What is pretrained: a network with its loss, beside its encoder, which one loop trains.

An objective draws nothing from torch's global generator but what may differ between processes
(dropout, Gumbel noise): masks and crops are drawn row by row, from a seed of the row, so that two
processes with half a batch each see what one process with all of it sees.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from auscult.contracts import Waveforms
from auscult.errors import UserError, unknown
from auscult.precision import PRECISIONS

SCHEDULES = ("linear", "cosine", "inverse_root", "constant")


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's share of a step's audio, on its device."""

    audio: Waveforms
    ids: tuple[str, ...]  # of the utterances that the rows are crops of
    draws: tuple[int, ...]  # a seed for each row, which no other row or step has
    step: int  # updates made before this one
    draw: int  # a seed for the whole step, the same in all processes


@dataclass(frozen=True, slots=True)
class Term:
    """A part of the loss, or a mere measurement, as a sum and what it is to be divided by.

    Sum and count are added over all processes and accumulated parts before they are divided, so
    that a mean over frames is one over all frames of the step.
    """

    total: Tensor  # scalar; with gradients where weight is not zero
    count: Tensor | float  # such as the masked frames; depends on the batch alone
    weight: float = 1.0  # in the loss; 0 for a measurement, such as an accuracy


class Pool(Protocol):
    """The audio that is pretrained on."""

    def sample(self, seconds: float, seed: int) -> Iterator[Waveforms]:
        """Yield batches of about ``seconds`` of audio in all, the same for the same seed."""
        ...


class Objective(nn.Module, ABC):
    """A network, its loss, and how it is written for others to load.

    Its state dict is what a checkpoint keeps: parameters, and buffers such as cluster centres. A
    frozen teacher is not part of it (hold it in a tuple, and move it to the audio's device).
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the terms of the loss and what else is worth a curve, by name."""

    @abstractmethod
    def save(self, folder: Path) -> Sequence[Path]:
        """Write the network into ``folder`` as its family's loader reads it, replacing older.

        Returns:
            The files that were written: none where those that are there are better.
        """

    def save_again(self, folder: Path) -> Sequence[Path]:
        """Write what the last :meth:`save` left in ``folder``, and return the files."""
        return self.save(folder)

    def progress(self) -> Mapping[str, Any]:
        """Return what a checkpoint keeps beside the state dict: tensors and plain data."""
        return {}

    def set_progress(self, progress: Mapping[str, Any]) -> None:  # noqa: B027
        """Put back what :meth:`progress` returned."""

    def fit(self, pool: Pool) -> None:  # noqa: B027
        """Prepare what gradients do not train, such as clusters; once, before the first step."""

    def sources(self) -> Mapping[str, str]:
        """Return the fingerprint of each encoder that is learned or started from, by setting."""
        return {}

    def encoders(self) -> Sequence[nn.Module]:
        """Return those that are learned from, whose code has a part in what is learned."""
        return ()

    def before_step(self, step: int, total_steps: int) -> None:  # noqa: B027
        """Set what follows the step alone, such as a temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How an objective is trained; a family's configuration adds its own fields.

    AdamW, its rate rising linearly over the warm-up, then falling to zero or, by ``inverse_root``,
    with the root of the step. Weight decay leaves out vectors (biases, norms, mask vectors).
    """

    total_steps: int
    batch_seconds: float  # of audio in one update, over all processes and accumulated parts
    crop_seconds: float  # longer utterances are cut at random, anew each time
    learning_rate: float
    warmup: float = 0.07  # share of the steps
    schedule: str = "linear"  # after the warm-up: one of SCHEDULES
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    gradient_clipping: float = 1.0
    gradient_accumulation: int = 1  # parts that a batch is cut into; all but one are passed twice
    precision: str = "float32"
    save_step: int = 1000
    keep: int = 2  # checkpoints
    log_step: int = 50

    may_be_zero: ClassVar[tuple[str, ...]] = ("warmup", "weight_decay")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if not math.isfinite(value):
                raise UserError(f"{name}={value}: expected a finite number.")
            if value < 0 or value == 0 and name not in self.may_be_zero:
                expected = "zero or more" if name in self.may_be_zero else "a positive number"
                raise UserError(f"{name}={value}: expected {expected}.")
            if value >= 1 and (name in ("beta1", "beta2") or "drop" in name):
                raise UserError(f"{name}={value:g}: expected a share below 1.")
            if value > 1 and name.endswith(("_share", "_probability")):
                raise UserError(f"{name}={value:g}: expected a share, at most 1.")
        if self.warmup > 1:
            raise UserError(
                f"warmup={self.warmup:g}: expected a share of the steps, such as 0.07, not a "
                "number of them."
            )
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
