"""The one walk over a person's folders: links are followed, and nothing is passed over in silence.

``pathlib``'s ``rglob`` enters no linked folder, takes hidden files, such as the ``._name`` twins
that other systems leave, and says nothing of a folder that it may not read.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from fnmatch import translate
from pathlib import Path

from auscult.errors import UserError
from auscult.progress import logger

_Identity = tuple[int, int]  # device and inode
_NOWHERE = 0


def walk(root: Path) -> Iterator[Path]:
    """Yield the files below ``root``, sorted within each folder, folders after files.

    Links are followed; one that leads to a folder which it lies in is not entered, and said. Names
    that begin with a dot are left out. A link that leads nowhere is yielded where it stands, so
    that whoever wants its name finds out.

    Raises:
        UserError: A folder cannot be read.
    """
    waiting: list[tuple[Path, tuple[_Identity, ...]]] = [(root, (_identity(root),))]
    while waiting:
        folder, inside = waiting.pop()
        folders: list[tuple[Path, tuple[_Identity, ...]]] = []
        for path in _entries(folder, lambda name: True):
            kind = _kind(path)
            if not stat.S_ISDIR(kind):
                if kind == _NOWHERE:
                    logger.warning(f"{path} is a link that leads nowhere.")
                yield path
            elif (identity := _identity(path)) in inside:
                logger.warning(f"{path} links back to a folder that it lies in and is not entered.")
            else:
                folders.append((path, (*inside, identity)))
        waiting += reversed(folders)


def find(root: Path, pattern: str) -> list[Path]:
    """Return the files and folders that match ``pattern``, sorted, by the rules of :func:`walk`.

    Args:
        root: Where the pattern begins; nothing is found where there is no such folder.
        pattern: Segments with ``*``, ``?`` and ``[...]`` and slashes between, such as
            ``*/*.wav``. Case matters. Only names that are spelled out may begin with a dot.

    Raises:
        UserError: A folder cannot be read.
    """
    found = [root] if os.path.isdir(root) else []
    for segment in pattern.split("/"):
        if not re.search(r"[*?[]", segment):
            found = [path / segment for path in found if os.path.lexists(path / segment)]
            continue
        match = re.compile(translate(segment)).match
        found = [entry for path in found if os.path.isdir(path) for entry in _entries(path, match)]
    return sorted(found)


def _entries(folder: Path, wanted: Callable[[str], object]) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"Folder {folder} cannot be read: {error.strerror or error}.") from error
    return [folder / name for name in names if not name.startswith(".") and wanted(name)]


def _kind(path: Path) -> int:
    """Return the mode of what stands at ``path``; ``_NOWHERE`` for a link that leads nowhere."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return _NOWHERE
    except OSError as error:
        if error.errno == errno.ELOOP:
            return _NOWHERE
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _identity(folder: Path) -> _Identity:
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"Folder {folder} cannot be read: {error.strerror or error}.") from error
    return status.st_dev, status.st_ino
