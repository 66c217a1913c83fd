"""Training states on disk: written whole or not at all, the newest undamaged one found again."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from auscult.kept import is_sealed, is_whole, seal
from auscult.progress import logger
from auscult.whole_file import whole_file, writing

SUFFIX = ".ckpt"


def write_snapshot(states: Mapping[str, Any], folder: Path, step: int, keep: int = 1) -> Path:
    """Write ``states-STEP.ckpt`` to ``folder``, then remove all but the ``keep`` newest.

    The file appears under its name when all of it is on the disk, closed by a hash of its content.

    Raises:
        UserError: The disk is full, or the folder cannot be written; older files stay.
    """
    path = folder / f"states-{step}{SUFFIX}"
    with whole_file(path) as temporary:
        _save(states, temporary)
        seal(temporary)
    with writing(path):
        for old in snapshots(folder)[:-keep]:
            old.unlink(missing_ok=True)
    return path


def write_archive(content: Mapping[str, Any], path: Path) -> None:
    """Write what ``torch.load`` reads, whole or not at all; equal content gives equal bytes.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        _save(content, temporary)


def newest_snapshot(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest file that is whole, with its states.

    Damaged ones are warned about and removed; those of older versions, which have no hash, are
    passed over where they cannot be read.
    """
    for path in reversed(snapshots(folder)):
        try:
            if is_sealed(path) and not is_whole(path):
                continue
            states: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
            logger.warning(f"{path} cannot be read and is passed over: {reason}")
        else:
            return path, states
    return None


def remove_snapshots(*folders: Path) -> None:
    """Remove all checkpoints of ``folders``: what they were made of is not what it should be."""
    for folder in folders:
        for path in snapshots(folder):
            path.unlink(missing_ok=True)


def _save(content: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # an open file, for torch would put the path's name into it
        torch.save(dict(content), file)


def snapshots(folder: Path) -> list[Path]:
    """Return the checkpoints of ``folder``, oldest first."""
    found = {
        path: re.fullmatch(r"states-(\d+)\.ckpt", path.name) for path in folder.glob(f"*{SUFFIX}")
    }
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=lambda path: steps[path])
