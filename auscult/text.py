"""People's text files: lists, labels, tables. What is wrong with one is said with file and line."""

import codecs
import json
import stat
from pathlib import Path
from typing import Any

from auscult.errors import UserError

MAX_TABLE = 1 << 24  # bytes of JSON, which take twenty times as much in memory
_MARKS = (  # longest first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, ""),
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WANTED = "expected UTF-8, or UTF-16 with a byte order mark; save it so"


def read_text(path: Path) -> str:
    r"""Return the text of a file, without a byte order mark, its lines ended by ``\n``.

    Raises:
        UserError: The file is missing, cannot be read, or is not text in UTF-8, or in UTF-16 with
            a byte order mark.
    """
    return decode(read_bytes(path), path)


def read_lines(path: Path) -> list[str]:
    r"""Return the lines of a file as :func:`read_text` reads it, without their ends.

    Lines end where ``\n``, ``\r\n`` or ``\r`` stands, nowhere else.

    Raises:
        UserError: As :func:`read_text`.
    """
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: As :func:`read_text`, or the file holds no JSON object, or a very large one.
    """
    content = read_bytes(path)
    if len(content) > MAX_TABLE:
        raise UserError(f"{path} has {len(content):,} bytes; expected {MAX_TABLE:,} at most.")
    try:
        found = json.loads(decode(content, path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is wrong: expected a JSON object, got a {type(found).__name__}.")
    return found


def read_bytes(path: Path) -> bytes:
    """Return a regular file's content.

    Raises:
        UserError: The file is missing, cannot be read, or is a folder, a pipe or a device.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} cannot be read: it is not a regular file.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}.") from error


def decode(content: bytes, path: Path) -> str:
    """Return a file's content as text; see :func:`read_text`.

    Args:
        content: All bytes of the file.
        path: The file, for messages.

    Raises:
        UserError: Not text in an encoding that is read.
    """
    encoding, mark = next(
        ((name, mark) for mark, name in _MARKS if content.startswith(mark)), ("utf-8", b"")
    )
    if not encoding:
        raise UserError(f"{path} is text in UTF-32; {_WANTED}.")
    body = content[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, errors="replace").count("\n") + 1
        found = " ".join(f"{byte:02x}" for byte in body[error.start : error.start + 4])
        raise UserError(
            f"{path}, line {line}: the bytes {found} are no {encoding[:6].upper().rstrip('-')} "
            f"text; {_WANTED}."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise UserError(
            f"{path}, line {line}: there is a NUL character, as in UTF-16 without a byte order "
            f"mark or in a file that is no text; {_WANTED}."
        )
    if (place := text.find("\ufeff")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise UserError(
            f"{path}, line {line}: there is a byte order mark amid the text, as where files "
            "were joined; it would be part of a name: take it out and save it so."
        )
    return text
