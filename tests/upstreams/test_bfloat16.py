"""Every architecture that hf reads computes in bfloat16, alone and in padded batches."""

from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import Waveforms
from auscult.precision import computing_in


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


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())
