"""`auscult results compare`: encoders that were probed on different days, on the same resamples."""

from pathlib import Path
from typing import Annotated

import typer

from auscult.cli.output import Json, Output, Quiet


def compare(
    ours: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder that was --out of `auscult probe`.")
    ],
    theirs: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OTHER]", help="The one to subtract; OUT itself where none is named."
        ),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option("-u", "--upstream", help="Encoder of OUT, instead of all. Repeatable."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", help="Encoder of OTHER that is subtracted. Repeatable."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("-t", "--task", help="Only this task. Repeatable.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="Only this probe. Repeatable.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Folder, .sqlite file or URL to keep them in.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say by how much encoders of one run are read better than those of another.

    Nothing is measured again: every run keeps how many answers to each utterance were right, so
    that the difference is taken on the same resamples of speakers, as one run with both encoders
    would. Where none is named, log-mel and random twins are left out. What cannot be paired is
    said.

    Examples:
      auscult results compare today lastweek
      auscult results compare today lastweek -u wavlm_base --over hubert_base -t phone39
      auscult results compare out --over log_mel --over "random(hubert_base)"
    """
    from auscult.results import difference
    from auscult.studies import compare

    output = Output(json=json, quiet=quiet)
    found = compare(
        ours,
        theirs,
        upstreams=upstream or (),
        over=over or (),
        tasks=task or (),
        probes=probe or (),
        store=store,
    )
    frame = found.compared()
    title = f"{difference.TITLE}: {ours} minus {ours if theirs is None else theirs}"
    output.table(title, list(frame.columns), frame.itertuples(index=False))
    output.finish(
        margins=[difference.flat_difference(artifact) for artifact in found.differences],
        failures=[str(failure) for failure in found.failures],
    )
