"""`auscult corpora`: the readers, or what one corpus holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.option import show_installed
from auscult.cli.output import Json, Output, Quiet, SkipBad, SplitColumn
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.dataset import Corpus


def corpora(
    spec: Annotated[
        str | None, typer.Argument(help="Corpus to read and check: reader[:folder].")
    ] = None,
    split: SplitColumn = None,
    skip_bad: SkipBad = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the corpus readers, or read and check one corpus and say what it holds.

    Every bad item is named. Exits with status 1 if there is one, unless --skip-bad.

    Examples:
      auscult corpora
      auscult corpora tsv:my/speech --skip-bad
    """
    out = Output(json=json, quiet=quiet)
    if spec is None:
        _list_readers(out)
        return

    from auscult.corpora import check_corpus
    from auscult.corpora.assembly import EmptySplit

    try:
        corpus = check_corpus(spec, split=split, skip_bad=True)
    except EmptySplit as error:
        _show_bad(out, error.problems, skip_bad)
        out.finish(corpus=None, skipped=list(error.problems))
        raise
    _show(out, corpus, skip_bad)
    if corpus.skipped and not skip_bad:
        count = len(corpus.skipped)
        bad = "1 item is bad; mend it" if count == 1 else f"{count} items are bad; mend them"
        logger.error(f"{spec}: {bad}, or leave bad items out with --skip-bad.")
        raise SystemExit(1)


def _list_readers(out: Output) -> None:
    from dataclasses import asdict

    from auscult.corpora import READERS, TABLE

    rows = [
        (
            reader.name + (":DIR" if reader.signs else ""),
            reader.description,
            ", ".join(reader.labels),
            reader.splits,
            reader.layout,
        )
        for reader in READERS.values()
    ]
    out.table("Corpus readers", ("corpus", "what", "labels", "splits", "the folder holds"), rows)
    installed = show_installed(out, TABLE)
    out.finish(readers=[asdict(reader) for reader in READERS.values()], installed=installed)


def _show(out: Output, corpus: "Corpus", skip_bad: bool) -> None:
    from dataclasses import asdict

    from auscult.corpora.summary import summarize_alignments, summarize_labels, summarize_splits

    splits = summarize_splits(corpus)
    labels, alignments = summarize_labels(corpus), summarize_alignments(corpus)
    out.table(
        f"{corpus.spec}, split by {corpus.split_column}",
        ("split", "utterances", "minutes", "speakers", "sha256"),
        [(s.name, s.utterances, f"{s.minutes:.1f}", s.speakers, s.sha256[:12]) for s in splits],
    )
    for title, rows in (("Labels of utterances", labels), ("Alignments", alignments)):
        if rows:
            out.table(
                title,
                ("name", "classes", "has it", "most frequent"),
                [
                    (r.name, r.classes, f"{r.coverage:.1%}", ", ".join(_short(r.most_frequent)))
                    for r in rows
                ],
            )
    _show_bad(out, corpus.skipped, skip_bad)
    out.finish(
        corpus={
            "spec": corpus.spec,
            "split_column": corpus.split_column,
            "splits": [asdict(split) for split in splits],
            "labels": [asdict(label) for label in labels],
            "alignments": [asdict(alignment) for alignment in alignments],
            "speaker_overlap": list(corpus.speaker_overlap),
            "notes": list(corpus.notes),
        },
        skipped=list(corpus.skipped),
    )


def _show_bad(out: Output, sentences: Sequence[str], skip_bad: bool) -> None:
    if sentences:
        title = "Left out" if skip_bad else "Bad items"
        out.table(title, ("what and why",), [(sentence,) for sentence in sentences])


def _short(values: tuple[str, ...]) -> list[str]:
    return [value if len(value) <= 24 else f"{value[:23]}…" for value in values]
