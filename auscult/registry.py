"""Tables that other people can add to: encoders, corpora, tasks, probing tasks, probes.

Three doors, the same for all: an object handed over in Python; ``python:FILE.py:NAME`` or
``python:MODULE:NAME`` wherever a name may stand; an entry point of an installed package, which is
imported only when it is asked for. A row of ours is never replaced.

:mod:`auscult.foreign` says what may stand behind a name, and that files name no code.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Generic, TypeVar

from auscult.errors import UserError, unknown
from auscult.foreign import PYTHON, Found, import_name, import_object

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listed:
    """A row that an installed package brings, as it is listed: nothing is imported for that."""

    name: str
    origin: str
    target: str  # module:name
    problem: str = ""  # why it cannot be used


class Table(Generic[T]):
    """Rows by name: ours, and those that installed packages bring."""

    def __init__(self, kind: str, rows: Mapping[str, T], group: str) -> None:
        """Make a table.

        Args:
            kind: What a row is, for messages: ``upstream``.
            rows: Ours.
            group: Of entry points, in which rows of others stand: ``auscult.upstreams``.
        """
        self.kind, self.rows, self.group = kind, rows, group

    def find(self, text: str) -> Found[T]:
        """Return what a name stands for; what follows the name after a colon is kept.

        Args:
            text: From the user's hand.

        Raises:
            UserError: Nothing of that name, or it cannot be imported.
        """
        name, _, rest = text.partition(":")
        if name in self.rows:
            return Found(self.rows[name], name, rest)
        if name == PYTHON:
            return import_object(text, self.kind)
        points = self._points()
        several = [point for point in points if point.name == name]
        if not several:
            others = [point.name for point in points]
            raise unknown(self.kind, name, [*self.rows, *others])
        if len(several) > 1:
            whose = " and ".join(map(_origin_of, several))
            raise UserError(
                f"{whose} both bring the {self.kind} {name!r}; say which with "
                f"{PYTHON}:{several[0].value}."
            )
        module, _, attribute = several[0].value.partition("[")[0].strip().partition(":")
        origin = _origin_of(several[0])
        return import_name(module, attribute, name=name, rest=rest, origin=origin, kind=self.kind)

    def knows(self, name: str) -> bool:
        """Say whether there is something of that name; nothing is imported."""
        return name in self.rows or self.is_foreign(name)

    def is_foreign(self, name: str) -> bool:
        """Say whether a name is of code that is not ours; nothing is imported."""
        if name in self.rows:
            return False
        return name == PYTHON or any(point.name == name for point in self._points())

    def listed(self) -> Iterator[Listed]:
        """Yield the rows of installed packages; what cannot be used says why."""
        points = self._points()
        names = [point.name for point in points]
        for point in points:
            problem = ""
            if point.name in {*self.rows, PYTHON}:
                problem = f"has the name of one of ours, which stays: {PYTHON}:{point.value}"
            elif names.count(point.name) > 1:
                problem = f"two packages have this name; say which: {PYTHON}:{point.value}"
            elif not _is_there(point):
                problem = "there is no such module; mend or uninstall that package"
            yield Listed(point.name, _origin_of(point), point.value, problem)

        for package, problem in _points_of(self.group)[1]:
            yield Listed("", package, "", problem)

    def _points(self) -> list[EntryPoint]:
        found, _ = _points_of(self.group)
        return sorted(found, key=lambda point: (point.name, _origin_of(point)))


def _is_there(point: EntryPoint) -> bool:
    try:
        return importlib.util.find_spec(point.module.partition(".")[0]) is not None
    except (ImportError, ValueError, AttributeError):  # no module's name
        return False


def _points_of(group: str) -> tuple[list[EntryPoint], list[tuple[str, str]]]:
    """Return the entry points of a group, and the packages whose own cannot be read, with why."""
    try:
        return list(entry_points(group=group)), []
    except Exception:  # one package with a torn file; then each is asked alone
        pass
    found: dict[str, list[EntryPoint]] = {}
    broken = []
    for package in distributions():
        name = _folder_of(package)
        try:
            name = str(package.metadata["Name"]).lower()
            points = [point for point in package.entry_points if point.group == group]
        except Exception as error:  # whatever stands in a stranger's folder
            reason = (str(error).splitlines() or [""])[0]
            broken.append((_folder_of(package), f"{type(error).__name__}: {reason}; reinstall it"))
        else:
            found.setdefault(name, points)  # as Python does, the first on its path
    return [point for points in found.values() for point in points], broken


def _origin_of(point: EntryPoint) -> str:
    if point.dist is None:
        return f"{point.value}, no package"
    try:
        name, number = point.dist.name, point.dist.version
    except Exception:  # a torn file
        name = number = ""
    return f"{name}=={number}" if name and number else f"{_folder_of(point.dist)}, no name"


def _folder_of(package: Distribution) -> str:
    return Path(str(getattr(package, "_path", "a package"))).name
