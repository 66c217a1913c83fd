"""The process that computes, which a fault on the GPU or a part without end cannot take along.

An error on a GPU spoils whatever its process does there afterwards, so a process is used until a
part fails in it.
"""

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .part import Check, Part, Setting, last_lines


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
        end = self._end or self._start()
        try:
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
        except (EOFError, OSError):
            self._process.join()
            raise Failed(f"its process died with status {self._process.exitcode}") from None
        finally:
            if spoilt:
                self.close()

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._end = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._end, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._pretend), daemon=True)
        self._process.start()
        other.close()
        return self._end


def _serve(end: Connection, pretend: bool) -> None:
    """Run the parts that come, and send what they find; None after each, or how it failed."""
    if not pretend:
        return _answer(end)
    from .pretended import pretended_gpu

    with pretended_gpu():
        _answer(end)


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
