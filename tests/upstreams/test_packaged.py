"""The encoders that come with Auscult: small, documented, and held to the contract as all are."""

import logging
from pathlib import Path

import pytest
import torch

import auscult
from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError
from auscult.testing import run_checks
from auscult.upstreams import FAMILIES
from auscult.upstreams.packaged import WEIGHTS

TINY = [family.name for family in FAMILIES.values() if family.ships]


def test_all_of_them_together_are_small() -> None:
    assert sorted(path.name for path in WEIGHTS.iterdir()) == sorted(TINY)
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 8_000_000


@pytest.mark.parametrize("name", TINY)
def test_each_keeps_the_contract(name: str) -> None:
    upstream = auscult.load(name)
    assert (upstream.spec.name, upstream.spec.source) == (name, f"auscult, {name}")
    assert [f"{f.check}: {f.why}" for f in run_checks(upstream) if not f.passed] == []


@pytest.mark.parametrize("name", TINY)
def test_each_is_read_without_a_note(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="auscult"):
        auscult.load(name)
    assert caplog.text == ""


@pytest.mark.parametrize("name", TINY)
def test_each_has_a_twin_and_a_card(name: str) -> None:
    twin, other = (auscult.load(f"random({name}, seed={seed})") for seed in (1, 2))
    upstream = auscult.load(name)
    assert len({spec.sha256 for spec in (twin.spec, other.spec, upstream.spec)}) == 3
    assert twin.spec.num_parameters == upstream.spec.num_parameters
    card = (WEIGHTS / name / "README.md").read_text()
    for part in ("CC BY 4.0", "make tiny-encoders", "total_steps=", f"| {name}", "timit-sample"):
        assert part in card, part
    assert "/work" not in card and str(Path.home()) not in card


@pytest.mark.parametrize("name", TINY)
def test_weights_are_float16_without_a_pickle(name: str) -> None:
    (file,) = (WEIGHTS / name).glob("*.safetensors")
    states = read_checkpoint(file)
    tensors = [x for x in states.values() if isinstance(x, torch.Tensor)]
    for part in states.values():
        if isinstance(part, dict):
            tensors.extend(x for x in part.values() if isinstance(x, torch.Tensor))
    assert tensors
    assert {x.dtype for x in tensors if x.is_floating_point()} == {torch.float16}


def test_subnets_of_the_tiny_supernet() -> None:
    smallest = auscult.load("tiny_lighthubert@smallest").spec.num_parameters
    assert smallest < auscult.load("tiny_lighthubert@largest").spec.num_parameters
    with pytest.raises(UserError, match="embed_dim is 100"):
        auscult.load("tiny_lighthubert@embed=100,depth=4,heads=4,ffn=3")


def test_mistakes_are_said() -> None:
    with pytest.raises(UserError, match="has its own weights"):
        auscult.load("tiny_hubert:/models/x")
    with pytest.raises(UserError, match="no subnets"):
        auscult.load("tiny_hubert@smallest")
