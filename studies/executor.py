"""Who carries items out: this process, or several on this machine.

A worker loads its own encoder. One item that fails does not stop the others.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING, Protocol

import torch

from auscult import interrupt
from auscult.errors import UserError
from auscult.progress import logger, progress

from .bench import Bench
from .desk import Desk
from .item import Failure, Item, Outcome
from .ledger import Ledger
from .work import carry_out

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

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
        with _threads(desk.bench.threads):
            yield lambda items: self._map(items, desk)

    def _map(self, items: Sequence[Item], desk: Desk) -> Iterator[Ended]:
        failed: dict[str, Failure] = {}
        for number, item in enumerate(items, start=1):
            if len(items) > 1 and item.call:
                address = item.upstream["address"]
                logger.info(f"[{number}/{len(items)}] {item.title}, {address}")
            interrupt.check()
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
        threads = desk.bench.threads or self.threads
        with (
            _threads(threads),  # of what is computed here beside the items, such as latencies
            _Workers(self.workers, desk.bench, threads) as workers,
            _ended_with_us(),
        ):
            yield lambda items: self._map(items, workers)

    def _map(self, items: Sequence[Item], workers: "_Workers") -> Iterator[Ended]:
        waiting = list(items)
        ended: set[str] = set()
        failed: dict[str, Failure] = {}
        known = {item.key for item in items}
        with progress("Items", len(items), "item") as advance:
            while waiting or workers.busy:
                for item in [i for i in waiting if set(i.needs) & known <= ended]:
                    waiting.remove(item)
                    if stopped := _unneeded(item, failed):
                        failed[item.key] = stopped
                        ended.add(item.key)
                        yield item, stopped
                    else:
                        workers.begin(item)
                for item, found in workers.ended():
                    if isinstance(found, Failure):
                        failed[item.key] = found
                    ended.add(item.key)
                    advance(1, item.title)
                    yield item, found


class _Workers:
    """Spawned processes; where one is ended from outside, others take its place.

    Nobody knows which item ended it, so all that were under way are done again, each alone: one
    whose worker is ended once more has failed, and the others go on.
    """

    def __init__(self, number: int, bench: Bench, threads: int) -> None:
        self.number = number
        self._context = multiprocessing.get_context("spawn")
        self._begun = self._context.Event()  # a worker has come as far as that
        self._given = (bench, threads, logger.level, self._begun)
        self._pool: ProcessPoolExecutor | None = None
        self._queue: deque[Item] = deque()
        self._suspects: deque[Item] = deque()
        self._alone = False  # whether a suspect is under way
        self._running: dict[Future[Outcome | Failure | None], Item] = {}
        self._ledger = Ledger(bench.out)

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._dismiss()

    @property
    def busy(self) -> bool:
        """Whether anything has not ended."""
        return bool(self._running or self._suspects or self._queue)

    def begin(self, item: Item) -> None:
        """Have an item carried out as soon as there is a worker for it."""
        self._queue.append(item)

    def ended(self) -> Iterator[Ended]:
        """Wait until some items have ended, and yield them."""
        self._fill()
        broken = []
        done = wait(self._running, return_when=FIRST_COMPLETED).done
        while done:
            future = done.pop()
            item = self._running.pop(future)
            try:
                found = future.result()
            except BrokenProcessPool:  # so are all that are still under way
                broken.append(item)
                done |= wait(self._running).done
                continue
            outcome = self._ledger.read(item) if found is None else found
            if outcome is None:
                broken.append(item)
            else:
                yield item, outcome
        if broken:
            yield from self._begin_again(broken)

    def _fill(self) -> None:
        if not self._running and self._suspects:
            self._alone = True
            self._submit(self._suspects.popleft())
        elif not self._suspects:
            if self._alone and not self._running:  # no suspect is left
                self._alone = False
                self._dismiss()
            while self._queue and len(self._running) < self.number and not self._alone:
                self._submit(self._queue.popleft())

    def _submit(self, item: Item) -> None:
        try:
            future = self._workers().submit(_carry_out_here, item)
        except BrokenProcessPool:  # ended while it had nothing to do
            self._dismiss()
            future = self._workers().submit(_carry_out_here, item)
        self._running[future] = item

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            number = 1 if self._alone else self.number  # no other may be taken for a suspect's
            self._pool = ProcessPoolExecutor(
                number, mp_context=self._context, initializer=_begin, initargs=self._given
            )
        return self._pool

    def _begin_again(self, broken: Sequence[Item]) -> Iterator[Ended]:
        """Take up what was under way when a worker was ended.

        Raises:
            UserError: No worker can even begin.
        """
        self._dismiss()
        if not self._begun.is_set():
            raise UserError(
                "Workers end before they begin. A script of your own calls this below "
                '`if __name__ == "__main__":`, for each worker imports the script; else memory may '
                "be short: use fewer workers, or the executor serial."
            )
        if not self._alone:
            logger.warning(
                "A worker was ended from outside, perhaps for lack of memory; what was under way "
                "is done again, one item at a time."
            )
            self._suspects.extend(broken)
            return
        for item in broken:
            reason = (
                "its worker was ended from outside, twice, perhaps for lack of memory; what was "
                "finished is kept. Run it again, with fewer workers if memory is short"
            )
            yield item, Failure(item.title, item.upstream["address"], reason, item.command)

    def _dismiss(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Have torch use so many threads in this process; as many as before where 0."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _begin(bench: Bench, threads: int, level: int, begun: "Event") -> None:
    """Prepare a spawned worker, which ends where its parent is killed."""
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's Ctrl-C comes here too: no traceback
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    logger.setLevel(max(level, 30))  # warnings; the parent shows what ends
    _desk_here().append(Desk(bench))
    begun.set()


def _end_with_parent() -> None:
    """Wait for the parent's end; it can tell nobody of it where it is killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _carry_out_here(item: Item) -> Outcome | Failure | None:
    """Carry an item out in a worker; an error that nobody foresaw is said here and stays here.

    What the ledger keeps goes there, and None is sent: a worker that is ended while it sends more
    than a pipe holds would leave the reader waiting.
    """
    desk = _desk_here()[0]
    found = carry_out(item, desk)
    if isinstance(found, Outcome) and item.kept:
        try:
            Ledger(desk.bench.out).write(item, found)
        except (UserError, OSError) as error:
            return Failure.of(error, item.title, item.upstream["address"], item.command)
        return None
    if isinstance(found, Failure) and found.error is not None:
        found.say()
        return replace(found, error=None)
    return found
