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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from auscult.notebook import MAIN, compiled
from auscult.progress import logger
from auscult.record import LIBRARIES, fingerprint, library_versions

PACKAGE = "auscult"
# How things are said, kept and written changes no number, and the package's face only passes on.
_SPEAKERS = ("errors", "progress", "shown", "watch")
_WRITERS = ("board", "cache", "kept", "loss_curve", "origin", "record", "snapshot", "whole_file")
_ROOMS = (f"{PACKAGE}.results.", f"{PACKAGE}.cli.")
_SILENT = {
    PACKAGE,
    *(f"{PACKAGE}.{name}" for name in (*_SPEAKERS, *_WRITERS, "foreign", "registry")),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # of an nn.Module, by number
# Libraries that `library_versions` has, and this package, whose modules count one by one.
_NAMED = {PACKAGE, *LIBRARIES, "sklearn"}
_loaded: dict[str, tuple[object, tuple[int, int]]] = {}  # spec and state of modules first seen
_told: set[tuple[str, tuple[int, int]]] = set()
_INSTALLED = ("site-packages", "dist-packages")  # folders of libraries, which have versions


def made_by(*parts: object) -> str:
    """Return the fingerprint of all that kept work comes from, but for its inputs.

    That is the code behind ``parts``, as for :func:`code_of`, and the versions of the libraries.
    """
    return fingerprint([code_of(*parts), library_versions()])


def code_of(*made_by: object) -> str:
    """Return the fingerprint of the code behind ``made_by``.

    Args:
        made_by: Modules by name, or objects whose class's modules (those of its bases too) count,
            and functions that were put into them or hooked onto them; of what was written in a
            notebook, what it was compiled to.
    """
    names = {one for one in made_by if isinstance(one, str)}
    digest = hashlib.sha256()
    for one in made_by:
        if isinstance(one, str):
            continue
        kinds = type(one).__mro__
        names |= {kind.__module__ for kind in kinds}
        loose = [*_put_in(one), *filter(_without_file, kinds)]
        if loose:
            parts, named = compiled(*loose)
            names |= named
            digest.update(f"{parts}\n".encode())
    modules = _reached(frozenset(names))
    for name in sorted(modules):
        digest.update(f"{name} {_sha256(name)}\n".encode())
    for name in sorted(_libraries(modules)):
        digest.update(f"{name}=={_version_of(name)}\n".encode())
    return digest.hexdigest()


def _without_file(kind: type) -> bool:
    return kind.__module__ == MAIN and _file_of(MAIN) is None


def _put_in(one: object) -> Iterator[object]:
    """Yield the functions that somebody has put into an object in the place of its class's."""
    values = getattr(one, "__dict__", {})
    for name in sorted(values):
        value = values[name]
        if name in _HOOKS:
            yield from value.values()
        elif callable(value) and not isinstance(value, type) and not _is_network(value):
            yield value


def _is_network(value: object) -> bool:
    return "_parameters" in getattr(value, "__dict__", {})


def _reached(names: frozenset[str]) -> frozenset[str]:
    """Return ``names`` and every module that is followed from them, but for silent ones."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or _is_silent(name) or _file_of(name) is None:
            continue
        found.add(name)
        waiting += filter(_is_followed, _imported(name))
        if is_of_people(name):  # what stands around it runs when it is imported
            waiting += [name.rpartition(".")[0]]
    return frozenset(found)


def _libraries(modules: Iterable[str]) -> set[str]:
    """Return the libraries that modules are of, or that people's import, but for those named."""
    named = set()
    for name in modules:
        named |= {name.partition(".")[0]}
        if is_of_people(name):
            named |= {one.partition(".")[0] for one in _imported(name)}
    return {top for top in named - _NAMED if top not in sys.stdlib_module_names}


def _version_of(top: str) -> str:
    """Return the version of an installed package; empty for what is none."""
    return " ".join(f"{one} {metadata.version(one)}" for one in _packages().get(top, ()))


@cache
def _packages() -> Mapping[str, Sequence[str]]:
    return metadata.packages_distributions()


def _imported(name: str) -> frozenset[str]:
    """Return the modules that ``name`` imports at any depth of its code."""
    file = _file_of(name)
    if file is None or not _is_followed(name):
        return frozenset()
    return _imported_by(name, file, _state(name, file))


def _state(name: str, file: Path) -> tuple[int, int]:
    """Return what changes with a file: people edit theirs while a notebook goes on.

    Of a module that is loaded it is what it was when it was first asked for, for that is what runs
    until the module is loaded anew.
    """
    try:
        found = file.stat()
        now = found.st_mtime_ns, found.st_size
    except OSError:  # gone since it was loaded
        now = (0, 0)
    if (module := sys.modules.get(name)) is None:
        return now
    spec, seen = getattr(module, "__spec__", None), _loaded.get(name)
    if seen is None or seen[0] is not spec:
        _loaded[name] = spec, now
        _sha256_of(file, now)  # while it is what is loaded
        return now
    if seen[1] != now and (name, now) not in _told:
        _told.add((name, now))
        if _sha256_of(file, now) != _sha256_of(file, seen[1]):
            logger.warning(
                f"{file} changed since it was imported. What runs here is what it was, and what is "
                "kept says so; begin anew, or load the module anew, to use the change."
            )
    return seen[1]


@cache
def _imported_by(name: str, file: Path, state: tuple[int, int]) -> frozenset[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    if name == MAIN:  # python -m PACKAGE.MODULE
        package = getattr(getattr(sys.modules.get(MAIN), "__spec__", None), "parent", None) or ""
    found: set[str] = set()
    for node in _running(_parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            module = _resolved(start, package)
            for alias in node.names:
                inside = f"{module}.{alias.name}"
                is_module = _is_followed(inside) and _file_of(inside) is not None
                # a name that a package offers is followed through the package itself
                found.add(inside if is_module else module)
        elif isinstance(node, ast.Call):
            found |= _imported_by_call(node, package)
    return frozenset(found)


def _parsed(file: Path) -> ast.AST:
    """Return the code of a file; nothing of one that does not parse, and is not run either."""
    try:
        return ast.parse(_content(file))
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _imported_by_call(node: ast.Call, package: str) -> set[str]:
    """Return the module that ``import_module("NAME")`` names."""
    called = ast.unparse(node.func).rpartition(".")[2]
    first = node.args[0] if node.args else None
    if called not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return set()
    name = str(first.value)
    return {_resolved(name, package)}


def _resolved(name: str, package: str) -> str:
    """Return a module's whole name; a relative one that leads nowhere stands for itself."""
    try:
        return importlib.util.resolve_name(name, package)
    except (ImportError, ValueError):
        return name


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


def _folder_of(name: str) -> Path | None:
    """Return the folder of a package without a file of its own; None where it is none."""
    spec = _spec_of(name)
    return next((Path(x) for x in (spec and spec.submodule_search_locations) or ()), None)


@cache
def _file_of(name: str) -> Path | None:
    """Return the source file of a module; None where it has none or is no module."""
    spec = _spec_of(name)
    # a script, or a module that was made by hand, has no spec
    file = getattr(sys.modules.get(name), "__file__", None) if spec is None else spec.origin
    return Path(file) if file and file.endswith(".py") else None


def _spec_of(name: str) -> ModuleSpec | None:
    """Return where a module would be imported from, without importing what stands around it."""
    parent = name.rpartition(".")[0]
    try:
        if not parent or name in sys.modules:
            return importlib.util.find_spec(name)
        places: Iterable[object] = getattr(sys.modules.get(parent), "__path__", ())
        if parent not in sys.modules:
            file, folder = _file_of(parent), _folder_of(parent)
            places = [folder] if folder else []
            if file is not None:
                places = [file.parent] if file.name == "__init__.py" else []
        return PathFinder.find_spec(name, [str(place) for place in places])
    except (ImportError, ValueError, AttributeError):
        return None


def _sha256(name: str) -> str:
    file = _file_of(name)
    return "" if file is None else _sha256_of(file, _state(name, file))


@cache
def _sha256_of(file: Path, state: tuple[int, int]) -> str:
    return hashlib.sha256(_content(file)).hexdigest()


def _content(file: Path) -> bytes:
    """Return a source file's content; none where it is gone."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
