"""Praat's TextGrids, as Praat itself reads its text files: in the long form or the short.

What counts are numbers, texts in quotation marks and flags such as ``<exists>`` that stand freely;
all other words (``xmin =``, ``intervals [1]:``) and comments, from ``!`` to the end of the line,
are passed over.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.text import decode, read_bytes

from .item import Span

_TOKEN = re.compile(r'![^\n]*|(?P<text>"[^"]*(?:""[^"]*)*")|\S+')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_LIKE_A_NUMBER = re.compile(r"[+-]?(?:\.?\d|inf\b|nan\b|infinity\b)|--undefined--", re.IGNORECASE)


def read_textgrid(path: Path) -> dict[str, tuple[Span, ...]]:
    """Return the intervals of each interval tier, times rounded to samples at 16 kHz.

    Raises:
        UserError: The file cannot be read, is no TextGrid, or has impossible times.
    """
    stored = read_bytes(path)
    if stored.startswith(b"ooBinaryFile"):
        raise UserError(f"{path} is in Praat's binary format; save it as a text file.")
    content = decode(stored, path)
    if '"ooTextFile' not in content[:1000] or '"TextGrid"' not in content[:1000]:
        raise UserError(f"{path} is no TextGrid in Praat's text format; save it as one.")
    values = _Values(path, content)
    values.text("the file's type")
    values.text("the object's class")
    values.time("its begin")
    values.time("its end")
    if not values.exist():
        return {}
    tiers: dict[str, tuple[Span, ...]] = {}
    for _ in range(values.count("the number of tiers")):
        tier = values.text("a tier's class")
        name = values.text("a tier's name")
        values.time("a tier's begin")
        values.time("a tier's end")
        number = values.count("a tier's size")
        if tier == "IntervalTier":
            if name in tiers:
                raise UserError(f"{path} has two interval tiers {name!r}; rename one.")
            tiers[name] = tuple(_intervals(values, name, number))
        elif tier == "TextTier":
            for _ in range(number):
                values.time("a point's time")
                values.text("a point's mark")
        else:
            raise UserError(f"{values.where()}: {tier!r} is no class of tiers.")
    return tiers


def _intervals(values: "_Values", tier: str, number: int) -> Iterator[Span]:
    before = 0
    for _ in range(number):
        start, end = values.time("an interval's begin"), values.time("an interval's end")
        if not before <= start <= end:
            raise UserError(
                f"{values.where()}: tier {tier!r} has an interval from {start / SAMPLE_RATE:g} to "
                f"{end / SAMPLE_RATE:g} s after one that ends at {before / SAMPLE_RATE:g} s."
            )
        before = end
        yield Span(start, end, values.text("an interval's text"))


@dataclass(slots=True)
class _Token:
    value: str | float  # texts keep their quotation marks here
    line: int


class _Values:
    """The values of a file one after the other, each of the kind that must come next."""

    def __init__(self, path: Path, content: str) -> None:
        self._path = path
        self._line = 1
        self._tokens = self._tokenize(content)

    def text(self, what: str) -> str:
        """Return the next value, a text."""
        found = self._next(what)
        if isinstance(found, str) and found.startswith('"'):
            return found[1:-1].replace('""', '"')
        raise self._unexpected(what, "a text in quotation marks", found)

    def time(self, what: str) -> int:
        """Return the next value, a number of seconds, in samples."""
        found = self._next(what)
        if isinstance(found, float):
            return round(found * SAMPLE_RATE)
        raise self._unexpected(what, "a number", found)

    def count(self, what: str) -> int:
        """Return the next value, a whole number."""
        found = self._next(what)
        if isinstance(found, float) and found >= 0 and found.is_integer():
            return int(found)
        raise self._unexpected(what, "a whole number", found)

    def exist(self) -> bool:
        """Return whether the next value, a flag, says that tiers follow."""
        found = self._next("whether there are tiers")
        if found in ("<exists>", "<absent>"):
            return found == "<exists>"
        raise self._unexpected("whether there are tiers", "<exists> or <absent>", found)

    def where(self) -> str:
        """Return file and line of the last value."""
        return f"{self._path}, line {self._line}"

    def _next(self, what: str) -> str | float:
        token = next(self._tokens, None)
        if token is None:
            raise UserError(f"{self._path} ends too early: {what} is missing.")
        self._line = token.line
        return token.value

    def _unexpected(self, what: str, wanted: str, found: str | float) -> UserError:
        shown = found if isinstance(found, str) else f"{found:g}"
        return UserError(f"{self.where()}: expected {wanted} for {what}, found {shown[:40]}.")

    def _tokenize(self, content: str) -> Iterator[_Token]:
        line, at = 1, 0
        for match in _TOKEN.finditer(content):
            line += content.count("\n", at, match.start())
            at = match.start()
            word = match[0]
            if word.startswith('"') and match["text"] is None:
                raise UserError(f"{self._path}, line {line}: a text is not closed by a mark.")
            if word.startswith(('"', "<")):
                yield _Token(word, line)
            elif _NUMBER.fullmatch(word) and math.isfinite(float(word) * SAMPLE_RATE):
                yield _Token(float(word), line)
            elif _LIKE_A_NUMBER.match(word):
                raise UserError(f"{self._path}, line {line}: {word[:40]!r} is no finite number.")
