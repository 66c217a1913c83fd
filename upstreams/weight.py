"""Weights from a file into a module: by name, each of them, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auscult.errors import UserError


def fill(
    holder: Path | str,
    module: nn.Module,
    tensors: Mapping[str, Any],
    left_over: frozenset[str] = frozenset(),
) -> None:
    """Give a module, which may stand on the meta device, copies of weights in its own types.

    Args:
        holder: The file, or how messages about it begin, which go on with "lacks" or "holds".
        module: What the weights are for, and all that it stores.
        tensors: What the file holds, by the module's names.
        left_over: Names that may be in the file beside the weights.

    Raises:
        UserError: A weight that is missing, not expected, of another shape or of numbers that
            cannot become those of the module.
    """
    wanted = module.state_dict()
    faults = {
        "lacks": [name for name in wanted if name not in tensors],
        "holds, unexpectedly,": [n for n in tensors if n not in wanted and n not in left_over],
        "holds": [
            f"{name} as {_kind(tensors[name])}, expected {_kind(wanted[name])}"
            for name in wanted
            if name in tensors and not _fits(tensors[name], wanted[name])
        ],
    }
    for fault, found in faults.items():
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{holder} {fault} {found[0]}{more}.")
    copies = {
        name: tensors[name].to(tensor.dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in wanted.items()
    }
    module.load_state_dict(copies, assign=True)


def _fits(found: object, wanted: Tensor) -> bool:
    """Say whether ``found`` is a tensor of this shape, in any real precision where that is one."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    return found.dtype == wanted.dtype or (found.is_floating_point() and wanted.is_floating_point())


def _kind(found: object) -> str:
    """Return such as ``float32 (768, 80)`` for a tensor; the type's name for anything else."""
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
