"""Frozen features of a set of utterances: encoded once and kept, or encoded anew at each pass.

Kept features are float16 shards in a folder: safetensors, named by a hash of what they depend on
(weights and preprocessing of the encoder, the precision it computes in, audio, device, library
versions), written to a temporary name and renamed. A killed pass goes on at the first missing
shard.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from auscult import __version__
from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.extraction import Encoded, encode, plan_batches
from auscult.precision import Precision, precision_of
from auscult.process import ALONE, Processes
from auscult.progress import logger
from auscult.record import fingerprint, library_versions
from auscult.upstream import Upstream
from auscult.watch import content_sha256
from auscult.whole_file import whole_file

FORMAT = 1  # of the shards; part of their names
SHARD_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Pooled:
    """Statistics over the valid frames of each utterance."""

    mean: Tensor  # (item, layer, dim) float32
    std: Tensor  # (item, layer, dim) float32, biased
    num_frames: NDArray[np.int64]  # (item,)


class FrameSource(Protocol):
    """Gives the frames of any utterances, any layers; see :class:`KeptFrames`."""

    @property
    def kept(self) -> bool:
        """Whether reading one layer alone is cheap."""
        ...

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """Return one tensor for each of ``layers``: the items' frames in order, (frame, dim).

        Values are float16 numbers in float32 whether they were kept or encoded anew, so that
        both give the same scores.
        """
        ...


def cache_folder() -> Path:
    """Return where features and the demo corpus are kept: ``$AUSCULT_CACHE`` or the user's."""
    return Path(os.environ.get("AUSCULT_CACHE") or Path.home() / ".cache" / "auscult")


def frame_bytes(upstream: Upstream, cuts: Sequence[Any]) -> int:
    """Return the size of all layers of all frames in float16, in bytes, before encoding."""
    spec = upstream.spec
    frames = sum(cut.duration * SAMPLE_RATE / spec.geometry.stride for cut in cuts)
    return int(frames) * (spec.num_layers + 1) * spec.dim * 2


class FeatureStore:
    """The features of some utterances by one encoder, made in one pass."""

    def __init__(
        self,
        upstream: Upstream,
        cuts: Sequence[Any],
        *,
        keep_frames: bool,
        folder: Path,
        precision: Precision = "float32",
    ) -> None:
        self._upstream = upstream
        self._cuts = list(cuts)
        self._keep_frames = keep_frames
        self._precision: Precision = precision_of(upstream, precision)
        origin = [FORMAT, __version__, library_versions(), upstream.device.type, self._precision]
        origin.append(upstream.spec.sha256)
        self._shards = [_Shard(origin, self._cuts, items, folder) for items in self._plan()]

    def shards_there(self) -> tuple[int, int]:
        """Return how many shards need not be encoded, and how many there are."""
        return len(self._shards) - len(self._missing(self._shards)), len(self._shards)

    def encode(self, processes: Processes = ALONE) -> "FeatureStore":
        """Encode what is not there yet; each utterance goes through the encoder once.

        Args:
            processes: Share the work among them.
        """
        self._encode(processes.share(self._shards))
        if processes.size > 1:
            processes.wait()
            self._encode(self._missing(self._shards))  # what is on another machine's disk
        return self

    def _missing(self, shards: "Sequence[_Shard]") -> "list[_Shard]":
        return [shard for shard in shards if not shard.complete(self._keep_frames)]

    def _encode(self, shards: "Sequence[_Shard]") -> None:
        missing = self._missing(shards)
        batches = [batch for shard in missing for batch in shard.batches]
        stream = encode(self._upstream, self._cuts, batches, precision=self._precision)
        for shard in missing:
            rows = [next(stream) for _ in shard.items]
            shard.write(rows, self._keep_frames)
        for _ in stream:  # lets the progress line close
            pass

    def pooled(self) -> Pooled:
        """Return mean and standard deviation over frames of each utterance and layer."""
        size = len(self._cuts)
        mean: Tensor | None = None
        std: Tensor | None = None
        num_frames = np.zeros(size, dtype=np.int64)
        for shard in self._shards:
            with safe_open(shard.pooled_path, "pt") as file:
                means, stds = file.get_tensor("mean"), file.get_tensor("std")
                frames = file.get_tensor("frames")
            if mean is None or std is None:
                mean, std = (torch.zeros(size, *means.shape[1:]) for _ in range(2))
            mean[shard.items], std[shard.items] = means, stds
            num_frames[shard.items] = frames.numpy()
        if mean is None or std is None:
            raise UserError("There are no utterances to encode; the split is empty.")
        return Pooled(mean, std, num_frames)

    def frames(self) -> FrameSource:
        """Return the frames: from the shards, or encoded anew at each reading."""
        if self._keep_frames:
            return KeptFrames(self._shards)
        return ReencodedFrames(self._upstream, self._cuts, self._precision)

    def _plan(self) -> list[list[list[int]]]:
        """Group the batches into shards of about SHARD_BYTES."""
        shards: list[list[list[int]]] = []
        filled = SHARD_BYTES
        for batch in plan_batches([cut.duration for cut in self._cuts]):
            size = frame_bytes(self._upstream, [self._cuts[i] for i in batch])
            if filled + size > SHARD_BYTES:
                shards.append([])
                filled = 0
            shards[-1].append(batch)
            filled += size
        return shards


