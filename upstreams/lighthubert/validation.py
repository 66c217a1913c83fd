"""The distillation loss of any subnet on held-out speech, under masks that stay."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from auscult.audio import read_batch
from auscult.errors import UserError
from auscult.extraction import plan_batches
from auscult.foreign import refuse_code
from auscult.progress import progress
from auscult.training_run import SETTINGS, read_training

from .. import load_upstream
from ..hook import single_precision
from ..masking import span_mask
from ..pretraining import need_teacher
from .checkpoint import find_file
from .network import num_frames
from .pretraining import Config
from .sharing import Sharing
from .space import Subnet
from .target import Norm, as_teacher, teacher_target
from .upstream import prepare

_BATCH_SECONDS = 40.0


def read_settings(sharing: Sharing, teacher: str = "", top_layers: int | None = None) -> Config:
    """Return how the supernet was distilled, which stands beside one that was pretrained here.

    Args:
        sharing: The supernet.
        teacher: Address of another teacher.
        top_layers: How many of its blocks are averaged instead.

    Raises:
        UserError: No teacher is known, or training.json is torn.
    """
    config = Config()
    if sharing.address.checkpoint:
        file = find_file(Path(sharing.address.checkpoint).expanduser())
        found = None if file is None else read_training(file.parent)
        if file is not None and found is not None:
            known = {field.name for field in fields(Config)} & found.keys()
            config = Config(**{name: found[name] for name in known})
            if not teacher:
                refuse_code(str(config.teacher), file.parent / SETTINGS)
    config = replace(config, teacher=teacher or config.teacher)
    if not config.teacher:
        raise UserError(
            f"{sharing.address} does not say what it was distilled from; name the teacher with "
            "--teacher, such as --teacher hf:facebook/hubert-base-ls960."
        )
    return config if top_layers is None else replace(config, top_layers=top_layers)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Audio with what a subnet must predict of it."""

    items: Sequence[int]
    samples: Tensor  # (batch, time)
    lengths: Tensor  # (batch,) samples
    masked: Tensor  # (batch, frame) bool
    hidden: Tensor  # (hidden frame, dim), the targets of all rows in order


class HeldOutLoss:
    """The mean L1 distance to the teacher's target over hidden frames, utterance by utterance."""

    def __init__(self, sharing: Sharing, config: Config, cuts: Sequence[Any]) -> None:
        """Compute the targets of ``cuts`` and hide their frames, the same for every subnet.

        Raises:
            UserError: The teacher cannot serve this supernet, or audio cannot be read.
        """
        self._sharing = sharing
        self.teacher = as_teacher(load_upstream(need_teacher(config.teacher)), config.top_layers)
        wanted = sharing.supernet.stored.target_dim
        if self.teacher.spec.dim != wanted:
            raise UserError(
                f"The head of {sharing.address} predicts {wanted} dimensions, and the teacher "
                f"{config.teacher} has {self.teacher.spec.dim}; name the one it learnt from."
            )
        self._batches = []
        self._device = sharing.supernet.mask_emb.device
        self.teacher.to(self._device)
        plan = plan_batches([cut.duration for cut in cuts], _BATCH_SECONDS)
        with progress("Computing targets", len(cuts), "utterances") as advance:
            for items in plan:
                self._batches.append(self._prepare(items, [cuts[i] for i in items], config))
                advance(len(items))
        self.teacher.cpu()

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the hidden frames of each utterance, each (item,)."""
        network = self._sharing.network(subnet)
        size = sum(len(batch.items) for batch in self._batches)
        losses, counts = torch.zeros(size), torch.zeros(size)
        for batch in self._batches:
            with single_precision():
                last = network(batch.samples, batch.lengths, batch.masked)[-1]
                predicted = self._sharing.supernet.predict(last[batch.masked])
                loss = F.l1_loss(predicted, batch.hidden, reduction="none").mean(-1).cpu()
            frames = batch.masked.sum(1).cpu()
            for item, part in zip(batch.items, loss.split(frames.tolist()), strict=True):
                losses[item], counts[item] = part.sum(), len(part)
        return losses, counts

    def _prepare(self, items: Sequence[int], cuts: Sequence[Any], config: Config) -> _Batch:
        audio = read_batch(cuts).to(self._device)
        masked = span_mask(
            num_frames(audio.lengths),
            items,  # the seeds
            probability=config.mask_probability,
            span=config.mask_span,
            least=config.mask_spans,
        )
        norm: Norm = "layer" if config.target_norm == "layer" else "instance"
        target = teacher_target(self.teacher, audio, config.top_layers, norm)
        samples = prepare(audio, self._sharing.supernet.mode)
        return _Batch(items, samples, audio.lengths, masked, target[masked])
