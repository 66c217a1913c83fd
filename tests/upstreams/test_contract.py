"""Every family, architecture and padding mode keeps the contract of auscult.testing."""

from collections.abc import Mapping
from typing import Any

import pytest

import auscult
from auscult.testing import run_checks, upstream_checks
from auscult.upstream import Upstream
from auscult.upstreams import FAMILIES, SHAPES, load_upstream
from auscult.upstreams.hub import SUPPORTED
from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream

SPECTRAL = ("fbank", "mfcc", "log_mel")


def assert_contract(upstream: Upstream, may_skip: int) -> None:
    findings = list(run_checks(upstream))
    assert [f"{f.check}: {f.why}" for f in findings if not f.passed] == []
    assert len(findings) == len(list(upstream_checks())) >= 10
    assert sum(bool(finding.why) for finding in findings) == may_skip


@pytest.mark.parametrize("spec", SPECTRAL)
def test_spectral_baselines(spec: str) -> None:
    assert_contract(auscult.load(spec), may_skip=3)  # no attention, twice, and no gradients


@pytest.mark.parametrize("padding", ["group", "mask"])
def test_architectures(tiny: Any, padding: Any) -> None:
    upstream = auscult.load(f"hf:{tiny.folder}")
    assert isinstance(upstream, HuggingFaceUpstream)
    upstream.padding = padding
    assert_contract(upstream, may_skip=0)


@pytest.mark.parametrize("padding", ["group", "mask"])
def test_shapes(padding: Any) -> None:
    upstream = load_upstream("random(hubert_tiny)")
    assert isinstance(upstream, HuggingFaceUpstream)
    upstream.padding = padding
    assert_contract(upstream, may_skip=0)


def test_nothing_is_left_out(architectures: Mapping[str, Any]) -> None:
    assert len(architectures) >= 14
    assert {found.model_type for found in architectures.values()} == set(SUPPORTED)
    hf = [s for s in SHAPES.values() if s.target.endswith("huggingface.upstream:load_shape")]
    assert len(hf) >= 14 and {shape.family for shape in hf} <= set(SUPPORTED)
    elsewhere = {"s3prl", "lighthubert", "mockingjay", "audio_albert", "w2v_bert"}
    converted = {"hubert", "wav2vec2", "wavlm", "distilhubert"}  # test_fairseq_files, test_bare
    tiny = {family.name for family in FAMILIES.values() if family.ships}
    # each in its own test file
    assert set(FAMILIES) == {*SPECTRAL, "hf", *elsewhere, *converted, *tiny}
