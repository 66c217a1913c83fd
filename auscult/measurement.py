"""What encoding takes on this machine: time for each second of audio, and memory."""

import ctypes
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from auscult.contracts import Waveforms
from auscult.cost import SUPERB_LENGTHS
from auscult.upstream import Upstream

LENGTHS = tuple(row[-1] for row in SUPERB_LENGTHS)  # the longest utterance of each bucket
RUNS = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that encoding one utterance took, over several runs."""

    samples: int
    audio_seconds: float
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """Time and memory of an encoder that reads one utterance at a time."""

    device: str
    processor: str  # name of the CPU or GPU
    threads: int  # of the CPU
    runs: int
    timings: tuple[Timing, ...]
    weight_bytes: int
    peak_bytes: int | None  # weights and what encoding the longest utterance takes; None: unknown

    @property
    def real_time_factor(self) -> float:
        """Seconds of encoding for each second of audio, by the medians."""
        audio = sum(timing.audio_seconds for timing in self.timings)
        return sum(timing.median for timing in self.timings) / audio


def measure(upstream: Upstream, runs: int = RUNS) -> Measurement:
    """Encode seeded noise of some of SUPERB's lengths and watch clock and memory.

    Memory on a CPU is known on Linux alone, and means something in a process that has done nothing
    else before.
    """
    utterances = [_noise(upstream, samples) for samples in LENGTHS]
    _encode(upstream, utterances[0])  # what is made at the first pass is no cost of the others
    peak = _peak_bytes(upstream, utterances[-1])
    for audio in utterances:
        _encode(upstream, audio)
    seconds: list[list[float]] = [[] for _ in utterances]
    for _ in range(runs):  # lengths in turn: a slow moment of the machine meets them all
        for audio, taken in zip(utterances, seconds, strict=True):
            taken.append(_encode(upstream, audio))
    device = upstream.device
    weights = _weight_bytes(upstream)
    return Measurement(
        device=str(device),
        processor=processor_name(device),
        threads=torch.get_num_threads(),
        runs=runs,
        timings=tuple(
            Timing(n, n / upstream.spec.sample_rate, statistics.median(s), min(s), max(s))
            for n, s in zip(LENGTHS, seconds, strict=True)
        ),
        weight_bytes=weights,
        peak_bytes=None if peak is None else weights + peak,
    )


def _noise(upstream: Upstream, samples: int) -> Waveforms:
    generator = torch.Generator().manual_seed(samples)
    noise = 0.1 * torch.randn(samples, generator=generator)
    return Waveforms.of([noise], upstream.spec.sample_rate).to(upstream.device)


def _encode(upstream: Upstream, audio: Waveforms) -> float:
    """Return the seconds that one pass takes."""
    _wait(upstream.device)
    started = time.perf_counter()
    with torch.inference_mode():
        upstream(audio)
    _wait(upstream.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(upstream: Upstream, audio: Waveforms) -> int | None:
    """Return by how much memory grows at its highest while ``audio`` is encoded."""
    if upstream.device.type == "cuda":
        before = torch.cuda.memory_allocated(upstream.device)
        torch.cuda.reset_peak_memory_stats(upstream.device)
        _encode(upstream, audio)
        return torch.cuda.max_memory_allocated(upstream.device) - before
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)  # what was freed and kept would be used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes the present
        before = _status("VmHWM")
        _encode(upstream, audio)
        return _status("VmHWM") - before
    except OSError:  # not allowed
        return None


def _status(field: str) -> int:
    """Return the bytes that Linux reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(kilobytes)


def _weight_bytes(upstream: Upstream) -> int:
    tensors = [*upstream.parameters(), *upstream.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def processor_name(device: torch.device) -> str:
    """Return what the GPU, or the CPU, is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