def encode_stores(
    encoder: str, stores: Collection[FeatureStore], processes: Processes = ALONE
) -> None:
    """Encode what is not there yet, and say how much is.

    Args:
        encoder: Its name.
        stores: Of one encoder.
        processes: Share the work among them.
    """
    done, total = map(sum, zip(*(store.shards_there() for store in stores), strict=True))
    if done:
        logger.info(f"{encoder}: {done} of {total} feature shards are there already.")
    for store in stores:
        store.encode(processes)


class _Shard:
    """A file of frames and a file of statistics, each written whole or not at all."""

    def __init__(
        self,
        origin: Sequence[object],
        cuts: Sequence[Any],
        batches: list[list[int]],
        folder: Path,
    ) -> None:
        self.batches = batches
        self.items = [i for batch in batches for i in batch]
        name = fingerprint([*origin, *(audio_sha256(cuts[i]) for i in self.items)])
        self.frames_path = folder / f"{name}.frames.safetensors"
        self.pooled_path = folder / f"{name}.pooled.safetensors"

    def complete(self, with_frames: bool) -> bool:
        return self.pooled_path.exists() and (not with_frames or self.frames_path.exists())

    def write(self, rows: Sequence[Encoded], with_frames: bool) -> None:
        by_index = {row.index: row for row in rows}
        ordered = [by_index[item] for item in self.items]
        num_frames = torch.tensor([len(row.layers[0]) for row in ordered])
        if with_frames:
            layers = [
                torch.cat(parts).half() for parts in zip(*(r.layers for r in ordered), strict=True)
            ]
            for i, frames in enumerate(layers):
                _refuse_overflow(i, frames)
            tensors = {f"layer_{i:02d}": layer for i, layer in enumerate(layers)}
            _write(tensors | {"frames": num_frames}, self.frames_path)
        mean = torch.stack([torch.stack([x.mean(0) for x in row.layers]) for row in ordered])
        std = torch.stack(
            [torch.stack([x.std(0, correction=0) for x in row.layers]) for row in ordered]
        )
        for i in range(mean.shape[1]):
            _refuse_overflow(i, mean[:, i], std[:, i])
        _write({"mean": mean, "std": std, "frames": num_frames}, self.pooled_path)


class KeptFrames:
    """Frames read from memory-mapped shards, any layer alone."""

    kept = True

    def __init__(self, shards: Sequence[_Shard]) -> None:
        self._place: dict[int, tuple[Path, int, int]] = {}  # item -> file, first frame, end
        for shard in shards:
            with safe_open(shard.frames_path, "pt") as file:
                ends = file.get_tensor("frames").cumsum(0).tolist()
            starts = [0, *ends[:-1]]
            for item, start, end in zip(shard.items, starts, ends, strict=True):
                self._place[item] = (shard.frames_path, start, end)

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """See :class:`FrameSource`."""
        return [
            torch.cat([self._slice(*self._place[item], layer) for item in items]).float()
            for layer in layers
        ]

    @staticmethod
    def _slice(path: Path, start: int, end: int, layer: int) -> Tensor:
        found: Tensor = _open(path).get_slice(f"layer_{layer:02d}")[start:end]
        return found


class ReencodedFrames:
    """Frames encoded anew at each reading, for features larger than the budget."""

    kept = False

    def __init__(self, upstream: Upstream, cuts: Sequence[Any], precision: Precision) -> None:
        self._upstream = upstream
        self._cuts = cuts
        self._precision: Precision = precision

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """See :class:`FrameSource`."""
        found: dict[int, tuple[Tensor, ...]] = {}
        batches = plan_batches([self._cuts[i].duration for i in items])
        plan = [[items[i] for i in batch] for batch in batches]
        stream = encode(self._upstream, self._cuts, plan, precision=self._precision, show=False)
        for row in stream:
            found[row.index] = tuple(row.layers[layer].half() for layer in layers)
        parts = [found[item] for item in items]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        for layer, column in zip(layers, columns, strict=True):
            _refuse_overflow(layer, column)
        return [column.float() for column in columns]


@lru_cache(maxsize=256)
def _open(path: Path) -> Any:
    return safe_open(path, "pt")


def audio_sha256(cut: Any) -> str:
    """Return a fingerprint of a cut's audio: its files' contents and the part that it takes."""
    parts: list[object] = [round(cut.start * SAMPLE_RATE), round(cut.duration * SAMPLE_RATE)]
    parts += [cut.channel, repr(cut.recording.transforms or [])]
    for source in cut.recording.sources:
        if source.type != "file":
            raise UserError(f"Cut {cut.id} is not read from a file; save it to one first.")
        parts.append(content_sha256(source.source))
    return fingerprint(parts)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    with whole_file(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _refuse_overflow(layer: int, *values: Tensor) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in values):
        raise UserError(
            f"Hidden state {layer} holds values beyond 65,504, which float16 cannot hold, so its "
            "features cannot be kept or probed; check the checkpoint with `auscult check`."
        )
