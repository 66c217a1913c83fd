"""Clock and memory of an encoder: what is counted, and that it follows the work."""

from pathlib import Path
from typing import Any

import pytest
import torch

from auscult.contracts import HiddenStates, Waveforms
from auscult.measurement import LENGTHS, measure
from auscult.upstream import Upstream

MEGABYTE = 2**20
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory on a CPU is known on Linux"
)


def test_times(toy: Upstream) -> None:
    found = measure(toy, runs=3)
    assert found.device == "cpu" and found.processor and found.runs == 3
    assert found.threads == torch.get_num_threads()
    assert [timing.samples for timing in found.timings] == list(LENGTHS)
    for timing in found.timings:
        assert 0 < timing.least <= timing.median <= timing.most
        assert timing.audio_seconds == timing.samples / 16_000
    medians = sum(timing.median for timing in found.timings)
    audio = sum(timing.audio_seconds for timing in found.timings)
    assert found.real_time_factor == pytest.approx(medians / audio)


def test_every_length_is_encoded_alone_and_as_often_as_said(
    toy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    sound = toy.forward

    def watched(audio: Waveforms) -> HiddenStates:
        assert torch.is_inference_mode_enabled()
        seen.append(audio.lengths.tolist())
        return sound(audio)

    monkeypatch.setattr(toy, "forward", watched)
    measure(toy, runs=2)
    assert all(len(lengths) == 1 for lengths in seen)
    assert [lengths[0] for lengths in seen[-2 * len(LENGTHS) :]] == list(LENGTHS) * 2


@linux
def test_memory_follows_what_encoding_takes(toy: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    modest = measure(toy, runs=1)
    sound = toy.forward

    def wasteful(audio: Waveforms) -> HiddenStates:
        torch.ones(64 * MEGABYTE)  # 256 MB, gone at once
        return sound(audio)

    monkeypatch.setattr(toy, "forward", wasteful)
    greedy = measure(toy, runs=1)
    assert modest.peak_bytes is not None and greedy.peak_bytes is not None
    assert modest.peak_bytes < 100 * MEGABYTE
    assert 250 * MEGABYTE < greedy.peak_bytes < 400 * MEGABYTE
    assert (
        greedy.weight_bytes
        == modest.weight_bytes
        == sum(4 * parameter.numel() for parameter in toy.parameters())
    )


def test_memory_that_is_not_known_is_not_made_up(
    toy: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *args: Any, **kwargs: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refused)
    assert measure(toy, runs=1).peak_bytes is None
