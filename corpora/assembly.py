"""From a listing to a corpus: checked, split, fingerprinted, as lhotse cuts."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from lhotse.supervision import AlignmentItem

from auscult.contracts import SAMPLE_RATE
from auscult.dataset import Corpus, Trial
from auscult.errors import UserError
from auscult.progress import logger

from .item import Item, Listing, Span
from .scan import Scan, scan_files
from .splitting import make_dev
from .validation import (
    audio_notes,
    audio_problems,
    duplicate_notes,
    listing_problems,
    samples_at_16k,
    shared_speakers,
)


class EmptySplit(UserError):
    """No items, or none of a split, are left; ``problems`` has a sentence for each bad one."""

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = tuple(f"{problem}." for problem in problems)


def assemble(spec: str, listing: Listing, *, skip_bad: bool) -> Corpus:
    """Check what a reader listed and make it a corpus.

    Raises:
        EmptySplit: No items are left of one.
        UserError: Without ``skip_bad``, the first bad item.
    """
    skipped = list(map(_shortened, listing.problems))
    _stop_unless(skip_bad, skipped)
    wanted = list(dict.fromkeys([*listing.expected, *(item.split for item in listing.items)]))

    items = _without(listing.items, listing_problems(listing.items), skipped)
    _stop_unless(skip_bad, skipped)
    scans = scan_files([item.path for item in items])
    items = _without(items, audio_problems(items, scans), skipped)
    _stop_unless(skip_bad, skipped)

    _check_not_empty(spec, wanted, items, skipped)
    items, made = make_dev(items)
    apart = [i for i in items if i.split != "dev"] if listing.dev_within_speakers else items
    overlap = shared_speakers(apart)
    notes = [*listing.notes, *audio_notes(items, scans), *([made] if made else [])]
    notes += duplicate_notes(items, scans)
    trials = _trials(items, listing.trials, notes)
    if overlap:
        speaker, (one, two) = next(iter(overlap.items()))
        notes.append(
            f"Speakers in more than one split: {len(overlap)}, such as {speaker} in {one.split} "
            f"({one.path}) and in {two.split} ({two.path}); right for speaker identification, "
            "wrong for any other task."
        )
    notes = list(map(_shortened, notes))
    for note in notes:
        logger.info(f"{spec}: {note}")
    parts = _by_split(items)
    return Corpus(
        spec=spec,
        splits={name: _cuts(part, scans) for name, part in parts.items()},
        sha256={
            name: _fingerprint(part, scans, trials.get(name, ())) for name, part in parts.items()
        },
        audio_sha256={name: _audio_fingerprint(part, scans) for name, part in parts.items()},
        split_column=listing.split_column,
        speaker_overlap=tuple(overlap),
        notes=tuple(notes),
        skipped=tuple(f"{sentence}." for sentence in skipped),
        trials=trials,
    )


def _without(
    items: Sequence[Item], problems: Iterable[tuple[int, str]], skipped: list[str]
) -> list[Item]:
    """Return the items that have no problem; append the problems' sentences to ``skipped``."""
    bad = dict(problems)
    skipped += map(_shortened, bad.values())
    return [item for position, item in enumerate(items) if position not in bad]


def _shortened(sentence: str) -> str:
    """Return a sentence without the middle of what it quotes, where that is a whole file's line."""
    return sentence if len(sentence) <= 1000 else f"{sentence[:600]} ... {sentence[-300:]}"


def _stop_unless(skip_bad: bool, problems: Sequence[str]) -> None:
    if not problems or skip_bad:
        return
    count = "" if len(problems) == 1 else f" (the first of {len(problems)} bad items)"
    raise UserError(
        f"{problems[0]}{count}; mend it, or leave bad items out with skip_bad (--skip-bad)."
    )


