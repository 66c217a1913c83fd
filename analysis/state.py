"""Sums of unfinished work on disk, so that a killed measurement goes on where it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.whole_file import whole_file


def write_state(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays to one file, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return what :func:`write_state` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
