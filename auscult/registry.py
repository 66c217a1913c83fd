"""Tables that other people can add to: encoders, corpora, tasks, probes, measures.

Three doors, the same for all: an object handed over in Python; ``python:MODULE:NAME`` or
``python:FILE.py:NAME`` wherever a name may stand; an entry point of an installed package, which is
imported only when it is asked for. A row of ours is never replaced.

What a name leads to is code that runs, so ``python:`` comes from the user's hand alone:
:func:`refuse_code` keeps it out of addresses that were read from files.
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from auscult.errors import UserError, unknown

PYTHON = "python:"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a name stands for, and whose it is."""

    value: T
    origin: str = ""  # "" for ours, else "package==1.0" or "my.py, sha256 0123456789ab"


@dataclass(frozen=True, slots=True)
class Listed:
    """A row as it is listed, without importing what it leads to."""

    name: str
    origin: str


class Table(Generic[T]):
    """Rows by name: ours, and those that installed packages bring."""

    def __init__(self, kind: str, rows: Mapping[str, T], expected: type | None = None) -> None:
        """Make a table.

        Args:
            kind: What a row is, for messages: ``upstream``; ``auscult.upstreams`` is the group of
                entry points.
            rows: Ours.
            expected: What a row of others must be an instance of; not checked where None.
        """
        self.kind, self._rows, self._expected = kind, rows, expected

    @property
    def group(self) -> str:
        """Return the group of entry points that rows of others stand in."""
        return f"auscult.{self.kind.replace(' ', '_')}s"

    def find(self, name: str) -> Found[T]:
        """Return what a name stands for.

        Raises:
            UserError: Nothing of that name, or it cannot be imported.
        """
        if name in self._rows:
            return Found(self._rows[name])
        if name.startswith(PYTHON):
            return self._checked(name, *import_object(name, self.kind))
        for point in self._points():
            if point.name == name:
                return self._checked(name, _load(point, self.kind), _origin_of(point))
        raise unknown(self.kind, name, [*self._rows, *(point.name for point in self._points())])

    def listed(self) -> Iterator[Listed]:
        """Yield all rows, ours first; nothing is imported."""
        yield from (Listed(name, "") for name in self._rows)
        yield from (Listed(point.name, _origin_of(point)) for point in self._points())

    def _points(self) -> list[EntryPoint]:
        """Return others' rows; one with a name of ours stands for nothing."""
        found = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return [point for point in found if point.name not in self._rows]

    def _checked(self, name: str, value: Any, origin: str) -> Found[T]:
        if self._expected is not None and not isinstance(value, self._expected):
            raise UserError(
                f"{name} ({origin}) is a {type(value).__name__}; expected a "
                f"{self._expected.__name__} for this {self.kind}."
            )
        return Found(value, origin)


def import_object(name: str, kind: str) -> tuple[Any, str]:
    """Return what ``python:MODULE:NAME`` or ``python:FILE.py:NAME`` names, and whose it is.

    Args:
        name: From the user's hand.
        kind: What it is to be, for messages.

    Raises:
        UserError: Not of that form, nothing there, or it does not import.
    """
    place, _, attribute = name.removeprefix(PYTHON).rpartition(":")
    if not place or not attribute:
        raise UserError(
            f"{name!r} names no {kind}: expected python:MODULE:NAME or python:FILE.py:NAME."
        )
    try:
        if place.endswith(".py"):
            path = Path(place).expanduser().resolve()
            content = path.read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            module, origin = _import_file(path, sha256), f"{path.name}, sha256 {sha256[:12]}"
        else:
            module = importlib.import_module(place)
            origin = _version_of(place)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or error}.") from error
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code raises while it is imported
        raise UserError(
            f"{name} cannot be imported: {type(error).__name__}: {error}; mend {place}."
        ) from error
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            offered = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
            raise UserError(f"{place} has no {attribute}; it has {offered}.")
        value = getattr(value, part)
    return value, origin


def refuse_code(address: str, where: str) -> str:
    """Return an address that was read from a file, unless it would run code.

    Args:
        address: Of an encoder, a corpus, a task, ...; whatever stands around ``python:`` in it.
        where: The file, for the message.

    Raises:
        UserError: It names Python code.
    """
    if PYTHON in address.replace(" ", "").lower():
        raise UserError(
            f"{where} names Python code ({address[:80]!r}), and what files say is never run; if "
            "you trust it, give the address yourself."
        )
    return address


@cache
def _import_file(path: Path, sha256: str) -> Any:
    """Import a file once for as long as its content is the same."""
    name = f"auscult_plugin_{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load(point: EntryPoint, kind: str) -> Any:
    try:
        return point.load()
    except Exception as error:  # a stranger's package may raise anything
        raise UserError(
            f"The {kind} {point.name} of {_origin_of(point)} cannot be imported: "
            f"{type(error).__name__}: {error}; mend or uninstall that package."
        ) from error


def _origin_of(point: EntryPoint) -> str:
    return f"{point.dist.name}=={point.dist.version}" if point.dist else point.value


def _version_of(module: str) -> str:
    """Return ``package==version`` of a module; its name alone where no package has it."""
    from importlib.metadata import packages_distributions, version

    package = module.partition(".")[0]
    names = packages_distributions().get(package)
    return f"{names[0]}=={version(names[0])}" if names else package
