"""``snips:DIR``: Audio SNIPS as SUPERB prepares it, commands with slots in synthetic voices.

Each line of ``all.iob.snips.txt`` is ``NAME BOS WORDS... EOS<tab>O TAGS... INTENT``, one tag for
each word, the slot's name or ``O``. Of the 16 voices SUPERB takes eight for train, four for dev and
four for test; the others' audio is not used.
"""

from pathlib import Path

from auscult.text import read_lines
from auscult.tree import walk

from .item import Item, Listing

LABELS = "all.iob.snips.txt"
PARTS = {"train": "train", "valid": "dev", "test": "test"}
VOICES = {
    "train": ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"),
    "valid": ("Aditi", "Amy", "Geraint", "Nicole"),
    "test": ("Brian", "Emma", "Raveena", "Russell"),
}


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``.

    Raises:
        UserError: The labels cannot be read.
    """
    root = folder if (folder / LABELS).is_file() else folder / "SNIPS"
    labels = _lines(root / LABELS)
    listing = Listing([], expected=tuple(PARTS.values()))
    unused = 0
    for part, name in PARTS.items():
        for path in sorted(p for p in walk(root / part) if p.suffix in (".wav", ".mp3")):
            voice = path.stem.split("-")[0]
            if voice not in VOICES[part]:
                unused += 1
                continue
            if path.stem not in labels:
                listing.problems.append(f"{path} has no line in {root / LABELS}")
                continue
            number, line = labels.pop(path.stem)
            if len(found := _parse(line)) != 3:
                where = f"{root / LABELS} line {number}"
                listing.problems.append(f"{where} has not one tag for each word between the ends")
                continue
            words, tags, intent = found
            listing.items.append(
                Item(
                    id=path.stem,
                    path=path,
                    split=name,
                    speaker=voice,
                    text=words,
                    language="en",
                    labels={"slot_tags": tags, "intent": intent},
                )
            )
    wanted = {voice for voices in VOICES.values() for voice in voices}
    silent = [name for name in labels if _is_wanted(name)]
    if unused:
        listing.notes.append(
            f"{unused} files are of voices that SUPERB does not take for their part "
            f"({len(wanted)} voices in all); not used."
        )
    if silent:
        listing.notes.append(f"{len(silent)} labelled utterances have no audio ({silent[0]}, ...).")
    return listing


def _lines(path: Path) -> dict[str, tuple[int, str]]:
    """Return number and rest of each utterance's line."""
    found = {}
    for number, line in enumerate(read_lines(path), start=1):
        name, _, rest = line.strip().partition(" ")
        found[name] = number, rest
    found.pop("", None)
    return found


def _parse(line: str) -> tuple[str, ...]:
    """Return words, tags and intent; nothing where the line does not hold them."""
    words, _, tags = (part.split() for part in line.partition("\t"))
    if len(words) != len(tags) or len(words) < 3:
        return ()
    return " ".join(words[1:-1]), " ".join(tags[1:-1]), tags[-1]


def _is_wanted(name: str) -> bool:
    """Say whether ``VOICE-snips-PART-NUMBER`` is one of SUPERB's."""
    voice, _, part, *_ = [*name.split("-"), "", "", ""]
    return voice in VOICES.get(part, ())
