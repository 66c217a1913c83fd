"""What the rooms say to each other: frozen records that check their own shapes.

Axis names used everywhere: ``batch time frame layer head dim label``. Three decisions are taken
here once. Layer 0, the input of the first block, is included: a 12-block encoder has 13 states.
Normalisation, where an encoder asks for it, is per utterance over its valid samples. The encoder
computes its own frame counts; the geometry in its spec restates them and a contract check compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.frame import FrameGeometry
from auscult.metric import Direction

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Waveforms:
    """A right-padded batch of mono audio at ``sample_rate`` Hz."""

    samples: Tensor  # (batch, time) float32, zeros after each row's length
    lengths: Tensor  # (batch,) int64, valid samples
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        _expect("Waveforms.samples", self.samples, (None, None))
        _expect("Waveforms.lengths", self.lengths, (self.samples.shape[0],))
        if len(self.lengths) and int(self.lengths.max()) > self.samples.shape[1]:
            raise ValueError(
                f"Waveforms.lengths: longest is {int(self.lengths.max())} samples "
                f"but the batch has only {self.samples.shape[1]}."
            )

    @classmethod
    def of(cls, rows: Sequence[Tensor], sample_rate: int = SAMPLE_RATE) -> "Waveforms":
        """Pad a list of one-dimensional tensors, each (time,), into a batch."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(pad_sequence(list(rows), batch_first=True), lengths, sample_rate)

    def rows(self) -> list[Tensor]:
        """Return the valid samples of each row, each (time,)."""
        return [row[:n] for row, n in zip(self.samples, self.lengths.tolist(), strict=True)]

    def take(self, rows: Sequence[int]) -> "Waveforms":
        """Return a batch of some of the rows, padded to the longest of them."""
        lengths = self.lengths[list(rows)]
        samples = self.samples[list(rows), : int(lengths.max())]
        return Waveforms(samples, lengths, self.sample_rate)

    def to(self, device: torch.device | str) -> "Waveforms":
        """Return the same batch on ``device``."""
        return Waveforms(self.samples.to(device), self.lengths.to(device), self.sample_rate)


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Every layer of one forward pass.

    ``layers[0]`` is the input of the first block, ``layers[i]`` the output of block ``i``. Values
    after a row's length mean nothing.
    """

    layers: tuple[Tensor, ...]  # num_layers + 1 tensors, each (batch, frame, dim)
    lengths: Tensor  # (batch,) int64, valid frames

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("HiddenStates.layers: expected at least one layer, got none.")
        _expect("HiddenStates.layers[0]", self.layers[0], (None, None, None))
        batch, frame, dim = self.layers[0].shape
        for i, layer in enumerate(self.layers):
            _expect(f"HiddenStates.layers[{i}]", layer, (batch, frame, dim))
        _expect("HiddenStates.lengths", self.lengths, (batch,))


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """The attention weights of one block: each valid query row sums to one over valid keys."""

    block: int  # 1 is the first block, whose output is hidden state 1
    weights: Tensor  # (batch, head, frame, frame): query, then key
    lengths: Tensor  # (batch,) int64, valid frames

    def __post_init__(self) -> None:
        _expect("AttentionMap.weights", self.weights, (len(self.lengths), None, None, None))
        _expect("AttentionMap.weights", self.weights, (None, None, None, self.weights.shape[2]))


class UpstreamFields(TypedDict):
    """What a record says of the encoder that its number is about."""

    upstream: str
    upstream_sha256: str
    num_parameters: int
    convention: str
    subnet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """What a reader of a results table needs to know about an encoder."""

    name: str  # the address it was loaded by, such as "random(hubert_base)"
    family: str  # architecture, such as "hubert" or "fbank"
    num_layers: int  # blocks; hidden states are num_layers + 1
    dim: int
    heads: tuple[int, ...] = ()  # attention heads of each block; empty without attention
    geometry: FrameGeometry
    sample_rate: int = SAMPLE_RATE
    normalize: bool = False  # zero mean, unit variance over each utterance before the encoder
    convention: str = "block_input"  # what hidden state 0 is
    modules: tuple[tuple[str, int], ...] = ()  # parts with names, and the block each ends with
    subnet: str = ""  # of a supernet: in full, as an address takes it after @
    num_parameters: int = 0  # without pretraining head
    head_parameters: int = 0  # of the pretraining head, where there is one; not loaded
    source: str = ""  # folder, file, hub id or shape that the weights came from
    sha256: str = ""  # fingerprint of weights and configuration
    license: str = ""
    origin: str = ""  # whose code it is: "package==1.0"; empty for ours

    def __post_init__(self) -> None:
        if self.heads and len(self.heads) != self.num_layers:
            raise ValueError(
                f"UpstreamSpec.heads: expected one number for each of {self.num_layers} blocks, "
                f"got {len(self.heads)}."
            )

    def record_fields(self) -> UpstreamFields:
        """Return a record's fields about this encoder."""
        return UpstreamFields(
            upstream=self.name,
            upstream_sha256=self.sha256,
            num_parameters=self.num_parameters,
            convention=self.convention,
            subnet=self.subnet,
        )


Output = Literal["utterance", "frame", "sequence", "pair", "segments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What a reader of a results table needs to know about a task."""

    name: str
    version: int  # bumped whenever a score changes meaning
    output: Output
    metrics: tuple[str, ...]  # the first is the one that dev selects by
    direction: Direction = ""  # which way is better, of metrics that auscult.metric does not know
    origin: str = ""  # whose code it is: "package==1.0"; empty for ours

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower", ""):
            raise ValueError(
                f"TaskSpec.direction of {self.name}: expected higher, lower or nothing, got "
                f"{self.direction!r}."
            )


def _expect(name: str, tensor: Tensor, shape: Sequence[int | None]) -> None:
    """Raise if ``tensor`` does not have ``shape``; ``None`` matches any size."""
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, found, strict=True)
    )
    if not fits:
        wanted = tuple("any" if size is None else size for size in shape)
        raise ValueError(f"{name}: expected shape {wanted}, got {found}.")
