"""Checkpoints of strangers, read without running anything that is in them."""

import mmap
import re
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from auscult.compact import KEY, nested
from auscult.constructor import Reference, Refused, Storage, Stub
from auscult.errors import UserError
from auscult.text import MAX_TABLE
from auscult.unpickler import settle, unpickle

__all__ = ["Reference", "Stub", "read_checkpoint"]

MAX_PICKLE_BYTES = 1 << 30

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first, before its archives
_LEGACY_PROTOCOL = 1001
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"
_STRANGERS = (  # how files begin that are taken for checkpoints
    (
        rb"\s*version https://git-lfs",
        "is a git-lfs pointer, not the file itself: run `git lfs pull`",
    ),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "is a web page, not a checkpoint: download it again"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "is compressed: unpack it first"),
    (rb"(?s).{257}ustar", "is a tar archive, not a checkpoint: unpack it first"),
)
_DAMAGE = (  # what damaged files end in
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError, struct.error, zipfile.BadZipFile),
)


def read_checkpoint(path: Path) -> Any:
    """Return what ``torch.save``, ``pickle`` or safetensors wrote, running no code from it.

    Safetensors give a table of tensors, or nested tables where `auscult.compact` wrote them.

    Tensors lie on the CPU, without gradients, parameters among them. Beside tensors there are
    builtin containers (``defaultdict`` and ``Counter`` as dict, ``deque`` as list), paths as str,
    numpy arrays and ``argparse.Namespace``; omegaconf's containers as dict and list; members of
    fairseq's enumerations as their text. Anything else is a :class:`Stub`, or a
    :class:`Reference` where only its name was written.

    Raises:
        UserError: Missing, damaged, not a checkpoint, or of a kind that is not read.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; name the checkpoint file in it (whole folders are read by hf:, "
            "lighthubert: and w2v_bert:)."
        )
    try:
        if path.exists() and not path.is_file():
            raise Refused("is a pipe, a socket or a device; expected a file")
        with path.open("rb") as file, torch.device("cpu"):  # also under another default
            return _read(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except Refused as error:
        raise UserError(f"{path} {_printable(error)}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is not read: what it holds is nested too deeply.") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {_printable(error)}"
        raise UserError(f"{path} is damaged or not a checkpoint ({reason}).") from error


def _printable(error: Exception) -> str:
    """Return the message of ``error``, which may quote the file, fit for a terminal."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _read(path: Path, file: IO[bytes]) -> Any:
    start = file.read(512)
    if not start:
        raise Refused("is empty")
    for pattern, reason in _STRANGERS:
        if re.match(pattern, start):
            raise Refused(reason)
    if path.suffix == ".safetensors" or re.match(rb"(?s).{6}\0\0\{", start):
        return _read_safetensors(path)
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if start.startswith(_ARCHIVE):
        return _read_archive(content)
    if start.startswith(_PICKLE):
        return _read_pickles(content)
    raise Refused(
        f"is not a checkpoint of torch.save or safetensors: it begins with {start[:16]!r}"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if len(metadata.get(KEY, "")) > MAX_TABLE:
                raise Refused(f"is not read: what stands beside its tensors is over {MAX_TABLE}")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
        return nested(tensors, metadata) if KEY in metadata else dict[str, Any](tensors)
    except SafetensorError as error:
        raise Refused(f"cannot be read as safetensors: {error}") from error


# --- archives --------------------------------------------------------------------------------


def _read_archive(content: mmap.mmap) -> Any:
    """Read the zip archive that ``torch.save`` writes, whose members are not compressed."""
    places = _list_members(content)
    roots = [name[: -len("data.pkl")] for name in places if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise Refused("is a zip archive, but not one of torch.save: it has no data.pkl of its own")
    (root,) = roots
    if f"{root}byteorder" in places and _cut(content, places[f"{root}byteorder"]) != b"little":
        raise Refused("was written by a big-endian machine, which is not read")
    storages: dict[str, torch.UntypedStorage] = {}

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        name = f"{root}data/{key}"
        if name not in places:
            raise Refused(f"is damaged: the archive lacks {name}")
        start, size = places[name]
        if numel * dtype.itemsize != size:
            raise Refused(f"is damaged: {name} has {size} bytes, but {numel} of {dtype} declared")
        if name not in storages:
            storages[name] = _copy(content, start, size)
        return Storage(storages[name], dtype)

    program = _cut(content, places[f"{root}data.pkl"])
    return settle(unpickle(BytesIO(program), len(program), find_storage), len(content))


def _list_members(content: mmap.mmap) -> Mapping[str, tuple[int, int]]:
    """Return where each member begins and how many bytes it has; they do not overlap."""
    with zipfile.ZipFile(cast(IO[bytes], content)) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise Refused("is a TorchScript archive, which is a program; save its state_dict instead")
    places: dict[str, tuple[int, int]] = {}
    for member in members:
        name, size = member.filename, member.file_size
        if name in places:
            raise Refused(f"is not read: its archive has two members of the name {name}")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != size:
            raise Refused(f"is not read: {name} is compressed, which torch.save never does")
        if member.flag_bits & 1:
            raise Refused(f"is not read: {name} is encrypted")
        header = content[member.header_offset : member.header_offset + 30]
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        start = member.header_offset + len(header) + name_length + extra_length
        if not header.startswith(_ARCHIVE) or start + size > len(content):
            raise Refused(f"is damaged: {name} is not where its archive says")
        places[name] = start, size
    if sum(size for _, size in places.values()) > len(content):
        raise Refused("is not read: the members of its archive overlap")
    return places


def _cut(content: mmap.mmap, place: tuple[int, int]) -> bytes:
    start, size = place
    if size > MAX_PICKLE_BYTES:
        raise Refused(f"is not read: its pickle has {size} bytes, over {MAX_PICKLE_BYTES}")
    return content[start : start + size]


def _copy(content: mmap.mmap, start: int, size: int) -> torch.UntypedStorage:
    """Return bytes of the file in memory: tensors outlive a file that is overwritten."""
    if start + size > len(content):
        raise Refused("is damaged: it ends before its tensors do")
    copy = torch.empty(size, dtype=torch.uint8)
    copy.numpy()[:] = np.frombuffer(content, dtype=np.uint8, count=size, offset=start)
    return copy.untyped_storage()


# --- pickles ---------------------------------------------------------------------------------


def _read_pickles(content: mmap.mmap) -> Any:
    """Read a plain pickle, or pickles and then storages, as ``torch.save`` wrote before 1.6."""
    size = len(content)
    first = unpickle(content, size)
    if not isinstance(first, int) or first != _LEGACY_MAGIC:
        if content.tell() != size:
            raise Refused("is not read: more follows its pickle")
        return settle(first, size)
    if unpickle(content, size) != _LEGACY_PROTOCOL:
        raise Refused("is not read: its protocol is not that of torch.save")
    if not unpickle(content, size)["little_endian"]:
        raise Refused("was written by a big-endian machine, which is not read")
    storages: dict[str, Storage] = {}
    room = size

    def find_storage(key: str, dtype: torch.dtype, numel: int) -> Storage:
        nonlocal room
        if key not in storages:
            room -= numel * dtype.itemsize
            if room < 0:
                raise Refused("is damaged: its tensors are declared larger than the file")
            storages[key] = Storage(torch.UntypedStorage(numel * dtype.itemsize), dtype)
        if storages[key].dtype != dtype or len(storages[key]) != numel:
            raise Refused(f"is damaged: storage {key} is declared in two ways")
        return storages[key]

    value = unpickle(content, size, find_storage)
    for key in unpickle(content, size):
        storage = storages.pop(key)
        (numel,) = struct.unpack("<q", content.read(8))
        if numel != len(storage):
            raise Refused(f"is damaged: storage {key} is not as long as it was declared")
        start, length = content.tell(), storage.content.nbytes()
        storage.content.copy_(_copy(content, start, length))
        content.seek(start + length)
    if storages:
        raise Refused(f"is damaged: it lacks {len(storages)} of its storages")
    return settle(value, size)