def _check_not_empty(
    spec: str, wanted: Sequence[str], items: Sequence[Item], skipped: Sequence[str]
) -> None:
    left = {item.split for item in items}
    bad = "1 bad item is" if len(skipped) == 1 else f"{len(skipped)} bad items are"
    left_out = f" once {bad} left out" if skipped else ""
    if not items:
        raise EmptySplit(f"{spec} holds no utterances{left_out}.", skipped)
    for name in wanted:
        if name not in left:
            raise EmptySplit(f"Split {name!r} of {spec} is empty{left_out}.", skipped)


def _by_split(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Group the items: train, dev and test first, others in the order they came in."""
    groups: dict[str, list[Item]] = {name: [] for name in ("train", "dev", "test")}
    for item in items:
        groups.setdefault(item.split, []).append(item)
    return {name: part for name, part in groups.items() if part}


def _trials(
    items: Sequence[Item], trials: Sequence[Trial], notes: list[str]
) -> dict[str, tuple[Trial, ...]]:
    """Group the trials by the split that both utterances stand in; say how many have none."""
    split_of = {item.id: item.split for item in items}
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        split = split_of.get(trial.first)
        if split is not None and split == split_of.get(trial.second):
            found.setdefault(split, []).append(trial)
    if lost := len(trials) - sum(map(len, found.values())):
        notes.append(
            f"{lost} of {len(trials)} trials are of utterances that are not used, or that stand "
            "in two splits; not used."
        )
    return {name: tuple(part) for name, part in found.items()}


def _audio_fingerprint(items: Sequence[Item], scans: Mapping[Path, Scan]) -> str:
    """Return the sha256 of names and audio, whatever the labels say."""
    parts = [[i.id, scans[i.path].sha256, i.offset, i.duration] for i in items]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fingerprint(items: Sequence[Item], scans: Mapping[Path, Scan], trials: Sequence[Trial]) -> str:
    """Return the sha256 of audio, labels and trials, independent of where the files are."""
    digest = hashlib.sha256()
    for item in items:
        parts = [
            [item.id, scans[item.path].sha256, item.offset, item.duration],
            [item.speaker, item.sex, item.text, item.language],
            dict(item.labels),
            dict(item.alignments),
        ]
        digest.update(json.dumps(parts, sort_keys=True).encode() + b"\n")
    for trial in trials:
        digest.update(json.dumps(astuple(trial)).encode() + b"\n")
    return digest.hexdigest()


def _cuts(items: Sequence[Item], scans: Mapping[Path, Scan]) -> Any:
    return CutSet.from_cuts([_cut(item, scans[item.path]) for item in items])


def _cut(item: Item, scan: Scan) -> Any:
    """Return one utterance as a cut at 16 kHz with one supervision."""
    channels = list(range(scan.channels))
    recording = Recording(
        id=item.id,
        sources=[AudioSource(type="file", channels=channels, source=str(item.path))],
        sampling_rate=scan.rate,
        num_samples=scan.frames,
        duration=scan.frames / scan.rate,
        channel_ids=channels,
    )
    duration = recording.duration - item.offset if item.duration is None else item.duration
    last = samples_at_16k(scan)
    supervision = SupervisionSegment(
        id=item.id,
        recording_id=item.id,
        start=0.0,
        duration=duration,
        channel=channels if scan.channels > 1 else 0,
        text=item.text,
        language=item.language,
        speaker=item.speaker,
        gender=item.sex,
        custom=dict(item.labels),
        alignment={name: _alignment(spans, last) for name, spans in item.alignments.items()}
        or None,
    )
    part: dict[str, Any] = {"id": item.id, "start": item.offset, "duration": duration}
    part |= {"supervisions": [supervision], "recording": recording}
    cut = MultiCut(**part, channel=channels) if scan.channels > 1 else MonoCut(**part, channel=0)
    return cut if scan.rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE)


def _alignment(spans: Sequence[Span], last: int) -> list[AlignmentItem]:
    """Return times in seconds, in order, cut at sample ``last``."""
    return [
        AlignmentItem(span.symbol, span.start / SAMPLE_RATE, (end - span.start) / SAMPLE_RATE)
        for span in sorted(spans)
        if (end := min(span.end, last)) > span.start
    ]
