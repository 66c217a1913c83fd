"""The contract of an encoder: waveforms in, every layer out, attention maps one by one."""

import hashlib
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
    as_loaded: tuple[str, str] | None = None  # fingerprints: of the encoder, of its weights alone

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
        self.as_loaded = self.spec.sha256, fingerprint_weights(_tensors(self))
        return self

    def refresh(self) -> None:
        """Give an encoder whose weights were changed since it was loaded another fingerprint.

        It is not what its address leads to any more, and says so in its name. One that was made by
        hand has the fingerprint of its weights as they are.
        """
        now = fingerprint_weights(_tensors(self))
        if self.as_loaded is None:
            said = self.spec.sha256
            if now != said and _tensors(self):
                self.spec = replace(self.spec, sha256=fingerprint_weights(_tensors(self), [said]))
            self.as_loaded = self.spec.sha256, now
            return
        sha256, before = self.as_loaded
        name = self.spec.name.removesuffix(CHANGED)
        if now != before:
            sha256, name = fingerprint_weights(_tensors(self), [sha256]), f"{name}{CHANGED}"
        if now != before or name != self.spec.name:
            self.spec = replace(self.spec, name=name, sha256=sha256)

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for an encoder without weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: x for key, x in module.state_dict().items() if isinstance(x, Tensor)}


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
