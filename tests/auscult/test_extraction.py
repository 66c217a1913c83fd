from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.testing import assert_close

from auscult.audio import read_samples
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.extraction import encode, long_enough, plan_batches
from auscult.feature import FeatureStore, audio_sha256, encode_stores, frame_bytes


@pytest.fixture
def cuts(tmp_path: Path) -> list[Any]:
    """Cuts of noise files, 0.2 to 0.5 s."""
    from lhotse import Recording

    generator = np.random.default_rng(0)
    found = []
    for i in range(7):
        path = tmp_path / f"u{i}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(3200 + 777 * i), 16_000)
        found.append(Recording.from_file(path).to_cut())
    return found[::-1]  # longest first, so that order and length differ


def test_batches_hold_near_equal_lengths_and_everything_once() -> None:
    seconds = [5.0, 1.0, 1.1, 30.0, 0.9, 1.0]
    batches = plan_batches(seconds, batch_seconds=4.0)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[4, 1, 5], [2], [0], [3]]


def test_each_utterance_is_encoded_once_and_equals_itself_alone(toy: Any, cuts: list[Any]) -> None:
    rows = {row.index: row.layers for row in encode(toy, cuts)}
    assert sorted(toy.encoded) == sorted(len(read_samples(cut)) for cut in cuts)
    for i, cut in enumerate(cuts):
        alone = toy(Waveforms.of([read_samples(cut)])).layers
        for got, expected in zip(rows[i], alone, strict=True):
            assert_close(got, expected[0].detach(), rtol=0, atol=1e-6)


def test_too_short_an_utterance_is_named_or_left_out(
    toy: Any, cuts: list[Any], tmp_path: Path
) -> None:
    from lhotse import Recording

    path = tmp_path / "blip.wav"
    soundfile.write(path, np.ones(300) * 0.1, 16_000)
    mixed = [*cuts, Recording.from_file(path).to_cut()]
    with pytest.raises(UserError, match=r"blip is 300 samples .* too short for one frame of toy"):
        long_enough(toy, mixed, skip_bad=False)
    kept, short = long_enough(toy, mixed, skip_bad=True)
    assert kept == cuts and short == ["blip"]
    assert long_enough(toy, cuts, skip_bad=False) == (cuts, [])


def test_unreadable_audio_is_named(toy: Any, cuts: list[Any], tmp_path: Path) -> None:
    (tmp_path / "u3.wav").write_bytes(b"not audio at all")
    with pytest.raises(UserError, match=r"u3\.wav cannot be read as audio"):
        list(encode(toy, cuts))


@pytest.fixture
def store(toy: Any, cuts: list[Any], tmp_path: Path) -> Callable[..., FeatureStore]:
    def build(keep_frames: bool = True) -> FeatureStore:
        return FeatureStore(toy, cuts, keep_frames=keep_frames, folder=tmp_path / "features")

    return build


def test_kept_and_reencoded_frames_are_the_same_numbers(store: Any) -> None:
    kept = store(True).encode().frames()
    again = store(False).encode().frames()
    assert kept.kept and not again.kept
    for a, b in zip(kept.read([4, 0, 2], [0, 2]), again.read([4, 0, 2], [0, 2]), strict=True):
        assert_close(a, b, rtol=0, atol=0)
        assert a.dtype == torch.float32


def test_a_second_pass_encodes_nothing(store: Any, toy: Any, cuts: list[Any]) -> None:
    store().encode()
    assert len(toy.encoded) == len(cuts)
    store().encode()
    assert len(toy.encoded) == len(cuts)


def test_what_is_there_is_said_once_for_all_stores(
    store: Any, toy: Any, cuts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "auscult")
    encode_stores("toy", [store(), store()])
    assert len(toy.encoded) == len(cuts) and "there already" not in caplog.text
    encode_stores("toy", [store(), store(), store()])
    assert caplog.text.count("toy: 3 of 3 feature shards are there already.") == 1
    assert caplog.text.count("there already") == 1


