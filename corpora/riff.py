"""What a WAV file's header promises: libsndfile reads a file that was cut short as if whole."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

_ORDERS = {b"RIFF": "<", b"RIFX": ">"}
_MARGIN = 2**16  # bytes by which writers that cannot seek stay below 2 or 4 GiB


def missing_audio(path: Path) -> str:
    """Say what a WAV file lacks, to stand after its name; "" where it lacks nothing.

    Only the header is read. Sizes that stand for a stream (0, about 2 or 4 GiB) promise nothing,
    nor do files of another format, RF64 and Wave64 among them; a last sample that is not whole, or
    a byte of padding, may be missing.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        order = _ORDERS.get(head[:4])
        if order is None or head[8:] != b"WAVE":
            return ""
        rate, width, promised, there = _sizes(file, order)
    if not rate or _streamed(promised) or promised - there <= max(width, 1):
        return ""
    return (
        f"is cut short: its header promises {promised / rate:.2f} s of audio, and "
        f"{there / rate:.2f} s are there"
    )


def _sizes(file: BinaryIO, order: str) -> tuple[int, int, int, int]:
    """Return bytes a second, bytes of all channels' sample, bytes promised and bytes there."""
    rate = width = 0
    end = os.fstat(file.fileno()).st_size
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack(f"{order}4sI", chunk)
        place = file.tell()
        if name == b"data":
            return rate, width, size, end - place
        if name == b"fmt " and len(form := file.read(14)) == 14:
            rate, width = struct.unpack(f"{order}8xIH", form)
        if name == b"\0\0\0\0":  # blocks that were allocated and never written
            break
        file.seek(place + size + size % 2)
    return rate, width, 0, 0


def _streamed(size: int) -> bool:
    return size == 0 or any(abs(size - limit) <= _MARGIN for limit in (2**31, 2**32))
