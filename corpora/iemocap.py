"""``iemocap:DIR``: IEMOCAP in SUPERB's four classes and five folds.

Of the annotators' categories ``neu``, ``hap`` with ``exc``, ``sad`` and ``ang`` are used. In fold N
test is session N, whose two speakers nobody else hears. As in SUPERB, dev is 20 % of the utterances
of the other sessions and so has speakers of train; unlike SUPERB's, which torch draws at random
from a list in the order of the file system, it depends on the utterances' names alone.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from auscult.errors import UserError
from auscult.text import read_lines
from auscult.tree import find

from .item import Item, Listing
from .splitting import hold_out

CLASSES = {"neu": "neu", "hap": "hap", "exc": "hap", "sad": "sad", "ang": "ang"}
FOLDS = tuple(f"fold{number}" for number in range(1, 6))
VALID_RATIO = 0.2  # SUPERB's name
UTTERANCE = re.compile(r"Ses(?P<session>0[1-5])[FM]_(?P<act>impro|script)\w*_(?P<sex>[FM])\w+")
TRANSCRIPT = re.compile(r"(?P<utterance>Ses\w+) \[[\d.]+-[\d.]+\]:\s*(?P<text>.*)")


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``; ``split`` is a fold, by default the first."""
    fold = split or FOLDS[0]
    root = folder if (folder / "Session1").is_dir() else find(folder, "*/Session1")[0].parent
    listing = Listing(
        [], split_column=fold, expected=("train", "dev", "test"), dev_within_speakers=True
    )
    unused: Counter[str] = Counter()
    for session in (root / f"Session{number}" for number in range(1, 6)):
        texts = _transcripts(session / "dialog" / "transcriptions", listing)
        labels = find(session / "dialog" / "EmoEvaluation", "Ses*.txt")
        if not labels:
            listing.problems.append(f"{session / 'dialog' / 'EmoEvaluation'} holds no Ses*.txt")
        for path in labels:
            _read_labels(path, session, texts, listing, unused)
    tested = f"Session{fold.removeprefix('fold')}"
    others = {item.id: 1 for item in listing.items if item.labels["session"] != tested}
    dev = hold_out(others, VALID_RATIO)
    listing.items[:] = [
        replace(item, split="dev" if item.id in dev else "train") if item.id in others else item
        for item in listing.items
    ]
    left = ", ".join(f"{name}: {count}" for name, count in sorted(unused.items()))
    listing.notes.append(
        f"Test is {tested}; dev is {len(dev)} of the {len(others)} utterances of the others, and "
        "shares speakers with train, as SUPERB's does."
    )
    if left:
        listing.notes.append(f"Utterances of other categories are not used ({left}).")
    return listing


def _read_labels(
    path: Path, session: Path, texts: dict[str, str], listing: Listing, unused: Counter[str]
) -> None:
    """Add the utterances of one dialogue: ``[BEGIN - END]<tab>NAME<tab>CATEGORY<tab>[...]``."""
    for number, line in enumerate(_lines(path, listing), start=1):
        if not line.startswith("["):
            continue  # annotators' own votes, comments
        fields = [field for field in line.split("\t") if field]
        whole = len(fields) >= 3 and fields[2].isalpha()
        match = UTTERANCE.fullmatch(fields[1]) if whole else None
        if match is None:
            listing.problems.append(
                f"{path} line {number} reads {line!r}, not times, utterance and category"
            )
            continue
        name, category = fields[1:3]
        if category not in CLASSES:
            unused[category] += 1
            continue
        listing.items.append(
            Item(
                id=name,
                path=session / "sentences" / "wav" / path.stem / f"{name}.wav",
                split="test",
                speaker=f"Ses{match['session']}{match['sex']}",  # who speaks, not who is filmed
                sex=match["sex"].lower(),
                text=texts.get(name),
                language="en",
                labels={
                    "emotion": CLASSES[category],
                    "session": session.name,
                    "act": {"impro": "improvised", "script": "scripted"}[match["act"]],
                },
            )
        )


def _transcripts(folder: Path, listing: Listing) -> dict[str, str]:
    """Return the words of each utterance, as far as they are there."""
    found = {}
    for path in find(folder, "Ses*.txt"):
        for line in _lines(path, listing):
            if match := TRANSCRIPT.fullmatch(line.strip()):
                found[match["utterance"]] = match["text"]
    return found


def _lines(path: Path, listing: Listing) -> list[str]:
    """Return the lines of one dialogue's file; none where it is no text, which is a problem."""
    try:
        return read_lines(path)
    except UserError as error:
        listing.problems.append(f"{str(error)[:-1]}; what it says of its dialogue is not used")
        return []
