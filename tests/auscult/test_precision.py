"""What --precision changes: the numbers a little, the names of what is kept, nothing by default."""

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from torch import Tensor
from torch.testing import assert_close

import auscult
from auscult import precision
from auscult.errors import UserError
from auscult.extraction import encode
from auscult.feature import FeatureStore
from auscult.precision import check_precision, computes_bfloat16, computing_in, precision_of

Run = Callable[..., tuple[int, str, str]]
BFLOAT16_ERROR = 0.05  # relative; 2**-9 for each rounding, some dozens of them on the way


@pytest.fixture
def cuts(tmp_path: Path) -> list[Any]:
    """Noise of 0.2 to 0.4 s, two of one length."""
    from lhotse import Recording

    generator = np.random.default_rng(0)
    found = []
    for i, size in enumerate((6400, 3200, 5123, 6400)):
        path = tmp_path / f"u{i}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(size), 16_000)
        found.append(Recording.from_file(path).to_cut())
    return found


def layers_of(upstream: Any, cuts: list[Any], precision: Any) -> dict[int, tuple[Tensor, ...]]:
    return {row.index: row.layers for row in encode(upstream, cuts, precision=precision)}


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})


@pytest.mark.parametrize("padding", ["group", "mask"])
def test_bfloat16_is_close_to_float32_and_given_in_float32(cuts: list[Any], padding: Any) -> None:
    upstream: Any = auscult.load("random(hubert_tiny)")
    upstream.padding = padding
    exact, rounded = (layers_of(upstream, cuts, name) for name in ("float32", "bfloat16"))
    assert sorted(exact) == sorted(rounded) == [0, 1, 2, 3]
    for index, layers in exact.items():
        for one, other in zip(layers, rounded[index], strict=True):
            assert other.dtype == torch.float32 and not torch.equal(one, other)
            assert float((other - one).norm() / one.norm()) < BFLOAT16_ERROR
    again = layers_of(upstream, cuts, "float32")  # the weights are as they were
    assert all(torch.equal(a, b) for i in exact for a, b in zip(exact[i], again[i], strict=True))


def test_float32_is_what_the_encoder_gives(cuts: list[Any]) -> None:
    from auscult.audio import read_batch

    upstream = auscult.load("random(hubert_tiny)")
    with torch.inference_mode():
        states = upstream(read_batch(cuts))
    for index, layers in layers_of(upstream, cuts, "float32").items():
        frames = int(states.lengths[index])
        for one, other in zip(layers, states.layers, strict=True):
            assert_close(one, other[index, :frames], rtol=0, atol=0)


