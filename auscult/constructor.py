"""What may be built from a checkpoint of a stranger: a table of names, and stubs for all others.

Nothing here looks a name up or calls anything that a file chose. Each constructor takes arguments
from the file, trusts none of them, and makes plain data of at most the size that it was given.
"""

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auscult.errors import quoted

MAX_OVERLAP = 1 << 20  # elements of a tensor whose rows overlap in its storage
MAX_AXES = 64
_MAX_BITS = 4096  # of a number that is a key, which Python can still write


class Refused(Exception):
    """Why a file is not read; becomes the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True, repr=False)
class Reference:
    """The name of a class or function that was not looked up."""

    module: str
    name: str

    def __repr__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Stub:
    """What stands where a file asks for a class or function that is not in the table.

    Its state can be read as attributes, such as ``stub.symbols``; everything else that it was to be
    made of is kept under the names below.
    """

    stub_name: str
    stub_args: tuple[Any, ...] = ()
    stub_kwargs: Any = None
    stub_items: list[Any] = field(default_factory=list)  # of a subclass of list or set
    stub_entries: dict[Any, Any] = field(default_factory=dict)  # of a subclass of dict
    stub_state: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("__", "stub_")):
            raise AttributeError(name)
        if isinstance(self.stub_state, dict) and name in self.stub_state:
            return self.stub_state[name]
        raise AttributeError(f"{self!r} has no attribute {name!r}.")

    def __repr__(self) -> str:
        return f"<stub of {self.stub_name}>"


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes behind one or more tensors."""

    content: torch.UntypedStorage
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.content.nbytes() // self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Pending:
    """An array or dtype of numpy, whose state is read after it was made."""

    value: Any = None


