"""The contract of an encoder: waveforms in, every layer out, attention maps one by one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from auscult.contracts import AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError


class Upstream(nn.Module, ABC):
    """An encoder whose rows do not depend on their neighbours in the batch.

    A subclass sets ``spec`` and defines ``forward`` and ``num_frames``, and ``visit_attention``
    where it has attention. `auscult.testing` holds it to the contract.
    """

    spec: UpstreamSpec

    @abstractmethod
    def forward(self, audio: Waveforms) -> HiddenStates:
        """Encode ``audio`` into ``num_layers + 1`` states, each (batch, frame, dim).

        Gradients flow; callers that do not want them use ``torch.inference_mode``.
        """

    @abstractmethod
    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""

    def visit_attention(
        self, audio: Waveforms, visit: Callable[[AttentionMap], None]
    ) -> HiddenStates:
        """Encode ``audio`` and hand each block's map to ``visit``, first block first.

        Only the map in hand is kept in memory.

        Raises:
            UserError: The encoder has no attention.
        """
        raise UserError(
            f"{self.spec.name} has no attention maps: its family {self.spec.family} has no "
            "attention. Choose a transformer encoder."
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for an encoder without weights."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


def fingerprint_weights(tensors: Mapping[str, Tensor], configuration: Iterable[str] = ()) -> str:
    """Return the sha256 of named weights and of the strings that say how they are used."""
    digest = hashlib.sha256()
    for text in configuration:
        digest.update(text.encode() + b"\0")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
