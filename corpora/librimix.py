"""``librimix:DIR``: mixtures of speakers in Kaldi folders, as SUPERB prepares LibriMix.

``DIR/train``, ``DIR/dev`` and ``DIR/test`` each hold ``wav.scp`` (``RECORDING PATH``) and say who
speaks when: ``segments`` (``SEGMENT RECORDING START END``, seconds) with ``utt2spk`` (``SEGMENT
SPEAKER``) or, without these, ``rttm``. Relative paths are below DIR or the Kaldi folder.
"""

import os
from pathlib import Path

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.text import read_lines

from .item import Item, Listing, Span
from .rttm import SLACK, read_rttm

PARTS = ("train", "dev", "test")


def read(folder: Path, split: str | None) -> Listing:
    """List the recordings of ``folder``.

    Raises:
        UserError: A table cannot be read, or a Kaldi folder does not say who speaks when.
    """
    listing = Listing([], expected=PARTS)
    for part in PARTS:
        kaldi = folder / part
        recordings = _table(kaldi / "wav.scp", 2, listing)
        turns = _turns(kaldi, listing)
        if not turns and not listing.problems:
            raise UserError(f"{kaldi} says nothing of who speaks when: its table is empty.")
        for name in turns.keys() - recordings.keys():
            listing.problems.append(f"{kaldi} says who speaks in {name!r}, which wav.scp lacks")
        for name, (place,) in recordings.items():
            if place.endswith("|"):
                listing.problems.append(
                    f"{kaldi / 'wav.scp'} has a command for {name!r}; write the audio to a file"
                )
                continue
            paths = [folder / place, kaldi / place]
            listing.items.append(
                Item(
                    id=name,
                    path=next((path for path in paths if os.path.isfile(path)), paths[0]),
                    split=part,
                    language="en",
                    alignments={"speaker": tuple(turns[name])} if name in turns else {},
                    slack=SLACK,
                )
            )
    return listing


def _turns(kaldi: Path, listing: Listing) -> dict[str, list[Span]]:
    """Return the turns of each recording; add what is wrong with lines to the listing."""
    segments, speakers, rttm = (kaldi / name for name in ("segments", "utt2spk", "rttm"))
    if not segments.is_file():
        if not rttm.is_file():
            raise UserError(f"{kaldi} holds neither segments nor rttm, so nobody speaks in it.")
        found, problems = read_rttm([rttm])
        listing.problems.extend(problems)
        return found
    who = _table(speakers, 2, listing)
    turns: dict[str, list[Span]] = {}
    for name, (recording, start, end) in _table(segments, 4, listing).items():
        try:
            first, last = (round(float(time) * SAMPLE_RATE) for time in (start, end))
        except (ValueError, OverflowError):
            listing.problems.append(f"{segments} gives {name!r} the times {start!r} to {end!r}")
            continue
        if name not in who:
            listing.problems.append(f"{segments} has {name!r}, which {speakers} lacks")
            continue
        turns.setdefault(recording, []).append(Span(first, last, who[name][0]))
    return turns


def _table(path: Path, width: int, listing: Listing) -> dict[str, list[str]]:
    """Return the fields after the first of each line, by the first."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.strip().split(None, width - 1)  # a path may hold spaces
        if len(fields) == width and fields[0] not in found:
            found[fields[0]] = fields[1:]
        elif fields:
            listing.problems.append(f"{path} line {number} reads {line!r}, not {width} new fields")
    return found
