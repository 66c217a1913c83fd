"""Sums of unfinished work on disk, so that a killed measurement goes on where it was."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_state(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays to one file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, path)


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return what :func:`write_state` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
