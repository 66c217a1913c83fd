"""What LightHuBERT learns to predict: the feed-forward outputs of a teacher's last blocks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.upstream import Upstream

from ..huggingface.upstream import HuggingFaceUpstream
from .network import num_frames

Norm = Literal["instance", "layer"]


def as_teacher(found: Upstream, top_layers: int) -> HuggingFaceUpstream:
    """Return ``found`` if it can teach: blocks with one feed-forward part, and our frames.

    Raises:
        UserError: It cannot, or has fewer blocks than are to be averaged.
    """
    name = found.spec.name
    blocks = found.model.encoder.layers if isinstance(found, HuggingFaceUpstream) else []
    if not isinstance(found, HuggingFaceUpstream) or not all(
        isinstance(getattr(block, "feed_forward", None), nn.Module) for block in blocks
    ):
        raise UserError(
            f"teacher={name} is no encoder in HuBERT's shape but of the family "
            f"{found.spec.family}: expected a HuBERT, wav2vec 2.0, WavLM or data2vec, through hf:, "
            "hubert: or wav2vec2:."
        )
    if top_layers > len(blocks):
        raise UserError(
            f"top_layers={top_layers}, and teacher={name} has {len(blocks)} blocks; lower it."
        )
    lengths = torch.arange(400, 400 + 16 * 320)
    differing = (found.num_frames(lengths) != num_frames(lengths)).nonzero()
    if len(differing):
        samples = lengths[differing[0]]
        raise UserError(
            f"teacher={name} has {int(found.num_frames(samples))} frames in {int(samples)} samples "
            f"and LightHuBERT {int(num_frames(samples))}; expected the frames of HuBERT, every 320 "
            "samples."
        )
    return found.eval().requires_grad_(False)


@torch.no_grad()
def teacher_target(
    teacher: HuggingFaceUpstream, audio: Waveforms, top_layers: int, norm: Norm
) -> Tensor:
    """Return the mean over the last blocks of their normalised feed-forward outputs.

    The output is that before the residual is added, fairseq's ``layer_result``. Instance norm is
    over the frames of each channel and utterance, padding left out; layer norm over the channels of
    each frame. Neither has weights.

    Args:
        teacher: A frozen encoder on the device of ``audio``.
        audio: The batch, nothing of it hidden.
        top_layers: How many blocks, counted from the last.
        norm: What each block's output passes before the mean.

    Returns:
        (batch, frame, dim) float32, zeros after each row's length.

    Source: arXiv 2203.15610, its repository's issue 6; data2vec (arXiv 2202.03555) in fairseq.
    """
    frames = teacher.check_audio(audio)
    blocks = list(teacher.model.encoder.layers)[-top_layers:]
    rows: list[Tensor] = [torch.empty(0)] * len(frames)
    for indices in teacher.groups(audio.lengths):
        with (
            torch.autocast(audio.samples.device.type, enabled=False),
            _fed_forward(blocks) as outputs,
        ):
            teacher.encode(audio.take(indices), frames[indices], None)
        for i, index in enumerate(indices):
            valid = [output[i, : int(frames[index])].float() for output in outputs]
            rows[index] = torch.stack([_normalize(row, norm) for row in valid]).mean(0)
    return pad_sequence(rows, batch_first=True)


def _normalize(row: Tensor, norm: Norm) -> Tensor:
    """Normalise ``row`` (frame, dim) over its frames or over its channels."""
    if norm == "instance":
        return F.layer_norm(row.T, (len(row),)).T
    return F.layer_norm(row, row.shape[1:])


@contextmanager
def _fed_forward(blocks: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Collect what the feed-forward part of each block puts out, (batch, frame, dim)."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as scope:
        for block in blocks:
            scope.callback(block.feed_forward.register_forward_hook(keep).remove)
        yield outputs
