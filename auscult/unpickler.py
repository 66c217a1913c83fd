"""A pickle is a program: this machine follows it without running anything that it names.

Python's unpickler is not used. :mod:`pickletools` takes the opcodes apart, and what they build
comes from :mod:`auscult.constructor`. A file can waste time, but memory only in proportion to its
own size: 64 times that of the pickle, beside what its tensors have.
"""

import argparse
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from mmap import mmap
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from auscult.constructor import (
    VALUES,
    Pending,
    Reference,
    Refused,
    Storage,
    Stub,
    as_mapping,
    as_set,
    build_array,
    build_tensor,
    construct,
    storage_dtype,
)
from auscult.errors import quoted

MAX_OPCODES = 1 << 22
MAX_PER_BYTE = 64  # bytes that are built for one of the pickle, above
MAX_SHARING = 32  # tensors may have the bytes of a file so often
MIN_BUDGET = 1 << 20
_SET_BYTES, _STUB_BYTES = 216, 400  # of an empty one in memory

FindStorage = Callable[[str, torch.dtype, int], Storage]  # of a key, with a number of elements


def no_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
    """Refuse: for pickles that have no tensors."""
    raise Refused("is damaged: its pickle names a storage where there is none")


def unpickle(program: IO[bytes] | mmap, size: int, find_storage: FindStorage = no_storage) -> Any:
    """Return what the pickle at the position of ``program`` says, and stop behind it.

    :func:`settle` makes the answer final when its storages are filled.

    Args:
        program: A file or what behaves like one.
        size: Its bytes; they bound what may be built.
        find_storage: Returns the storage of a key.

    Raises:
        Refused: Not what torch.save writes, or what is not read.
        Exception: Nearly any; the pickle is damaged.
    """
    return _Machine(find_storage, size).run(program)


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, find_storage: FindStorage, size: int) -> None:
        self.find_storage = find_storage
        self.budget = MAX_PER_BYTE * size + MIN_BUDGET  # bytes that may be built
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self, program: IO[bytes] | mmap) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(cast(IO[bytes], program))):
            if count >= MAX_OPCODES:
                raise Refused(f"is not read: its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name in _LITERALS:
                self.push(arg)
            elif (step := _STEPS.get(opcode.name)) is not None:
                step(self, arg)
            else:
                raise Refused(f"is not read: its pickle has the opcode {opcode.name}")
        return self.stack.pop()

    def charge(self, *values: Any) -> None:
        """Count what is about to be copied: a pickle may hand one large value over many times."""
        self.spend(
            sum(
                len(value) * (1 if isinstance(value, _TEXTS) else 8)
                for value in values
                if isinstance(value, _SIZED)
            )
        )

    def spend(self, size: int) -> None:
        """Count bytes that are about to be built."""
        self.budget -= size
        if self.budget < 0:
            raise Refused(
                "is not read: its pickle copies what it holds over and over, or builds more than "
                f"{MAX_PER_BYTE} times what it weighs"
            )

    # stack and memo

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        """Return what was pushed since the last mark, and go back to what was below it."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    # containers

    def tuple_of(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.push(tuple(reversed(items)))

    def dict_of(self, _: Any) -> None:
        items = self.above_mark()
        self.push({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.stub_items.extend(items)
        elif isinstance(target, set):
            target.update(as_set(items))
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise Refused(f"is damaged: its pickle appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = as_mapping(list(zip(items[::2], items[1::2], strict=True)))
        if isinstance(target, Stub):
            target.stub_entries.update(entries)
        elif isinstance(target, dict):
            target.update(entries)
        else:
            raise Refused(f"is damaged: its pickle sets items of a {type(target).__name__}")

    # names, objects and their state

    def refer(self, name: str) -> None:
        self.name_class(*name.split(" ", 1))

    def refer_by_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused("is damaged: its pickle names a class by something else than text")
        self.name_class(module, name)

    def name_class(self, module: str, name: str) -> None:
        self.push(VALUES.get((module, name), Reference(module, name)))

    def call(self, _: Any) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self.make(kind, args)

    def call_with_keywords(self, _: Any) -> None:
        kwargs, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.make(kind, args, kwargs)

    def instantiate(self, name: str) -> None:
        args = tuple(self.above_mark())
        self.refer(name)
        self.make(self.stack.pop(), args)

    def instantiate_by_stack(self, _: Any) -> None:
        kind, *args = self.above_mark()
        self.make(kind, tuple(args))

    def make(self, kind: Any, args: Any, kwargs: Any = None) -> None:
        if not isinstance(args, tuple):
            raise Refused(
                f"is damaged: its pickle calls {quoted(kind)} with a {type(args).__name__}"
            )
        self.charge(args, *args)
        made = construct(kind, args, kwargs)
        if isinstance(made, Stub):
            self.spend(_STUB_BYTES)
        self.push(made)

    def set_of(self, items: list[Any]) -> set[Any]:
        self.spend(_SET_BYTES)
        return as_set(items)

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        self.charge(state, *(state if isinstance(state, tuple) else ()))
        if isinstance(target, Stub):
            target.stub_state = _attributes(state)
        elif isinstance(target, argparse.Namespace):
            vars(target).update({str(key): value for key, value in dict(state).items()})
        elif isinstance(target, OrderedDict):
            if (
                isinstance(state, dict) and "_metadata" in state
            ):  # of a state_dict; nothing else is kept
                vars(target)["_metadata"] = state["_metadata"]
        elif isinstance(target, Pending):
            _complete(target, state)
        elif not isinstance(target, Tensor):  # attributes of tensors are dropped
            raise Refused(f"is not read: its pickle sets attributes of a {type(target).__name__}")

    def find(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", Reference() as kind, str() as key, str(), int() as numel, *view) if (
                numel >= 0 and not any(view)
            ):
                self.push(self.find_storage(key, storage_dtype(kind), numel))
            case ("module", Reference() as kind, *_):  # the source code that follows is ignored
                self.push(kind)
            case _:
                raise Refused("is not read: it refers to something that torch.save did not write")


def _attributes(state: Any) -> Any:
    """Return an object's state, with that of its slots where there is one."""
    match state:
        case (None | dict() as attributes, dict() as slots):
            return {**(attributes or {}), **slots}
    return state


def _complete(target: Pending, state: Any) -> None:
    """Give numpy's objects their state."""
    if target.value is None:
        _, shape, dtype, fortran, content = state
        target.value = build_array(content, dtype, shape, bool(fortran))
    elif isinstance(target.value, np.dtype):
        _, order, subtype, names, fields, *_ = state
        if subtype is not None or names is not None or fields is not None:
            raise Refused("is not read: it has a numpy array of records")
        target.value = target.value.newbyteorder(order)
    else:
        raise Refused("is damaged: its pickle sets the state of an array twice")


_TEXTS = (str, bytes, bytearray)
_SIZED = (*_TEXTS, list, tuple, dict, set, frozenset)
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_SET": lambda m, _: m.push(m.set_of([])),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "DICT": _Machine.dict_of,
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "FROZENSET": lambda m, _: m.push(frozenset(m.set_of(m.above_mark()))),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "ADDITEMS": lambda m, _: m.append(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "GLOBAL": _Machine.refer,
    "STACK_GLOBAL": _Machine.refer_by_stack,
    "INST": _Machine.instantiate,
    "OBJ": _Machine.instantiate_by_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.find,
}


# --- what is left in the end -----------------------------------------------------------------


def settle(value: Any, stored: int) -> Any:
    """Put plain values where objects of numpy and omegaconf stand, at any depth.

    Args:
        value: What a pickle built.
        stored: Bytes of the file. Tensors may repeat what it stores, but whoever copies them is to
            get no more than `MAX_SHARING` times as much.

    Raises:
        Refused: Damaged, or with tensors out of proportion.
    """
    done: dict[int, tuple[Any, Any]] = {}
    settled = _settle(value, done)
    shown = sum(x.numel() * x.element_size() for _, x in done.values() if isinstance(x, Tensor))
    if shown > MAX_SHARING * stored + MIN_BUDGET:
        raise Refused(
            f"is not read: its tensors repeat what they store, {shown:,} bytes in a file of "
            f"{stored:,}; at most {MAX_SHARING} times are read"
        )
    return settled


def _settle(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if not isinstance(value, (*_MUTABLE, tuple, Pending, Storage, Tensor)):
        return value
    if id(value) not in done:
        done[id(value)] = value, value  # the first keeps the id taken
        match value:
            case Pending(value=None):
                raise Refused("is damaged: an array without content")
            case Pending():
                done[id(value)] = value, value.value
            case Storage():
                done[id(value)] = value, build_tensor(value, 0, (len(value),), (1,))
            case tuple():
                if type(value) is tuple:  # not torch.Size
                    done[id(value)] = value, tuple(_settle(part, done) for part in value)
            case Stub() if value.stub_name.startswith("omegaconf."):
                _settle_configuration(value, done)
            case Stub():
                for name in ("args", "kwargs", "items", "entries", "state"):
                    setattr(value, f"stub_{name}", _settle(getattr(value, f"stub_{name}"), done))
            case argparse.Namespace() | OrderedDict():
                _settle_values(vars(value), done)
        if isinstance(value, dict):
            _settle_values(value, done)
        elif isinstance(value, list):
            value[:] = [_settle(item, done) for item in value]
    return done[id(value)][1]


_MUTABLE = (dict, list, argparse.Namespace, Stub)


def _settle_values(mapping: dict[Any, Any], done: dict[int, tuple[Any, Any]]) -> None:
    for key in mapping:
        mapping[key] = _settle(mapping[key], done)


def _settle_configuration(node: Stub, done: dict[int, tuple[Any, Any]]) -> None:
    """Find the value of one of omegaconf's nodes; others than nodes stay."""
    state = node.stub_state if isinstance(node.stub_state, dict) else {}
    found = state.get("_content", state.get("_val", node))
    if isinstance(found, Stub) and found is not node and len(found.stub_args) == 1:
        found = found.stub_args[0]  # a member of an enumeration
    done[id(node)] = node, found
    done[id(node)] = node, _settle(found, done)
