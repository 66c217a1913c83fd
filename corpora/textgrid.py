"""Praat TextGrids, in their long and their short form."""

import re
from pathlib import Path

from auscult.contracts import SAMPLE_RATE

from .item import Span

# The long form is the short one with names in between; its indices stand in brackets.
VALUE = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[.])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\].])')


def read_textgrid(path: Path) -> dict[str, tuple[Span, ...]]:
    """Return the intervals of each interval tier, times rounded to samples at 16 kHz.

    Raises:
        ValueError: The file is no TextGrid.
    """
    raw = path.read_bytes()
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    values = [number or string.replace('""', '"') for string, number in VALUE.findall(text)]
    if values[:2] != ["ooTextFile", "TextGrid"]:
        raise ValueError("no TextGrid")
    tiers: dict[str, tuple[Span, ...]] = {}
    try:
        at = 5  # the two names above, the times of the whole, the number of tiers
        for _ in range(int(values[4])):
            kind, name, count = values[at], values[at + 1], int(values[at + 4])
            at += 5
            width = 3 if kind == "IntervalTier" else 2
            if kind == "IntervalTier":
                tiers[name] = tuple(_span(*values[i : i + 3]) for i in range(at, at + 3 * count, 3))
            at += width * count
    except (IndexError, TypeError) as error:
        raise ValueError("the TextGrid ends too early") from error
    return tiers


def _span(start: str, end: str, symbol: str) -> Span:
    return Span(round(float(start) * SAMPLE_RATE), round(float(end) * SAMPLE_RATE), symbol)
