"""`auscult corpora`: the readers, or what one corpus holds."""

from typing import Annotated

import typer

from auscult.cli.option import show_catalogue
from auscult.cli.output import Json, Output, Quiet, SkipBad, SplitColumn
from auscult.progress import logger


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
    output = Output(json=json, quiet=quiet)
    if spec is None:
        from auscult.studies.catalogue import corpus_readers

        show_catalogue(output, corpus_readers())
        return

    from auscult.studies.contents import inspect_corpus

    found = inspect_corpus(spec, split=split)
    for table in found.tables():
        output.table(*table)
    if found.bad:
        title = "Left out" if skip_bad else "Bad items"
        output.table(title, ("what and why",), [(sentence,) for sentence in found.bad])
    output.finish(**found.to_dict())
    if found.error is not None:
        raise found.error
    if found.bad and not skip_bad:
        count = len(found.bad)
        bad = "1 item is bad; mend it" if count == 1 else f"{count} items are bad; mend them"
        logger.error(f"{spec}: {bad}, or leave bad items out with --skip-bad.")
        raise SystemExit(1)
