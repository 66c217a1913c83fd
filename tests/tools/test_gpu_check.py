"""The check of a GPU, on the CPU: all of its parts, and what it does when one of them fails."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auscult.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FAKE = """
import os, subprocess, time
from gpu.part import Check

def pass_(setting):
    (setting.folder / "written").touch()
    yield Check("fine", 1.0, 0.5, 2.0)
    yield Check("measured", 7.0)

def err(setting):
    yield Check("fine", 1.0, high=2.0)
    raise RuntimeError("CUDA error: device-side assert triggered")

def hang(setting):
    yield Check("process", float(os.getpid()))
    time.sleep(100)

def start(setting):
    started = subprocess.Popen(["sleep", "100"], start_new_session=True)
    yield Check("process", float(started.pid))
    time.sleep(100)

def die(setting):
    os._exit(7)
    yield

def exceed(setting):
    yield Check("much", 3.0, high=2.0)
    yield Check("nothing")

def who(setting):
    yield Check("process", float(os.getpid()))
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that imports what stands in ``tools``, and a module of fake parts."""
    (tmp_path / "fake_parts.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the script puts itself there
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def load(name: str) -> ModuleType:
        __import__(name)
        return sys.modules[name]

    return load


@pytest.fixture
def check(
    tools: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, dict[str, Any]]]]:
    """Return a function that runs the check with fake parts of a few seconds."""
    script, part = tools("gpu_check"), tools("gpu.part").Part
    slow = ("hang", "start")

    def run(out: Path, *names: str, seconds: float = 60.0) -> tuple[int, dict[str, Any]]:
        parts = [
            part(name=n, work=f"fake_parts:{n}", seconds=seconds if n in slow else 60, what=n)
            for n in names
        ]
        monkeypatch.setattr(script, "PARTS", parts)
        monkeypatch.setattr(script, "PATIENCE", 1)
        monkeypatch.setattr(sys, "argv", ["gpu_check", "--dry", "--out", str(out)])
        return script.main(), json.loads(out.read_text())

    yield run


@pytest.mark.parametrize(
    ("value", "low", "high", "passed"),
    [
        (1.0, None, None, True),
        (1.0, 1.0, 1.0, True),
        (1.0, None, 0.9, False),
        (1.0, 1.1, None, False),
        (math.nan, None, None, False),
        (math.inf, None, None, False),
        (None, None, None, False),
    ],
)
def test_a_number_must_lie_within_its_limits(
    value: Any, low: Any, high: Any, passed: bool, tools: Callable[[str], Any]
) -> None:
    found = tools("gpu.part").Check("x", value, low, high)
    assert found.passed == passed
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["passed"] == passed


def test_what_fails_does_not_stop_the_rest(
    check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "gpu.json"
    status, found = check(out, "err", "die", "hang", "exceed", "pass_", seconds=5)
    assert status == 1 and not found["passed"]
    parts = found["parts"]
    assert [name for name, part in parts.items() if part["passed"]] == ["pass_"]
    assert "device-side assert" in parts["err"]["error"]
    assert [one["name"] for one in parts["err"]["checks"]] == ["fine"]  # what came before stays
    assert "died with status 7" in parts["die"]["error"]
    assert "more than 5 s" in parts["hang"]["error"] and len(parts["hang"]["checks"]) == 1
    assert [one["passed"] for one in parts["exceed"]["checks"]] == [False, False]
    assert [one["value"] for one in parts["pass_"]["checks"]] == [1.0, 7.0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(parts["hang"]["checks"][0]["value"]), 0)
    said = capsys.readouterr().out
    assert "FAILED in exceed: much: 3, to 2" in said and "measured in pass_: measured: 7" in said
    assert "RuntimeError: CUDA error" in said and str(out) in said


def _is_gone(process: float) -> bool:
    """Say whether a process has ended; one that nobody has asked about yet is a zombie."""
    try:
        return "Z" in Path(f"/proc/{process:.0f}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True


def test_what_a_part_has_started_ends_with_it(check: Any, tmp_path: Path) -> None:
    """It would hold the GPU, in a session of its own as torchrun's processes are."""
    _, found = check(tmp_path / "gpu.json", "start", seconds=5)
    part = found["parts"]["start"]
    assert "more than 5 s" in part["error"] and _is_gone(part["checks"][0]["value"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_what_was_found(
    number: signal.Signals, check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"

    def stop() -> None:
        while not (out.exists() and '"process"' in out.read_text()):
            time.sleep(0.1)
        os.kill(os.getpid(), number)

    Thread(target=stop, daemon=True).start()
    status, found = check(out, "pass_", "start", "who")
    parts = found["parts"]
    assert status == 1 and parts["pass_"]["passed"]
    assert parts["start"]["error"] == f"stopped by {number.name}"
    assert _is_gone(parts["start"]["checks"][0]["value"])
    assert parts["who"]["error"] == "it was not reached"
    said = capsys.readouterr().out
    assert f"FAILED in start: stopped by {number.name}" in said and str(out) in said


def test_a_disk_that_fills_takes_only_the_file(
    check: Any,
    tools: Callable[[str], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = tools("gpu_check")
    inner, calls = script._write, itertools.count()

    def write(*args: Any) -> None:
        if next(calls):
            raise UserError("the disk is full.")
        inner(*args)

    monkeypatch.setattr(script, "_write", write)
    status, _ = check(tmp_path / "gpu.json", "pass_", "exceed")
    said = capsys.readouterr().out
    assert status == 1 and "measured in pass_: measured: 7" in said
    assert "FAILED in exceed" in said and "The numbers are in no file: the disk is full." in said


def test_what_a_machine_lacks_is_said_at_once(
    check: Any, tools: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tools("gpu_check")
    monkeypatch.setattr(script, "_is_there", lambda name: name not in ("jiwer", "plotly"))
    with pytest.raises(SystemExit, match=r"lacks jiwer\. tools/gpu_carry\.py"):
        check(tmp_path / "gpu.json", "pass_")
    assert not (tmp_path / "gpu.json").exists()


def test_some_parts_do_not_take_the_place_of_all(tools: Callable[[str], Any]) -> None:
    place = tools("gpu_check")._place
    assert place("NVIDIA H100 80GB HBM3", ()).name == "gpu-nvidia-h100-80gb-hbm3.json"
    assert place("H200", ["heads", "probe"]).name == "gpu-h200-heads-probe.json"


def test_the_folder_that_it_is_run_from_is_not_imported_from(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the check's processes nor by those that torchrun starts."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(tmp_path)
    for path in ("", f"{ROOT}{os.pathsep}"):
        monkeypatch.setenv("PYTHONPATH", path)
        check(tmp_path / "gpu.json", "pass_")
        words = [sys.executable, "-m", "random"], [sys.executable, "-c", "import random"]
        for command in words:
            assert subprocess.run(command, env=os.environ, capture_output=True).returncode == 0


def test_what_passes_keeps_its_process(check: Any, tmp_path: Path) -> None:
    status, found = check(tmp_path / "gpu.json", "pass_", "who")
    assert status == 0 and found["passed"]
    assert not found["pretended"] and torch.__version__.startswith(found["libraries"]["torch"])


def test_numbers_are_on_the_disk_before_the_part_ends(
    check: Any, tools: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill of the check itself loses none of them."""
    script, out = tools("gpu_check"), tmp_path / "gpu.json"
    seen = []
    table = script._table

    def write(*args: Any) -> None:
        inner(*args)
        seen.append(
            sum(len(part["checks"]) for part in json.loads(out.read_text())["parts"].values())
        )

    inner = script._write
    monkeypatch.setattr(script, "_write", write)
    check(out, "pass_", "exceed")
    assert seen == [0, 1, 2, 2, 3, 4, 4] and script._table is table


def test_the_time_of_all_parts_together_is_kept(
    check: Any, tools: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tools("gpu_check")
    monkeypatch.setattr(script, "SECONDS", -1.0)
    found = script.Found()
    worker = tools("gpu.worker").Worker("cpu", dry=True, pretend=False)
    part = tools("gpu.part").Part(name="a", work="fake_parts:pass_", seconds=9, what="")
    script._run(part, found, worker, tmp_path, -1.0, lambda: None)
    assert not found.passed and "not begun" in found.error and not found.checks


def test_without_a_gpu_it_says_so(tools: Callable[[str], Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="finds no GPU here; --dry"):
        tools("gpu_check")._about("cuda", pretend=False)


def _run(*words: str, out: Path, path: Path = ROOT) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *words, "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.slow
def test_every_part_on_the_cpu(tools: Callable[[str], Any], tmp_path: Path) -> None:
    from auscult.downstreams import TASKS
    from auscult.upstreams import FAMILIES
    from auscult.upstreams.hub import SUPPORTED
    from auscult.upstreams.pretraining import PRETRAININGS

    for package in tools("gpu_carry").UNUSED:  # is not carried to a GPU, and must not be missed
        (tmp_path / f"{package}.py").write_text(f"raise ImportError({package!r})\n")
    parts = _run("--dry", out=tmp_path / "gpu.json", path=tmp_path)["parts"]
    assert set(parts) == {part.name for part in tools("gpu_check").PARTS}
    names = {name: [one["name"] for one in part["checks"]] for name, part in parts.items()}

    def there(part: str, wanted: Any) -> bool:
        return all(any(name.startswith(one) for name in names[part]) for one in wanted)

    assert there("parity", [f"hf {kind}" for kind in SUPPORTED])
    assert there("parity", set(FAMILIES) - {"hf", "s3prl"})
    assert there("heads", TASKS) and there("objectives", [*PRETRAININGS, "transducer"])
    assert there("resume", ["killed by SIGKILL", "killed and resumed"])
    assert there("torchrun", ["talks through cpu:gloo", "by torchrun and without"])
    assert len(names["memory"]) == 3 and len(names["extraction"]) == 2
    same = [one for name in ("resume", "torchrun") for one in parts[name]["checks"]]
    assert sum("equal to the last bit" == one["note"] for one in same) == 3  # on one CPU they are


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_part_on_the_gpu(tmp_path: Path) -> None:
    assert all(part["passed"] for part in _run(out=tmp_path / "gpu.json")["parts"].values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dry", "--parts", "everything"), "invalid choice: 'everything'"),
        (("--pretend", "--parts", "heads", "resume"), "resume starts processes"),
        (("--dry", "--out", "/proc/nowhere/gpu.json"), "gpu_check: "),
    ],
)
def test_mistakes_are_said_at_once(words: tuple[str, ...], said: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_part_mixes_devices(tmp_path: Path) -> None:
    found = _run("--pretend", out=tmp_path / "gpu.json")
    assert found["pretended"]
    assert set(found["parts"]) == {
        *("parity", "divergence", "probe", "heads", "objectives", "memory", "extraction")
    }


# --- the pretended GPU -----------------------------------------------------------------------


@pytest.fixture
def gpu(tools: Callable[[str], Any]) -> Iterator[Any]:
    module = tools("gpu.pretended")
    with module.pretended_gpu():
        yield module


def test_mixed_devices_fail_as_on_a_gpu(gpu: Any) -> None:
    there, here = torch.arange(3.0, device="cuda"), torch.arange(3.0)
    assert str(there.device) == "cuda:0" and there.is_cuda and torch.cuda.is_available()
    for mixed in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there.where(here > 1, 0.0),
        lambda: nn.functional.linear(there[None], here[None]),
        lambda: here[there.long()],
        lambda: here.index_add(0, there.long(), there),
        lambda: nn.Linear(3, 2).to("cuda")(here),
    ):
        with pytest.raises(RuntimeError, match=r"same device|indices should be|on the CPU"):
            mixed()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        np.asarray(there)


def test_what_a_gpu_allows_works(gpu: Any) -> None:
    there = torch.arange(6.0).to("cuda").view(2, 3)
    assert (there + torch.tensor(1.0)).cpu().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert there[torch.tensor([1])].tolist() == [[3, 4, 5]] and there[[0, 1], 1:].shape == (2, 2)
    assert float(there.sum()) == 15 and bool((there >= 0).all()) and int(there.max()) == 5
    assert there.new_zeros(2).is_cuda and torch.zeros_like(there).is_cuda
    there[0, 1] = 9.0
    assert there.T.transpose_(0, 1).shape == (2, 3) and there.cpu()[0, 1] == 9
    with torch.device("meta"):
        assert nn.Linear(3, 2).weight.is_meta


def test_a_module_trains_there(gpu: Any) -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    torch.manual_seed(0)
    there = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    weight = there[0].weight
    optimizers = [torch.optim.AdamW(module.parameters()) for module in (here, there)]
    there.to("cuda")
    assert there[0].weight is weight and weight.is_cuda
    x = torch.randn(5, 4)
    for module, optimizer, batch in zip((here, there), optimizers, (x, x.to("cuda")), strict=True):
        module(batch).square().mean().backward()
        optimizer.step()
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=0, atol=0)
    assert here.state_dict().keys() == there.state_dict().keys()
    there.load_state_dict(here.state_dict())
    assert next(there.parameters()).is_cuda


def _made(name: str) -> Any:
    """Return an objective, or what fine-tuning makes, with weights on the GPU."""
    from auscult.upstreams.packaged import WEIGHTS
    from auscult.upstreams.pretraining import find_pretraining
    from auscult.upstreams.w2v_bert.finetuning import Config, build

    if name == "transducer":
        return build(WEIGHTS / "tiny_w2v_bert", {"a": "go"}, [], Config(), 0).recognizer
    row = find_pretraining(name)
    needs = ("teacher=tiny_hubert",) if name in ("distilhubert", "lighthubert") else ()
    return row.build(row.configure("tiny", needs), 0)


@pytest.mark.parametrize(
    "name",
    [
        *("mockingjay", "audio_albert", "hubert", "distilhubert", "lighthubert", "w2v_bert"),
        "transducer",
    ],
)
def test_what_is_saved_loads_where_there_is_no_gpu(
    name: str, gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch writes the device into the file, and refuses to load it without one."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a tensor of the GPU is written")

    monkeypatch.setattr(gpu.OnGpu, "__reduce_ex__", refuse)
    made = _made(name)
    (made.transducer if name == "transducer" else made).to("cuda")
    (tmp_path / name).mkdir()
    made.save(tmp_path / name)
    assert list((tmp_path / name).iterdir())


def test_training_is_repeatable_there(
    gpu: Any, tools: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretraining and heads, in their steps and where they are asked."""
    from auscult.downstreams import TASKS
    from auscult.downstreams.training import HeadTraining
    from auscult.upstreams.hubert.pretraining import HubertObjective

    monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path))
    seen: dict[str, set[int]] = {}

    def watched(owner: type, name: str) -> None:
        inner = getattr(owner, name)

        def watch(*args: Any, **options: Any) -> Any:
            seen.setdefault(name, set()).add(torch.get_deterministic_debug_mode())
            return inner(*args, **options)

        monkeypatch.setattr(owner, name, watch)

    watched(HubertObjective, "compare")
    watched(HeadTraining, "_features")
    corpus = tools("gpu.speech").write_tones(tmp_path / "tones", 8)
    training, score = tools("gpu.training"), tools("gpu.score")
    training.train(*training.build("hubert", ("total_steps=1",)), corpus, tmp_path / "m", "cuda")
    score._score(TASKS["keyword_spotting"], corpus, "cuda", 2, tmp_path, "head")
    assert seen == {"compare": {1}, "_features": {1}}
    assert torch.get_deterministic_debug_mode() == 0


def test_encoders_of_s3prl_begin_on_the_cpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some put themselves on a GPU where they see one."""
    from auscult import bridge

    bridge.repair()
    from s3prl import hub

    monkeypatch.setattr(hub, "fbank", lambda **_: nn.Linear(2, 2).to("cuda"))
    monkeypatch.setattr(bridge, "hub_names", lambda: ["fbank"])
    assert str(bridge.build_s3prl_upstream("fbank").weight.device) == "cpu"


def test_extracted_layers_are_on_the_cpu(
    gpu: Any, tools: Callable[[str], Any], tmp_path: Path
) -> None:
    import auscult
    from auscult.extraction import encode

    cuts = tools("gpu.speed")._write_noise(tmp_path / "noise", 2, 0.5)
    encoder = auscult.load("random(hubert_tiny)").to("cuda")
    rows = list(encode(encoder, cuts, show=False))
    assert {str(layer.device) for row in rows for layer in row.layers} == {"cpu"}
    assert len(rows) == 2 and encoder.device.type == "cuda"
