"""Kept work: files that a later command goes on from, with a hash of their own content in them.

A flipped bit would otherwise become another number, and a torn file a traceback. Each file is
checked when it is opened: what fails is removed, said, and made again by whoever asked.

A name says what was kept and then what made it, so that the work of other code is neither read nor
lost (see :func:`place`).

Tensors stand in safetensors, whose metadata has the hash of the whole file with zeros in the
hash's own place. Values stand in JSON beside the hash of their canonical form. Any other format
that stands bytes after its end (numpy's and torch's archives do) has the hash there.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from auscult.progress import logger
from auscult.record import fingerprint
from auscult.whole_file import whole_file

SEAL = "sha256"  # the name of the hash in metadata and in JSON
OBJECT_SEAL = "content_sha256"  # in objects for people, where sha256 is often that of weights
_OPEN = "0" * 64
_MARK = b"\n#auscult-sha256:"  # what stands before the hash after a file's end
_HEADER_LIMIT = 2**26
_CHUNK = 2**22


def place(
    folder: Path, identity: Sequence[object], made_by: str, suffix: str = "", prefix: str = ""
) -> Path:
    """Return the path of kept work, whose name says what it is and then what made it.

    Args:
        folder: Where it is.
        identity: JSON values that all of it depends on, but for code and libraries.
        made_by: Fingerprint of those, see :func:`auscult.origin.made_by`.
        suffix: Of the name, with its dot.
        prefix: Of the name, for people.
    """
    readable = re.sub(r"[^\w.+-]+", "_", prefix)[-80:]
    return folder / f"{readable}{fingerprint(identity)[:32]}-{made_by[:16]}{suffix}"


def say_made_otherwise(missing: Iterable[Path], whose: str, things: str) -> None:
    """Say for how many empty places there is the work of other code or libraries.

    Args:
        missing: Paths as :func:`place` returns them.
        whose: The encoder, say.
        things: What the places are for, in the plural.
    """
    paths = list(missing)
    there = {
        name
        for folder in {path.parent for path in paths}
        if folder.is_dir()
        for name in map(_without_maker, os.listdir(folder))
    }
    if found := sum(_without_maker(path.name) in there for path in paths if not path.exists()):
        logger.info(
            f"{whose}: {found} {things} were made by other code or libraries and are made anew."
        )


def _without_maker(name: str) -> tuple[str, str]:
    stem, _, rest = name.rpartition("-")
    return stem, rest.partition(".")[2]


def write_tensors(
    tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a sealed safetensors file, whole or not at all; equal ones are equal bytes.

    Args:
        tensors: By name.
        path: Where they are kept.
        about: Text to keep with them.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={**(about or {}), SEAL: _OPEN},
        )
        with temporary.open("r+b") as file:
            _sort_about(file)
            place = _place_of_seal(file)
            if place is None:
                raise ValueError(f"{temporary} has no place for its hash.")
            digest = _hash(file, place)
            file.seek(place)
            file.write(digest.encode())


def open_tensors(path: Path) -> Any | None:
    """Return a sealed safetensors file as ``safe_open`` gives it, its content checked.

    Returns:
        None where there is no such file, or where it was damaged: it is then said and removed.
    """
    if not _whole(path, _tensors_whole):
        return None
    try:
        return safe_open(path, "pt")
    except FileNotFoundError:  # another process found damage, too
        return None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return what :func:`write_tensors` kept, tensors and text; None as :func:`open_tensors`."""
    file = open_tensors(path)
    if file is None:
        return None
    with file as opened:
        about = {name: text for name, text in opened.metadata().items() if name != SEAL}
        return {name: opened.get_tensor(name) for name in opened.keys()}, about


def write_arrays(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write arrays, compressed, to a sealed .npz file, whole or not at all.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        seal(temporary)


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return what :func:`write_arrays` kept; None where it is missing, or damaged and removed."""
    if not is_whole(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_json(value: Any, path: Path) -> None:
    """Write a JSON value to a sealed file, whole or not at all.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    content = json.loads(json.dumps(value))  # tuples become lists, as they will be read
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({SEAL: fingerprint(content), "content": content}) + "\n")