def construct(kind: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
    """Build what ``kind`` names if it is in the table, else a stub of it."""
    if not isinstance(kind, Reference):
        return Stub(f"what a {type(kind).__name__} returns", args, kwargs)
    if (known := CONSTRUCTORS.get((kind.module, kind.name))) is not None:
        if kwargs:
            raise Refused(f"is not read: {kind} is given keywords")
        return known(*args)
    member = _enumeration_member(kind, args)
    return member if member is not None else Stub(str(kind), args, kwargs)


def as_key(value: Any) -> Any:
    """Return ``value`` if hashing it takes no time; that of nested tuples can take for ever."""
    parts = value if type(value) is tuple and len(value) <= 16 else (value,)
    for part in parts:
        if not isinstance(part, (*_HASHABLE, Reference, Stub, Tensor)):
            raise Refused(f"is not read: a key or member of a set is a {type(part).__name__}")
        if isinstance(part, int) and part.bit_length() > _MAX_BITS:
            raise Refused(
                "is not read: a key or member of a set is a number of thousands of digits"
            )
    return value


def as_mapping(pairs: Any = ()) -> dict[Any, Any]:
    """Return a dict of ``pairs``, a dict or a sequence of keys and values."""
    items = pairs.items() if isinstance(pairs, dict) else _sequence(pairs)
    return {as_key(key): value for key, value in items}


def as_set(members: Any = ()) -> set[Any]:
    """Return a set of ``members``."""
    return {as_key(member) for member in _sequence(members)}


def build_array(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Build a numpy array of ``content``, bytes, or str as Python 2 wrote them."""
    if not isinstance(dtype, Pending) or not isinstance(dtype.value, np.dtype):
        raise Refused("is not read: it has an array without a dtype")
    flat = np.frombuffer(_bytearray(content), dtype=dtype.value)
    return flat.reshape(tuple(_sequence(shape)), order="F" if order in (True, "F") else "C")


_HASHABLE = (str, bytes, int, float, complex, type(None), np.generic, torch.dtype)


def _sequence(value: Any) -> Any:
    """Return ``value`` if it is one of Python's own; a tensor would be taken apart."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise Refused(f"is damaged: a {type(value).__name__} where a sequence was expected")
    return value


# --- torch -----------------------------------------------------------------------------------


def build_tensor(
    storage: Any,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Build a tensor that lies within its storage; torch itself would enlarge the storage."""
    if not isinstance(storage, Storage):
        raise Refused("is not read: it has a tensor that torch.save did not write")
    dtype, sizes, strides = dtype or storage.dtype, _sequence(size), _sequence(stride)
    available = storage.content.nbytes() // dtype.itemsize
    if len(sizes) != len(strides) or len(sizes) > MAX_AXES:
        raise Refused(f"is damaged: a tensor has {len(sizes)} sizes and {len(strides)} strides")
    if not all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
        raise Refused("is damaged: the sizes of a tensor are not whole numbers from 0 on")
    numel = int(np.prod(sizes, dtype=object))
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if (numel and last >= available) or numel > max(available, MAX_OVERLAP):
        raise Refused(
            f"is damaged: a tensor of size {tuple(sizes)} does not fit its storage of {available} "
            "elements"
        )
    tensor = torch.empty(0, dtype=dtype).set_(storage.content, offset, sizes, strides)
    properties = metadata or {}
    if unknown := set(properties) - {"conj", "neg"}:
        raise Refused(f"is not read: a tensor has the property {quoted(unknown.pop())}")
    if properties.get("conj"):
        tensor = tensor.conj()
    return torch._neg_view(tensor) if properties.get("neg") else tensor


def _tensor_of_dtype(
    storage: Any,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise Refused("is damaged: a tensor without a dtype")
    return build_tensor(storage, offset, size, stride, metadata=metadata, dtype=dtype)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


def _subclassed_tensor(rebuild: Any, kind: Any, args: Any, state: Any) -> Any:
    if not isinstance(rebuild, Reference) or rebuild.module != "torch._utils":
        raise Refused(f"is not read: it has a tensor of the kind {quoted(kind)}")
    return construct(rebuild, tuple(_sequence(args)))


def _size(sizes: Any) -> torch.Size:
    return torch.Size(_sequence(sizes))


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


def storage_dtype(kind: Reference) -> torch.dtype:
    """Return what a class of storages holds.

    Raises:
        Refused: Quantised, or none of torch's.
    """
    if kind.module.split(".")[0] != "torch" or kind.name not in _STORAGES:
        raise Refused(f"is not read: it has a storage of the kind {kind}")
    return _STORAGES[kind.name]


# --- builtins and numpy ----------------------------------------------------------------------


def _ordered(pairs: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(as_mapping(pairs))


def _defaults(factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return as_mapping(pairs)


def _frozenset(members: Any = ()) -> frozenset[Any]:
    return frozenset(as_set(members))


def _list(items: Any = (), length: Any = None) -> list[Any]:
    return list(_sequence(items))


def _bytearray(content: Any = b"", codec: Any = "latin1") -> bytearray:
    """Return a copy of ``content``; a whole number of zeros, as Python offers, is not made."""
    if codec not in ("latin1", "latin-1"):  # other codecs are modules to be imported
        raise Refused(f"is not read: its bytes are encoded as {quoted(codec)}")
    if isinstance(content, str):
        return bytearray(content, "latin1")
    if not isinstance(content, bytes | bytearray):
        raise Refused(f"is damaged: bytes made of a {type(content).__name__}")
    return bytearray(content)


def _bytes(content: Any = b"", codec: Any = "latin1") -> bytes:
    return bytes(_bytearray(content, codec))


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _dtype(code: str, *flags: Any) -> Pending:
    if not re.fullmatch(r"[<>|=]?([?biufc]\d{0,2}|[SU]\d{0,9})", code):
        raise Refused(f"is not read: it has a numpy array of {code!r}")
    return Pending(np.dtype(code))


def _scalar(dtype: Any, content: Any) -> Any:
    return build_array(content, dtype, (), "C")[()]


def _ndarray(*args: Any) -> Pending:
    return Pending()


# --- objects ---------------------------------------------------------------------------------


def _reconstructed(kind: Any, base: Any, state: Any) -> Any:
    """Do what copyreg does below protocol 2: an object whose base class has a value."""
    made = construct(kind, ())
    if isinstance(made, Stub):
        made.stub_items = state if isinstance(state, list) else []
        made.stub_entries = state if isinstance(state, dict) else {}
    return made


def _new(kind: Any, *args: Any) -> Any:
    return construct(kind, args)


def _enumeration_member(kind: Reference, args: tuple[Any, ...]) -> str | None:
    """Return the text of a member of one of fairseq's enumerations."""
    if (kind.module, kind.name) == ("builtins", "getattr") and len(args) == 2:
        kind, args = args[0], args[1:]  # how Python 3.11 writes members
    fairseq = isinstance(kind, Reference) and kind.module.split(".")[0] == "fairseq"
    return args[0] if fairseq and len(args) == 1 and isinstance(args[0], str) else None


_BUILTINS: Mapping[str, Callable[..., Any]] = {
    "bytearray": _bytearray,
    "bytes": _bytes,
    "complex": _complex,
    "frozenset": _frozenset,
    "set": as_set,
}
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")

VALUES: Mapping[tuple[str, str], Any] = {
    ("torch", name): value for name, value in vars(torch).items() if type(value) is torch.dtype
}
CONSTRUCTORS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _bytes,
    ("argparse", "Namespace"): argparse.Namespace,
    ("collections", "Counter"): as_mapping,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _defaults,
    ("collections", "deque"): _list,
    ("copy_reg", "_reconstructor"): _reconstructed,  # Python 2
    ("copyreg", "__newobj__"): _new,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("numpy", "dtype"): _dtype,
    ("torch", "Size"): _size,
    ("torch", "device"): torch.device,
    ("torch._tensor", "_rebuild_from_type_v2"): _subclassed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_tensor"): build_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): build_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    **{("builtins", name): known for name, known in _BUILTINS.items()},
    **{("__builtin__", name): known for name, known in _BUILTINS.items()},
    **{("pathlib", name): _path for name in _PATHS},
    **{("pathlib._local", name): _path for name in _PATHS},  # Python 3.13
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ndarray for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): build_array for core in ("core", "_core")},
}
