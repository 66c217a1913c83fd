"""How long a subnet takes on this machine, from a table of what its parts take.

The time of a pass is that of the convolutions, of the positions of its width and of its blocks, of
which a space has some dozens of kinds. Those are measured once, and every subnet is a sum.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.measurement import LENGTHS, measure, processor_name
from auscult.progress import progress

from .network import Encoder, LightHubert, num_frames
from .search import LayerCost
from .space import ExtractorMode, SearchSpace, Subnet, ffn_dim
from .upstream import LightHubertUpstream, prepare

RUNS = 5
_CHECK_RUNS = 3

Part = tuple[int, ...]  # (): the convolutions; embed_dim: positions; embed_dim, heads, ffn_dim


@dataclass(frozen=True, slots=True)
class Place:
    """What the times of a table hold for."""

    device: str
    processor: str
    threads: int
    torch: str
    extractor_mode: str
    space: Mapping[str, Any]
    lengths: tuple[int, ...]  # samples of the utterances, one at a time
    runs: int  # of which the fastest counts: whatever else the machine does only adds to it


def place_of(space: SearchSpace, mode: ExtractorMode, device: str) -> Place:
    """Return what a table of ``space`` would hold for on this machine."""
    choices = {name: list(getattr(space, name)) for name in ("embed_dims", "heads", "ratios")}
    return Place(
        device=device,
        processor=processor_name(torch.device(device)),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        extractor_mode=mode,
        space={**choices, "stored": asdict(space.stored)},
        lengths=LENGTHS,
        runs=RUNS,
    )


def read_latency(path: Path, place: Place) -> LayerCost | None:
    """Return the table in ``path``; None where there is none that holds for ``place``."""
    try:
        found = json.loads(path.read_text())
        if found["place"] != json.loads(json.dumps(asdict(place))):
            return None
        stem = {int(dim): float(seconds) for dim, seconds in found["stem"]}
        layer = {(int(a), int(b), int(c)): float(seconds) for a, b, c, seconds in found["layer"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return LayerCost(stem, layer)


def write_latency(path: Path, place: Place, table: LayerCost) -> None:
    """Write ``table`` for :func:`read_latency`."""
    content = {
        "unit": "seconds for each second of audio",
        "place": asdict(place),
        "stem": [[dim, seconds] for dim, seconds in table.stem.items()],
        "layer": [[*part, seconds] for part, seconds in table.layer.items()],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def measure_latency(space: SearchSpace, place: Place, mode: ExtractorMode) -> LayerCost:
    """Return the real-time factor of the parts of every subnet, over noise of some lengths.

    Parts take turns, so that a slow moment of the machine meets them all and weights come from
    memory as in a whole pass.
    """
    modules = _Modules(space, mode, torch.device(place.device))
    fastest: dict[tuple[int, Part], float] = {}
    rounds = [(run, samples) for run in range(place.runs + 1) for samples in place.lengths]
    with progress("Measuring the parts of subnets", len(rounds), "rounds") as advance:
        for run, samples in rounds:
            for part, compute in modules.passes(samples):
                seconds = _time(compute, modules.device)
                if run:  # what is made at the first pass is no cost of the others
                    key = samples, part
                    fastest[key] = min(seconds, fastest.get(key, seconds))
            advance()
    seconds = {part: sum(fastest[n, part] for n in place.lengths) for _, part in fastest}
    audio = sum(place.lengths) / SAMPLE_RATE
    return _rising(space, {part: taken / audio for part, taken in seconds.items()})


@dataclass(frozen=True, slots=True)
class Checked:
    """A subnet's real-time factor, by the table and as it was measured."""

    subnet: Subnet
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """By how much of the measured value the table is off."""
        return self.predicted / self.measured - 1


def check_latency(encoder: LightHubertUpstream, table: LayerCost) -> Checked:
    """Measure a whole subnet as the parts were measured; it is on the device of the table."""
    subnet = encoder.network.subnet
    timings = measure(encoder, _CHECK_RUNS).timings
    audio = sum(timing.audio_seconds for timing in timings)
    return Checked(subnet, table(subnet), sum(timing.least for timing in timings) / audio)


class _Modules:
    """One part of each kind, with weights of its own."""

    def __init__(self, space: SearchSpace, mode: ExtractorMode, device: torch.device) -> None:
        self.device = device
        self._mode = mode
        self._whole = LightHubert(space.largest, mode).eval().to(device)
        self._positions: dict[int, LightHubert] = {}
        self._blocks: dict[tuple[int, int, int], Encoder] = {}
        for dim in space.embed_dims:
            bare = LightHubert(Subnet(dim, (), (), space.stored), mode)
            self._positions[dim] = bare.eval().to(device)
            for heads in space.heads:
                for inner in (ffn_dim(dim, ratio) for ratio in space.ratios):
                    one = Encoder(Subnet(dim, (heads,), (inner,), space.stored))
                    self._blocks[dim, heads, inner] = one.eval().to(device)

    def passes(self, samples: int) -> Iterator[tuple[Part, Callable[[], object]]]:
        """Yield each part and a function that runs it on noise."""
        audio = Waveforms.of([_noise(samples)]).to(self.device)
        lengths = audio.lengths
        frames = num_frames(lengths)
        features = _noise(1, int(frames), self._whole.layer_norm.normalized_shape[0])
        features = features.to(self.device)
        yield (), lambda: self._convolve(audio)
        for dim, bare in self._positions.items():
            yield (dim,), lambda bare=bare: bare.encoder(bare.post_extract_proj(features), frames)
        for (dim, heads, inner), encoder in self._blocks.items():
            x = _noise(1, int(frames), dim).to(self.device)
            block = encoder.layers[0]
            yield (dim, heads, inner), lambda block=block, x=x: block(x, None, None)

    def _convolve(self, audio: Waveforms) -> Tensor:
        samples = prepare(audio, self._mode)
        normed: Tensor = self._whole.layer_norm(
            self._whole.feature_extractor(samples, audio.lengths)
        )
        return normed


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


def _rising(space: SearchSpace, factors: Mapping[Part, float]) -> LayerCost:
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
