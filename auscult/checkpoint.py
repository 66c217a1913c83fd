"""Checkpoints of strangers, read without running anything that is in them.

A pickle is a program. The one here is not given to Python's unpickler: its opcodes are read by
:mod:`pickletools` and followed by a small machine that knows what to build for the names in two
tables, :data:`_VALUES` and :data:`_CONSTRUCTORS`. No name is looked up and nothing else is called;
any other class or function leaves a :class:`Stub`. A file can still waste time, as any can, but not
more memory than its own size and the number of its opcodes allow.
"""

import argparse
import mmap
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from auscult.errors import UserError

MAX_OPCODES = 5_000_000  # of one pickle; published checkpoints stay below 1 % of it
MAX_PICKLE_BYTES = 1 << 30
MAX_OVERLAP = 1 << 24  # elements that a tensor may have beyond those of its storage

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before 1.6
_LEGACY_PROTOCOL = 1001
_STRANGERS = (  # how files begin that are taken for checkpoints
    (
        rb"\s*version https://git-lfs",
        "is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "is a web page, not a checkpoint: download it again"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "is compressed: unpack it first"),
    (rb"(?s).{257}ustar", "is a tar archive, not a checkpoint: unpack it first"),
)


class _Refused(Exception):
    """Why a file is not read; becomes the end of a sentence about it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a class or function that was not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Stub:
    """What stands where a file asks for a class or function that is none of ours.

    Its state can be read as attributes: ``stub.symbols``. What it was to be made of is kept.
    """

    stub_name: str
    stub_args: tuple[Any, ...] = ()
    stub_kwargs: dict[str, Any] = field(default_factory=dict)
    stub_items: list[Any] = field(default_factory=list)  # of a subclass of list or set
    stub_entries: dict[Any, Any] = field(default_factory=dict)  # of a subclass of dict
    stub_state: Any = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        state = self.stub_state if not name.startswith(("__", "stub_")) else None
        if isinstance(state, dict) and name in state:
            return state[name]
        raise AttributeError(f"{self!r} has no attribute {name!r}.")

    def __repr__(self) -> str:
        return f"<stub of {self.stub_name}>"


def read_checkpoint(path: Path) -> Any:
    """Return what ``torch.save``, ``pickle`` or safetensors wrote, running no code from it.

    Tensors lie on the CPU, without gradients, parameters among them; those of a ``torch.save``
    archive are mapped from the file, which must not be written to while they are used. Beside
    tensors there are builtin containers (``defaultdict`` and ``Counter`` as dict, ``deque`` as
    list, paths as str), numpy arrays, ``argparse.Namespace``; omegaconf's containers as dict and
    list; members of fairseq's enumerations as their text. All else is a :class:`Stub`, or a
    :class:`Reference` where only its name was written.

    Raises:
        UserError: Missing, damaged, not a checkpoint, or of a kind that is not read.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the checkpoint file in it.")
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except _Refused as error:
        raise UserError(f"{path} {error}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is not read: what it holds is nested too deeply.") from error
    except (
        *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError),
        *(RuntimeError, TypeError, ValueError, EOFError, struct.error, zipfile.BadZipFile),
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{path} is damaged or not a checkpoint: {reason}.") from error


def _read(path: Path, file: IO[bytes]) -> Any:
    start = file.read(512)
    if not start:
        raise _Refused("is empty")
    for pattern, reason in _STRANGERS:
        if re.match(pattern, start):
            raise _Refused(reason)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _read_safetensors(path)
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if start.startswith(b"PK"):
        return _read_archive(mapped)
    if not start.startswith(b"\x80"):
        raise _Refused(
            f"is not a checkpoint of torch.save or safetensors: it begins {start[:16]!r}"
        )
    return _read_legacy(mapped)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _Refused(f"cannot be read as safetensors: {error}") from error


# --- files -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Storage:
    """The bytes behind one or more tensors."""

    content: torch.UntypedStorage
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.content.nbytes() // self.dtype.itemsize


def _read_archive(mapped: mmap.mmap) -> Any:
    """Read the zip archive that ``torch.save`` writes, whose members are not compressed."""
    with zipfile.ZipFile(cast(IO[bytes], mapped)) as archive:
        members = archive.infolist()
    places = {member.filename: _locate(mapped, member) for member in members}
    if len(places) < len(members):
        raise _Refused("is not read: two members of the archive have one name")
    roots = [
        name.removesuffix("data.pkl") for name in places if re.fullmatch(r"[^/]*/data\.pkl", name)
    ]
    if len(roots) != 1:
        raise _Refused("is a zip archive, but not one of torch.save: it has no data.pkl of its own")
    (root,) = roots
    if f"{root}constants.pkl" in places:
        raise _Refused(
            "is a TorchScript archive, which is a program; export its state_dict with torch.save"
        )
    if f"{root}byteorder" in places and _cut(mapped, places[f"{root}byteorder"]) != b"little":
        raise _Refused("was written by a big-endian machine, which is not read")
    storages: dict[str, torch.UntypedStorage] = {}

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
        name = f"{root}data/{key}"
        if name not in places:
            raise _Refused(f"is damaged: the archive lacks {name}")
        start, size = places[name]
        if numel * dtype.itemsize != size:
            raise _Refused(
                f"is damaged: {name} has {size} bytes where {numel} of {dtype} were declared"
            )
        if name not in storages:
            storages[name] = _map(mapped, start, size)
        return _Storage(storages[name], dtype)

    program = _cut(mapped, places[f"{root}data.pkl"])
    return _finish(_Machine(find_storage).run(BytesIO(program)))


def _locate(mapped: mmap.mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where the bytes of ``member`` begin, and how many they are."""
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise _Refused(f"is not read: {member.filename} is compressed, as torch.save never does")
    header = mapped[member.header_offset : member.header_offset + 30]
    name, extra = struct.unpack("<HH", header[26:30])
    start = member.header_offset + 30 + name + extra
    if not header.startswith(b"PK\x03\x04") or start + member.file_size > len(mapped):
        raise _Refused(f"is damaged: {member.filename} is not where the archive says")
    return start, member.file_size


def _cut(mapped: mmap.mmap, place: tuple[int, int]) -> bytes:
    start, size = place
    if size > MAX_PICKLE_BYTES:
        raise _Refused(f"is not read: its pickle has {size} bytes, over {MAX_PICKLE_BYTES}")
    return mapped[start : start + size]


def _map(mapped: mmap.mmap, start: int, size: int) -> torch.UntypedStorage:
    if size == 0:
        return torch.UntypedStorage(0)
    found = torch.frombuffer(mapped, dtype=torch.uint8, count=size, offset=start)
    aligned = start % 16 == 0  # as torch.save writes, but no archive need be
    return (found if aligned else found.clone()).untyped_storage()


def _read_legacy(mapped: mmap.mmap) -> Any:
    """Read a plain pickle, or what ``torch.save`` wrote before 1.6: pickles, then storages."""
    first = _Machine(_no_storage).run(mapped)
    if first != _LEGACY_MAGIC:
        if mapped.tell() != len(mapped):
            raise _Refused("is not read: more follows its pickle")
        return _finish(first)
    if _Machine(_no_storage).run(mapped) != _LEGACY_PROTOCOL:
        raise _Refused("is not read: its protocol is not that of torch.save")
    if _Machine(_no_storage).run(mapped).get("little_endian") is not True:
        raise _Refused("was written by a big-endian machine, which is not read")
    storages: dict[str, _Storage] = {}
    room = len(mapped)

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
        nonlocal room
        if key not in storages:
            room -= numel * dtype.itemsize
            if room < 0:
                raise _Refused("is damaged: its tensors are declared larger than the file")
            storages[key] = _Storage(torch.UntypedStorage(numel * dtype.itemsize), dtype)
        if (found := storages[key]).dtype != dtype or len(found) != numel:
            raise _Refused(f"is damaged: storage {key} is declared twice, differently")
        return found

    value = _Machine(find_storage).run(mapped)
    for key in _Machine(_no_storage).run(mapped):
        storage = storages.pop(key)
        (numel,) = struct.unpack("<q", mapped.read(8))
        content = mapped.read(storage.content.nbytes())
        if numel != len(storage) or len(content) != storage.content.nbytes():
            raise _Refused(f"is damaged: storage {key} is not as long as was declared")
        if content:
            storage.content.copy_(
                torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
            )
    if storages:
        raise _Refused(f"is damaged: it lacks {len(storages)} of its storages")
    return _finish(value)


def _no_storage(key: str, dtype: torch.dtype, numel: int) -> _Storage:
    raise _Refused("is not read: it names a storage where there is none")


# --- what may be built -----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Pending:
    """Something of numpy that is complete when its state has been read."""

    value: Any = None


_SCALARS = (str, bytes, int, float, complex, type(None), np.generic)


def _key(value: Any) -> Any:
    """Return ``value`` if it can be hashed in no time; a nest of tuples cannot."""
    parts = value if type(value) is tuple else (value,)
    for part in parts:
        if not isinstance(part, (*_SCALARS, Reference, Stub, Tensor)):
            raise _Refused(f"is not read: a key or member of a set is a {type(part).__name__}")
    return value


def _tensor(
    storage: Any,
    offset: int,
    size: Iterable[int],
    stride: Iterable[int],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Mapping[str, bool] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Build a tensor that lies within its storage; torch itself would enlarge the storage."""
    if not isinstance(storage, _Storage):
        raise _Refused("is not read: it has a tensor that torch.save did not write")
    dtype, sizes, strides = dtype or storage.dtype, tuple(size), tuple(stride)
    available = storage.content.nbytes() // dtype.itemsize
    plain = all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides))
    if not plain or len(sizes) != len(strides):
        raise _Refused(f"is damaged: a tensor has size {sizes} and stride {strides}")
    numel = int(np.prod(sizes, dtype=object))
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if (numel and last >= available) or numel > max(available, MAX_OVERLAP):
        raise _Refused(
            f"is damaged: a tensor of size {sizes} does not fit its storage of {available} elements"
        )
    tensor = torch.empty(0, dtype=dtype).set_(storage.content, offset, sizes, strides)
    if unknown := set(metadata or ()) - {"conj", "neg"}:
        raise _Refused(f"is not read: a tensor has the property {unknown.pop()!r}")
    if (metadata or {}).get("conj"):
        tensor = tensor.conj().resolve_conj()
    return tensor.neg() if (metadata or {}).get("neg") else tensor


