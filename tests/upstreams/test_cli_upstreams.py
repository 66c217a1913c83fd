"""`auscult upstreams` lists what there is; `auscult check` says pass, fail and why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import auscult
from auscult.cli.app import app
from auscult.contracts import HiddenStates, Waveforms
from auscult.testing import upstream_checks
from auscult.upstreams import FAMILIES, SHAPES


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_list() -> None:
    said = run("upstreams")
    assert said.exit_code == 0
    for name in (*FAMILIES, *SHAPES):
        assert name in said.stdout
    assert "94,371,712" in said.stdout


def test_list_as_json() -> None:
    found = json.loads(run("upstreams", "--json", "--quiet").stdout)
    assert [family["name"] for family in found["families"]] == list(FAMILIES)
    assert {shape["spec"] for shape in found["shapes"]} == {f"random({name})" for name in SHAPES}
    assert all(family["example"] for family in found["families"])


def test_check_passes() -> None:
    said = run("check", "random(hubert_tiny)", "--json", "--quiet")
    assert said.exit_code == 0
    found = json.loads(said.stdout)
    assert len(found["checks"]) == len(list(upstream_checks()))
    assert all(check["passed"] for check in found["checks"])
    assert found["upstream"]["name"] == "random(hubert_tiny)"


def test_check_says_what_does_not_apply() -> None:
    said = run("check", "log_mel")
    assert said.exit_code == 0
    assert "does not apply" in said.stdout and "no attention" in said.stdout


def test_check_of_a_broken_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = auscult.load("log_mel")
    sound = encoder.forward

    def sees_neighbours(audio: Waveforms) -> HiddenStates:
        states = sound(audio)
        return HiddenStates(tuple(x - x.mean() for x in states.layers), states.lengths)

    monkeypatch.setattr(encoder, "forward", sees_neighbours)
    monkeypatch.setattr(auscult, "load", lambda spec: encoder)
    said = run("check", "mine", "--json", "--quiet")
    assert said.exit_code == 1
    failed = {c["check"]: c["why"] for c in json.loads(said.stdout)["checks"] if not c["passed"]}
    assert set(failed) == {"row_independence"}
    assert "alone, differs by" in failed["row_independence"]
    assert "FAIL" in run("check", "mine").stdout


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_check_on_a_device_that_is_not_there(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = run("check", "fbank", "--device", device)
    assert said.exit_code != 0 and "Device" in str(said.exception)


def test_check_of_a_checkpoint(hubert_folder: Path) -> None:
    said: Any = run("check", f"hf:{hubert_folder}", "--json", "--quiet")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["upstream"]["source"] == str(hubert_folder)
