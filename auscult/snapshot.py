"""Training states on disk: written whole or not at all, the newest readable one found again."""

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from auscult.progress import logger
from auscult.whole_file import whole_file


def write_snapshot(states: Mapping[str, Any], folder: Path, step: int, keep: int = 1) -> Path:
    """Write ``states-STEP.ckpt`` to ``folder``, then remove all but the ``keep`` newest.

    The file appears under its name when all of it is on the disk.
    """
    path = folder / f"states-{step}.ckpt"
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(states), file)
        file.flush()
        os.fsync(file.fileno())
    for old in _by_step(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def newest_snapshot(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest file that can be read, with its states; the others are warned about."""
    for path in reversed(_by_step(folder)):
        try:
            states: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
            logger.warning(f"{path} cannot be read and is passed over: {reason}")
        else:
            return path, states
    return None


def _by_step(folder: Path) -> list[Path]:
    """Return the checkpoints of ``folder``, oldest first."""
    found = {path: re.fullmatch(r"states-(\d+)\.ckpt", path.name) for path in folder.glob("*.ckpt")}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=lambda path: steps[path])
