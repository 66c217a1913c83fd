"""What can be wrong with listed speech: one sentence for each item, naming its file."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from auscult.contracts import SAMPLE_RATE

from .item import Item
from .scan import ALL_ZERO, Scan

SILENCE = "_silence_"  # the keyword of items that may hold only zeros


def listing_problems(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """Yield (position, sentence) for duplicate ids, labels that are no text and missing files."""
    first: dict[str, Path] = {}
    for position, item in enumerate(items):
        if item.id in first:
            yield position, f"{item.path} has the id {item.id!r}, as has {first[item.id]}"
        elif not _is_text(item):
            yield position, f"{str(item.path)!r} has no name, or a name or label in no UTF-8"
        elif problem := _place_problem(item.path):
            yield position, f"{item.path} {problem} (utterance {item.id!r})"
        first.setdefault(item.id, item.path)


def _is_text(item: Item) -> bool:
    """Say whether what is known of an utterance can be written: names of files may be any bytes."""
    values = (item.id, item.split, item.speaker, item.text, *item.labels.values())
    try:
        "".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return bool(item.id)


def _place_problem(path: Path) -> str:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the latter for a NUL
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if stat.S_ISDIR(mode):
        return "is a folder, not an audio file"
    return "" if stat.S_ISREG(mode) else "is not a regular file"


def audio_problems(items: Sequence[Item], scans: Mapping[Path, Scan]) -> Iterator[tuple[int, str]]:
    """Yield (position, sentence) for bad audio and for labels that do not fit it."""
    for position, item in enumerate(items):
        problem = scans[item.path].problem
        if problem == ALL_ZERO and item.labels.get("keyword") == SILENCE:
            problem = ""  # digital silence is silence
        problem = problem or _time_problem(item, scans[item.path])
        if problem:
            yield position, f"{item.path} {problem}"


def samples_at_16k(scan: Scan) -> int:
    """Return how many samples the file has at 16 kHz, rounded up."""
    return -(-scan.frames * SAMPLE_RATE // scan.rate)


def _time_problem(item: Item, scan: Scan) -> str:
    last = samples_at_16k(scan)
    for name, spans in item.alignments.items():
        for span in spans:
            if 0 <= span.start < span.end <= last + item.slack:
                continue
            where = f"has the {name} {span.symbol!r} at samples {span.start} to {span.end}"
            return f"{where}, but its audio has samples 0 to {last} at 16 kHz"
    return ""


def audio_notes(items: Sequence[Item], scans: Mapping[Path, Scan]) -> list[str]:
    """Say which files are resampled and which are averaged over channels."""
    paths = list(dict.fromkeys(item.path for item in items))
    notes = []
    if odd := [path for path in paths if scans[path].rate != SAMPLE_RATE]:
        rates = Counter(scans[path].rate for path in odd)
        kinds = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(rates.items()))
        notes.append(f"{_files(odd)} not at 16 kHz ({kinds}) and resampled on reading.")
    if wide := [path for path in paths if scans[path].channels > 1]:
        notes.append(f"{_files(wide)} stereo or wider; channels are averaged on reading.")
    return notes


def duplicate_notes(items: Sequence[Item], scans: Mapping[Path, Scan]) -> list[str]:
    """Say where the same samples stand in two splits."""
    first: dict[tuple[str, float], Item] = {}
    pairs: list[tuple[Item, Item]] = []
    for item in items:
        if scans[item.path].problem == ALL_ZERO:
            continue  # all digital silence is alike
        other = first.setdefault((scans[item.path].sha256, item.offset), item)
        if other.split != item.split:
            pairs.append((other, item))
    if not pairs:
        return []
    one, two = pairs[0]
    more = f" and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
    return [
        f"The same audio stands in {one.split} ({one.path}) and in {two.split} ({two.path}){more}."
    ]


def shared_speakers(items: Sequence[Item]) -> dict[str, tuple[Item, Item]]:
    """Return the speakers of more than one split, each with an utterance from either side."""
    first: dict[str, Item] = {}
    shared: dict[str, tuple[Item, Item]] = {}
    for item in items:
        speakers = {span.symbol for span in item.alignments.get("speaker", ())}
        if item.speaker is not None:
            speakers.add(item.speaker)
        for speaker in speakers:
            other = first.setdefault(speaker, item)
            if other.split != item.split:
                shared.setdefault(speaker, (other, item))
    return dict(sorted(shared.items()))


def _files(paths: Sequence[Path]) -> str:
    return f"{paths[0]} is" if len(paths) == 1 else f"{len(paths)} files (first: {paths[0]}) are"
