"""Functions and classes as they are in memory: what they were compiled to, and all that they name.

That stands for code without a file, as of a notebook, and for what a function took along from where
it was made, as a hook does.
"""

import dis
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

from auscult.value import as_text

MAIN = "__main__"
_WITHIN = ("__func__", "fget", "fset", "func", "__wrapped__")  # of methods, properties, partials
_MISSING = object()
MOST = 10_000  # objects that are looked at


def compiled(*values: object) -> tuple[list[object], set[str]]:
    """Return what functions and classes come to, and the modules that they name.

    What they name of the notebook counts with them.
    """
    parts: list[object] = []
    modules: set[str] = set()
    seen: dict[int, object] = {}  # held, so that no other gets the place of one
    waiting = list(values)
    while waiting and len(seen) < MOST:
        one = waiting.pop()
        if (text := as_text(one)) is not None:
            parts.append(text)
            continue
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, ModuleType):
            modules.add(one.__name__)
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        else:
            name, content, named = _taken_apart(one)
            module = getattr(one, "__module__", None) or type(one).__module__
            modules.add(module)
            parts += [name, content] if module == MAIN else [name]
            waiting += named
    return parts, modules - {MAIN, "builtins"}


def _taken_apart(value: object) -> tuple[str, object, Sequence[object]]:
    """Return what an object is called, what it was compiled to, and what that names."""
    module = getattr(value, "__module__", None) or type(value).__module__
    name = f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    inner = [getattr(value, part) for part in _WITHIN if getattr(value, part, None) is not None]
    if isinstance(value, FunctionType):
        named: list[object] = [inner, value.__defaults__, value.__kwdefaults__, _around(value)]
        if module == MAIN:
            named += _globals(value.__code__, value.__globals__)
        return name, _plain(value.__code__), named
    if isinstance(value, type):
        own = sorted((key, x) for key, x in vars(value).items()) if module == MAIN else []
        shown = [x for key, x in own if not key.startswith("__") or isinstance(x, FunctionType)]
        return name, [key for key, _ in own], [*shown, *(value.__bases__ if own else ())]
    owner = getattr(value, "__self__", None)  # of a method
    if owner is not None and not isinstance(owner, ModuleType | type):
        inner.append(owner)
    more = [getattr(value, "args", None), getattr(value, "keywords", None)] if inner else []
    kind = [type(value)] if type(value).__module__ == MAIN else []
    return name, "", [*inner, *more, *kind, *_held(value)]


def _held(value: object) -> list[object]:
    """Return what an object holds under names, but for a network, which has a fingerprint."""
    held = getattr(value, "__dict__", {})
    if isinstance(value, type) or not isinstance(held, Mapping) or "_parameters" in held:
        return []
    return [part for key in sorted(held, key=str) for part in (key, held[key])]


def _around(function: FunctionType) -> list[object]:
    """Return what a function took along from where it was made."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not there yet
            continue
    return found


def _globals(code: CodeType, known: Mapping[str, Any]) -> list[object]:
    names = dict.fromkeys(_named(code))
    found = [known.get(name, _MISSING) for name in names]
    return [value for value in found if value is not _MISSING]


def _named(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _named(inner)


def _plain(code: CodeType) -> list[object]:
    """Return instructions, names and constants of a function, without where it stands."""
    inner = [_plain(x) if isinstance(x, CodeType) else _constant(x) for x in code.co_consts]
    return [code.co_code.hex(), code.co_names, code.co_varnames, inner]


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
