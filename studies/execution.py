"""Who carries items out: this process, or several on this machine.

A worker loads its own encoder. One item that fails does not stop the others.
"""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from auscult.errors import UserError
from auscult.progress import logger, progress

from .bench import Bench
from .desk import Desk
from .item import Failure, Item, Outcome
from .ledger import Ledger
from .plan import Plan

Work = Callable[[Item, Desk], Outcome]
WORK = {  # kind of item -> module:function
    "encode": "layer:encode",
    "probe": "layer:measure",
    "attention": "divergence:measure",
}


class Executor(Protocol):
    """Carries items out, whose needs come before them."""

    def map(self, items: Sequence[Item], bench: Bench) -> Iterator[tuple[Item, Outcome | Failure]]:
        """Yield each item with its outcome, in whatever order they end."""
        ...


class Serial:
    """One item after the other in this process."""

    def map(self, items: Sequence[Item], bench: Bench) -> Iterator[tuple[Item, Outcome | Failure]]:
        """See :class:`Executor`."""
        desk = Desk(bench)
        failed: dict[str, Failure] = {}
        for item in items:
            found = _unneeded(item, failed) or carry_out(item, desk)
            if isinstance(found, Failure):
                failed[item.key] = found
            yield item, found


class Pool:
    """Spawned processes on this machine, each with its share of the threads."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UserError(f"local:{workers}: expected at least one worker, such as local:2.")
        self.workers = workers

    def map(self, items: Sequence[Item], bench: Bench) -> Iterator[tuple[Item, Outcome | Failure]]:
        """See :class:`Executor`."""
        if bench.live:
            raise UserError(
                f"local:{self.workers}: other processes do not have the object "
                f"{next(iter(bench.live))}; give an address, such as python:FILE.py:NAME, or use "
                "the executor serial."
            )
        waiting = list(items)
        ended: set[str] = set()
        failed: dict[str, Failure] = {}
        known = {item.key for item in items}
        with (
            progress("Items", len(items), "item") as advance,
            ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(bench, max(_threads() // self.workers, 1), logger.level),
            ) as pool,
            _ended_with_us(),
        ):
            running: dict[Future[Outcome | Failure], Item] = {}
            while waiting or running:
                ready = [i for i in waiting if set(i.needs) & known <= ended]
                for item in ready:
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
                    item, found = running.pop(future), _result(future)
                    if isinstance(found, Failure):
                        failed[item.key] = found
                    ended.add(item.key)
                    advance(1, item.title)
                    yield item, found


def _result(future: "Future[Outcome | Failure]") -> Outcome | Failure:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A worker was ended from outside, perhaps for lack of memory; what was finished is "
            "kept. Run the same again, with fewer workers if memory is short."
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
    if not isinstance(name, str):
        return name
    kind, _, number = name.partition(":")
    if name == "serial":
        return Serial()
    if kind == "local" and number.isdigit() and len(number) < 5:
        return Pool(int(number))
    raise UserError(f"Executor {name!r} is not known; expected serial or local:N, as in local:2.")


def execute(
    plan: Plan, executor: "str | Executor" = "serial"
) -> tuple[dict[Item, Outcome], list[Failure]]:
    """Carry out what is not there yet; return all outcomes and what failed.

    Numbers go to the store as soon as their item has ended.
    """
    ledger = Ledger(plan.bench.out)
    found = {item: ledger.read(item) for item in plan.items if item.kept}
    outcomes = {item: outcome for item, outcome in found.items() if outcome is not None}
    failures: list[Failure] = []
    missing = [item for item in plan.items if item.kept and item not in outcomes]
    needed = {key for item in missing for key in item.needs}
    todo = [i for i in plan.items if i in missing or i.key in needed]
    if outcomes:
        logger.info(f"{len(outcomes)} of {len(found)} measurements are there already.")
        for outcome in outcomes.values():
            plan.bench.save(outcome.records, outcome.artifacts)
    for item, ended in executor_of(executor).map(todo, plan.bench):
        if isinstance(ended, Failure):
            failures.append(ended)
        elif item.kept:
            ledger.write(item, ended)
            plan.bench.save(ended.records, ended.artifacts)
            outcomes[item] = ended
    in_order = {item: outcomes[item] for item in plan.items if item in outcomes}
    if failures and not in_order:
        raise UserError(failures[0].reason)
    for failure in failures:
        logger.error(f"{failure} ({failure.item.command})")
    return in_order, failures


def carry_out(item: Item, desk: Desk) -> Outcome | Failure:
    """Carry one item out; a mistake of the user's becomes a failure, ours stays an error."""
    module, _, function = WORK[item.kind].partition(":")
    work: Work = getattr(importlib.import_module(f".{module}", __package__), function)
    try:
        return work(item, desk)
    except UserError as error:
        return Failure(item, str(error))


def _unneeded(item: Item, failed: dict[str, Failure]) -> Failure | None:
    """Return the failure of what an item needs, where that has failed."""
    cause = next((failed[key] for key in item.needs if key in failed), None)
    return None if cause is None else Failure(item, cause.reason)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@cache
def _desk_here() -> list[Desk]:
    """Return the one desk of a worker, put there when it began."""
    return []


def _begin(bench: Bench, threads: int, level: int) -> None:
    """Prepare a spawned worker."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's Ctrl-C comes here too: no traceback
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    logger.setLevel(max(level, 30))  # warnings; the parent shows what ends
    _desk_here().append(Desk(bench))


def _carry_out_here(item: Item) -> Outcome | Failure:
    return carry_out(item, _desk_here()[0])
