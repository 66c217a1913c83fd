"""What long work says while it runs: one progress line and notes, all on standard error."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from auscult import interrupt
from auscult.shown import on_one_line

logger = logging.getLogger("auscult")
T = TypeVar("T")


class Advance(Protocol):
    """Reports that ``amount`` more units are done, and what the latest state is."""

    def __call__(self, amount: float = 1, note: str = "") -> None:
        """Advance the line."""


@contextmanager
def progress(
    description: str, total: float | None, unit: str = "it", show: bool = True
) -> Iterator[Advance]:
    """Show one line with rate and time left; on a terminal live, elsewhere now and then.

    Nothing is shown unless the ``auscult`` logger is enabled for INFO, as the command line does.
    An interrupt that was lost in some library ends the work when the line moves on.
    """
    if not show or not logger.isEnabledFor(logging.INFO):
        line = contextmanager(_silence)()
    elif sys.stderr.isatty():
        line = contextmanager(_live)(description, total, unit)
    else:
        line = contextmanager(_lines)(description, total, unit)
    with line as advance:

        def advance_unless_interrupted(amount: float = 1, note: str = "") -> None:
            interrupt.check()
            advance(amount, note)

        yield advance_unless_interrupted


def _silence() -> Iterator[Advance]:
    yield lambda amount=1, note="": None


def track(
    items: Iterable[T], description: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Yield ``items`` while a progress line counts them."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(description, total, unit) as advance:
        for item in items:
            yield item
            advance()


def _live(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}" if total else "{task.completed:.0f}"),
        TextColumn("{task.fields[rate]} {task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    started, done = time.monotonic(), 0.0
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(on_one_line(description), total=total, rate="", note="")

        def advance(amount: float = 1, note: str = "") -> None:
            nonlocal done
            done += amount
            rate = f"{done / max(time.monotonic() - started, 1e-6):.1f} {unit}/s"
            bar.update(task, advance=amount, rate=rate, note=on_one_line(note))

        yield advance


def _lines(description: str, total: float | None, unit: str) -> Iterator[Advance]:
    started = last = time.monotonic()
    done = 0.0

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= 10:
            last = now
            rate = done / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
            of = f"/{total:.0f}" if total else ""
            note = f" {note}" if note else ""
            logger.info(f"{description}: {done:.0f}{of} {unit}, {rate:.1f} {unit}/s{left}{note}")

    yield advance
    spent = time.monotonic() - started
    if spent >= 2:
        logger.info(f"{description}: {done:.0f} {unit} in {spent:.1f} s")