def test_a_killed_pass_goes_on_at_the_missing_shard(
    store: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.feature.SHARD_BYTES", 1)
    monkeypatch.setattr(
        "auscult.feature.plan_batches", lambda seconds: plan_batches(seconds, batch_seconds=0.01)
    )
    whole = store()
    frames = whole.encode().frames().read([0, 6], [1])
    shards = sorted(whole._shards, key=lambda shard: shard.items)
    assert len(shards) == 7
    shards[2].frames_path.unlink()
    toy.encoded.clear()
    again = store().encode().frames().read([0, 6], [1])
    assert len(toy.encoded) == 1
    assert_close(again, frames, rtol=0, atol=0)


def test_other_audio_or_other_weights_are_other_files(store: Any, toy: Any, tmp_path: Path) -> None:
    store().encode()
    files = set((tmp_path / "features").iterdir())
    from dataclasses import replace

    toy.spec = replace(toy.spec, sha256="other weights")
    store().encode()
    more = set((tmp_path / "features").iterdir())
    assert len(more) == 2 * len(files)
    soundfile.write(tmp_path / "u0.wav", np.full(3200, 0.1), 16_000)
    store().encode()
    assert len(set((tmp_path / "features").iterdir())) == 3 * len(files)


def test_pooled_statistics(store: Any, toy: Any, cuts: list[Any]) -> None:
    pooled = store(False).encode().pooled()
    for i, cut in enumerate(cuts):
        layers = toy(Waveforms.of([read_samples(cut)])).layers
        assert pooled.num_frames[i] == layers[0].shape[1]
        for layer, states in enumerate(layers):
            assert_close(pooled.mean[i, layer], states[0].mean(0).detach(), rtol=1e-5, atol=1e-6)
            expected = states[0].std(0, correction=0).detach()
            assert_close(pooled.std[i, layer], expected, rtol=1e-4, atol=1e-6)


def test_the_size_is_known_before(store: Any, toy: Any, cuts: list[Any], tmp_path: Path) -> None:
    store().encode()
    stored = sum(p.stat().st_size for p in (tmp_path / "features").glob("*.frames.safetensors"))
    assert 0.8 < frame_bytes(toy, cuts) / stored < 1.3


@pytest.mark.parametrize("keep_frames", [True, False])
def test_features_that_are_no_numbers_are_refused(toy: Any, store: Any, keep_frames: bool) -> None:
    with torch.no_grad():
        toy.mix[0].mul_(float("nan"))
    with pytest.raises(UserError, match=r"hidden state 1 of utterance \S+ is not finite"):
        store(keep_frames).encode()


def test_values_outside_float16_are_refused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "tanh", lambda x: 1e7 * x)  # what the toy ends its layers with
    with pytest.raises(UserError, match=r"Hidden state 1 holds values beyond 65,504"):
        store(True).encode()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_too_little_memory_is_said(
    error: Exception, toy: Any, cuts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(audio: Waveforms) -> None:
        raise error

    monkeypatch.setattr(toy, "forward", fail)
    said = r"toy\(0\): 7 utterances of up to 0\.5 s need more memory than cpu has; cut long"
    with pytest.raises(UserError, match=said):
        list(encode(toy, cuts))


def test_two_channels_of_one_file_are_two_audios(tmp_path: Path) -> None:
    from lhotse import Recording

    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([np.full(8000, 0.1), np.full(8000, -0.1)], 1), 16_000)
    cut = Recording.from_file(path).to_cut()
    ways = [
        cut.with_channels([0]),
        cut.with_channels([1]),
        cut.with_channels([1]).perturb_volume(2),
    ]
    assert len({audio_sha256(way) for way in ways}) == 3


def test_audio_in_memory_is_refused_with_a_sentence() -> None:
    from lhotse.testing.dummies import dummy_recording

    with pytest.raises(UserError, match="is not read from a file"):
        audio_sha256(dummy_recording(0, with_data=True).to_cut())
