"""Corpora that somebody has in Python: lhotse cuts by split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from auscult.contracts import SAMPLE_RATE
from auscult.dataset import supervision_of
from auscult.errors import UserError

from .item import Item, Listing, Span

_REASONS = {  # what a cut may not be, for its audio is read from the file as it is
    "features": "has features in the place of audio",
    "memory": "has audio in memory; save it as a file first",
    "transforms": "has transforms beside resampling; save the result as a file first",
    "channel": "takes some channels of a file with more; save them as a file first",
}


def list_cuts(splits: Mapping[str, Iterable[Any]]) -> Listing:
    """List cuts, each of which has one supervision and audio in a file.

    Args:
        splits: lhotse cuts by the name of the split.

    Raises:
        UserError: A split's name is no text, or something is no cut.
    """
    items: list[Item] = []
    problems: list[str] = []
    for split, cuts in splits.items():
        if not isinstance(split, str) or not split:
            raise UserError(f"A split is called {split!r}; expected train, dev, test or a name.")
        for cut in cuts:
            if not hasattr(cut, "supervisions"):
                raise UserError(f"Split {split!r} holds a {type(cut).__name__}; expected cuts.")
            if reason := _reason(cut):
                problems.append(f"Cut {cut.id} of {split} {_REASONS[reason]}")
            else:
                items.append(_item(cut, split))
    return Listing(items, problems, expected=tuple(splits))


def _reason(cut: Any) -> str:
    recording = getattr(cut, "recording", None)
    if recording is None:
        return "features"
    sources = recording.sources
    if len(sources) != 1 or sources[0].type != "file":
        return "memory"
    named = [_name(transform) for transform in recording.transforms or ()]
    if any(name != "Resample" for name in named):
        return "transforms"
    channels = [cut.channel] if isinstance(cut.channel, int) else list(cut.channel)
    return "" if channels == list(recording.channel_ids) else "channel"


def _name(transform: Any) -> str:
    return str(transform["name"] if isinstance(transform, dict) else type(transform).__name__)


def _item(cut: Any, split: str) -> Item:
    supervision = supervision_of(cut)
    alignments = supervision.alignment or {}
    left = cut.recording.duration - cut.start - cut.duration
    ends = abs(left) * cut.recording.sampling_rate < 1  # with the file
    return Item(
        id=str(cut.id),
        path=Path(cut.recording.sources[0].source),
        split=split,
        speaker=supervision.speaker or None,
        sex=supervision.gender or None,
        text=supervision.text or None,
        language=supervision.language or None,
        labels={key: x for key, x in (supervision.custom or {}).items() if x not in (None, "")},
        alignments={name: tuple(map(_span, found)) for name, found in alignments.items()},
        offset=cut.start,
        duration=None if ends else cut.duration,
    )


def _span(item: Any) -> Span:
    """Return a time in samples at 16 kHz; lhotse's are seconds from the start of the cut."""
    first, last = (round(SAMPLE_RATE * x) for x in (item.start, item.start + item.duration))
    return Span(first, last, item.symbol)
