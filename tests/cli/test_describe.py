"""`auscult describe`: exact counts, one JSON object, sentences where something cannot be said."""

import concurrent.futures
import json
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import auscult
from auscult.measurement import Measurement, Timing
from auscult.upstreams import outline_upstream

KEYS = {"records", "upstream", "macs", "macs_not_counted", "measured"}
COUNT = {"total", "products", "audio_seconds", "total_per_second"}


def describe(run: Any, *words: str) -> dict[str, Any]:
    status, out, err = run("describe", *words, "--json", "--quiet")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert set(found) == KEYS and found["records"] == []
    return found


@pytest.mark.parametrize("spec", ["hubert_base", "random(hubert_base)"])
def test_exact_count_of_a_shape(run: Any, spec: str) -> None:
    found = describe(run, spec)
    assert found["upstream"]["name"] == "random(hubert_base)"
    assert found["upstream"]["num_parameters"] == 94_371_712
    assert found["upstream"]["head_parameters"] == 94_697_600 - 94_371_712
    assert found["upstream"]["sha256"] == ""
    macs = found["macs"]
    assert set(macs) == COUNT | {"buckets"}
    assert macs["total"] == 1_669_156_022_848 and macs["products"] == 1_665_522_780_160
    assert list(macs["buckets"]) == ["short", "medium", "long", "longer"]
    assert all(set(bucket) == COUNT for bucket in macs["buckets"].values())
    assert sum(bucket["total"] for bucket in macs["buckets"].values()) == macs["total"]
    assert macs["total_per_second"] == pytest.approx(macs["total"] / 224.86)
    assert found["measured"] is None and found["macs_not_counted"] == ""


def test_table(run: Any) -> None:
    status, out, err = run("describe", "hubert_base")
    assert (status, err) == (0, "")
    for text in (
        *("random(hubert_base)", "hubert", "none: only the shape was built", "12 in each block"),
        *("320 samples, 20 ms", "400 samples, 25 ms", "at 16000 Hz, as it is", "13 of 768"),
        *("94,371,712; 94,697,600 with the pretraining head", "block_input"),
        *("1,669,156,022,848", "1,665,522,780,160", "149,255,103,040", "224.86", "7.423"),
    ):
        assert text in out, text
    assert "subnet" not in out and "license" not in out  # nothing to say there


def test_json_keeps_stdout_for_itself(run: Any) -> None:
    status, out, err = run("describe", "hubert_tiny", "--json")
    assert status == 0 and json.loads(out)["upstream"]["dim"] == 128
    assert "as SUPERB counts" in err


def test_modules_have_their_blocks(run: Any) -> None:
    spec = outline_upstream("w2v_bert_xl").spec
    _, out, _ = run("describe", "w2v_bert_xl")
    assert f"24: {spec.modules[0][0]} 1-12, {spec.modules[1][0]} 13-24" in out


@pytest.mark.parametrize(
    ("spec", "subnet", "parameters", "products"),
    [
        ("lighthubert_small@a_small", "embed=384,depth=12,heads=6,ffn=4", 26_879_744, 857.1),
        ("lighthubert_base@a_base", "embed=640,depth=12,heads=10,ffn=4", 66_897_664, 1340.1),
        ("lighthubert_small@smallest", "embed=256,depth=10,heads=4,ffn=3", 11_449_088, 661.3),
        ("lighthubert_base@macs<=1.04T", "embed=512,depth=12,heads=8,ffn=3.5", 41_249_536, 1035.3),
    ],
)
def test_subnets(run: Any, spec: str, subnet: str, parameters: int, products: float) -> None:
    found = describe(run, spec)
    assert found["upstream"]["subnet"] == subnet
    assert found["upstream"]["num_parameters"] == parameters
    assert round(found["macs"]["products"] / 1e9, 1) == products
    assert describe(run, f"random({spec})") == found


def test_heads_that_differ_are_listed(run: Any) -> None:
    heads = "4-6-8-4-6-8-4-6-8-4"
    subnet = f"embed=256,depth=10,heads={heads},ffn=3"
    status, out, _ = run("describe", f"lighthubert_small@{subnet}")
    assert status == 0 and subnet in out
    assert f"{heads.replace('-', ' ')}, first block first" in out


