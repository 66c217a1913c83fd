"""How long a subnet takes on this machine, from a table of what its parts take.

The time of a pass is that of the convolutions, of the positions of its width and of its blocks, of
which a space has some dozens of kinds. Those are measured once, as `auscult describe --measure`
measures a whole encoder, and every subnet is a sum.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.kept import read_object, write_object
from auscult.measurement import LENGTHS, processor_name
from auscult.origin import code_of
from auscult.progress import logger, progress

from .network import LightHubert, num_frames
from .search import LayerCost
from .space import ExtractorMode, SearchSpace, Subnet, ffn_dim
from .upstream import LightHubertUpstream, prepare

RUNS = 3  # a round takes some 20 s for the published spaces
_LEAST_SHARE = 0.6  # of the processor; threads that wait for each other leave some

Part = tuple[int, ...]  # (): the convolutions; embed_dim: positions; embed_dim, heads, ffn_dim


@dataclass(frozen=True, slots=True)
class Place:
    """What the times of a table hold for."""

    device: str  # its kind; of the index, as in cuda:1, nothing depends
    processor: str
    threads: int
    torch: str
    code: str  # fingerprint
    extractor_mode: str
    space: Mapping[str, Any]
    lengths: tuple[int, ...]  # samples of the utterances, one at a time
    runs: int  # of which the median counts


def place_of(space: SearchSpace, mode: ExtractorMode, device: str) -> Place:
    """Return what a table of ``space`` would hold for on this machine."""
    choices = {name: list(getattr(space, name)) for name in ("embed_dims", "heads", "ratios")}
    return Place(
        device=torch.device(device).type,
        processor=processor_name(torch.device(device)),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        code=code_of(__name__),
        extractor_mode=mode,
        space={**choices, "stored": asdict(space.stored)},
        lengths=LENGTHS,
        runs=RUNS,
    )


@dataclass(frozen=True, slots=True)
class Checked:
    """A subnet's real-time factor, by a table and as it was measured."""

    subnet: str  # in full
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """By how much of the measured value the table is off."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Latency:
    """A table of real-time factors, and how it did for some whole subnets."""

    place: Place
    cost: LayerCost
    checked: tuple[Checked, ...]

    def write(self, path: Path) -> None:
        """Write the table for :func:`read_latency`."""
        content = {
            "unit": "seconds for each second of audio",
            "place": asdict(self.place),
            "stem": [[dim, seconds] for dim, seconds in self.cost.stem.items()],
            "layer": [[*part, seconds] for part, seconds in self.cost.layer.items()],
            "checked": [asdict(one) for one in self.checked],
        }
        write_object(content, path)


def read_latency(path: Path, place: Place) -> Latency | None:
    """Return the table in ``path``; None where there is none that holds for ``place``.

    One that was damaged is removed, and said.
    """
    found = read_object(path)
    if found is None or found.get("place") != json.loads(json.dumps(asdict(place))):
        return None
    stem = {int(dim): float(seconds) for dim, seconds in found["stem"]}
    layer = {(int(a), int(b), int(c)): float(seconds) for a, b, c, seconds in found["layer"]}
    checked = tuple(Checked(**one) for one in found["checked"])
    return Latency(place, LayerCost(stem, layer), checked)


def measure_latency(
    space: SearchSpace,
    place: Place,
    device: str,
    mode: ExtractorMode,
    whole: Sequence[LightHubertUpstream],
) -> Latency:
    """Return the real-time factors of the parts of every subnet, over noise of some lengths.

    Parts take turns, and the subnets in ``whole`` that they are checked with too, so that a slow
    moment of the machine meets them all and weights come from memory as in a whole pass.
    """
    modules = _Modules(space, mode, torch.device(device))
    taken: defaultdict[tuple[int, Part | Subnet], list[float]] = defaultdict(list)
    rounds = [(run, samples) for run in range(place.runs + 1) for samples in place.lengths]
    began = time.perf_counter(), time.process_time()
    with progress("Measuring the parts of subnets", len(rounds), "rounds") as advance:
        for run, samples in rounds:
            for part, compute in modules.passes(samples, whole):
                seconds = _time(compute, modules.device)
                if run:  # what is made at the first pass is no cost of the others
                    taken[samples, part].append(seconds)
            advance()
    _warn_busy(place, time.perf_counter() - began[0], time.process_time() - began[1])
    audio = sum(place.lengths) / SAMPLE_RATE
    factors: defaultdict[Part | Subnet, float] = defaultdict(float)
    for (_, part), seconds_of_runs in taken.items():
        factors[part] += median(seconds_of_runs) / audio
    table = _rising(space, factors)
    subnets = [encoder.network.subnet for encoder in whole]
    checked = [Checked(str(subnet), table(subnet), factors[subnet]) for subnet in subnets]
    return Latency(place, table, tuple(checked))


def _warn_busy(place: Place, wall: float, processor: float) -> None:
    """Say if others had much of the processor, which slows long passes more than short ones."""
    share = processor / (wall * place.threads)
    if place.device == "cpu" and share < _LEAST_SHARE:
        logger.warning(
            f"This machine was busy: of {place.threads} threads, measuring had {share:.0%} of the "
            "time, so that the table holds for no other moment; delete it to measure again."
        )


class _Modules:
    """One part of each kind, with weights of its own."""

    def __init__(self, space: SearchSpace, mode: ExtractorMode, device: torch.device) -> None:
        self.device = device
        self._mode: ExtractorMode = mode
        self._whole = LightHubert(space.largest, mode).eval().to(device)
        self._positions: dict[int, LightHubert] = {}
        self._blocks: dict[tuple[int, int, int], nn.Module] = {}
        for dim in space.embed_dims:
            bare = LightHubert(Subnet(dim, (), (), space.stored), mode)
            self._positions[dim] = bare.eval().to(device)
            for heads in space.heads:
                for inner in (ffn_dim(dim, ratio) for ratio in space.ratios):
                    one = LightHubert(Subnet(dim, (heads,), (inner,), space.stored), mode)
                    self._blocks[dim, heads, inner] = one.encoder.layers[0].eval().to(device)

    def passes(
        self, samples: int, whole: Sequence[LightHubertUpstream]
    ) -> Iterator[tuple[Part | Subnet, Callable[[], object]]]:
        """Yield each part, and each whole subnet, with a function that runs it on noise."""
        audio = Waveforms.of([_noise(samples)]).to(self.device)
        lengths = audio.lengths
        frames = num_frames(lengths)
        features = _noise(1, int(frames), self._whole.layer_norm.normalized_shape[0])
        features = features.to(self.device)
        yield (), partial(self._convolve, audio)
        for dim, bare in self._positions.items():
            yield (dim,), partial(_position, bare, features, frames)
        for (dim, heads, inner), block in self._blocks.items():
            x = _noise(1, int(frames), dim).to(self.device)
            yield (dim, heads, inner), partial(block, x, None, None)
        for encoder in whole:
            yield encoder.network.subnet, partial(encoder, audio)

    def _convolve(self, audio: Waveforms) -> Tensor:
        samples = prepare(audio, self._mode)
        normed: Tensor = self._whole.layer_norm(
            self._whole.feature_extractor(samples, audio.lengths)
        )
        return normed


def _position(bare: LightHubert, features: Tensor, frames: Tensor) -> object:
    return bare.encoder(bare.post_extract_proj(features), frames)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[-1]))


def _time(compute: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``compute`` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    with torch.inference_mode():
        compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _rising(space: SearchSpace, factors: Mapping[Part | Subnet, float]) -> LayerCost:
    """Return the table with no part below a smaller one of its kind, which would be noise.

    What a subnet takes then grows with each of its choices.
    """
    stem: dict[int, float] = {}
    layer: dict[tuple[int, int, int], float] = {}
    for dim in sorted(space.embed_dims):
        stem[dim] = max([factors[()] + factors[dim,], *stem.values()])
        for heads in sorted(space.heads):
            for ratio in sorted(space.ratios):
                inner = ffn_dim(dim, ratio)
                smaller = [
                    factor
                    for (a, b, c), factor in layer.items()
                    if a <= dim and b <= heads and c / a <= ratio
                ]
                layer[dim, heads, inner] = max([factors[dim, heads, inner], *smaller])
    return LayerCost(stem, layer)
