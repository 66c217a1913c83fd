"""Who speaks when, from RTTM files: ``SPEAKER recording channel onset duration - - speaker - -``.

Times are in seconds. Lines of other types (``SPKR-INFO``, ``LEXEME``, ...) and empty ones are
passed over, as in scoring.
"""

from collections.abc import Sequence
from pathlib import Path

from auscult.contracts import SAMPLE_RATE
from auscult.text import read_lines

from .item import Span

SLACK = SAMPLE_RATE // 100  # a turn's rounded end may pass the end of the file by so many samples


def read_rttm(paths: Sequence[Path]) -> tuple[dict[str, list[Span]], list[str]]:
    """Return the turns of each recording, and a sentence for each line that cannot be read.

    A turn that stands in several files is one turn.

    Raises:
        UserError: A file that is no UTF-8 text.
    """
    turns: dict[str, dict[Span, None]] = {}
    problems = []
    for path in paths:
        for number, line in enumerate(read_lines(path), start=1):
            fields = line.split()
            if fields[:1] != ["SPEAKER"]:
                continue
            try:
                recording, onset, duration, speaker = (fields[i] for i in (1, 3, 4, 7))
                start, end = float(onset), float(onset) + float(duration)
                span = Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE), speaker)
            except (IndexError, ValueError, OverflowError):
                problems.append(
                    f"{path} line {number} reads {line!r}, not 'SPEAKER RECORDING CHANNEL ONSET "
                    "DURATION <NA> <NA> NAME'"
                )
                continue
            turns.setdefault(recording, {})[span] = None
    return {recording: sorted(spans) for recording, spans in turns.items()}, problems
