"""What a part of the check is given, and what it says."""

import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

LINES = 4  # of a traceback, the last


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a part computes, and how much."""

    device: str  # what is held against the CPU: cuda, or the CPU itself in a dry run
    dry: bool  # as little as shows that the part runs
    folder: Path  # a new one, for what the part writes
    pretended: bool = False  # the device, see `pretended_gpu`

    @property
    def reference(self) -> str:
        """What ``device`` is held against."""
        return "cpu"


@dataclass(frozen=True, slots=True)
class Check:
    """A number and where it must lie; without limits it is a measurement."""

    name: str
    value: float | None = None  # None: there is none, as something failed
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is a finite number within the limits."""
        if self.value is None or not math.isfinite(self.value):
            return False
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return low <= self.value <= high

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        finite = self.value is not None and math.isfinite(self.value)
        return {
            "name": self.name,
            "passed": self.passed,
            "value": self.value if finite else None,
            "low": self.low,
            "high": self.high,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the check; imported where it runs."""

    name: str
    work: str  # .module:function of this package, called with a Setting; yields checks
    seconds: float  # after which it is stopped
    what: str
    alone: bool = True  # in one process, as a GPU can be pretended

    def run(self, setting: Setting) -> Iterator[Check]:
        """Yield what the part finds, as it finds it."""
        module, _, function = self.work.partition(":")
        yield from getattr(import_module(module, __package__), function)(setting)


def attempt(
    name: str, work: Callable[..., Iterable[Check]], *args: Any, **options: Any
) -> Iterator[Check]:
    """Yield what ``work`` finds; where it fails, a check that says how, so that others go on."""
    try:
        yield from work(*args, **options)
    except Exception as error:  # whatever it is, the check is there to show it
        yield Check(name, note=last_lines(error))


def last_lines(error: BaseException) -> str:
    """Return the end of an error's traceback."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "\n".join(line for line in lines[-LINES:] if line.strip(" ^~"))
