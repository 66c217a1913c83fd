"""A training in a process of its own, which can be killed and which torchrun can start.

``python -m gpu.child CORPUS FOLDER DEVICE [STEP]``: at STEP it kills itself.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from torch import distributed

import auscult
from auscult.process import Processes
from auscult.upstreams.w2v_bert.pretraining import W2vBertObjective

from .part import Setting

SECONDS = 70.0  # that a child may take


def start(
    setting: Setting, name: str, killed_at: int | None = None, launcher: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Train into the folder ``name``, perhaps until a kill; a ``launcher`` starts the process."""
    words = [*launcher, "-m", f"{__package__}.child", str(setting.folder / "tones")]
    words += [str(setting.folder / name), setting.device]
    words += [] if killed_at is None else [str(killed_at)]
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what torchrun has started too
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, errors)


def main(corpus: str, folder: str, device: str, killed_at: str = "") -> None:
    """Train, and print what the processes talk through."""
    from .training import train_loop

    processes = Processes.of_environment()
    place = processes.device(device)

    def stop(objective: W2vBertObjective, step: int, total_steps: int) -> None:
        before(objective, step, total_steps)
        if step == int(killed_at or -1):
            os.kill(os.getpid(), signal.SIGKILL)

    before = W2vBertObjective.before_step
    with mock.patch.object(W2vBertObjective, "before_step", stop), processes.joined(place):
        train_loop(auscult.corpus(f"tsv:{corpus}"), Path(folder), place, processes)
        if distributed.is_initialized():
            print(distributed.get_backend_config())


if __name__ == "__main__":
    main(*sys.argv[1:])
