"""What kept work was made by: a fingerprint of the code that its numbers come from.

The version of a checkout never changes, so that work which was kept by one state of the code would
be read by the next. The fingerprint covers the modules that are named and all that they import,
directly or through others, of this package and of people's own code, which no version stands for;
it stays the same while anything else changes.
"""

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import CodeType

from auscult.record import fingerprint, library_versions

PACKAGE = "auscult"
# How things are said, kept and written changes no number, and the package's face only passes on.
_SPEAKERS = ("errors", "progress", "shown", "watch")
_WRITERS = ("board", "cache", "kept", "loss_curve", "origin", "record", "snapshot", "whole_file")
_ROOMS = (f"{PACKAGE}.results.", f"{PACKAGE}.cli.")
_SILENT = {
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in (*_SPEAKERS, *_WRITERS, "foreign", "registry")),
}
_INSTALLED = ("site-packages", "dist-packages")  # folders of libraries, which have versions


def made_by(*parts: object) -> str:
    """Return the fingerprint of all that kept work comes from, but for its inputs.

    That is the code behind ``parts``, as for :func:`code_of`, and the versions of the libraries.
    """
    return fingerprint([code_of(*parts), library_versions()])


def code_of(*made_by: object) -> str:
    """Return the fingerprint of the code behind ``made_by``.

    Args:
        made_by: Modules by name, or objects whose class's modules (those of its bases too) count;
            of a class that was written in a notebook, its methods.
    """
    names: set[str] = set()
    digest = hashlib.sha256()
    for one in made_by:
        if isinstance(one, str):
            names.add(one)
            continue
        for kind in type(one).__mro__:
            names.add(kind.__module__)
            if kind.__module__ == "__main__" and _file_of("__main__") is None:
                digest.update(f"{kind.__qualname__} {_compiled(kind)}\n".encode())
    for name in sorted(_reached(frozenset(names))):
        digest.update(f"{name} {_sha256(name)}\n".encode())
    return digest.hexdigest()


def _compiled(kind: type) -> Sequence[object]:
    """Return what the methods of a class were compiled to, where a notebook has no source file."""
    found = {}
    for name, value in vars(kind).items():
        inner = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(code := getattr(inner, "__code__", None), CodeType):
            found[name] = _plain(code)
    return sorted(found.items())


def _plain(code: CodeType) -> list[object]:
    """Return instructions, names and constants of a function, without where it stands."""
    inner = [_plain(x) if isinstance(x, CodeType) else _constant(x) for x in code.co_consts]
    return [code.co_code.hex(), code.co_names, code.co_varnames, inner]


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _reached(names: frozenset[str]) -> frozenset[str]:
    """Return ``names`` and every module that is followed from them, but for silent ones."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or _is_silent(name) or _file_of(name) is None:
            continue
        found.add(name)
        waiting += _imported(name)
    return frozenset(found)


def _imported(name: str) -> frozenset[str]:
    """Return what is followed of the modules that ``name`` imports at any depth of its code."""
    file = _file_of(name)
    if file is None or not _is_followed(name):
        return frozenset()
    return _imported_by(name, file, _state(file))


def _state(file: Path) -> tuple[int, int]:
    """Return what changes with a file: people edit theirs while a notebook goes on."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@cache
def _imported_by(name: str, file: Path, state: tuple[int, int]) -> frozenset[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _running(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(start, package) if node.level else start
            inside = {f"{module}.{alias.name}" for alias in node.names}
            # a name that a package offers is followed through the package itself
            modules = {n for n in inside if _is_followed(n) and _file_of(n) is not None}
            found |= modules or {module}
    return frozenset(filter(_is_followed, found))


def _is_silent(name: str) -> bool:
    return name in _SILENT or f"{name}.".startswith(_ROOMS)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those below it, but for what only a type checker reads."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _is_followed(name: str) -> bool:
    return name == PACKAGE or name.startswith(f"{PACKAGE}.") or is_of_people(name)


def is_of_people(name: str) -> bool:
    """Say whether a module is neither ours nor of Python nor of a library, but somebody's own."""
    top = name.partition(".")[0]
    return top != PACKAGE and _is_outside(top)


@cache
def _is_outside(top: str) -> bool:
    place = None if top in sys.stdlib_module_names else _file_of(top) or _folder_of(top)
    if place is None:
        return False
    python = Path(sysconfig.get_paths()["stdlib"])
    return not {*_INSTALLED} & {*place.parts} and not place.is_relative_to(python)


def _folder_of(top: str) -> Path | None:
    """Return the folder of a package without a file of its own; None where it is none."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    return next((Path(x) for x in (spec and spec.submodule_search_locations) or ()), None)


@cache
def _file_of(name: str) -> Path | None:
    """Return the source file of a module; None where it has none or is no module."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        spec = None
    # a script, or a module that was made by hand, has no spec
    file = getattr(sys.modules.get(name), "__file__", None) if spec is None else spec.origin
    return Path(file) if file and file.endswith(".py") else None


def _sha256(name: str) -> str:
    file = _file_of(name)
    return "" if file is None else _sha256_of(file, _state(file))


@cache
def _sha256_of(file: Path, state: tuple[int, int]) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
