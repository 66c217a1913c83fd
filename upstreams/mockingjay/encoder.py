"""Mockingjay and Audio ALBERT as upstreams: long utterances in chunks, short ones whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.address import Address, place
from auscult.contracts import AttentionMap, UpstreamSpec, Waveforms
from auscult.cost import Macs, attention_macs, feed_forward_macs
from auscult.errors import UserError
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

from ..padded import PaddedUpstream
from ..shape import SHAPES
from .checkpoint import FILE, read_mockingjay
from .front_end import AlbertFrontEnd, FrontEnd, OnlineFrontEnd
from .network import Dimensions, Mockingjay, draw_mockingjay, valid_keys

_FAMILY = {False: "mockingjay", True: "audio_albert"}  # whether layers share their weights


class MockingjayUpstream(PaddedUpstream):
    """A Mockingjay or an Audio ALBERT.

    Hidden state 0 is the embedding after its layer norm, the input of the first block; each
    application of a shared block has its own state and its own attention map. An utterance above
    ``sequence_length`` frames is encoded in chunks that do not see each other, as s3prl does it,
    but by its own length instead of the batch's; its maps are block-diagonal. s3prl takes frames
    whose features sum to zero for padding; here padding is what lies behind an utterance's end.
    """

    def __init__(
        self,
        network: Mockingjay,
        front_end: FrontEnd,
        *,
        name: str,
        source: str,
        sequence_length: int = 0,
        head_parameters: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.front_end = front_end
        self.sequence_length = sequence_length
        sizes = network.dimensions
        self.spec = UpstreamSpec(
            name=name,
            family=_FAMILY[sizes.share],
            num_layers=sizes.num_layers,
            dim=sizes.dim,
            heads=(sizes.heads,) * sizes.num_layers,
            geometry=front_end.geometry,
            convention="block_input, embedding_norm",
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            head_parameters=head_parameters,
            source=source,
            sha256=fingerprint_weights(
                network.state_dict(),
                [repr(sizes), repr(front_end), f"sequence_length={sequence_length}"],
            ),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return self.front_end.num_frames(lengths)

    def encode(
        self, audio: Waveforms, frames: Tensor, visit: AttentionVisitor | None
    ) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim), padding masked as keys."""
        with torch.autocast(self.device.type, enabled=False):  # a log-mel wants all its digits
            rows = [self.front_end.features(row) for row in audio.rows()]
        chunks = Chunks(tuple(tuple(chunk_sizes(len(row), self.sequence_length)) for row in rows))
        inputs = chunks.split(rows).to(self.device)

        def hand_over(block: int, weights: Tensor) -> None:
            if visit is not None:
                visit(AttentionMap(block, chunks.join_maps(weights), frames))

        states = self.network(
            inputs, chunks.keys(inputs.device), None if visit is None else hand_over
        )
        return tuple(chunks.join(state) for state in states)

    def count_macs(self, samples: int) -> Macs:
        """Return what encoding one utterance costs; SUPERB does not count a spectral front end."""
        sizes = self.network.dimensions
        frames = int(self.num_frames(torch.tensor([samples]))[0])
        macs = Macs(frames * sizes.input_dim * sizes.dim)
        for chunk in chunk_sizes(frames, self.sequence_length):
            block = attention_macs(chunk, sizes.dim, sizes.heads, sizes.dim)
            block += feed_forward_macs(chunk, sizes.dim, sizes.inner)
            macs += block * sizes.num_layers
        return macs


def chunk_sizes(num_frames: int, sequence_length: int) -> list[int]:
    """Return the frames of each chunk: as few as stay within the limit, all but the last equal.

    The rule is that of ``torch.chunk``, by which s3prl cuts. ``sequence_length`` 0 is no limit.
    """
    if sequence_length == 0 or num_frames <= sequence_length:
        return [num_frames]
    size = math.ceil(num_frames / math.ceil(num_frames / sequence_length))
    return [min(size, num_frames - start) for start in range(0, num_frames, size)]


