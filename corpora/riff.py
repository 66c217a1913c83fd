"""What a header promises: libsndfile reads a WAV or SPHERE file that was cut short as if whole."""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

_ORDERS = {b"RIFF": "<", b"RIFX": ">"}
_MARGIN = 2**16  # bytes by which writers that cannot seek stay below 2 or 4 GiB


def missing_audio(path: Path) -> str:
    """Say what a WAV or SPHERE file lacks, to stand after its name; "" where it lacks nothing.

    Only the header is read. Sizes that stand for a stream (0, about 2 or 4 GiB) promise nothing,
    nor do files of another format, RF64 and Wave64 among them; a last sample that is not whole, or
    a byte of padding, may be missing.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        order = _ORDERS.get(head[:4])
        if head.startswith(b"NIST_1A\n"):
            rate, width, promised, there = _sphere_sizes(file)
        elif order is None or head[8:] != b"WAVE":
            return ""
        else:
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


def _sphere_sizes(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return as :func:`_sizes`; no bytes promised where they are compressed or not counted."""
    file.seek(0)
    header = file.read(4096).partition(b"end_head")[0]
    begin = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", header)
    names = (b"sample_rate", b"channel_count", b"sample_n_bytes", b"sample_count")
    found = [re.search(rb"^" + name + rb" -i (\d{1,18})\b", header, re.MULTILINE) for name in names]
    fields = [int(match[1]) for match in found if match is not None]
    if begin is None or len(fields) < len(names) or b"embedded" in header:
        return 0, 0, 0, 0
    rate, channels, size, count = fields
    width = channels * size
    return rate * width, width, count * width, os.fstat(file.fileno()).st_size - int(begin[1])


def _streamed(size: int) -> bool:
    return size == 0 or any(abs(size - limit) <= _MARGIN for limit in (2**31, 2**32))
