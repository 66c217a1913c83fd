"""Code of other people: imported, called with what it takes, and blamed for what it raises.

It comes in by ``python:FILE.py:NAME`` or ``python:MODULE:NAME``, from the user's hand alone:
:func:`refuse_code` keeps them out of addresses that were read from files. Installed packages offer
theirs by entry points, see :mod:`auscult.registry`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from auscult.errors import UserError, quoted
from auscult.origin import code_of, is_of_people

PYTHON = "python"
FORM = f"{PYTHON}:FILE.py:NAME or {PYTHON}:MODULE:NAME"
_NAMED = re.compile(rf"{PYTHON}:(?P<place>.+?\.py|[\w.]+):(?P<name>[\w.]+)(?::(?P<rest>.*))?", re.S)
_PREFIX = "auscult_plugin_"  # of the modules that files are imported as
_LOADED: set[str] = set()  # modules and packages that came through one of the doors
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """What a name stands for, and whose it is."""

    value: T
    name: str  # without what follows it
    rest: str = ""  # what follows it: a checkpoint, a folder
    origin: str = ""  # empty for ours, else "package==1.0" or "my.py, sha256 0123456789ab"
    code: str = ""  # fingerprint of the code behind it; empty for ours
    module: str = ""  # that it was imported from; empty for ours


def import_object(text: str, kind: str) -> Found[Any]:
    """Return what ``python:FILE.py:NAME`` or ``python:MODULE:NAME`` names.

    Args:
        text: From the user's hand; more may follow the name after a colon.
        kind: What it is to be, for messages.

    Raises:
        UserError: Not of that form, nothing there, or it does not import.
    """
    parts = _NAMED.fullmatch(text)
    if parts is None:
        raise UserError(f"{quoted(text)} names no {kind}: expected {FORM}.")
    place, attribute, rest = parts["place"], parts["name"], parts["rest"] or ""
    name = f"{PYTHON}:{place}:{attribute}"
    with blamed(name, "cannot be imported"):
        if place.endswith(".py"):
            path, content = _read(place)
            sha256 = hashlib.sha256(content).hexdigest()
            module, origin = _import_file(path, sha256), f"{path.name}, sha256 {sha256[:12]}"
        else:
            _look_in(Path.cwd())  # as Python does but for installed commands
            module = _import_module(place)
            origin = _version_of(place)
        value = _attribute(module, attribute, place)
    code = code_of(module.__name__)
    return Found(value, name, rest, origin or f"{place}, sha256 {code[:12]}", code, module.__name__)


def import_name(
    module: str, attribute: str, *, name: str, rest: str, origin: str, kind: str
) -> Found[Any]:
    """Return what an installed package offers.

    Args:
        module: To import.
        attribute: Of it; empty for the module itself.
        name: What a person calls it.
        rest: What followed the name.
        origin: The package.
        kind: What it is to be, for messages.

    Raises:
        UserError: It cannot be imported, or lacks the attribute.
    """
    with blamed(f"The {kind} {name} of {origin}", "cannot be imported"):
        found = _import_module(module)
        value = _attribute(found, attribute, module) if attribute else found
    return Found(value, name, rest, origin, code_of(found.__name__), found.__name__)


def build(found: Found[Any], *places: object, **options: object) -> Any:
    """Call what a name stands for, with those of the options that it takes.

    Args:
        found: A class or a function.
        places: Arguments by place.
        options: Arguments by name; one that is None is not given.

    Raises:
        UserError: It cannot be called so, or raises; the sentence names file and line.
    """
    if (
        not callable(found.value)
        or not inspect.isroutine(found.value)
        and not inspect.isclass(found.value)
    ):
        raise UserError(
            f"{found.name} is {_a(type(found.value).__name__)} that is made already; expected a "
            "class or a function that makes it, so that it is the same in every process."
        )
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if not takes(found.value, name):
            raise UserError(f"{found.name} takes no {name}, and {value!r} was given.")
    with blamed(found.name, "cannot be built"):
        _check_call(found, places, given)
        return found.value(*places, **given)


def instance(found: Found[Any], kind: type[T]) -> T:
    """Return what a name stands for, or makes, which is of one kind.

    Raises:
        UserError: It is of another.
    """
    value = found.value
    if not isinstance(value, kind) and callable(value):
        value = build(found, *([found.rest] if found.rest else []))
    elif found.rest:
        raise UserError(f"{found.name} takes nothing after it; drop :{found.rest}.")
    if not isinstance(value, kind):
        raise UserError(
            f"{found.name} ({found.origin}) is {_a(type(value).__name__)}; expected "
            f"{_a(kind.__name__)}, or a function that makes one."
        )
    return value


def takes(function: object, name: str) -> bool:
    """Say whether a class or a function names such an argument; ``**kwargs`` names none."""
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of compiled code
        return False
    return name in parameters and parameters[name].kind in kinds


def _check_call(found: Found[Any], places: Sequence[object], given: Mapping[str, object]) -> None:
    """Raise where a function takes other arguments than those that it gets."""
    try:
        signature = inspect.signature(found.value)
    except ValueError:  # of compiled code
        return
    try:
        signature.bind(*places, **given)
    except TypeError as error:
        what = ", ".join([*map(repr, places), *(f"{k}={v!r}" for k, v in given.items())])
        raise UserError(
            f"{found.name} is called as {found.name.rpartition(':')[2]}({what}), and takes "
            f"{signature} ({error}); give the others a default, or name a function that calls it."
        ) from error


@contextmanager
def blamed(name: str, what: str) -> Iterator[None]:
    """Turn what other people's code raises into a sentence with the line that raised it."""
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(f"{name} {what}: it ends Python; take that out.") from error
    except Exception as error:  # a stranger's code may raise anything
        raise UserError(f"{name} {what}: {_said(error, _theirs(error))}.") from error


