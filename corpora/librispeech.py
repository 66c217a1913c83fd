"""``librispeech:DIR``: LibriSpeech, with phone alignments where their files are found.

Alignments are looked for in ``alignments/`` in DIR or beside it, and in DIR: TextGrids as the
Montreal Forced Aligner writes them (``dev-clean/84/121123/84-121123-0000.TextGrid``), or s3prl's
``converted_aligned_phones.txt`` (an utterance id and one phone for each 10 ms on each line).
Phones lose their stress digits; silence is ``sil``.

``--split sid_split`` is for tasks whose classes are speakers: train, dev and test are utterances of
the training speakers. Where s3prl's ``train_split.txt`` and ``test_split.txt`` (one utterance a
line, the lists of contrastive predictive coding) stand at one of these places, the three splits are
s3prl's; else test is a tenth of each speaker's utterances and dev a tenth of the others, as in
Audio ALBERT, chosen by their ids. Either way one chapter may stand in several splits.
"""

import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.text import read_lines, read_text
from auscult.tree import find

from .item import Item, Listing, Span
from .splitting import hold_out
from .textgrid import read_textgrid

FRAME = SAMPLE_RATE // 100  # s3prl's labels stand every 10 ms
SLACK = 400  # samples; rounded times may pass the end of their file by as much
SILENCES = ("", "sil", "sp", "SIL", "<eps>")
CONVERTED = "converted_aligned_phones.txt"
BY_UTTERANCE = "sid_split"
LISTS = ("train_split.txt", "test_split.txt")
S3PRL_SEED, S3PRL_SHARE = 1337, 0.9  # how s3prl divides the first list into train and dev
TENTH = 0.1


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``."""
    root = folder / "LibriSpeech" if (folder / "LibriSpeech").is_dir() else folder
    parts = sorted({path.parents[2].name for path in find(root, "*/*/*/*.trans.txt")})
    names, note = _splits(parts, every_train=split == "all_train_split")
    if split == BY_UTTERANCE:
        names = {part: name for part, name in names.items() if name == "train"}
    listing = Listing([], notes=[note] if note else [], split_column=split or "split")
    sexes = _sexes([root / "SPEAKERS.TXT", root.parent / "SPEAKERS.TXT"])
    places = [root / "alignments", root.parent / "alignments", root]
    converted = next((p / CONVERTED for p in places if (p / CONVERTED).is_file()), None)
    frames = _converted(converted) if converted else {}
    for part, name in names.items():
        for path, text in _utterances(root / part, listing.problems):
            utterance = path.stem
            grids = [p / path.relative_to(root).with_suffix(".TextGrid") for p in places]
            try:
                alignments = _alignments(grids, frames.get(utterance))
            except UserError as error:
                listing.problems.append(
                    f"{path} has alignments that cannot be read: {str(error)[:-1]}"
                )
                continue
            speaker = utterance.split("-")[0]
            listing.items.append(
                Item(
                    id=utterance,
                    path=path,
                    split=name,
                    speaker=speaker,
                    sex=sexes.get(speaker),
                    text=text,
                    language="en",
                    labels={"part": part},
                    alignments=alignments,
                    slack=SLACK,
                )
            )
    aligned = sum(bool(item.alignments) for item in listing.items)
    if split == BY_UTTERANCE:
        listing.items[:], note = _by_utterance(listing.items, places)
        listing.notes.append(note)
    total = len(listing.items)
    listing.notes.append(
        f"Phone alignments were found for {aligned} of {total} utterances"
        + (f"; those without a TextGrid are from {converted}." if frames else ".")
    )
    return listing


def _utterances(part: Path, problems: list[str]) -> Iterator[tuple[Path, str]]:
    """Yield audio file and words of each utterance; append what is wrong to ``problems``."""
    for transcripts in find(part, "*/*/*.trans.txt"):
        try:
            lines = read_lines(transcripts)
        except UserError as error:
            problems.append(f"{str(error)[:-1]}; nothing beside it is used")
            continue
        silent = {path.stem: path for path in find(transcripts.parent, "*.flac")}
        for number, line in enumerate(map(str.strip, lines), start=1):
            utterance, _, text = line.partition(" ")
            if not re.fullmatch(r"[\w-]*", utterance):
                problems.append(
                    f"{transcripts} line {number} reads {line!r}, not an utterance and its words"
                )
            elif utterance:
                silent.pop(utterance, None)
                yield transcripts.parent / f"{utterance}.flac", text
        problems += (f"{path} has no line in {transcripts}" for path in silent.values())


def _splits(parts: list[str], *, every_train: bool) -> tuple[dict[str, str], str]:
    """Name the split of each part that is used; the note says which is not."""
    train = [part for part in parts if part.startswith("train-")]
    if "train-clean-100" in train and not every_train:
        unused = [part for part in train if part != "train-clean-100"]
        train = ["train-clean-100"]
    else:
        unused = []
    names = {part: "train" for part in train}
    for name in ("dev", "test"):
        first = next((p for p in parts if p.startswith(f"{name}-clean")), None)
        names |= {first: name} if first else {}
    others = [part for part in parts if part not in names and part not in unused]
    names |= {part: part for part in others}
    if not unused:
        return names, ""
    return names, (
        f"Train is train-clean-100; {', '.join(unused)} not used (--split all_train_split does)."
    )


def _by_utterance(items: Sequence[Item], places: Sequence[Path]) -> tuple[list[Item], str]:
    """Give every training speaker utterances in train, dev and test; the note says how."""
    found = next((p for p in places if all((p / name).is_file() for name in LISTS)), None)
    chosen = _listed(found) if found else _drawn(items)
    used = [replace(item, split=chosen[item.id]) for item in items if item.id in chosen]
    if found is None:
        return used, "Train, dev and test are utterances of the same speakers, 81 : 9 : 10."
    left = f"; {len(items) - len(used)} utterances are in neither and are not used"
    return used, f"Train, dev and test are those of {' and '.join(LISTS)} in {found}{left}."


def _listed(folder: Path) -> dict[str, str]:
    """Return the split of each listed utterance: s3prl's own order, shuffle and division."""
    train, test = (read_text(folder / name).removesuffix("\n").split("\n") for name in LISTS)
    random.Random(S3PRL_SEED).shuffle(train)
    size = int(S3PRL_SHARE * len(train))
    splits = {"train": train[:size], "dev": train[size:], "test": test}
    return {utterance.strip(): name for name, some in splits.items() for utterance in some}


