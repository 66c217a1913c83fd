"""Files that appear, or take the place of older ones, when all of their content is there.

Every file of ours is written through :func:`whole_file`, so that one place knows what a full disk
or a folder without write permission looks like, whichever library was writing.
"""

import errno
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from auscult import cache
from auscult.errors import UserError

_DAY = 86_400.0  # seconds after which another machine's temporary file is surely left over
_HOST = re.sub(r"[^0-9A-Za-z]", "", socket.gethostname())[:16] or "host"
_PATTERN = re.compile(r"\.auscult-([0-9A-Za-z]+)-(\d+)-(\d+)\.part")
_REASONS = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "is full: its quota is used up",
    errno.EROFS: "is read-only",
    errno.EACCES: "may not be written",
    errno.EPERM: "may not be written",
    errno.EFBIG: "takes no file of that size",
    errno.EIO: "could not be written: its disk reports an error",
    errno.ESTALE: "has gone away",
    errno.ENAMETOOLONG: "takes no file name of that length",
}
_WORDS = {  # of libraries that say it their own way, SQLite's the last four
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "disk I/O error": errno.EIO,
}
_numbers = itertools.count()
_active: set[str] = set()  # temporary files of this process
_swept: set[str] = set()  # folders that were cleared of leftovers


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what is written there becomes ``path`` at the end.

    The folder is made. A kill or an error leaves ``path`` as it was, or absent. What dead processes
    left in the folder is removed. A link stays one, and what it leads to is written; a pipe or a
    device, such as /dev/stdout, is given itself.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with writing(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected the name of a file.")
        if path.exists() and not path.is_file():
            yield path
            return
        path = path.resolve() if path.is_symlink() else path
    with _beside(path) as temporary, writing(path):
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``; with what is written there it becomes ``folder``.

    A folder that is not empty stays: another process was faster.
    Files are not waited for until they are on the disk: who needs that keeps their hashes.

    Raises:
        UserError: The disk is full, or the folder around cannot be written.
    """
    with _beside(folder) as temporary, writing(folder):
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``, which is made; remove what is left of it."""
    with writing(path, "nothing can be written there"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
    temporary = path.with_name(f".auscult-{_HOST}-{os.getpid()}-{next(_numbers)}.part")
    _active.add(temporary.name)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _active.discard(temporary.name)


def write_text(text: str, path: Path) -> None:
    """Write ``text`` as UTF-8, whole or not at all.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def expect_folder(out: Path) -> None:
    """Refuse a file as ``--out``.

    Raises:
        UserError: It is one.
    """
    if out.is_file():
        raise UserError(f"out= (--out) {out} is a file; expected a folder, which may be new.")


def make_folder(folder: Path) -> None:
    """Make a folder, and see that it can be written before any work is done for it.

    Raises:
        UserError: It cannot be made or written, or the disk is full.
    """
    with writing(folder / "probe", "nothing can be written there"):
        with _beside(folder / "probe") as temporary:
            temporary.write_bytes(b"0")


@contextmanager
def writing(path: Path, failure: str = "") -> Iterator[None]:
    """Turn what a failing disk raises while ``path`` is written into one sentence.

    Args:
        path: The file.
        failure: What came of it, by default that the file was not written.

    Raises:
        UserError: The disk is full, or the folder cannot be written; other errors pass.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors, torch, h5py, ... each wrap the system's error
        if (reason := disk_problem(error, path.parent)) is None:
            raise
        ours = path.is_relative_to(cache.cache_folder())
        another = f"set {cache.VARIABLE} to another folder" if ours else "give another folder"
        temporary = _PATTERN.fullmatch(path.parent.name)  # see whole_folder
        folder = path.parent.parent if temporary else path.parent
        raise UserError(
            f"{folder} {reason}, so {failure or f'{path.name} was not written'}; what was "
            f"finished before is kept. Mend that (free space, or {another}), then type the same "
            "command again: it goes on from there."
        ) from error


def disk_problem(error: BaseException, folder: Path) -> str | None:
    """Return what is wrong with a folder's disk, to stand after its name; None for other errors.

    Args:
        error: What a library raised while it wrote into ``folder``.
        folder: Where it wrote.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FileExistsError | NotADirectoryError):
            return "is not a folder, or lies below a file"
        if isinstance(seen, OSError) and seen.errno in _REASONS:
            return _REASONS[seen.errno]
        if code := re.search(r"\b(?:os error|errno) ?=? ?(\d+)", str(seen), re.IGNORECASE):
            if int(code[1]) in _REASONS:
                return _REASONS[int(code[1])]
        if found := next((code for words, code in _WORDS.items() if words in str(seen)), None):
            return _REASONS[found]
        seen = seen.__cause__ or seen.__context__
    # torch's writer says that it failed, but not why
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        return _REASONS[errno.ENOSPC] if _is_full(folder) else "could not be written"
    return None


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize < 2**20
    return False


def _flush(path: Path) -> None:
    """Wait until the file is on the disk: some disks say only then that they are full."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what processes that are gone left in ``folder``; each folder once in a process."""
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    for entry in os.scandir(folder):
        found = _PATTERN.fullmatch(entry.name)
        if found and _left_over(entry, found[1], int(found[2])):
            _remove(Path(entry.path))


def _remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _left_over(entry: os.DirEntry[str], host: str, process: int) -> bool:
    if entry.name in _active:
        return False
    if host != _HOST:
        with suppress(OSError):
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY
        return False
    if process == os.getpid():
        return True  # of an earlier process with our number
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