def read_json(path: Path) -> Any | None:
    """Return what :func:`write_json` kept; None where it is missing, or damaged and so removed."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        if found[SEAL] == fingerprint(found["content"]):
            return found["content"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    drop(path)
    return None


def write_object(value: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object that people read too, its hash among its keys, whole or not at all.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(_sealed(value, OBJECT_SEAL), indent=1) + "\n")


def read_object(path: Path) -> dict[str, Any] | None:
    """Return what :func:`write_object` kept, without the hash.

    Returns:
        None where it is missing, or where it was damaged or has no hash: it is then removed.
    """
    if not path.exists():
        return None
    with suppress(ValueError, RecursionError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and OBJECT_SEAL in found and not is_damaged(found):
            del found[OBJECT_SEAL]
            return found
    drop(path)
    return None


def is_damaged(found: Mapping[str, Any]) -> bool:
    """Say whether an object as :func:`write_object` writes it was changed since.

    One without a hash, of an older version or made by hand, was not.
    """
    rest = {name: value for name, value in found.items() if name != OBJECT_SEAL}
    return OBJECT_SEAL in found and found[OBJECT_SEAL] != fingerprint(rest)


def sealed_line(row: Mapping[str, Any]) -> str:
    """Return one line of a file that grows: a JSON object with the hash of the rest of it."""
    return json.dumps(_sealed(row)) + "\n"


def sealed_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that were added as :func:`sealed_line` makes them.

    Rows that were torn or damaged are left out and said, and the file is written without them.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = [_row(line) for line in lines if line]
    whole = [row for row in rows if row is not None]
    if len(whole) < len(rows) or lines[-1]:
        logger.warning(
            f"{path}: {len(rows) - len(whole)} of {len(rows)} rows were torn or damaged; they are "
            "dropped and made again."
        )
        with whole_file(path) as temporary:
            temporary.write_text("".join(map(sealed_line, whole)))
    return whole


def seal(path: Path) -> None:
    """Add the hash of a finished file's content after its end."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, 2)
        file.write(_MARK + digest.encode())


def is_sealed(path: Path) -> bool:
    """Say whether a file was closed by :func:`seal`; those of an older version were not."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**12, 0))  # its end may have been cut or added to
        return _MARK in file.read()


def is_whole(path: Path) -> bool:
    """Say whether a file that :func:`seal` closed is there and undamaged; remove it if damaged."""
    return _whole(path, _end_whole)


def drop(path: Path) -> None:
    """Remove a damaged file and say so."""
    logger.warning(f"{path} was damaged since it was written; it is dropped and made again.")
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _whole(path: Path, check: Any) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
    with suppress(FileNotFoundError):  # another process found damage, too
        if _checked(path, stamp, check):
            return True
    drop(path)
    return False


@lru_cache(maxsize=4096)
def _checked(path: Path, stamp: tuple[int, int, int], check: Any) -> bool:
    """Check a file's content, once for as long as it does not change."""
    with path.open("rb") as file:
        return bool(check(file, path))


def _tensors_whole(file: BinaryIO, path: Path) -> bool:
    place = _place_of_seal(file)
    if place is None:
        return False
    file.seek(place)
    if file.read(len(_OPEN)).decode("ascii", errors="replace") != _hash(file, place):
        return False
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _end_whole(file: BinaryIO, path: Path) -> bool:
    size = path.stat().st_size - len(_MARK) - len(_OPEN)
    if size < 0:
        return False
    digest = hashlib.sha256()
    for chunk in _chunks(file, size):
        digest.update(chunk)
    return file.read() == _MARK + digest.hexdigest().encode()


def _sort_about(file: BinaryIO) -> None:
    """Put the text in a safetensors file's header in order, which the library does not."""
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    in_order = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(in_order) > size:
        raise ValueError(f"A safetensors header grew from {size} to {len(in_order)} bytes.")
    file.seek(8)
    file.write(in_order.ljust(size))


def _place_of_seal(file: BinaryIO) -> int | None:
    """Return where the hash stands in a safetensors file's header; None where it has none."""
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if size > _HEADER_LIMIT:
        return None
    name = f'"{SEAL}":"'.encode()
    place = file.read(size).find(name)
    return None if place < 0 else 8 + place + len(name)


def _hash(file: BinaryIO, place: int) -> str:
    """Return the hash of a file with zeros in the hash's own place."""
    file.seek(0)
    digest = hashlib.sha256(file.read(place) + _OPEN.encode())
    file.seek(place + len(_OPEN))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        size -= len(chunk)
        yield chunk


def _sealed(value: Mapping[str, Any], name: str = SEAL) -> dict[str, Any]:
    content = json.loads(json.dumps(value))
    return {**content, name: fingerprint(content)}


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
        digest = found.pop(SEAL)
        return found if digest == fingerprint(found) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
