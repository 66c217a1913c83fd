"""`auscult extract`: every layer of every utterance as files, for people who want features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.option import ExecutorName, Limit, PlanOnly, Threads, finish, show_plan
from auscult.cli.output import (
    ComputePrecision,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
)
from auscult.errors import UserError


def extract(
    upstream: Annotated[
        str,
        typer.Option("-u", "--upstream", help="Encoder: family[:checkpoint][?options][@subnet]."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Audio files, instead of a corpus.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("-c", "--corpus", help="Corpus: reader[:folder].")
    ] = None,
    dtype: Annotated[str, typer.Option(help="What is stored: float32 or float16.")] = "float32",
    precision: ComputePrecision = "float32",
    split: SplitColumn = None,
    limit: Limit = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    executor: ExecutorName = "serial",
    threads: Threads = None,
    plan: PlanOnly = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one safetensors file for each utterance: layer_00 ... layer_NN, (frame, dim).

    Files that are there already are kept, so a killed run goes on where it was; those that were
    damaged since, or that other code made, are made anew.

    Examples:
      auscult extract -u "random(hubert_base)" one.wav two.flac --out features
      auscult extract -u hf:models/wavlm-base -c tsv:data/mine --dtype float16 --out features
    """
    from auscult import studies

    output = Output(json=json, quiet=quiet)
    if bool(files) == bool(corpus):
        raise UserError("Give either audio files or a corpus (-c), such as -c tsv:data/mine.")
    given: dict[str, Any] = {
        "out": out,
        "dtype": dtype,
        "precision": precision,
        "split": split,
        "limit": limit,
        "skip_bad": skip_bad,
        "device": device,
        "executor": executor,
        "threads": threads,
    }
    what = files or corpus or ""
    if plan:
        return show_plan(output, studies.plan_extract(upstream, what, **given))
    found = studies.extract(upstream, what, **given)
    output.print(f"{len(found.files)} files in {out}")
    finish(output, found, **found.to_dict())