def test_the_consumer_of_a_pass_computes_in_float32(cuts: list[Any]) -> None:
    """A generator that stands still must not leave its precision to who reads from it."""
    upstream = auscult.load("random(hubert_tiny)")
    for _ in encode(upstream, cuts, precision="bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()


def test_each_precision_has_its_own_kept_features(cuts: list[Any], tmp_path: Path) -> None:
    upstream = auscult.load("random(hubert_tiny)")
    found = {}
    for name in ("float32", "bfloat16"):
        for keep in (True, False):
            store = FeatureStore(
                upstream, cuts, keep_frames=keep, folder=tmp_path / "f", precision=name
            )
            (found[name, keep],) = store.encode().frames().read([2], [4])
    assert len(list((tmp_path / "f").glob("*.frames.safetensors"))) == 2
    for name in ("float32", "bfloat16"):
        assert_close(found[name, True], found[name, False], rtol=0, atol=0)
    assert not torch.equal(found["float32", True], found["bfloat16", True])


def test_encoders_without_weights_compute_in_float32(cuts: list[Any], tmp_path: Path) -> None:
    fbank = auscult.load("fbank")
    assert precision_of(fbank, "bfloat16") == "float32"
    assert precision_of(auscult.load("random(hubert_tiny)"), "bfloat16") == "bfloat16"
    exact, rounded = (layers_of(fbank, cuts, name) for name in ("float32", "bfloat16"))
    assert all(torch.equal(exact[i][0], rounded[i][0]) for i in exact)


def test_an_encoder_that_must_not_be_rounded_says_so_once(
    cuts: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = auscult.load("random(hubert_tiny, seed=71)")
    monkeypatch.setattr(type(upstream), "autocast", False)
    with caplog.at_level(logging.INFO, logger="auscult"):
        assert precision_of(upstream, "float32") == "float32"
        assert caplog.text == ""
        assert precision_of(upstream, "bfloat16") == "float32"
        exact, wanted = (layers_of(upstream, cuts, name) for name in ("float32", "bfloat16"))
    assert caplog.text.count("hubert_tiny, seed=71) computes in float32, not in bfloat16") == 1
    assert all(torch.equal(a, b) for i in exact for a, b in zip(exact[i], wanted[i], strict=True))


def test_names_and_refusals(slow_cpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert check_precision("float32", "cpu") == "float32"
    assert check_precision("float16", "cuda:1") == "float16"
    assert check_precision("bfloat16", "cuda") == "bfloat16"
    assert caplog.text == ""
    with pytest.raises(UserError, match=r"Unknown precision 'bf16'\. Did you mean bfloat16"):
        check_precision("bf16", "cpu")
    with pytest.raises(UserError, match=r"float16 is for GPUs, and this runs on cpu; choose"):
        check_precision("float16", "cpu")


def test_a_cpu_without_bfloat16_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for names, native in (({"avx2"}, False), ({"amx_bf16"}, True), ({"neon", "bf16"}, True)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda names=names: dict.fromkeys(names, True)
        )
        assert computes_bfloat16() == native
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="auscult"):
            assert check_precision("bfloat16", "cpu") == "bfloat16"
        assert ("many times slower" in caplog.text) != native


def test_only_what_is_asked_for_is_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope names the device's type, so that a GPU's products are rounded on the GPU."""
    asked: list[tuple[str, torch.dtype]] = []
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype: asked.append((kind, dtype)))
    assert isinstance(computing_in("float32", torch.device("cuda:1")), nullcontext) and asked == []
    computing_in("float16", torch.device("cuda:1"))
    computing_in("bfloat16", torch.device("cpu"))
    assert asked == [("cuda", torch.float16), ("cpu", torch.bfloat16)]


def test_extract_says_in_the_file_what_was_computed_and_stored(
    run: Run, cuts: list[Any], slow_cpu: None, tmp_path: Path
) -> None:
    words = ("extract", "-u", "random(hubert_tiny)", tmp_path / "u1.wav", "--out", tmp_path / "x")
    status, stdout, stderr = run(
        *words, "--precision", "bfloat16", "--dtype", "float16", "--device", "cpu", "--json"
    )
    assert status == 0, stderr
    assert "many times slower" in stderr and "dims in float16" in stderr
    with safe_open(json.loads(stdout)["files"][0], "pt") as file:
        metadata = file.metadata()
        assert file.get_tensor("layer_00").dtype == torch.float16
    assert (metadata["precision"], metadata["dtype"]) == ("bfloat16", "float16")


def test_probe_writes_the_precision_into_its_records(
    run: Run, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    words: tuple[object, ...] = ("probe", "-u", "random(hubert_tiny)", "-u", "fbank")
    words = (*words, "--no-baselines", "-c", f"tsv:{tone_corpus(takes=1)}", "-t", "sex")
    words = (*words, "--probe", "linear", "--layers", "4", "--max-epochs", "1", "--json")
    words = (*words, "--out", tmp_path / "o")
    keys = []
    for name in ("bfloat16", "float32"):
        status, stdout, stderr = run(*words, "--precision", name, "--device", "cpu")
        assert status == 0, stderr
        records = json.loads(stdout)["records"]
        found = {record["upstream"]: record["config"]["precision"] for record in records}
        assert found == {"random(hubert_tiny)": name, "fbank": "float32"}
        keys.append({r["config_sha256"] for r in records if r["upstream"] != "fbank"})
    assert not keys[0] & keys[1]
    status, _, stderr = run(*words, "--precision", "float16", "--device", "cpu")
    assert status == 2 and "float16 is for GPUs" in stderr


def test_every_precision_has_a_torch_type() -> None:
    assert len(precision.PRECISIONS) == 3
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in precision.PRECISIONS)