def test_checkpoint(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny: Any = auscult.load("random(hubert_tiny, seed=4)")
    tiny.model.save_pretrained(tmp_path)
    capsys.readouterr()  # transformers' bar
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    found = describe(run, f"hf:{tmp_path}")
    loaded = auscult.load(f"hf:{tmp_path}")
    assert found["upstream"] == json.loads(json.dumps(asdict(loaded.spec)))
    assert found["upstream"]["sha256"] == tiny.spec.sha256
    assert found["macs"] == describe(run, "hubert_tiny")["macs"]
    _, out, _ = run("describe", f"hf:{tmp_path}")
    assert tiny.spec.sha256 in out and "5 of 128" in out
    assert "fingerprint (weights and structure)" in out and "sha256" not in out


def test_what_is_not_counted_is_said(run: Any) -> None:
    found = describe(run, "fbank")
    assert found["macs"] is None
    assert "fbank does not count" in found["macs_not_counted"]
    status, out, _ = run("describe", "fbank")
    assert status == 0 and "MACs are not counted: The cost of fbank" in out
    assert "attention heads" in out and "none" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hubert_bse",), "Unknown upstream 'hubert_bse'. Did you mean hubert_base"),
        (("hubert_bse",), "data2vec_audio_large, distilhubert, fbank"),  # once, shape and family
        (("hubert_base@a_small",), "hubert_base has no subnets"),
        (("lighthubert_small@a_smll",), "a_small"),
        (("lighthubert_base@macs<=1G",), "the smallest subnet"),
        (("hf:no/such/folder",), "no/such/folder"),
        (("hubert_tiny", "--measure", "--device", "tpu"), "Device 'tpu' is not known"),
        (("hubert_tiny", "--device", "cuda"), "add --measure"),
    ],
)
def test_refusals(run: Any, words: tuple[str, ...], message: str) -> None:
    status, out, err = run("describe", *words)
    assert status == 2 and message in err and out == ""
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_measured_in_a_process_of_its_own(run: Any) -> None:
    status, out, err = run("describe", "log_mel", "--measure", "--json")
    found = json.loads(out)["measured"]
    assert status == 0 and "Encoding noise of 4 lengths on cpu" in err
    assert set(found) == {
        *("device", "processor", "threads", "runs", "timings"),
        *("weight_bytes", "peak_bytes", "real_time_factor"),
    }
    assert found["device"] == "cpu" and found["real_time_factor"] > 0 and found["runs"] >= 5
    assert len(found["timings"]) == 4
    assert set(found["timings"][0]) == {"samples", "audio_seconds", "median", "least", "most"}
    assert "One utterance at a time on" in err and found["processor"] in err


@pytest.mark.parametrize(
    ("peak", "says"),
    [
        (700_000_000, "Peak memory: 700.0 MB while encoding 20.38 s, 4.0 MB of weights among it."),
        (None, "Peak memory: not measured, which needs Linux or a GPU; 4.0 MB of weights."),
    ],
)
def test_measured_for_readers(
    run: Any, peak: int | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = (Timing(16_000, 1.0, 0.5, 0.4, 0.7), Timing(326_000, 20.375, 4.5, 4.4, 4.6))
    found = Measurement("cpu", "Abacus 9", 2, 5, timings, weight_bytes=4_000_000, peak_bytes=peak)
    monkeypatch.setattr("auscult.studies.description._measure_apart", lambda name, device: found)
    _, out, _ = run("describe", "hubert_tiny", "--measure")
    for text in ("Abacus 9, 2 threads", "0.500 (0.400 to 0.700)", "0.5000", "21.38 s", "0.2339"):
        assert text in out, text
    assert says in out


def test_a_process_that_is_killed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(1)

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            raise BrokenProcessPool

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Killed)
    status, _, err = run("describe", "hubert_tiny", "--measure")
    assert status == 2 and "most likely for want of memory" in err
