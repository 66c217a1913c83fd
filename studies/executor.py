"""Who carries items out: this process, or several on this machine.

A worker loads its own encoder. One item that fails does not stop the others.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from threading import Thread
from typing import Protocol

import torch

from auscult.errors import UserError
from auscult.progress import logger, progress

from .bench import Bench
from .desk import Desk
from .item import Failure, Item, Outcome
from .work import carry_out

Ended = tuple[Item, Outcome | Failure]
Map = Callable[[Sequence[Item]], Iterator[Ended]]


class Executor(Protocol):
    """Carries items out, whose needs come before them."""

    @property
    def threads(self) -> int:
        """Return the threads of each item, where nobody asks for another number."""
        ...

    def open(self, desk: Desk) -> AbstractContextManager[Map]:
        """Return what yields each of some items with its outcome, in whatever order they end."""
        ...


class Serial:
    """One item after the other in this process."""

    @property
    def threads(self) -> int:
        """All."""
        return torch.get_num_threads()

    @contextmanager
    def open(self, desk: Desk) -> Iterator[Map]:
        """See :class:`Executor`."""
        before = torch.get_num_threads()
        torch.set_num_threads(desk.bench.threads or before)
        try:
            yield lambda items: self._map(items, desk)
        finally:
            torch.set_num_threads(before)

    def _map(self, items: Sequence[Item], desk: Desk) -> Iterator[Ended]:
        failed: dict[str, Failure] = {}
        for number, item in enumerate(items, start=1):
            if len(items) > 1 and item.call:
                address = item.upstream["address"]
                logger.info(f"[{number}/{len(items)}] {item.title}, {address}")
            found = _unneeded(item, failed) or carry_out(item, desk)
            if isinstance(found, Failure):
                failed[item.key] = found
            yield item, found


class Pool:
    """Spawned processes on this machine, which share the threads."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UserError(f"local:{workers}: expected at least one worker, such as local:2.")
        self.workers = workers

    @property
    def threads(self) -> int:
        """An equal share."""
        return max(torch.get_num_threads() // self.workers, 1)

    @contextmanager
    def open(self, desk: Desk) -> Iterator[Map]:
        """See :class:`Executor`."""
        if desk.bench.processes.connected:
            raise UserError(f"local:{self.workers} and torchrun were both given; choose one.")
        if desk.bench.live:
            raise UserError(
                f"local:{self.workers}: other processes do not have the object "
                f"{next(iter(desk.bench.live))}; give an address, such as python:FILE.py:NAME, or "
                "use the executor serial."
            )
        with (
            ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(desk.bench, desk.bench.threads or self.threads, logger.level),
            ) as pool,
            _ended_with_us(),
        ):
            yield lambda items: self._map(items, pool)

    def _map(self, items: Sequence[Item], pool: ProcessPoolExecutor) -> Iterator[Ended]:
        waiting = list(items)
        ended: set[str] = set()
        failed: dict[str, Failure] = {}
        known = {item.key for item in items}
        running: dict[Future[Outcome | Failure], Item] = {}
        with _breaks_said(), progress("Items", len(items), "item") as advance:
            while waiting or running:
                for item in [i for i in waiting if set(i.needs) & known <= ended]:
                    waiting.remove(item)
                    if stopped := _unneeded(item, failed):
                        failed[item.key] = stopped
                        ended.add(item.key)
                        yield item, stopped
                    else:
                        running[pool.submit(_carry_out_here, item)] = item
                if not running:
                    continue
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item, found = running.pop(future), future.result()
                    if isinstance(found, Failure):
                        failed[item.key] = found
                    ended.add(item.key)
                    advance(1, item.title)
                    yield item, found


@contextmanager
def _breaks_said() -> Iterator[None]:
    """Say it where a worker was ended.

    Raises:
        UserError: One was.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "A worker was ended from outside, perhaps for lack of memory; what was finished is "
            "kept. Run the same again, with fewer workers if memory is short. A script of your own "
            'calls it below `if __name__ == "__main__":`, for each worker imports the script.'
        ) from error


@contextmanager
def _ended_with_us() -> Iterator[None]:
    """End the processes that were begun inside, where that is left by an error or by Ctrl-C."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise


def executor_of(name: "str | Executor") -> Executor:
    """Return the executor of ``serial`` or ``local:N``.

    Raises:
        UserError: Another name.
    """
    if not isinstance(name, str) and hasattr(name, "open"):
        return name
    name = str(name)
    kind, _, number = name.partition(":")
    if name == "serial":
        return Serial()
    if kind == "local" and number.isdigit() and len(number) < 5:
        return Pool(int(number))
    raise UserError(f"Executor {name!r} is not known; expected serial or local:N, as in local:2.")


def _unneeded(item: Item, failed: dict[str, Failure]) -> Failure | None:
    """Return the failure of what an item needs, where that has failed."""
    cause = next((failed[key] for key in item.needs if key in failed), None)
    address = item.upstream["address"]
    return None if cause is None else Failure(item.title, address, cause.reason, item.command)


@cache
def _desk_here() -> list[Desk]:
    """Return the one desk of a worker, put there when it began."""
    return []


def _begin(bench: Bench, threads: int, level: int) -> None:
    """Prepare a spawned worker, which ends where its parent is killed."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's Ctrl-C comes here too: no traceback
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    logger.setLevel(max(level, 30))  # warnings; the parent shows what ends
    _desk_here().append(Desk(bench))


def _end_with_parent() -> None:
    """Wait for the parent's end; it can tell nobody of it where it is killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _carry_out_here(item: Item) -> Outcome | Failure:
    """Carry an item out in a worker; an error that nobody foresaw is said here and stays here."""
    found = carry_out(item, _desk_here()[0])
    if isinstance(found, Failure) and found.error is not None:
        found.say()
        return replace(found, error=None)
    return found
