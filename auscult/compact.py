"""Nested checkpoints in one safetensors file: tensors by their path, the rest as its metadata.

What ``torch.save`` keeps in nested dicts can so be shipped without a pickle, and in half the size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.errors import UserError
from auscult.whole_file import whole_file

KEY = "auscult_checkpoint"  # of the metadata; without it a file holds named tensors alone
_SEPARATOR = "/"


def write_compact(states: Mapping[str, Any], path: Path) -> None:
    """Write nested dicts of tensors and plain data; real numbers in tensors become float16.

    Raises:
        UserError: A tensor holds numbers that float16 cannot.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    rest = _without_tensors(states, (), tensors)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name} holds numbers beyond float16's, 65,504 at most.")
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(rest)})


def nested(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what was given to `write_compact`, from what a safetensors file holds.

    Raises:
        ValueError: The metadata is damaged.
    """
    states: dict[str, Any] = json.loads(metadata[KEY])
    if not isinstance(states, dict):
        raise ValueError("the metadata is no table")
    for path, tensor in tensors.items():
        place = states
        *folders, name = path.split(_SEPARATOR)
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise ValueError(f"{folder} is no table")
        place[name] = tensor
    return states


def _without_tensors(
    states: Mapping[str, Any], path: tuple[str, ...], tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """Move the tensors of ``states`` to ``tensors``; return the rest."""
    rest: dict[str, Any] = {}
    for name, value in states.items():
        here = (*path, str(name))
        if isinstance(value, Tensor):
            kept = value.detach().cpu()
            tensors[_SEPARATOR.join(here)] = (
                kept.half() if kept.is_floating_point() else kept
            ).contiguous()
        elif isinstance(value, Mapping):
            rest[str(name)] = _without_tensors(value, here, tensors)
        else:
            rest[str(name)] = value
    return rest
