"""``timit:DIR``: TIMIT as the LDC distributes it, in upper or lower case.

The two sa sentences, which every speaker reads, are left out. Test is the core test set of 24
speakers and dev the usual 50 other speakers of TEST; the lists and the folding to 39 phones (Lee
and Hon 1989; q is deleted, here a gap) are those of lhotse's recipe.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from lhotse.recipes.timit import get_phonemes, get_speakers

from auscult.errors import UserError
from auscult.text import read_lines, read_text
from auscult.tree import walk

from .item import Item, Listing, Span

AUDIO = "audio"  # stands for the suffix of the recording
AUDIO_SUFFIXES = (".wav", ".flac", ".sph")
SAMPLE = re.compile(r"[0-9]{1,12}")
SLACK = 400  # samples; a last label may pass the end of its file by as much


def read(folder: Path, split: str | None) -> Listing:
    """List the si and sx sentences of ``folder``."""
    dev, core = (set(names) for names in get_speakers())
    fold = get_phonemes(39)
    listing = Listing([], expected=("train", "test"))
    files = _recordings(folder)
    tested = {found[AUDIO].parent.name.lower() for found in files["test"]}
    core = core & tested or tested - dev
    unused: set[str] = set()
    for part, sentences in files.items():
        for beside in sentences:
            path = beside[AUDIO]
            speaker, sentence = path.parent.name.lower(), path.name.partition(".")[0].lower()
            if sentence.startswith("sa"):
                continue
            name = "train" if part == "train" else "dev" if speaker in dev else "test"
            if name == "test" and speaker not in core:
                unused.add(speaker)
                continue
            found = _item(beside, speaker, sentence, name, fold)
            if isinstance(found, Item):
                listing.items.append(found)
            else:
                listing.problems.append(found)
    listing.notes.append("The sa sentences, which every speaker reads, are left out.")
    if unused:
        listing.notes.append(
            "Speakers of TEST in neither the core test nor the dev set are not used: "
            f"{len(unused)}."
        )
    return listing


def _recordings(folder: Path) -> dict[str, list[dict[str, Path]]]:
    """Return the files of each sentence of train and test by suffix, in order of their names."""
    beside: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in sorted(walk(folder)):
        sentence, dot, suffix = path.name.lower().partition(".")
        files = beside.setdefault((path.parent, sentence), {})
        # some copies hold SA1.WAV and, converted, SA1.WAV.wav
        kind = AUDIO if f".{suffix}".endswith(AUDIO_SUFFIXES) else dot + suffix
        if kind not in files or len(path.name) < len(files[kind].name):
            files[kind] = path
    found: dict[str, dict[str, dict[str, Path]]] = {"train": {}, "test": {}}
    for (place, sentence), files in beside.items():
        part, region, speaker = ["", "", "", *place.relative_to(folder).parts][-3:]
        if AUDIO in files and part.lower() in found and region.lower().startswith("dr"):
            found[part.lower()].setdefault(f"{region}/{speaker}/{sentence}".lower(), files)
    return {part: [files for _, files in sorted(some.items())] for part, some in found.items()}


def _item(
    files: Mapping[str, Path], speaker: str, sentence: str, split: str, fold: Mapping[str, str]
) -> Item | str:
    """Return the utterance of one audio file, or a sentence that says what it lacks."""
    path = files[AUDIO]
    for suffix in (".phn", ".wrd", ".txt"):
        if suffix not in files:
            return f"{path} has no {suffix.upper()} file beside it"
    try:
        phones, words = _spans(files[".phn"]), _spans(files[".wrd"])
        text = _text(files[".txt"])
    except UserError as error:
        return f"{path} has labels that cannot be read: {str(error).removesuffix('.')}"
    if strange := {span.symbol for span in phones} - fold.keys():
        return f"{path} has labels that cannot be read: {min(strange)!r} is no phone of TIMIT"
    phone39 = tuple(Span(s.start, s.end, fold[s.symbol]) for s in phones)
    region = path.parent.parent.name.lower()
    return Item(
        id=f"{region}-{speaker}-{sentence}",
        path=path,
        split=split,
        speaker=speaker,
        sex=speaker[0],
        text=text,
        language="en",
        labels={"dialect_region": region.removeprefix("dr"), "sentence_type": sentence[:2]},
        alignments={"phone61": phones, "phone39": phone39, "phone": phones, "word": words},
        slack=SLACK,
    )


def _spans(path: Path) -> tuple[Span, ...]:
    """Read a .PHN or .WRD file: start, end and symbol on each line, in samples."""
    spans = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if len(fields) == 3 and SAMPLE.fullmatch(fields[0]) and SAMPLE.fullmatch(fields[1]):
            spans.append(Span(int(fields[0]), int(fields[1]), fields[2]))
        elif fields:
            raise UserError(f"{path}, line {number}, reads {line!r}, not 'START END SYMBOL'.")
    if not spans:
        raise UserError(f"{path} is empty; expected lines of START END SYMBOL.")
    return tuple(span for span in spans if span.start != span.end)


def _text(path: Path) -> str:
    """Read a .TXT file: first and last sample, and what is said."""
    fields = read_text(path).split(maxsplit=2)
    if len(fields) < 3 or "\n" in fields[2].strip():
        raise UserError(f"{path} reads {' '.join(fields)!r}, not 'START END WORDS'.")
    return fields[2].strip()
