"""The process that computes, which a fault on the GPU or a part without end cannot take along.

An error on a GPU spoils whatever its process does there afterwards, so a process is used until a
part fails in it.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from .part import Check, Part, Setting, last_lines

WAIT = 10.0  # seconds for a process that was killed; what a driver holds may never end


class Failed(Exception):
    """A part ended before its end; the message says how."""


class Worker:
    """Runs one part after the other, in a process that is replaced when a part fails."""

    def __init__(self, device: str, *, dry: bool, pretend: bool) -> None:
        self._device, self._dry, self._pretend = device, dry, pretend
        self._process: Any = None
        self._end: Connection | None = None

    def run(self, part: Part, folder: Path, seconds: float) -> Iterator[Check]:
        """Yield what a part finds, each as it comes.

        Raises:
            Failed: An error in the part, its process has died, or it took more than ``seconds``.
        """
        until = time.monotonic() + seconds
        spoilt = True  # but where it comes to its end without a fault
        try:
            end = self._end or self._start()
            end.send((part, Setting(self._device, self._dry, folder, self._pretend)))
            failed = False
            while True:
                if not end.poll(max(until - time.monotonic(), 0)):
                    raise Failed(f"it took more than {seconds:.0f} s and was stopped")
                said = end.recv()
                if said is None:
                    break
                if isinstance(said, str):
                    raise Failed(said)
                failed = failed or not said.passed
                yield said
            spoilt = failed
        except (EOFError, OSError) as error:
            if self._process is None:
                raise Failed(f"no process can be started for it: {error}") from None
            self._process.join(WAIT)
            raise Failed(f"its process died with status {self._process.exitcode}") from None
        finally:
            if spoilt:
                self.close()

    def close(self) -> None:
        """End the process, whatever it does, and what it has started."""
        if self._process is not None:
            with suppress(ImportError):
                _kill_started(self._process.pid)
            self._process.kill()
            self._process.join(WAIT)
        self._process = self._end = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        end, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self._pretend), daemon=True)
        process.start()
        self._process, self._end = process, end
        other.close()
        return end


def _kill_started(process: int) -> None:
    """Kill the processes below one, those in sessions of their own too."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process).children(recursive=True):
            one.kill()


def _serve(end: Connection, pretend: bool) -> None:
    """Run the parts that come, and send what they find; None after each, or how it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the check is asked, and ends this process
    Thread(target=_end_with_parent, daemon=True).start()
    if not pretend:
        return _answer(end)
    from .pretended import pretended_gpu

    with pretended_gpu():
        _answer(end)


def _end_with_parent() -> None:
    """Wait for the end of the check; where it is killed, it can tell nobody."""
    if parent := multiprocessing.parent_process():
        parent.join()
        with suppress(ImportError):
            _kill_started(os.getpid())
        os._exit(1)


def _answer(end: Connection) -> None:
    while True:
        try:
            part, setting = end.recv()
        except EOFError:
            return
        try:
            for check in part.run(setting):
                end.send(check)
            end.send(None)
        except Exception as error:
            end.send(last_lines(error))
