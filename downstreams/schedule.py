"""How long and how fast a head is trained, and what comes of it."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from auscult.errors import UserError, unknown
from auscult.precision import PRECISIONS
from auscult.watch import content_sha256

Records = dict[str, list[Any]]
FILES = {"files": True}  # metadata of a field that names files, with commas between
OPTIMIZERS = {  # as s3prl's runner builds them; its AdamW has no weight decay and an eps of 1e-7
    "Adam": {"name": "TorchOptim", "torch_optim_name": "Adam"},
    "AdamW": {"name": "AdamW"},
    "torch.AdamW": {"name": "TorchOptim", "torch_optim_name": "AdamW"},  # decays by 0.01
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a head is trained."""

    total_steps: int
    batch_size: int
    learning_rate: float
    optimizer: str = "Adam"  # one of OPTIMIZERS
    gradient_accumulate_steps: int = 1
    gradient_clipping: float = 1.0
    eval_step: int  # steps between evaluations on dev; the last step is always one
    save_step: int  # steps between checkpoints; the last step is always one
    log_step: int = 100  # steps between points of the loss in TensorBoard
    training_precision: str = "float32"  # of the steps; evaluations are always in float32

    may_be_zero: ClassVar[tuple[str, ...]] = ()  # numbers that need not be positive

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if value < 0 or value == 0 and name not in self.may_be_zero:
                expected = "zero or more" if name in self.may_be_zero else "a positive number"
                raise UserError(f"{name}={value}: expected {expected}.")
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if self.training_precision not in PRECISIONS:
            raise unknown("training_precision", self.training_precision, PRECISIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadResult:
    """What a trained head answers on test, at the step that dev prefers."""

    answers: Records  # what the expert recorded, a list by name; ``id`` among them
    layer_weights: NDArray[np.float64]  # (layer,), sum to one
    step: int  # whose weights these are
    curve: tuple[tuple[int, float], ...]  # step, score on dev
    num_parameters: int  # of layer weights and head


def runner_config(schedule: Schedule) -> dict[str, Any]:
    """Return the configuration that s3prl's runner reads."""
    runner = asdict(schedule)
    return {
        "runner": runner,
        "optimizer": {**OPTIMIZERS[schedule.optimizer], "lr": schedule.learning_rate},
    }


def files_sha256(config: Any) -> dict[str, str]:
    """Return the fingerprints of the files that a configuration names, by ``FIELD_sha256``.

    That of a file that cannot be read is empty; whoever reads it says why.
    """
    found = {}
    for field in fields(config):
        if field.metadata.get("files") and (names := getattr(config, field.name)):
            found[f"{field.name}_sha256"] = ",".join(map(_file_sha256, names.split(",")))
    return found


def _file_sha256(name: str) -> str:
    try:
        return content_sha256(Path(name).expanduser())
    except (UserError, ValueError, RuntimeError):
        return ""