@dataclass(frozen=True, slots=True)
class Chunks:
    """How a batch of utterances is laid out as a batch of chunks."""

    sizes: tuple[tuple[int, ...], ...]  # frames of each utterance's chunks

    @property
    def _whole(self) -> bool:
        return all(len(row) == 1 for row in self.sizes)

    def split(self, rows: Sequence[Tensor]) -> Tensor:
        """Return utterances, each (frame, dim), as padded chunks (chunk, frame, dim)."""
        pieces = [
            piece
            for row, sizes in zip(rows, self.sizes, strict=True)
            for piece in row.split(list(sizes))
        ]
        return pad_sequence(pieces, batch_first=True)

    def keys(self, device: torch.device) -> Tensor | None:
        """Return the valid frames of each chunk, (chunk, 1, 1, frame); None where all are."""
        return valid_keys(torch.tensor([n for sizes in self.sizes for n in sizes], device=device))

    def join(self, state: Tensor) -> Tensor:
        """Return a state (chunk, frame, dim) as (batch, frame, dim)."""
        if self._whole:
            return state
        rows = [
            torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])
            for pieces, sizes in self._of_rows(state)
        ]
        return pad_sequence(rows, batch_first=True)

    def join_maps(self, weights: Tensor) -> Tensor:
        """Return maps (chunk, head, frame, frame) as (batch, head, frame, frame)."""
        if self._whole:
            return weights
        longest = max(map(sum, self.sizes))
        joined = weights.new_zeros(len(self.sizes), weights.shape[1], longest, longest)
        for row, (pieces, sizes) in enumerate(self._of_rows(weights)):
            start = 0
            for piece, size in zip(pieces, sizes, strict=True):
                span = slice(start, start + size)
                joined[row, :, span, span] = piece[:, :size, :size]
                start += size
        return joined

    def _of_rows(self, chunks: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Return the chunks of each utterance, and their frames."""
        parts = chunks.split([len(sizes) for sizes in self.sizes])
        return list(zip(parts, self.sizes, strict=True))


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a checkpoint file, or in the folder of one pretrained here.

    Inside ``random(...)`` keep only its shape.

    Raises:
        UserError: No file, an unreadable one, or one of the other family.
    """
    family = address.family
    if not address.checkpoint:
        raise UserError(
            f"{family} needs a checkpoint file: {family}:FILE; without one, a shape such as "
            f"random({family}_3l) has weights from a seed."
        )
    path = place(address.checkpoint)
    if path.is_dir():
        path /= FILE
    checkpoint = read_mockingjay(path)
    dimensions = checkpoint.network.dimensions
    found = _FAMILY[dimensions.share]
    if found != family:
        layers = "share one set of weights" if dimensions.share else "have their own"
        raise UserError(f"{path} is no {family}: its layers {layers}; load it as {found}:{path}.")
    return MockingjayUpstream(
        draw_mockingjay(dimensions, seed) if address.random else checkpoint.network,
        checkpoint.front_end,
        name=str(address),
        source=str(path),
        sequence_length=checkpoint.sequence_length,
        head_parameters=checkpoint.head_parameters,
    )


def load_shape(address: Address, seed: int) -> Upstream:
    """Build a named shape with weights from ``seed``."""
    shape = SHAPES[address.family]
    settings = shape.settings
    front_end = AlbertFrontEnd() if settings["front_end"] == "albert" else OnlineFrontEnd()
    dimensions = Dimensions(
        input_dim=front_end.dim,
        num_layers=settings["num_layers"],
        share=shape.family == "audio_albert",
    )
    return MockingjayUpstream(
        draw_mockingjay(dimensions, seed),
        front_end,
        name=str(address),
        source=shape.name,
        sequence_length=settings["sequence_length"],
        head_parameters=shape.head_parameters,
    )
