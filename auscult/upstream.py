"""The contract of an encoder: waveforms in, every layer out, attention maps one by one."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from auscult.contracts import AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.cost import Macs
from auscult.errors import UserError

CHANGED = " (changed)"  # after the name of an encoder that is not what it was loaded as
AttentionVisitor = Callable[[AttentionMap], None]


class Upstream(nn.Module, ABC):
    """An encoder whose rows do not depend on their neighbours in the batch.

    A subclass sets ``spec`` and defines ``forward`` and ``num_frames``, and ``visit_attention``
    where it has attention. `auscult.testing` holds it to the contract.
    """

    spec: UpstreamSpec
    autocast: bool = True  # whether it may compute below float32
    as_loaded: "tuple[str, Mapping[str, float]] | None" = None  # fingerprint, sums of the weights

    @abstractmethod
    def forward(self, audio: Waveforms) -> HiddenStates:
        """Encode ``audio`` into ``num_layers + 1`` states, each (batch, frame, dim).

        Gradients flow; callers that do not want them use ``torch.inference_mode``.
        """

    @abstractmethod
    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""

    def check_audio(self, audio: Waveforms) -> Tensor:
        """Return the valid frames (batch,) of ``audio``, which this encoder can read.

        Raises:
            UserError: Another sample rate, or an utterance too short for a frame.
        """
        if audio.sample_rate != self.spec.sample_rate:
            raise UserError(
                f"{self.spec.name} reads audio at {self.spec.sample_rate} Hz, got "
                f"{audio.sample_rate} Hz; resample it first."
            )
        frames = self.num_frames(audio.lengths)
        if len(frames) and int(frames.min()) < 1:
            row = int(frames.argmin())
            raise UserError(
                f"Utterance {row} of the batch is {int(audio.lengths[row])} samples; "
                f"{self.spec.name} needs at least {self.least_samples()}."
            )
        return frames

    def least_samples(self) -> int:
        """Return the length of the shortest utterance that has a frame."""
        lengths = torch.arange(2 * self.spec.sample_rate)
        return int(lengths[self.num_frames(lengths) > 0][0])

    def groups(self, lengths: Tensor) -> list[list[int]]:
        """Return which rows of a batch of ``lengths`` (batch,) are fastest encoded together."""
        return [list(range(len(lengths)))]

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        """Encode ``audio`` and hand each block's map to ``visit``, first block first.

        Only the map in hand is kept in memory.

        Raises:
            UserError: The encoder has no attention.
        """
        raise UserError(
            f"{self.spec.name} has no attention maps: its family {self.spec.family} has no "
            "attention. Choose a transformer encoder."
        )

    def count_macs(self, samples: int) -> Macs:
        """Return what encoding one utterance of ``samples`` costs, from the dimensions alone.

        Raises:
            UserError: The family has no count.
        """
        raise UserError(
            f"The cost of {self.spec.name} is not known: its family {self.spec.family} does not "
            "count multiply-accumulates."
        )

    def note_weights(self) -> "Upstream":
        """Remember what the weights are, so that :meth:`refresh` sees where they are others."""
        self.as_loaded = self.spec.sha256, weight_sums(self)
        return self

    def refresh(self) -> None:
        """Give an encoder whose weights were changed since it was loaded another fingerprint.

        It is not what its address leads to any more, and says so in its name.
        """
        if self.as_loaded is None:
            return
        sha256, before = self.as_loaded
        name, now = self.spec.name.removesuffix(CHANGED), weight_sums(self)
        same = before.keys() == now.keys() and all(
            math.isclose(before[key], now[key], rel_tol=1e-9, abs_tol=1e-9) for key in now
        )
        if not same:
            tensors = {k: x for k, x in self.state_dict().items() if isinstance(x, Tensor)}
            sha256, name = fingerprint_weights(tensors, [sha256]), f"{name}{CHANGED}"
        if not same or name != self.spec.name:
            self.spec = replace(self.spec, name=name, sha256=sha256)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for an encoder without weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


def weight_sums(module: nn.Module) -> dict[str, float]:
    """Return a number for each tensor of a module that is another for other values."""
    found = {}
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and not tensor.is_meta and not tensor.is_complex():
            flat = tensor.detach().flatten()
            # the second sum tells values apart that have only changed places
            sums = [part.sum(dtype=torch.float64) for part in (flat, flat[::7])]
            found[name] = float(sums[0]) + float(sums[1]) / 3
    return found


def fingerprint_weights(tensors: Mapping[str, Tensor], configuration: Iterable[str] = ()) -> str:
    """Return the sha256 of named weights and of the strings that say how they are used.

    Weights on the meta device have no values, so that there is no fingerprint: the empty string.
    """
    if any(tensor.is_meta for tensor in tensors.values()):
        return ""
    digest = hashlib.sha256()
    for text in configuration:
        digest.update(text.encode() + b"\0")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