def _tensor_of_dtype(
    storage: Any,
    offset: int,
    size: Iterable[int],
    stride: Iterable[int],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Mapping[str, bool] | None = None,
) -> Tensor:
    return _tensor(storage, offset, size, stride, metadata=metadata, dtype=dtype)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _subclassed_tensor(rebuild: Any, kind: Any, args: tuple[Any, ...], state: Any) -> Any:
    return _construct(rebuild, args)


def _mapping(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return {_key(key): value for key, value in items}


def _ordered(pairs: Iterable[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(_mapping(pairs))


def _defaults(factory: Any = None, pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    return _mapping(pairs)


def _set(members: Iterable[Any] = ()) -> set[Any]:
    return {_key(member) for member in members}


def _frozenset(members: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(members))


def _list(items: Iterable[Any] = (), length: Any = None) -> list[Any]:
    return list(items)


def _encode(text: str = "", codec: str = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1"):
        raise _Refused(f"is not read: its bytes are encoded as {codec!r}")
    return text.encode("latin1") if isinstance(text, str) else bytes(memoryview(text))


def _bytearray(text: str | bytes = b"", codec: str = "latin1") -> bytearray:
    return bytearray(_encode(text, codec) if isinstance(text, str) else memoryview(text))


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _dtype(code: str, *flags: Any) -> _Pending:
    if not re.fullmatch(r"[<>|=]?([?biufc]\d*|[SU]\d+)", code):
        raise _Refused(f"is not read: it has a numpy array of {code!r}")
    return _Pending(np.dtype(code))


def _array_of(content: str | bytes, dtype: Any, shape: Any, order: Any) -> Any:
    """Build an array of bytes that are there; str is how Python 2 wrote them."""
    if not isinstance(dtype, _Pending) or not isinstance(dtype.value, np.dtype):
        raise _Refused("is not read: it has a numpy array without a dtype")
    flat = np.frombuffer(bytearray(_encode(cast(str, content))), dtype=dtype.value)
    return flat.reshape(tuple(shape), order="F" if order in (True, "F") else "C")


def _scalar(dtype: Any, content: str | bytes) -> Any:
    return _array_of(content, dtype, (), "C")[()]


def _ndarray(*args: Any) -> _Pending:
    return _Pending()


def _reconstruct(kind: Any, base: Any, state: Any) -> Any:
    """Do what copyreg did before protocol 2: an object whose base class has a value."""
    made = _construct(kind, ())
    if isinstance(made, Stub):
        made.stub_items = state if isinstance(state, list) else []
        made.stub_entries = state if isinstance(state, dict) else {}
    return made


def _new(kind: Any, *args: Any) -> Any:
    return _construct(kind, args)


_VALUES: Mapping[tuple[str, str], Any] = {
    ("torch", name): value for name, value in vars(torch).items() if type(value) is torch.dtype
}

_STORAGES: Mapping[str, torch.dtype] = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}

_CONSTRUCTORS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclassed_tensor,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _defaults,
    ("collections", "Counter"): _mapping,
    ("collections", "deque"): _list,
    ("argparse", "Namespace"): argparse.Namespace,
    ("_codecs", "encode"): _encode,
    ("copyreg", "_reconstructor"): _reconstruct,
    ("copyreg", "__newobj__"): _new,
    ("copy_reg", "_reconstructor"): _reconstruct,
    **{
        (module, name): construct
        for module in ("builtins", "__builtin__")
        for name, construct in {
            "set": _set,
            "frozenset": _frozenset,
            "bytes": _encode,
            "bytearray": _bytearray,
            "complex": _complex,
        }.items()
    },
    **{
        (module, name): _path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
    ("numpy", "dtype"): _dtype,
    **{
        (f"numpy.{core}.{module}", name): construct
        for core in ("core", "_core")
        for module, name, construct in (
            ("multiarray", "_reconstruct", _ndarray),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of),
        )
    },
}


def _construct(kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
    """Build what ``kind`` means if it is in the table of constructors, else a stub of it."""
    if not isinstance(kind, Reference):
        return Stub(f"what {kind!r} returns", args, kwargs or {})
    if (construct := _CONSTRUCTORS.get((kind.module, kind.name))) is not None:
        if kwargs:
            raise _Refused(f"is not read: {kind} is given keywords")
        return construct(*args)
    if enumeration := _member(kind, args):
        return enumeration
    return Stub(str(kind), args, kwargs or {})


def _member(kind: Reference, args: tuple[Any, ...]) -> str | None:
    """Return the text of a member of one of fairseq's enumerations."""
    if (kind.module, kind.name) == ("builtins", "getattr") and len(args) == 2:
        kind, args = args[0], args[1:]  # how Python 3.11 writes members
    fits = isinstance(kind, Reference) and kind.module.split(".")[0] == "fairseq"
    return args[0] if fits and len(args) == 1 and isinstance(args[0], str) else None


# --- the machine -----------------------------------------------------------------------------


class _Machine:
    """Follows the opcodes of one pickle.

    Args:
        find_storage: Returns the storage of a key, dtype and number of elements.
    """

    def __init__(self, find_storage: Callable[[str, torch.dtype, int], _Storage]) -> None:
        self.find_storage = find_storage
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self, program: IO[bytes] | mmap.mmap) -> Any:
        """Return what the pickle at the position of ``program`` says, and stop behind it."""
        for count, (opcode, arg, _) in enumerate(pickletools.genops(cast(IO[bytes], program))):
            if count >= MAX_OPCODES:
                raise _Refused(f"is not read: its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name in _LITERALS:
                self.push(arg)
            elif (step := _STEPS.get(opcode.name)) is not None:
                step(self, arg)
            else:
                raise _Refused(f"is not read: its pickle has the opcode {opcode.name}")
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def above_mark(self) -> list[Any]:
        """Return what was pushed since the last mark, and go back to what was below it."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def tuple_of(self, length: int) -> None:
        items = tuple(self.stack[-length:])
        if len(items) < length:
            raise _Refused("is damaged: its pickle takes what it never wrote")
        self.stack[-length:] = [items]

    def dict_of(self, _: Any) -> None:
        items = self.above_mark()
        self.push({})
        self.set_items(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.stub_items.extend(items)
        elif isinstance(target, set):
            target.update(_set(items))
        elif type(target) is list:
            target.extend(items)
        else:
            raise _Refused(f"is damaged: its pickle appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = _mapping(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, Stub):
            target.stub_entries.update(entries)
        elif isinstance(target, dict):
            target.update(entries)
        else:
            raise _Refused(f"is damaged: its pickle sets items of a {type(target).__name__}")

    def refer(self, name: str) -> None:
        self.push_reference(*name.split(" ", 1))

    def refer_by_stack(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Refused("is damaged: its pickle names a class by something else than text")
        self.push_reference(module, name)

    def push_reference(self, module: str, name: str) -> None:
        self.push(_VALUES.get((module, name), Reference(module, name)))

    def instantiate(self, name: str) -> None:
        args = tuple(self.above_mark())
        self.refer(name)
        self.push(_construct(self.stack.pop(), args))

    def instantiate_by_stack(self, _: Any) -> None:
        kind, *args = self.above_mark()
        self.push(_construct(kind, tuple(args)))

    def call(self, _: Any) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self.push(_construct(kind, _as_tuple(args)))

    def call_with_keywords(self, _: Any) -> None:
        kwargs, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push(_construct(kind, _as_tuple(args), kwargs))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.stub_state = _attributes(state)
        elif isinstance(target, argparse.Namespace):
            vars(target).update({str(key): value for key, value in state.items()})
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            if "_metadata" in state:  # of a state_dict; nothing else is kept
                vars(target)["_metadata"] = state["_metadata"]
        elif isinstance(target, _Pending):
            _complete(target, state)
        elif not isinstance(target, Tensor):  # attributes of tensors are dropped
            raise _Refused(f"is not read: its pickle sets attributes of a {type(target).__name__}")

    def find(self, _: Any) -> None:
        match self.stack.pop():
            case ("storage", Reference() as kind, str() as key, str(), int() as numel, *views) if (
                kind.name in _STORAGES and numel >= 0 and not any(views)
            ):
                dtype = _STORAGES[kind.name]
                self.push(self.find_storage(key, dtype, numel))
            case ("module", Reference() as kind, *_):  # the source code that follows is ignored
                self.push(kind)
            case _:
                raise _Refused("is not read: it refers to something that torch.save did not write")


def _as_tuple(args: Any) -> tuple[Any, ...]:
    if not isinstance(args, tuple):
        raise _Refused("is damaged: its pickle calls something with what is no tuple")
    return args


def _attributes(state: Any) -> Any:
    """Return the state of an object as one dict if it is one, or one and that of its slots."""
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(part is None or isinstance(part, dict) for part in parts):
        return {key: value for part in parts if part for key, value in part.items()}
    return state


def _complete(target: _Pending, state: tuple[Any, ...]) -> None:
    if isinstance(target.value, np.dtype):
        _, order, subtype, names, fields, *_ = state
        if subtype is not None or names is not None or fields is not None:
            raise _Refused("is not read: it has a numpy array of records")
        target.value = target.value.newbyteorder(order)
    elif target.value is None:
        _, shape, dtype, fortran, content = state
        target.value = _array_of(content, dtype, shape, bool(fortran))
    else:
        raise _Refused("is damaged: its pickle sets the state of an array twice")


_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_STEPS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "FROZENSET": lambda m, _: m.push(_frozenset(m.above_mark())),
    "DICT": _Machine.dict_of,
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
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


def _finish(value: Any) -> Any:
    """Put values where numpy's and omegaconf's objects stand, at any depth."""
    return _plain(value, {})


def _plain(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, _Pending):
        return value.value
    if isinstance(value, _Storage):
        return _tensor(value, 0, (len(value),), (1,))
    if isinstance(value, Stub) and value.stub_name.startswith("omegaconf."):
        return _configuration(value, done)
    if type(value) is tuple:
        found = tuple(_plain(part, done) for part in value)
        done[id(value)] = value, found
        return found
    done[id(value)] = value, value
    match value:
        case dict():
            _plain_values(value, done)
        case list():
            value[:] = [_plain(item, done) for item in value]
        case argparse.Namespace():
            _plain_values(vars(value), done)
        case Stub():
            value.stub_args = tuple(_plain(item, done) for item in value.stub_args)
            for part in (value.stub_kwargs, value.stub_entries, value.stub_items):
                _plain(part, done)
            value.stub_state = _plain(value.stub_state, done)
    return value


def _plain_values(mapping: dict[Any, Any], done: dict[int, tuple[Any, Any]]) -> None:
    for key in mapping:
        mapping[key] = _plain(mapping[key], done)


def _configuration(node: Stub, done: dict[int, tuple[Any, Any]]) -> Any:
    """Return the value of one of omegaconf's nodes."""
    state = node.stub_state if isinstance(node.stub_state, dict) else {}
    content = state.get("_content", state.get("_val"))
    found: Any = content
    if isinstance(content, dict):
        found = {}
        done[id(node)] = node, found
        found.update({key: _plain(item, done) for key, item in content.items()})
    elif isinstance(content, list):
        found = []
        done[id(node)] = node, found
        found.extend(_plain(item, done) for item in content)
    elif isinstance(content, Stub) and len(content.stub_args) == 1:  # a member of an enumeration
        found = content.stub_args[0]
    done[id(node)] = node, found
    return found
