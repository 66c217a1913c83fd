"""Audio without a corpus: files that were named, or all in a folder."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from auscult.errors import UserError
from auscult.tree import walk

from .item import Item, Listing

READ = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".sph", ".nist", ".aif", ".aiff", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64", ".voc", ".gsm"),
)
UNREAD = (".m4a", ".aac", ".wma", ".amr", ".webm", ".mka", ".ape", ".wv")  # the check says why
SPLIT = "files"


def list_files(paths: Sequence[Path], root: Path | None = None) -> Listing:
    """List audio files.

    They are called by their names without suffix where these tell them apart, else by their paths
    below the folder that they share, with the suffix where that is what differs.

    Args:
        paths: The files.
        root: The folder that they share; by default the nearest.
    """
    places = {path: PurePath(os.path.abspath(path)) for path in paths}
    top = root or os.path.commonpath([place.parent for place in places.values()] or [PurePath("/")])
    below = {place: place.relative_to(os.path.abspath(top)) for place in places.values()}
    names = {place: place.stem for place in below}
    notes = []
    if not _differ(list(names.values())):
        notes.append(f"Several files have one name; they are called by their paths below {top}.")
        names = {place: path.with_suffix("").as_posix() for place, path in below.items()}
    if not _differ(list(names.values())):
        names = {place: path.as_posix() for place, path in below.items()}
    items = [Item(id=names[places[path]], path=path, split=SPLIT) for path in paths]
    return Listing(items, notes=notes)


def list_folder(folder: Path) -> Listing:
    """List all audio in a folder and those below it.

    Raises:
        UserError: There is none.
    """
    found = sorted(walk(folder))
    audio = [path for path in found if path.suffix.lower() in READ + UNREAD]
    if not audio:
        raise UserError(f"{folder} holds no audio ({', '.join(READ)}).")
    listing = list_files(audio, folder)
    others = Counter(path.suffix or path.name for path in found)
    others -= Counter(path.suffix for path in audio)
    if others:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in others.most_common(5))
        listing.notes.append(f"{others.total()} files are no audio and not used ({kinds}).")
    return listing


def _differ(names: Sequence[str]) -> bool:
    """Say whether names differ, also where large and small letters are the same."""
    return len({name.casefold() for name in names}) == len(names)
