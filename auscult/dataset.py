"""Labelled speech as lhotse cuts: what a corpus is, and how labels are read off its cuts.

Labels stand in lhotse's own places, on the cut's only supervision: ``text``, ``speaker``,
``gender``, ``language``; ``alignment["phone"]``, ``alignment["word"]`` and other alignments by
name; everything else in ``custom``: ``keyword``, ``emotion``, ``slots`` (a dict), any column.
Where several speak in one recording, ``alignment["speaker"]`` says who speaks when; it is the only
alignment whose items may overlap.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.record import fingerprint

SPLITS = ("train", "dev", "test")  # what probes and heads are made with
_BUILTIN = {"speaker": "speaker", "sex": "gender", "transcript": "text", "language": "language"}


@dataclass(frozen=True, slots=True)
class Trial:
    """Two utterances, and whether one speaker says both."""

    first: str  # utterance id
    second: str
    same: bool


@dataclass(frozen=True, slots=True)
class Corpus:
    """Named splits of labelled speech, read and validated."""

    spec: str  # the address it was loaded by
    splits: Mapping[str, Any]  # name -> lhotse CutSet (eager); one supervision each
    sha256: Mapping[str, str]  # name -> fingerprint of the split's audio and labels
    audio_sha256: Mapping[str, str] = field(default_factory=dict)  # of the audio alone
    split_column: str = "split"  # which of the corpus' split columns this is
    speaker_overlap: tuple[str, ...] = ()  # speakers that stand in more than one split
    notes: tuple[str, ...] = ()  # what was decided on reading: a dev split made, resampling
    skipped: tuple[str, ...] = field(default=())  # one sentence for each item left out
    trials: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)  # by split, where given
    tested: str = "test"  # the name of the split that stands as test
    limit: int | None = None  # to how many utterances of each split it was cut
    origin: str = ""  # whose code read it: "package==1.0"; empty for ours

    @classmethod
    def of_cuts(
        cls, name: str, splits: Mapping[str, Iterable[Any]], *, skip_bad: bool = False
    ) -> "Corpus":
        """Return a corpus of lhotse cuts, checked like every other.

        Args:
            name: What records call it.
            splits: Cuts by the name of the split, each with one supervision and audio in a file.
            skip_bad: Leave bad items out, counted, instead of stopping at the first.

        Raises:
            UserError: The first bad item.
        """
        import auscult

        return auscult.corpus(splits, name=name, skip_bad=skip_bad)

    def split(self, name: str) -> Any:
        """Return one split's CutSet.

        Raises:
            UserError: No such split.
        """
        if name not in self.splits:
            raise UserError(
                f"{self.spec} has no split {name!r}; its splits are {', '.join(self.splits)}."
            )
        return self.splits[name]

    def tested_on(self, name: str) -> "Corpus":
        """Return the corpus with another split in the place of test.

        Raises:
            UserError: No such split, or one that heads are trained or chosen on.
        """
        if name in ("train", "dev"):
            raise UserError(f"The {name} split cannot be tested on: heads are made with it.")
        splits = {**self.splits, "test": self.split(name)}
        sha256 = {**self.sha256, "test": self.sha256[name]}
        trials = {**self.trials, "test": self.trials.get(name, ())}
        return replace(self, splits=splits, sha256=sha256, trials=trials, tested=name)

    def limited(self, limit: int | None) -> "Corpus":
        """Return the corpus with so many utterances of each split, and the trials among them.

        They are chosen at equal steps, so that they are not all of the first speaker.

        Raises:
            UserError: Fewer than one.
        """
        if limit is None:
            return self
        if limit < 1:
            raise UserError(f"limit={limit}: expected 1 utterance of each split, or more.")
        splits = {name: spread(list(cuts), limit) for name, cuts in self.splits.items()}
        ids = {name: {cut.id for cut in cuts} for name, cuts in splits.items()}
        trials = {
            name: tuple(trial for trial in found if {trial.first, trial.second} <= ids[name])
            for name, found in self.trials.items()
        }
        fewer = {name for name in splits if len(splits[name]) < len(self.splits[name])}
        sha256 = {
            name: fingerprint([found, [cut.id for cut in splits[name]]]) if name in fewer else found
            for name, found in self.sha256.items()
        }
        least = limit if self.limit is None else min(limit, self.limit)
        return replace(self, splits=splits, trials=trials, sha256=sha256, limit=least)


def spread(cuts: Sequence[Any], limit: int | None) -> list[Any]:
    """Choose ``limit`` cuts at equal steps; all where it is None."""
    if limit is None or limit >= len(cuts):
        return list(cuts)
    return [cuts[i * len(cuts) // limit] for i in range(limit)]


def check_speakers(corpus: Corpus, allow: bool) -> None:
    """Refuse splits that share speakers, unless that is allowed.

    Raises:
        UserError: Speakers stand in more than one split.
    """
    if corpus.speaker_overlap and not allow:
        some = ", ".join(corpus.speaker_overlap[:3])
        raise UserError(
            f"{corpus.spec}: {len(corpus.speaker_overlap)} speakers ({some}, ...) stand in more "
            f"than one split of column {corpus.split_column!r}, which flatters every score that "
            "is not about speakers; choose another with --split, or --allow-shared-speakers."
        )


def supervision_of(cut: Any) -> Any:
    """Return the cut's only supervision.

    Raises:
        UserError: None or several.
    """
    if len(cut.supervisions) != 1:
        raise UserError(f"Cut {cut.id} has {len(cut.supervisions)} supervisions; expected one.")
    return cut.supervisions[0]


def label_names(cuts: Iterable[Any]) -> list[str]:
    """Return the names of the labels, intent slots aside, that any of the utterances has."""
    names: dict[str, None] = {}
    for cut in cuts:
        candidates = (*_BUILTIN, *(supervision_of(cut).custom or {}))
        names |= dict.fromkeys(n for n in candidates if utterance_label(cut, n) is not None)
    names.pop("slots", None)
    return list(names)


def utterance_label(cut: Any, name: str) -> str | None:
    """Return the label ``name`` of a whole utterance, or None where it has none.

    Args:
        cut: A lhotse cut with one supervision.
        name: ``speaker``, ``sex``, ``transcript``, ``language``, ``slots.NAME`` for an intent
            slot (``none`` where the utterance has slots but not this one), or any key of the
            supervision's ``custom``.
    """
    supervision = supervision_of(cut)
    if name in _BUILTIN:
        value = getattr(supervision, _BUILTIN[name])
    elif name.startswith("slots."):
        slots = (supervision.custom or {}).get("slots")
        value = None if slots is None else slots.get(name.removeprefix("slots.")) or "none"
    else:
        value = (supervision.custom or {}).get(name)
    return None if value is None or value == "" else str(value)


def frame_labels(cut: Any, name: str, centres: NDArray[np.float64]) -> list[str | None]:
    """Return the alignment label at each frame centre, or None in a gap.

    Args:
        cut: A lhotse cut with one supervision that has ``alignment[name]``.
        name: ``phone``, ``word`` or any other alignment.
        centres: (frame,) in samples at 16 kHz from the start of the cut.

    Returns:
        One label for each frame; all None where the utterance has no such alignment.
    """
    items = _alignment(cut, name)
    if not items:
        return [None] * len(centres)
    starts = np.array([round(item.start * SAMPLE_RATE) for item in items])
    ends = np.array([round((item.start + item.duration) * SAMPLE_RATE) for item in items])
    which = np.searchsorted(starts, centres, side="right") - 1
    inside = (which >= 0) & (centres < ends[which])
    return [items[i].symbol or None if ok else None for i, ok in zip(which, inside, strict=True)]


def active_speakers(
    cut: Any, speakers: Sequence[str], centres: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return who speaks at each frame centre, (frame, speaker).

    Args:
        cut: A lhotse cut with one supervision that has ``alignment["speaker"]``.
        speakers: One for each column.
        centres: (frame,) in samples at 16 kHz from the start of the cut.
    """
    active = np.zeros((len(centres), len(speakers)), dtype=bool)
    for item in _alignment(cut, "speaker"):
        if item.symbol in speakers:
            start, end = round(item.start * SAMPLE_RATE), round(item.end * SAMPLE_RATE)
            active[(start <= centres) & (centres < end), speakers.index(item.symbol)] = True
    return active


def speaker_turns(cut: Any) -> list[tuple[float, float, str]]:
    """Return start, end (seconds from the start of the cut) and speaker of each turn."""
    return [(item.start, item.end, item.symbol) for item in _alignment(cut, "speaker")]


def alignment_symbols(cut: Any, name: str) -> set[str]:
    """Return the labels that stand in an alignment of the utterance, gaps left out."""
    return {item.symbol for item in _alignment(cut, name)} - {""}


def _alignment(cut: Any, name: str) -> Sequence[Any]:
    found: Sequence[Any] = (supervision_of(cut).alignment or {}).get(name, ())
    return found
