"""What a reader finds in a folder, before any audio is opened.

A reader only lists: file names, labels and times as the folder states them. Opening the audio,
checking it against the labels and making cuts is the same for all corpora and done in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from auscult.dataset import Trial


class Span(NamedTuple):
    """A label in time, in samples at 16 kHz from the utterance's start; ``end`` is exclusive."""

    start: int
    end: int
    symbol: str  # empty in a gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One utterance as its folder describes it."""

    id: str
    path: Path
    split: str
    speaker: str | None = None
    sex: str | None = None
    text: str | None = None
    language: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)  # strings; "slots" is a dict
    alignments: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    slack: int = 0  # samples at 16 kHz by which rounded label times may pass the end of the file
    offset: float = 0.0  # seconds; not 0 for a piece of a longer file
    duration: float | None = None  # seconds; None reaches to the end of the file


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything a reader found."""

    items: list[Item]
    problems: list[str] = field(default_factory=list)  # one sentence for each entry left out
    notes: list[str] = field(default_factory=list)  # what was decided on reading
    split_column: str = "split"
    expected: tuple[str, ...] = ()  # splits that the folder promises, even if nothing is in them
    trials: "list[Trial]" = field(default_factory=list)  # of utterances that are among the items
    dev_within_speakers: bool = False  # the corpus' protocol has speakers of train in dev
