"""``timit:DIR``: TIMIT as the LDC distributes it, in upper or lower case.

The two sa sentences, which every speaker reads, are left out. Test is the core test set of 24
speakers and dev the usual 50 other speakers of TEST; the lists and the folding to 39 phones (Lee
and Hon 1989; q is deleted, here a gap) are those of lhotse's recipe.
"""

from pathlib import Path

from lhotse.recipes.timit import get_phonemes, get_speakers

from .item import Item, Listing, Span

SLACK = 400  # samples; a last label may pass the end of its file by as much


def read(folder: Path, split: str | None) -> Listing:
    """List the si and sx sentences of ``folder``."""
    dev, core = (set(names) for names in get_speakers())
    fold = get_phonemes(39)
    listing = Listing([], expected=("train", "test"))
    files = {part: _recordings(folder, part) for part in ("train", "test")}
    tested = {path.parent.name.lower() for path in files["test"]}
    core = core & tested or tested - dev
    unused: set[str] = set()
    for part, paths in files.items():
        for path in paths:
            speaker, sentence = path.parent.name.lower(), _stem(path)
            if sentence.startswith("sa"):
                continue
            name = "train" if part == "train" else "dev" if speaker in dev else "test"
            if name == "test" and speaker not in core:
                unused.add(speaker)
                continue
            found = _item(path, speaker, sentence, name, fold)
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


def _recordings(folder: Path, part: str) -> list[Path]:
    """Return one audio file for each sentence of TRAIN or TEST, in order of their names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        names = [name.lower() for name in path.relative_to(folder).parts]
        inside = len(names) >= 4 and names[-4] == part and names[-3].startswith("dr")
        if inside and names[-1].endswith((".wav", ".flac")):
            key = "/".join([*names[-3:-1], _stem(path)])
            # some copies hold SA1.WAV and, converted, SA1.WAV.wav
            if key not in found or len(path.name) < len(found[key].name):
                found[key] = path
    return [found[key] for key in sorted(found)]


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower()


def _item(path: Path, speaker: str, sentence: str, split: str, fold: dict[str, str]) -> Item | str:
    """Return the utterance of one audio file, or a sentence that says what it lacks."""
    beside = {
        other.suffix.lower(): other
        for other in path.parent.iterdir()
        if other.stem.lower() == sentence and other != path
    }
    for suffix in (".phn", ".wrd", ".txt"):
        if suffix not in beside:
            return f"{path} has no {suffix.upper()} file beside it"
    try:
        phones, words = _spans(beside[".phn"]), _spans(beside[".wrd"])
        phone39 = tuple(Span(s.start, s.end, fold[s.symbol]) for s in phones)
        text = beside[".txt"].read_text(encoding="ascii").split(maxsplit=2)[2].strip()
    except (ValueError, IndexError, KeyError) as error:
        return f"{path} has labels that cannot be read ({type(error).__name__}: {error})"
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
    rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
    spans = [Span(int(start), int(end), symbol) for start, end, symbol in rows]
    return tuple(span for span in spans if span.start != span.end)
