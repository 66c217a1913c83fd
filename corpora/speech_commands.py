"""``speech_commands:DIR``: Google Speech Commands in SUPERB's 12 classes.

Ten words, ``_unknown_`` for all others, and ``_silence_``: the background recordings in pieces of
one second, the first 80 % of each in train, then dev, then test, so that no piece stands in two
splits. Where the official test set is at hand (``DIR/test`` or ``speech_commands_test_set_v0.0N``
beside), test is that set alone, and what testing_list.txt names is not used.
"""

import re
from pathlib import Path

from lhotse.recipes.speechcommands import BACKGROUND_NOISE, SILENCE, UNKNOWN, WORDS

from auscult.errors import UserError
from auscult.text import read_text
from auscult.tree import find

from .item import Item, Listing
from .scan import scan_files

NAME = re.compile(r"(?:(?P<word>[a-z]+)_)?(?P<speaker>[0-9a-f]{8})_nohash_\d+")
NOISE_SHARES = (0.8, 0.9)  # where dev and test begin in a background recording


def read(folder: Path, split: str | None) -> Listing:
    """List the one-second utterances of ``folder``.

    Raises:
        UserError: Two versions of the data set are in ``folder``, or a list is missing.
    """
    root = _root(folder)
    official = _official_test(folder, root)
    listing = Listing([], expected=("train", "dev", "test"))
    dev, test = (_listed(root / f"{name}_list.txt") for name in ("validation", "testing"))
    found: set[str] = set()
    for path in find(root, "[a-z]*/*.wav"):
        name = path.relative_to(root).as_posix()
        found.add(name)
        part = "dev" if name in dev else "test" if name in test else "train"
        if part != "test" or official is None:
            listing.items.append(_item(path, part))
    listing.problems.extend(
        f"{root / name} does not exist, but is listed" for name in sorted((dev | test) - found)
    )
    noises = find(root, f"{BACKGROUND_NOISE}/*.wav")
    for path in noises:
        listing.items.extend(_noise(path, with_test=official is None))
    if not noises:
        listing.notes.append(
            f"{root / BACKGROUND_NOISE} holds no .wav, so that nothing is silence: the corpus has "
            f"{len(WORDS) + 1} classes where SUPERB's has {len(WORDS) + 2}"
            + (" in train and dev." if official else ".")
        )
    if official is None:
        listing.notes.append("No official test set was found: test is what testing_list.txt names.")
    else:
        words = find(official, "*/*.wav")
        listing.items.extend(_item(path, "test", prefix="test-") for path in words)
        listing.notes.append(
            f"Test is the official test set in {official}; the {len(test)} files of "
            "testing_list.txt are not used."
        )
    return listing


def _root(folder: Path) -> Path:
    """Return the folder of the training set: ``folder`` itself, or the one version inside."""
    if (folder / "validation_list.txt").is_file():
        return folder
    versions = [path.parent for path in find(folder, "*/validation_list.txt")]
    if len(versions) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(path.name for path in versions)}; name one of them, "
            f"such as speech_commands:{versions[-1]}."
        )
    return versions[0]


def _official_test(folder: Path, root: Path) -> Path | None:
    version = root.name.rpartition("_")[2]
    beside = root.parent / f"speech_commands_test_set_{version}"
    places = (root / "test", folder / "test", beside)
    return next((place for place in places if place.is_dir()), None)


def _listed(path: Path) -> set[str]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; Speech Commands has it.")
    return set(read_text(path).split())


def _item(path: Path, split: str, prefix: str = "") -> Item:
    """Return the utterance of one file, whose folder is its word or its class."""
    folder = path.parent.name
    match = NAME.fullmatch(path.stem)
    word = match["word"] if match and folder == UNKNOWN else folder
    silent = folder == SILENCE
    return Item(
        id=f"{prefix}{folder}-{path.stem}",
        path=path,
        split=split,
        speaker=match["speaker"] if match and not silent else None,
        text=None if silent else word,
        language="en",
        labels={"keyword": folder if folder in (*WORDS, SILENCE) else UNKNOWN}
        | ({} if silent or word is None else {"word": word}),
    )


def _noise(path: Path, with_test: bool) -> list[Item]:
    """Return a background recording in pieces of one second."""
    (scan,) = scan_files([path]).values()
    if scan.problem:
        return [Item(id=f"{SILENCE}-{path.stem}", path=path, split="train")]  # the check names it
    pieces = scan.frames // scan.rate
    begin_dev, begin_test = (round(pieces * share) for share in NOISE_SHARES)
    items = []
    for second in range(pieces):
        part = "train" if second < begin_dev else "dev" if second < begin_test else "test"
        items.append(
            Item(
                id=f"{SILENCE}-{path.stem}-{second:03}",
                path=path,
                split=part if with_test or part != "test" else "dev",
                labels={"keyword": SILENCE},
                offset=float(second),
                duration=1.0,
            )
        )
    return items
