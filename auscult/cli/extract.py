"""`auscult extract`: every layer of every utterance as files, for people who want features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auscult.cli.output import (
    ComputePrecision,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
)
from auscult.device import choose_device
from auscult.errors import UserError, unknown
from auscult.whole_file import expect_folder, make_folder

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.studies.extracted import Target


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
    skip_bad: SkipBad = False,
    device: Device = "auto",
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
    import auscult
    from auscult.extraction import encode, long_enough, plan_batches
    from auscult.feature import frame_bytes
    from auscult.origin import made_by
    from auscult.precision import check_precision, precision_of
    from auscult.progress import logger
    from auscult.studies.extracted import DTYPES, Target, paths_of

    output = Output(json=json, quiet=quiet)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if bool(files) == bool(corpus):
        raise UserError("Give either audio files or a corpus (-c), such as -c tsv:data/mine.")
    where = choose_device(device)
    wanted = check_precision(precision, where)
    expect_folder(out)
    make_folder(out)
    encoder = auscult.load(upstream).to(where)
    found = _read(files, corpus, split, skip_bad)
    cuts = [cut for part in found.splits.values() for cut in part]
    cuts, short = long_enough(encoder, cuts, skip_bad=skip_bad)
    size = frame_bytes(encoder, cuts) * (2 if dtype == "float32" else 1)
    states = encoder.spec.num_layers + 1
    logger.info(
        f"{len(cuts)} files of {states} states x {encoder.spec.dim} dims in {dtype}: "
        f"{size / 1e9:.2f} GB in {out}."
    )
    made = {"precision": precision_of(encoder, wanted), "dtype": dtype}
    maker = made_by("auscult.feature", *encoder.modules())
    paths = paths_of([cut.id for cut in cuts], out)
    targets = [Target.of(*pair, encoder, made, maker) for pair in zip(cuts, paths, strict=True)]
    missing = _missing(targets, plan_batches([cut.duration for cut in cuts]))
    for row in encode(encoder, cuts, missing, precision=wanted):
        targets[row.index].write(row)
    output.print(f"{len(cuts)} files in {out}")
    skipped = [*found.skipped, *(f"{name} is too short." for name in short)]
    output.finish(
        files=list(map(str, paths)),
        upstream=encoder.spec.name,
        skipped=skipped,
        precision=made["precision"],
        dtype=dtype,
    )


def _missing(targets: "Sequence[Target]", plan: list[list[int]]) -> list[list[int]]:
    """Return the batches with a file that is to be written, and say what is there."""
    from auscult.progress import logger, track
    from auscult.studies.extracted import State

    states = [found.state() for found in track(targets, "Checking files", len(targets), "files")]
    missing = [batch for batch in plan if any(states[i] is not State.THERE for i in batch)]
    if others := states.count(State.OTHER_CODE):
        logger.info(f"{others} files were made by other code or libraries and are made anew.")
    if there := len(targets) - sum(map(len, missing)):
        logger.info(f"{there} of {len(targets)} files were there already and are kept.")
    return missing


def _read(
    files: Sequence[Path] | None, spec: str | None, split: str | None, skip_bad: bool
) -> "Corpus":
    import auscult
    from auscult.corpora import read_files

    if files:
        return read_files(files, skip_bad=skip_bad)
    return auscult.corpus(spec or "", split=split, skip_bad=skip_bad)