def blame(error: BaseException) -> str:
    """Return what other people's code raised and where; empty where none had a part in it."""
    lines = _theirs(error)
    return _said(error, lines) if any(top in _LOADED for top, _ in lines) else ""


def _theirs(error: BaseException) -> list[tuple[str, str]]:
    """Return module and place of each line of people's own code that led to an error."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        top = module.partition(".")[0]
        if top in _LOADED or top != "__main__" and is_of_people(module):
            found.append((top, f"{Path(frame.f_code.co_filename).name}, line {line}"))
    return found


def _said(error: BaseException, lines: Sequence[tuple[str, str]]) -> str:
    where = f" ({lines[-1][1]})" if lines else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({Path(error.filename).name}, line {error.lineno})"
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {reason}{where}"


def refuse_code(address: str, where: object) -> str:
    """Return an address that was read from a file, unless it would run code.

    Args:
        address: Of an encoder, a corpus, a task, ...; whatever stands around ``python:`` in it.
        where: The file, for the message.

    Raises:
        UserError: It names Python code.
    """
    if f"{PYTHON}:" in "".join(address.split()).lower():
        raise UserError(
            f"{where} names Python code ({quoted(address)}), and what files say is never run; if "
            "you trust it, give the address yourself."
        )
    return address


def _read(place: str) -> tuple[Path, bytes]:
    try:
        path = Path(place).expanduser().resolve()
        return path, path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place} cannot be read: {reason}.") from error


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_module(name: str) -> Any:
    _LOADED.add(name.partition(".")[0])
    return importlib.import_module(name)


@cache
def _import_file(path: Path, sha256: str) -> Any:
    """Import a file once for as long as its content is the same.

    As for a script, modules beside it are found; last, so that they hide no installed one.
    """
    name = f"{_PREFIX}{sha256[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # of a name that ends in .py
    module = importlib.util.module_from_spec(spec)
    _look_in(path.parent)
    _LOADED.add(name)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
        _check_neighbours(path, module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check_neighbours(path: Path, module: Any) -> None:
    """Refuse a module beside another file in the place of one beside this file.

    Raises:
        UserError: Python has imported another module of that name.
    """
    used = {getattr(value, "__module__", None) for value in vars(module).values()}
    used |= {value.__name__ for value in vars(module).values() if inspect.ismodule(value)}
    for name in {str(one).partition(".")[0] for one in used if one}:
        beside = [path.parent / f"{name}.py", path.parent / name / "__init__.py"]
        there = getattr(sys.modules.get(name), "__file__", None)
        for file in beside:
            if file.is_file() and there and Path(there).resolve() != file and file != path:
                raise UserError(
                    f"{path.name} imports {name}, which is {there} and not {file}; give one of "
                    "them another name."
                )


def _attribute(module: Any, attribute: str, place: str) -> Any:
    value = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            own = [
                name
                for name, x in vars(module).items()
                if not name.startswith("_") and getattr(x, "__module__", None) == module.__name__
            ]
            raise UserError(f"{place} has no {attribute}; it has {', '.join(own) or 'nothing'}.")
        value = getattr(value, part)
    return value


def _version_of(module: str) -> str:
    """Return ``package==version`` of a module; empty where no package has it."""
    names = packages_distributions().get(module.partition(".")[0])
    return f"{names[0]}=={version(names[0])}" if names else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
