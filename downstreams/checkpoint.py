"""Checkpoints that survive a kill: written whole or not at all, and read back with care.

They have the fields of s3prl's runner (``Optimizer``, ``Step``, ``Epoch``, ``Args``, ``Config``,
``Featurizer``, ``Downstream``, ``WorldSize``, and ``Upstream`` where it is trained too), so that
s3prl reads them too, and those that it lacks: ``Batch``, ``Random`` (of each process), ``Best``,
``Curve``, ``Losses`` and ``Scaler``.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auscult import bridge
from auscult.snapshot import newest_snapshot, write_snapshot


def write_checkpoint(states: Mapping[str, Any], folder: Path, step: int) -> Path:
    """Write ``states-STEP.ckpt`` to ``folder``, whole or not at all, in the place of older ones."""
    return write_snapshot(states, folder, step)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that can be read; unreadable ones are named in a warning."""
    bridge.repair()  # lets torch.load accept the argparse.Namespace in Args
    found = newest_snapshot(folder)
    return None if found is None else found[0]


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed the generators of Python, numpy and torch; each rank's are others."""
    if rank > 0:
        seed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of the generators of Python, numpy and torch as plain data and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the generators as they were found."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