def _drawn(items: Sequence[Item]) -> dict[str, str]:
    """Return a split for each utterance; a speaker with one utterance is in train alone."""
    spoken: dict[str | None, dict[str, int]] = {}
    for item in items:
        spoken.setdefault(item.speaker, {})[item.id] = 1
    chosen = {item.id: "train" for item in items}
    for utterances in spoken.values():
        test = hold_out(utterances, TENTH)
        dev = hold_out({name: 1 for name in utterances if name not in test}, TENTH)
        chosen |= dict.fromkeys(dev, "dev") | dict.fromkeys(test, "test")
    return chosen


def _sexes(places: list[Path]) -> dict[str, str]:
    """Read SPEAKERS.TXT: ``ID | SEX | ...``, comments after a semicolon."""
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    lines = read_lines(path)
    rows = [line.split("|") for line in lines if line.count("|") >= 2 and line[0] != ";"]
    return {row[0].strip(): row[1].strip().lower() for row in rows}


def _alignments(
    grids: list[Path], frames: tuple[Span, ...] | None
) -> Mapping[str, tuple[Span, ...]]:
    grid = next((path for path in grids if os.path.isfile(path)), None)
    if grid is None:
        return {"phone": frames} if frames else {}
    tiers = read_textgrid(grid)
    for name in ("phones", "words"):
        if name not in tiers:
            raise UserError(f"{grid} has no tier {name!r}; it has {', '.join(tiers) or 'none'}.")
    return {
        "phone": tuple(
            Span(s.start, s.end, _phone(s.symbol)) for s in tiers["phones"] if s.end > s.start
        ),
        "word": tuple(s for s in tiers["words"] if s.end > s.start),
    }


def _phone(symbol: str) -> str:
    return "sil" if symbol in SILENCES else symbol.rstrip("012")


def _converted(path: Path) -> dict[str, tuple[Span, ...]]:
    """Read s3prl's labels of 10 ms frames as runs of equal labels."""
    found: dict[str, tuple[Span, ...]] = {}
    for line in read_lines(path):
        utterance, *labels = line.split() or [""]
        spans, at = [], 0
        for label, run in groupby(labels):
            end = at + FRAME * len(list(run))
            spans.append(Span(at, end, label))
            at = end
        found[utterance] = tuple(spans)
    return found
