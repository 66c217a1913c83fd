"""Weights from a file into a module, by name, each of them and nothing else; and to a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auscult.errors import UserError
from auscult.whole_file import whole_file

MAX_PARAMETERS = 2_500_000_000  # the largest published speech encoder has 2.2e9
_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # others have scales
_WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
MOST_PER_BYTE = 4  # parameters for each byte of the file that they are said to be in


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
            if name in tensors and not fits(tensors[name], wanted[name])
        ],
    }
    for fault, found in faults.items():
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{holder} {fault} {found[0]!s:.200}{more}.")
    copies = {
        name: tensors[name].to(tensor.dtype, copy=True, memory_format=torch.contiguous_format)
        for name, tensor in wanted.items()
    }
    module.load_state_dict(copies, assign=True)


def check_size(holder: object, module: nn.Module, stored: int) -> None:
    """Refuse a module that is larger than what it is said to stand in, or than any published.

    Args:
        holder: The file or folder, for messages.
        module: On the meta device.
        stored: Bytes of the file with its weights; 0 where there is none.

    Raises:
        UserError: Too large.
    """
    most = min(MAX_PARAMETERS, MOST_PER_BYTE * stored) if stored else MAX_PARAMETERS
    count = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    if count > most:
        raise UserError(
            f"{holder} describes an encoder of {count:,} parameters; expected {most:,} at most"
            f"{f' beside weights of {stored:,} bytes' if stored else ''}."
        )


def write_weights(weights: Mapping[str, Tensor], path: Path) -> Path:
    """Write weights as transformers reads them, whole or not at all; return the file.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    with whole_file(path) as temporary:
        # by what umask says, while save_file would keep it from all others
        temporary.write_bytes(save(tensors, {"format": "pt"}))
    return path


def plain_names(stored: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return weights without what stands before each name, positional convolutions as in torch 2.

    Where some names begin with ``prefix``, the others are kept, unless one is then the same. How
    many batches a batch norm has seen changes no number, and need not stand there.
    """
    found = {name: x for name, x in stored.items() if not name.startswith(prefix)}
    found |= {n.removeprefix(prefix): x for n, x in stored.items() if n.startswith(prefix)}
    plain = {_renamed(name): tensor for name, tensor in found.items()}
    for name in [name for name in plain if name.endswith(".running_mean")]:
        counter = f"{name.removesuffix('running_mean')}num_batches_tracked"
        if counter not in plain or plain[counter].is_floating_point():  # by a cast of all tensors
            plain[counter] = torch.tensor(0)
    return plain


def _renamed(name: str) -> str:
    for old, new in _WEIGHT_NORM.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def fits(found: object, wanted: Tensor) -> bool:
    """Say whether ``found`` is a tensor of this shape, in any real precision where that is one."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    return found.dtype == wanted.dtype or {found.dtype, wanted.dtype} <= _REAL


def _kind(found: object) -> str:
    """Return such as ``float32 (768, 80)`` for a tensor; the type's name for anything else."""
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
