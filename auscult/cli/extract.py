"""`auscult extract`: every layer of every utterance as files, for people who want features."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import Device, Json, Output, Quiet, SkipBad, SplitColumn, choose_device
from auscult.errors import UserError, unknown

if TYPE_CHECKING:
    from auscult.extraction import Encoded

PRECISIONS = ("float32", "float16")


def extract(
    upstream: Annotated[
        str, typer.Option("-u", "--upstream", help="Encoder: family[:checkpoint][@subnet].")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Audio files, instead of a corpus.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("-c", "--corpus", help="Corpus: reader[:folder].")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    split: SplitColumn = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one safetensors file for each utterance: layer_00 ... layer_NN, (frame, dim).

    Files that are there already are kept, so a killed run goes on where it was.

    Examples:
      auscult extract -u "random(hubert_base)" one.wav two.flac --out features
      auscult extract -u fbank -c tsv:data/mine --precision float16 --out features
    """
    import auscult
    from auscult.extraction import encode, plan_batches
    from auscult.progress import logger

    output = Output(json=json, quiet=quiet)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if bool(files) == bool(corpus):
        raise UserError("Give either audio files or a corpus (-c), such as -c tsv:data/mine.")
    encoder = auscult.load(upstream).to(choose_device(device))
    cuts = _cuts_of(files) if files else _all_cuts(corpus or "", split, skip_bad)
    paths = [_path_of(cut, out) for cut in cuts]
    batches = [
        [i for i in batch if not paths[i].exists()]
        for batch in plan_batches([cut.duration for cut in cuts])
    ]
    batches = [batch for batch in batches if batch]
    kept = len(cuts) - sum(map(len, batches))
    if kept:
        logger.info(f"{kept} of {len(cuts)} files are there already and are kept.")
    for row in encode(encoder, cuts, batches):
        _write(row, paths[row.index], encoder.spec.name, encoder.spec.sha256, precision)
    output.print(f"{len(cuts)} files in {out}")
    output.finish(files=[str(path) for path in paths], upstream=encoder.spec.name)


def _write(row: "Encoded", path: Path, name: str, sha256: str, precision: str) -> None:
    from safetensors.torch import save_file

    layers = [layer.half() if precision == "float16" else layer for layer in row.layers]
    tensors = {f"layer_{i:02d}": layer.contiguous() for i, layer in enumerate(layers)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary, metadata={"upstream": name, "upstream_sha256": sha256})
    os.replace(temporary, path)


def _path_of(cut: Any, out: Path) -> Path:
    path = out / f"{cut.id}.safetensors"
    if not path.resolve().is_relative_to(out.resolve()):
        raise UserError(f"Utterance id {cut.id!r} leads outside {out}; rename it.")
    return path


def _cuts_of(files: Sequence[Path]) -> list[Any]:
    """Make a cut of each audio file.

    Raises:
        UserError: A file is missing or unreadable, or two have the same name.
    """
    from lhotse import Recording

    cuts: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} does not exist; give audio files, or a corpus with -c.")
        if path.stem in cuts:
            raise UserError(
                f"Two files are called {path.stem!r}; their features would share one file. "
                "Rename one, or extract them to different folders."
            )
        try:
            cuts[path.stem] = Recording.from_file(path, recording_id=path.stem).to_cut()
        except Exception as error:  # lhotse's backends raise many kinds
            raise UserError(f"{path} cannot be read as audio; expected WAV or FLAC.") from error
    return list(cuts.values())


def _all_cuts(spec: str, split: str | None, skip_bad: bool) -> list[Any]:
    import auscult

    corpus = auscult.corpus(spec, split=split, skip_bad=skip_bad)
    return [cut for cuts in corpus.splits.values() for cut in cuts]
