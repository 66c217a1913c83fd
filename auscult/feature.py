"""Frozen features of a set of utterances: encoded once and kept, or encoded anew at each pass.

Kept features are float16 shards in a folder: safetensors, named by hashes of what they depend on
(weights and preprocessing of the encoder, the precision it computes in, audio, kind of device) and
of what made them (the encoder's code and library versions). A killed pass goes on at the first
missing shard; a shard that was damaged since is encoded anew.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from auscult import kept
from auscult.cache import cache_folder
from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.extraction import Encoded, encode, plan_batches
from auscult.origin import made_by
from auscult.pooled import Pooled
from auscult.precision import Precision, precision_of
from auscult.process import ALONE, Processes
from auscult.progress import logger
from auscult.record import code_version, fingerprint
from auscult.upstream import Upstream
from auscult.watch import content_sha256

FORMAT = 2  # of the shards; part of their names
SHARD_BYTES = 128 * 2**20


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
        inputs = [FORMAT, upstream.device.type, self._precision, upstream.spec.sha256]
        if upstream.device.type == "cpu":  # whose last bits depend on it
            inputs.append(torch.get_num_threads())
        maker = made_by(__name__, *upstream.modules())
        about = {
            "upstream": upstream.spec.name,
            "precision": self._precision,
            "device": upstream.device.type,
            "made_by": maker,
            "auscult": code_version(),
        }
        self._shards = [
            _Shard(inputs, self._cuts, batches, folder, about) for batches in self._plan()
        ]

    @property
    def cuts(self) -> list[Any]:
        """The utterances, in order."""
        return self._cuts

    def shards_there(self) -> tuple[int, int]:
        """Return how many shards need not be encoded, and how many there are."""
        return len(self._shards) - len(self._missing(self._shards)), len(self._shards)

    def missing(self) -> list[Path]:
        """Return where shards that are to be encoded will be kept."""
        return [shard.pooled_path for shard in self._missing(self._shards)]

    def encode(self, processes: Processes = ALONE) -> "FeatureStore":
        """Encode what is not there yet; each utterance goes through the encoder once.

        Args:
            processes: Share the work among them.
        """
        self._encode(self._missing(processes.share(self._shards)))
        if processes.size > 1:
            processes.wait()
            self._encode(self._missing(self._shards))  # what is on another machine's disk
        return self

    def _missing(self, shards: "Sequence[_Shard]") -> "list[_Shard]":
        return [shard for shard in shards if not shard.complete(self._keep_frames)]

    def _encode(self, shards: "Sequence[_Shard]") -> None:
        batches = [batch for shard in shards for batch in shard.batches]
        stream = encode(self._upstream, self._cuts, batches, precision=self._precision)
        for shard in shards:
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
            file = self._open(shard, shard.pooled_path)
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
            return KeptFrames(self)
        return ReencodedFrames(self._upstream, self._cuts, self._precision)

    def places(self) -> "Iterator[tuple[int, _Shard, int, int]]":
        """Yield each utterance with its shard, its first frame there, and the end."""
        for shard in self._shards:
            frames = self._open(shard, shard.pooled_path).get_tensor("frames")
            ends = frames.cumsum(0).tolist()
            for item, start, end in zip(shard.items, [0, *ends[:-1]], ends, strict=True):
                yield item, shard, start, end

    def open_frames(self, shard: "_Shard") -> Any:
        """Return a shard's frames as ``safe_open`` does, its content checked."""
        return self._open(shard, shard.frames_path)

    def _open(self, shard: "_Shard", path: Path) -> Any:
        """Open a file of a shard; where it was damaged, encode the shard anew."""
        found = kept.open_tensors(path)
        if found is None:
            self._encode([shard])
            found = kept.open_tensors(path)
        if found is None:
            raise UserError(f"{path} was damaged as soon as it was written; look at its disk.")
        return found

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


