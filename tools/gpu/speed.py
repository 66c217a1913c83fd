"""How many seconds of audio a second are extracted, and what memory that takes."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import auscult
from auscult.contracts import SAMPLE_RATE
from auscult.extraction import encode
from auscult.precision import Precision
from auscult.upstream import Upstream

from .part import Check, Setting

RUNS = 3  # after one that is not counted; the median counts


def extraction(setting: Setting) -> Iterator[Check]:
    """Extract all layers of HuBERT Base, audio read from files and layers copied to the CPU."""
    encoder = auscult.load("random(hubert_tiny)" if setting.dry else "random(hubert_base)")
    encoder.to(setting.device)
    number, seconds = (4, 1.0) if setting.dry else (64, 15.0)
    cuts = _write_noise(setting.folder / "noise", number, seconds)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        taken, peak = _measure(encoder, cuts, precision)
        rate = number * seconds / float(np.median(taken))
        spread = f"{min(taken):.3f} to {max(taken):.3f} s for {number * seconds:g} s of audio"
        yield Check(
            f"{encoder.spec.name}, {precision}: seconds of audio a second", rate, note=spread
        )
        if setting.device != "cpu":
            yield Check(f"{encoder.spec.name}, {precision}: peak memory in GB", peak / 1e9)


def _write_noise(folder: Path, number: int, seconds: float) -> list[Any]:
    """Write files of noise; zeros would be quicker to compute with."""
    from auscult.corpora import read_files

    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / f"{i}.wav" for i in range(number)]
    for path in paths:
        noise = 0.1 * generator.standard_normal(int(seconds * SAMPLE_RATE))
        soundfile.write(path, noise.clip(-1, 1), SAMPLE_RATE)
    found = read_files(paths, skip_bad=False)
    return [cut for part in found.splits.values() for cut in part]


def _measure(encoder: Upstream, cuts: list[Any], precision: Precision) -> tuple[list[float], int]:
    """Return the seconds that each run takes, and the most memory that tensors took, in bytes."""
    on_gpu = encoder.device.type == "cuda"
    taken = []
    for run in range(RUNS + 1):
        if on_gpu:
            torch.cuda.synchronize(encoder.device)
            torch.cuda.reset_peak_memory_stats(encoder.device)
        started = time.perf_counter()
        for _ in encode(encoder, cuts, precision=precision, show=False):
            pass  # each layer was copied to the CPU, which waits for it
        if run:
            taken.append(time.perf_counter() - started)
    return taken, torch.cuda.max_memory_allocated(encoder.device) if on_gpu else 0
