"""Who carries items out: this process, or several on this machine.

A worker loads its own encoder. One item that fails does not stop the others.
"""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
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
    "head": "task:measure",
    "extract": "extraction:write",
}


class Executor(Protocol):
    """Carries items out, whose needs come before them."""

    def map(self, items: Sequence[Item], desk: Desk) -> Iterator[tuple[Item, Outcome | Failure]]:
        """Yield each item with its outcome, in whatever order they end."""
        ...


class Serial:
    """One item after the other in this process."""

    def map(self, items: Sequence[Item], desk: Desk) -> Iterator[tuple[Item, Outcome | Failure]]:
        """See :class:`Executor`."""
        failed: dict[str, Failure] = {}
        for number, item in enumerate(items, start=1):
            if len(items) > 1:
                address = item.upstream["address"]
                logger.info(f"[{number}/{len(items)}] {item.title}, {address}")
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

    def map(self, items: Sequence[Item], desk: Desk) -> Iterator[tuple[Item, Outcome | Failure]]:
        """See :class:`Executor`."""
        if desk.bench.live:
            raise UserError(
                f"local:{self.workers}: other processes do not have the object "
                f"{next(iter(desk.bench.live))}; give an address, such as python:FILE.py:NAME, or "
                "use the executor serial."
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
                initargs=(desk.bench, max(_threads() // self.workers, 1), logger.level),
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
    plan: Plan, executor: "str | Executor" = "serial", *, strict: bool = True
) -> tuple[dict[Item, Outcome], list[Failure]]:
    """Carry out what is not there yet; return all outcomes and what failed.

    Numbers go to the store as soon as their item has ended.

    Args:
        plan: What is to be done.
        executor: Who does it.
        strict: Raise where nothing came to its end.

    Raises:
        UserError: Every item failed.
    """
    processes = plan.bench.processes
    if processes.leads:
        plan.bench.prepare()
    ledger = Ledger(plan.bench.out)
    outcomes = {} if processes.connected else _remembered(plan, ledger)
    failures = list(plan.failures)
    wanted = _to_do(plan, outcomes)
    alone = strict and len(wanted) == 1
    for item, ended in executor_of(executor).map(wanted, plan.desk):
        if isinstance(ended, Failure):
            failures.append(ended)
            if not alone:
                ended.say()
            continue
        outcomes[item] = ended
        if processes.leads:
            if item.kept:
                ledger.write(item, ended)
            plan.bench.save(ended.records, ended.artifacts)
    if strict and failures and not any(x.records or x.files for x in outcomes.values()):
        if alone or len({failure.reason for failure in failures}) == 1:
            raise failures[0].error or UserError(failures[0].reason)
        raise UserError("Nothing came to its end; what stopped each is said above.")
    return {item: outcomes[item] for item in plan.items if item in outcomes}, failures


def _remembered(plan: Plan, ledger: Ledger) -> dict[Item, Outcome]:
    """Return the outcomes that are there; their numbers go to the store, which may be new."""
    kept = [item for item in plan.items if item.kept]
    found = {item: ledger.read(item) for item in kept}
    outcomes = {item: outcome for item, outcome in found.items() if outcome is not None}
    if outcomes:
        logger.info(f"{len(outcomes)} of {len(kept)} measurements are there already.")
    for outcome in outcomes.values():
        plan.bench.save(outcome.records, outcome.artifacts)
    return outcomes


def _to_do(plan: Plan, outcomes: Collection[Item]) -> list[Item]:
    """Return the items to carry out: without those that serve only what is there."""
    needed = {key for item in plan.items if item not in outcomes for key in item.needs}
    serving = {key for item in plan.items for key in item.needs}
    return [
        item
        for item in plan.items
        if item.key in needed or item not in outcomes and item.key not in serving
    ]


def carry_out(item: Item, desk: Desk) -> Outcome | Failure:
    """Carry one item out; what goes wrong is a failure, for the others go on.

    Not among processes that torchrun started, where the others would wait for this one.
    """
    module, _, function = WORK[item.kind].partition(":")
    work: Work = getattr(importlib.import_module(f".{module}", __package__), function)
    try:
        return work(item, desk)
    except Exception as error:
        if desk.bench.processes.connected:
            raise
        return Failure.of(error, item.title, item.upstream["address"], item.command)


def _unneeded(item: Item, failed: dict[str, Failure]) -> Failure | None:
    """Return the failure of what an item needs, where that has failed."""
    cause = next((failed[key] for key in item.needs if key in failed), None)
    address = item.upstream["address"]
    return None if cause is None else Failure(item.title, address, cause.reason, item.command)


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
    """Carry an item out in a worker; an error that nobody foresaw is said here and stays here."""
    found = carry_out(item, _desk_here()[0])
    if isinstance(found, Failure) and found.error is not None:
        found.say()
        return replace(found, error=None)
    return found