def open_stores(
    upstream: Upstream,
    splits: Mapping[str, Sequence[Any]],
    *,
    budget: int,
    frames: bool,
    precision: Precision = "float32",
    say: bool = True,
) -> dict[str, FeatureStore]:
    """Return the features of several splits: frames are kept where all of them fit the budget.

    Args:
        upstream: The encoder.
        splits: Cuts by name.
        budget: Bytes.
        frames: Whether frames are needed; means and deviations are kept anyway.
        precision: What the encoder computes in.
        say: Tell how large they are, and where.
    """
    size = sum(frame_bytes(upstream, cuts) for cuts in splits.values())
    folder = cache_folder() / "features"
    keep = frames and size <= budget
    if say:
        logger.info(_size_note(upstream, size, budget, frames, keep, folder))
    return {
        name: FeatureStore(upstream, cuts, keep_frames=keep, folder=folder, precision=precision)
        for name, cuts in splits.items()
    }


def _size_note(
    upstream: Upstream, size: int, budget: int, frames: bool, keep: bool, folder: Path
) -> str:
    states = upstream.spec.num_layers + 1
    plural = "s" * (states != 1)
    text = f"{upstream.spec.name}: {states} state{plural} x {upstream.spec.dim} dims in float16"
    if not frames:
        return f"{text}: only means and deviations are kept, in {folder}."
    if keep:
        return f"{text} = {size / 1e9:.2f} GB, kept in {folder}."
    return (
        f"{text} = {size / 1e9:.2f} GB, more than the budget of {budget / 1e9:.2f} GB: the audio "
        "is encoded anew at each epoch (--budget raises the limit)."
    )


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
    missing = [path for store in stores for path in store.missing()]
    kept.say_made_otherwise(missing, encoder, "feature shards")
    for store in stores:
        store.encode(processes)


class _Shard:
    """A file of frames and a file of statistics, each written whole or not at all."""

    def __init__(
        self,
        inputs: Sequence[object],
        cuts: Sequence[Any],
        batches: list[list[int]],
        folder: Path,
        about: Mapping[str, str],
    ) -> None:
        self.batches = batches
        self.items = [i for batch in batches for i in batch]
        self._about = about
        identity = [*inputs, *(audio_sha256(cuts[i]) for i in self.items)]
        self.frames_path, self.pooled_path = (
            kept.place(folder, identity, about["made_by"], f".{what}.safetensors")
            for what in ("frames", "pooled")
        )

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
            kept.write_tensors(tensors | {"frames": num_frames}, self.frames_path, self._about)
        mean = torch.stack([torch.stack([x.mean(0) for x in row.layers]) for row in ordered])
        std = torch.stack(
            [torch.stack([x.std(0, correction=0) for x in row.layers]) for row in ordered]
        )
        for i in range(mean.shape[1]):
            _refuse_overflow(i, mean[:, i], std[:, i])
        pooled = {"mean": mean, "std": std, "frames": num_frames}
        kept.write_tensors(pooled, self.pooled_path, self._about)


class KeptFrames:
    """Frames read from memory-mapped shards, any layer alone; a shard is checked when it is read.

    Checking reads a shard once from its beginning to its end, and from then on it is in memory as
    far as there is room.
    """

    kept = True

    def __init__(self, store: FeatureStore) -> None:
        self._place = {item: (shard, start, end) for item, shard, start, end in store.places()}
        self._open = lru_cache(maxsize=256)(store.open_frames)

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """See :class:`FrameSource`."""
        return [
            torch.cat([self._slice(*self._place[item], layer) for item in items]).float()
            for layer in layers
        ]

    def _slice(self, shard: _Shard, start: int, end: int, layer: int) -> Tensor:
        found: Tensor = self._open(shard).get_slice(f"layer_{layer:02d}")[start:end]
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


def audio_sha256(cut: Any) -> str:
    """Return a fingerprint of a cut's audio: its files' contents and the part that it takes."""
    parts: list[object] = [round(cut.start * SAMPLE_RATE), round(cut.duration * SAMPLE_RATE)]
    parts += [cut.channel, repr(cut.recording.transforms or [])]
    for source in cut.recording.sources:
        if source.type != "file":
            raise UserError(f"Cut {cut.id} is not read from a file; save it to one first.")
        parts.append(content_sha256(source.source))
    return fingerprint(parts)


def _refuse_overflow(layer: int, *values: Tensor) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in values):
        raise UserError(
            f"Hidden state {layer} holds values beyond 65,504, which float16 cannot hold, so its "
            "features cannot be kept or probed; check the checkpoint with `auscult check`."
        )
