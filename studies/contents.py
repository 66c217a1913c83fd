"""What a corpus holds, and which of its items are bad."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auscult.corpora import check_corpus
from auscult.corpora.assembly import EmptySplit
from auscult.corpora.summary import summarize_alignments, summarize_labels, summarize_splits
from auscult.errors import UserError

from .table import Table, to_html

if TYPE_CHECKING:
    from auscult.dataset import Corpus

LONGEST = 24  # characters of a class's name in the tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was found where a corpus should be."""

    corpus: "Corpus | None"
    bad: tuple[str, ...]  # a sentence for each bad item
    error: EmptySplit | None = None  # why there is no corpus

    def tables(self) -> Iterator[Table]:
        """Yield the tables that people read: splits, labels, alignments."""
        if self.corpus is None:
            return
        yield Table(
            f"{self.corpus.spec}, split by {self.corpus.split_column}",
            ("split", "utterances", "minutes", "speakers", "sha256"),
            [
                (s.name, s.utterances, f"{s.minutes:.1f}", s.speakers, s.sha256[:12])
                for s in summarize_splits(self.corpus)
            ],
        )
        labels, alignments = summarize_labels(self.corpus), summarize_alignments(self.corpus)
        for title, found in (("Labels of utterances", labels), ("Alignments", alignments)):
            if found:
                rows = [
                    (
                        r.name,
                        r.classes,
                        f"{r.coverage:.1%}",
                        ", ".join(map(_short, r.most_frequent)),
                    )
                    for r in found
                ]
                yield Table(title, ("name", "classes", "has it", "most frequent"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        if self.corpus is None:
            return {"corpus": None, "skipped": list(self.bad)}
        return {
            "corpus": {
                "spec": self.corpus.spec,
                "split_column": self.corpus.split_column,
                "splits": [asdict(split) for split in summarize_splits(self.corpus)],
                "labels": [asdict(label) for label in summarize_labels(self.corpus)],
                "alignments": [asdict(found) for found in summarize_alignments(self.corpus)],
                "speaker_overlap": list(self.corpus.speaker_overlap),
                "notes": list(self.corpus.notes),
            },
            "skipped": list(self.bad),
        }

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return to_html([*self.tables(), *self.bad])


def inspect_corpus(corpus: str, *, split: str | None = None) -> Contents:
    """Read and check every item of a corpus; bad items are named, not refused.

    Args:
        corpus: Address such as ``tsv:my/speech``.
        split: Split column, where a corpus has several.

    Raises:
        UserError: No address, or there is no such reader, folder or split column.
    """
    if not isinstance(corpus, str):
        raise UserError(
            f"A {type(corpus).__name__} has no address to look at; expected one such as "
            "tsv:my/speech. auscult.corpus(...) checks what is in Python."
        )
    try:
        found = check_corpus(corpus, split=split, skip_bad=True)
    except EmptySplit as error:
        return Contents(corpus=None, bad=error.problems, error=error)
    return Contents(corpus=found, bad=tuple(found.skipped))


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
