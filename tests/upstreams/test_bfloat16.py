"""Encoders compute in bfloat16, alone and in padded batches, on inputs that are not rounded."""

from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import Waveforms
from auscult.precision import computing_in
from auscult.upstream import Upstream


@pytest.mark.parametrize("padding", ["group", "mask"])
def test_architectures_in_bfloat16(tiny: Any, padding: Any) -> None:
    upstream: Any = auscult.load(f"hf:{tiny.folder}")
    upstream.padding = padding
    generator = torch.Generator().manual_seed(1)
    audio = Waveforms.of([0.1 * torch.randn(n, generator=generator) for n in (5123, 3200)])
    with torch.inference_mode():
        exact = upstream(audio)
        with computing_in("bfloat16", torch.device("cpu")):
            rounded = upstream(audio)
    for one, other in zip(exact.layers, rounded.layers, strict=True):
        for row, frames in enumerate(exact.lengths.tolist()):
            assert _distance(other[row, :frames], one[row, :frames]) < 0.1


OWN = ("w2v_bert_tiny", "mockingjay_s3prl_3l", "audio_albert_3l", "lighthubert_small@smallest")


@pytest.mark.parametrize("shape", OWN)
def test_what_own_encoders_read_is_not_rounded(shape: str) -> None:
    assert_full_inputs(auscult.load(f"random({shape})"))


def test_what_architectures_read_is_not_rounded(tiny: Any) -> None:
    assert_full_inputs(auscult.load(f"hf:{tiny.folder}"))


def assert_full_inputs(upstream: Upstream) -> None:
    """A log-mel of eight bits would be another one: the first module gets all digits."""
    read: list[Tensor] = []
    for module in list(upstream.modules())[1:]:
        module.register_forward_pre_hook(lambda _, args: read.extend(args[:1]))
    audio = Waveforms.of([0.1 * torch.randn(5123, generator=torch.Generator().manual_seed(1))])
    with torch.no_grad():
        upstream(audio)
        exact = read[0]
        read.clear()
        with computing_in("bfloat16", torch.device("cpu")):
            upstream(audio)
    assert read[0].dtype == torch.float32 and torch.equal(read[0], exact)


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())
