"""A zip that came from anyone, read within limits.

Nothing is written to the disk, no entry is read that says to be larger than its limit, and no more
of one is unpacked than it says. What no submission has is refused before anything is unpacked:
passwords, other compression than deflate, entries that share their bytes.
"""

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from auscult.errors import UserError
from auscult.value import shorten

MOST_ENTRIES = 50_000  # of a zip; a submission has some 3,000
LARGEST = 2**31  # bytes of all entries when unpacked
_LOCAL = 30  # bytes before the name of an entry
_CHUNK = 2**20
_LEADS_OUT = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_FAILURES = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, OverflowError),  # passwords, methods, names, sizes
)


class Archive:
    """The entries of a zip whose directory was found to be in order."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        self._entries = [e for e in file.infolist() if not e.filename.endswith("/")]
        self.names = [entry.filename for entry in self._entries]

    def problems(self) -> list[str]:
        """Say which entries would be a danger or a riddle to whoever unpacks the zip."""
        found = []
        for entry in self._entries:
            if _LEADS_OUT.search(entry.filename):
                found.append(f"{entry.filename} leads out of the zip")
            if stat.S_ISLNK(entry.external_attr >> 16):
                found.append(f"{entry.filename} is a link")
        return found

    def read(self, name: str, limit: int) -> bytes:
        """Return an entry's content.

        Raises:
            UserError: It is larger than ``limit`` bytes, or damaged.
        """
        with self.open(name, limit) as file:
            return file.read()

    @contextmanager
    def open(self, name: str, limit: int) -> Iterator[IO[bytes]]:
        """Give an entry to read from.

        Raises:
            UserError: It is larger than ``limit`` bytes, or damaged.
        """
        entry = self._file.getinfo(name)
        if entry.file_size > limit:
            raise UserError(
                f"{self.path}: {name} has {entry.file_size:,} bytes when unpacked, and no "
                f"submission has more than {limit:,} there."
            )
        with self._damage(name), self._file.open(entry) as file:
            yield file

    def check_content(self) -> None:
        """Unpack every entry once, a little at a time.

        Raises:
            UserError: One of them is damaged.
        """
        for entry in self._entries:
            with self._damage(entry.filename), self._file.open(entry) as file:
                while file.read(_CHUNK):
                    pass

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise UserError(
                f"{self.path} is damaged at {name} ({shorten(str(error))}); write it again."
            ) from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Give the entries of a zip.

    Raises:
        UserError: No zip, or one that we do not read.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:  # the latter for a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read or written: {reason}.") from error
    if not regular:
        raise UserError(f"{path} is no file; expected a zip.")
    try:
        file = zipfile.ZipFile(path)
    except _FAILURES as error:
        raise UserError(
            f"{path} is not a zip file ({shorten(str(error))}); write it again."
        ) from error
    with file:
        _check_entries(path, file.infolist())
        yield Archive(path, file)


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse entries that no submission has.

    Raises:
        UserError: With the name of the first.
    """
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"{path} has more than {MOST_ENTRIES:,} entries, and no submission has.")
    end, before = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename
        if entry.flag_bits & 0x1:
            raise UserError(f"{path}: {name} is encrypted; write the zip without a password.")
        if entry.compress_type not in _METHODS:
            raise UserError(
                f"{path}: {name} is compressed by method {entry.compress_type}; expected deflate "
                "(8), or none (0)."
            )
        if entry.header_offset < end:
            raise UserError(f"{path} is damaged: {before} and {name} share bytes; write it again.")
        end = entry.header_offset + _LOCAL + len(entry.orig_filename) + entry.compress_size
        before = name
    total = sum(entry.file_size for entry in entries)
    if total > LARGEST:
        raise UserError(
            f"{path} has {total:,} bytes when unpacked, and no submission has more than "
            f"{LARGEST:,}."
        )
