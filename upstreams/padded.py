"""Utterances of different lengths in one batch: by groups of equal length, or padded and masked."""

from abc import abstractmethod
from typing import Literal

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.contracts import HiddenStates, Waveforms
from auscult.upstream import AttentionVisitor, Upstream

Padding = Literal["group", "mask"]


class PaddedUpstream(Upstream):
    """An encoder that can mask padding, but encodes utterances in groups where that is faster.

    Groups of equal length need no padding and are faster on a CPU; one padded batch is faster on
    an accelerator. Both give an utterance's own features. Attention maps of a batch are always
    computed together. A subclass sets ``spec`` and defines ``num_frames`` and ``encode``.
    """

    padding: Padding | None = None  # None: groups on a CPU, one batch elsewhere

    @abstractmethod
    def encode(
        self, audio: Waveforms, frames: Tensor, visit: AttentionVisitor | None
    ) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim), padding kept out of them.

        Args:
            audio: The batch, which this encoder can read.
            frames: (batch,) valid frames.
            visit: Takes each block's attention map, first block first; None for no maps.
        """

    def forward(self, audio: Waveforms) -> HiddenStates:
        """Encode ``audio`` into ``num_layers + 1`` states, each (batch, frame, dim)."""
        frames = self.check_audio(audio)
        groups = self.groups(audio.lengths)
        if len(groups) == 1:
            return HiddenStates(self.encode(audio, frames, None), frames)
        rows: list[tuple[Tensor, ...]] = [()] * len(frames)  # the layers of each utterance
        for indices in groups:
            encoded = self.encode(audio.take(indices), frames[indices], None)
            for i, index in enumerate(indices):
                rows[index] = tuple(layer[i] for layer in encoded)
        layers = zip(*rows, strict=True)
        return HiddenStates(tuple(pad_sequence(list(x), batch_first=True) for x in layers), frames)

    def groups(self, lengths: Tensor) -> list[list[int]]:
        """Return the rows of each length, or all rows where padding is masked."""
        padding = self.padding or ("group" if self.device.type == "cpu" else "mask")
        if padding == "mask":
            return super().groups(lengths)
        found: dict[int, list[int]] = {}
        for row, length in enumerate(lengths.tolist()):
            found.setdefault(length, []).append(row)
        return list(found.values())

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        """Encode ``audio`` and hand each block's map to ``visit``, first block first."""
        frames = self.check_audio(audio)
        return HiddenStates(self.encode(audio, frames, visit), frames)
