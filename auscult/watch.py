"""Audio that changes while a command uses it: noticed at each read, and by content at its end.

What a file was when its corpus was checked is remembered for as long as the process (and those that
it forks) lives. Records name that content; other audio of equal length would be read without a
word otherwise.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from auscult.errors import UserError
from auscult.progress import track

T = TypeVar("T")


class AudioChanged(UserError):
    """A file is another than it was; ``unnoticed`` if its stamp does not say so, nor did any read.

    Otherwise whatever was read before was read from the old file.
    """

    def __init__(self, path: str | Path, *, unnoticed: bool = False) -> None:
        super().__init__(
            f"{path} changed while it was in use: its content is not what it was when the corpus "
            "was checked. Put the old file back or, if the new one is meant, begin anew with it; "
            "what was made in between may be of either."
        )
        self.path = path
        self.unnoticed = unnoticed


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file's states apart without reading it."""

    size: int
    modified: int  # ns
    changed: int  # ns; no program can set it back

    @classmethod
    def of(cls, path: str | Path) -> "Stamp":
        """Return the file's stamp now.

        Raises:
            OSError: There is no such file.
        """
        status = os.stat(path)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class _Seen:
    stamp: Stamp
    sha256: str  # of the file's bytes


_seen: dict[str, _Seen] = {}


def remember(path: str | Path, stamp: Stamp, sha256: str) -> None:
    """Remember what a file was when it was checked.

    Args:
        path: The file, as it will be named when it is read.
        stamp: Taken before its content was read.
        sha256: Of its bytes.
    """
    _seen[str(path)] = _Seen(stamp, sha256)


def check(path: str | Path) -> None:
    """Compare a file, just read, with what it was; files that nobody remembered pass.

    Raises:
        UserError: It is another file by now, or gone.
    """
    seen = _seen.get(str(path))
    if seen is None:
        return
    stamp = _read(Stamp.of, path)
    if stamp == seen.stamp:
        return
    # touched, moved, copied over with the old time, or merely chmod: its content says which
    if stamp.size != seen.stamp.size or _read(file_sha256, path) != seen.sha256:
        raise AudioChanged(path)
    _seen[str(path)] = replace(seen, stamp=stamp)


def content_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes, computed once for as long as the file is the same.

    Raises:
        UserError: It is another file than the one that was remembered, or gone.
    """
    check(path)
    seen = _seen.get(str(path))
    return _sha256_of(str(path), _read(Stamp.of, path)) if seen is None else seen.sha256


def check_content(cuts: Iterable[Any]) -> None:
    """Read the files of ``cuts`` and compare their content with what it was at the beginning.

    What was not remembered before is remembered now: calling this where work begins and again where
    it ends says whether all of the work was done on the same audio.

    Raises:
        UserError: A file is another by now, or gone.
    """
    sources = (source for cut in cuts for source in getattr(cut.recording, "sources", ()))
    paths = dict.fromkeys(str(source.source) for source in sources if source.type == "file")
    for path in track(paths, "Comparing audio", len(paths), "file"):
        stamp = _read(Stamp.of, path)
        sha256 = _read(file_sha256, path)
        seen = _seen.get(path)
        if seen is not None and seen.sha256 != sha256:
            raise AudioChanged(path, unnoticed=seen.stamp == stamp)
        remember(path, stamp, sha256)


@contextmanager
def same_audio(
    cuts: Iterable[Any], withdraw: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Compare the content of audio where a block begins that reads it, and where the block ends.

    Args:
        cuts: What is read.
        withdraw: Called where audio changed and no stamp says so: what was kept of work on it, in
            the block or by an earlier command, may be of other audio than it says.

    Raises:
        UserError: A file is another by now, or gone.
    """
    cuts = list(cuts)
    try:
        check_content(cuts)
        yield
        check_content(cuts)
    except AudioChanged as error:
        if error.unnoticed:
            withdraw()
        raise


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a file's bytes as they are now.

    Raises:
        OSError: The file cannot be read, or is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _sha256_of(path: str, stamp: Stamp) -> str:
    return _read(file_sha256, path)


def _read(how: Callable[[str | Path], T], path: str | Path) -> T:
    try:
        return how(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read any more: {error.strerror or error}; put it back and run the "
            "command again."
        ) from error
