"""What a corpus holds: the tables of ``auscult corpora SPEC``."""

from collections import Counter
from dataclasses import dataclass

from auscult.dataset import Corpus, alignment_symbols, supervision_of, utterance_label

BUILTIN = ("speaker", "sex", "transcript", "language")


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split's size."""

    name: str
    utterances: int
    minutes: float
    speakers: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """One label or alignment, over all splits."""

    name: str
    classes: int
    coverage: float  # share of utterances that have it, 0 to 1
    most_frequent: tuple[str, ...]  # classes, most frequent first


def summarize_splits(corpus: Corpus) -> list[SplitSummary]:
    """Return the size of each split."""
    found = []
    for name, cuts in corpus.splits.items():
        speakers = {supervision_of(cut).speaker for cut in cuts} - {None}
        speakers |= {speaker for cut in cuts for speaker in alignment_symbols(cut, "speaker")}
        minutes = sum(cut.duration for cut in cuts) / 60
        found.append(SplitSummary(name, len(cuts), minutes, len(speakers), corpus.sha256[name]))
    return found


def summarize_labels(corpus: Corpus) -> list[LabelSummary]:
    """Return the labels of whole utterances, intent slots as ``slots.NAME``."""
    cuts = [cut for part in corpus.splits.values() for cut in part]
    columns: dict[str, None] = {}
    slots: dict[str, None] = {}
    for cut in cuts:
        custom = supervision_of(cut).custom or {}
        columns |= dict.fromkeys(custom)
        slots |= dict.fromkeys(f"slots.{name}" for name in custom.get("slots", ()))
    columns.pop("slots", None)
    found = []
    for name in (*BUILTIN, *columns, *slots):
        labels = (utterance_label(cut, name) for cut in cuts)
        counts = Counter(label for label in labels if label is not None)
        if counts:
            found.append(_summary(name, counts, counts.total() / len(cuts)))
    return found


def summarize_alignments(corpus: Corpus) -> list[LabelSummary]:
    """Return the alignments; gaps are no class."""
    values: dict[str, Counter[str]] = {}
    having: Counter[str] = Counter()
    total = 0
    for cuts in corpus.splits.values():
        for cut in cuts:
            total += 1
            for name, items in (supervision_of(cut).alignment or {}).items():
                having[name] += 1
                values.setdefault(name, Counter()).update(i.symbol for i in items if i.symbol)
    return [_summary(name, counts, having[name] / total) for name, counts in values.items()]


def _summary(name: str, counts: Counter[str], coverage: float) -> LabelSummary:
    common = tuple(label for label, _ in counts.most_common(3))
    return LabelSummary(name, len(counts), coverage, common)
