"""The precision that an encoder computes in; what it gives is float32 whichever is chosen.

Below float32, matrix products and convolutions take rounded inputs and torch's autocast decides
what else does: no encoder has to know, and its weights stay as they are.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal, cast

import torch

from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.upstream import Upstream

Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS = ("float32", "bfloat16", "float16")
_NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # on x86, on Arm


def check_precision(name: str, device: str) -> Precision:
    """Return the precision called ``name``; warn where ``device`` computes in it slowly.

    Raises:
        UserError: No such precision, or float16 without a GPU.
    """
    if name not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    if name == "float16" and not device.startswith("cuda"):
        raise UserError(
            f"--precision float16 is for GPUs, and this runs on {device}; "
            "choose bfloat16 or float32 (--dtype float16 only stores in it)."
        )
    if name == "bfloat16" and device == "cpu" and not computes_bfloat16():
        logger.warning(
            "This CPU has no instructions for bfloat16 (AVX-512 BF16, AMX or Arm's BF16): "
            "--precision bfloat16 is many times slower here than float32."
        )
    return cast(Precision, name)


def computes_bfloat16() -> bool:
    """Say whether this CPU multiplies bfloat16 numbers in hardware."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _NATIVE)


def precision_of(upstream: Upstream, wanted: Precision) -> Precision:
    """Return what ``upstream`` computes in when ``wanted``.

    Float32 without weights, and where the encoder does not let itself be rounded.
    """
    has_weights = any(True for _ in upstream.parameters())
    if has_weights and not upstream.autocast and wanted != "float32":
        _note_float32(upstream.spec.name, wanted)
    return wanted if has_weights and upstream.autocast else "float32"


@cache
def _note_float32(name: str, wanted: Precision) -> None:
    """Say it once for each encoder, which is asked about again at every pass."""
    logger.info(
        f"{name} computes in float32, not in {wanted}: it makes its own features of the audio, "
        "which must not be rounded."
    )


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute in ``precision`` on ``device``; weights are rounded once inside the block."""
    if precision == "float32":
        return nullcontext()
    scope: AbstractContextManager[object] = torch.autocast(
        device.type, dtype=getattr(torch, precision)
    )
    return scope
