"""`auscult extract`: every layer of every utterance as files, for people who want features."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import (
    ComputePrecision,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    choose_device,
    expect_folder,
)
from auscult.errors import UserError, unknown
from auscult.whole_file import whole_file, writing

if TYPE_CHECKING:
    from auscult.dataset import Corpus
    from auscult.extraction import Encoded
    from auscult.upstream import Upstream

DTYPES = ("float32", "float16")
_LONGEST_NAME = 255  # bytes of a file's name on the usual file systems


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
    dtype: Annotated[str, typer.Option(help="What is stored: float32 or float16.")] = "float32",
    precision: ComputePrecision = "float32",
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
      auscult extract -u hf:models/wavlm-base -c tsv:data/mine --dtype float16 --out features
    """
    import auscult
    from auscult.extraction import encode, long_enough, plan_batches
    from auscult.feature import frame_bytes
    from auscult.precision import check_precision, precision_of
    from auscult.progress import logger

    output = Output(json=json, quiet=quiet)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if bool(files) == bool(corpus):
        raise UserError("Give either audio files or a corpus (-c), such as -c tsv:data/mine.")
    where = choose_device(device)
    wanted = check_precision(precision, where)
    expect_folder(out)
    with writing(out / "features"):
        out.mkdir(parents=True, exist_ok=True)
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
    paths = _paths_of([cut.id for cut in cuts], out)
    targets = [_Target.of(*pair, encoder, made) for pair in zip(cuts, paths, strict=True)]
    plan = plan_batches([cut.duration for cut in cuts])
    missing = [batch for batch in plan if not all([targets[i].there() for i in batch])]
    for row in encode(encoder, cuts, missing, precision=wanted):
        targets[row.index].write(row)
    if kept := len(cuts) - sum(map(len, missing)):
        logger.info(f"{kept} of {len(cuts)} files were there already and are kept.")
    output.print(f"{len(cuts)} files in {out}")
    skipped = [*found.skipped, *(f"{name} is too short." for name in short)]
    output.finish(
        files=list(map(str, paths)),
        upstream=encoder.spec.name,
        skipped=skipped,
        precision=made["precision"],
        dtype=dtype,
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """One file to write and what it is made from, which stands in its own metadata."""

    path: Path
    made_from: Mapping[str, str]

    @classmethod
    def of(cls, cut: Any, path: Path, encoder: "Upstream", made: Mapping[str, str]) -> "_Target":
        from auscult.feature import audio_sha256

        made_from = {
            "upstream": encoder.spec.name,
            "upstream_sha256": encoder.spec.sha256,
            "audio_sha256": audio_sha256(cut),
            **made,
        }
        return cls(path, made_from)

    def there(self) -> bool:
        """Say whether the file is there.

        Raises:
            UserError: It is, but made from something else.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, "pt") as file:
                found = file.metadata() or {}
        except SafetensorError:
            found = {}
        for name, value in self.made_from.items():
            if found.get(name) != value:
                raise UserError(
                    f"{self.path} is there already, with {name} {found.get(name, 'unknown')} "
                    f"where {value} is wanted; choose another --out or remove it."
                )
        return True

    def write(self, row: "Encoded") -> None:
        """Write all layers, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"layer_{i:02d}": layer.contiguous() for i, layer in enumerate(row.layers)}
        if self.made_from["dtype"] == "float16":
            tensors = {name: layer.half() for name, layer in tensors.items()}
            for name, layer in tensors.items():
                if not bool(layer.isfinite().all()):
                    raise UserError(
                        f"{name} of {self.path.stem} holds values beyond 65,504, which float16 "
                        "cannot; write --dtype float32."
                    )
        with whole_file(self.path) as temporary:
            save_file(tensors, temporary, metadata=dict(self.made_from))


def _paths_of(ids: Sequence[str], out: Path) -> list[Path]:
    """Return the file of each utterance.

    Raises:
        UserError: An id is no name of a file below ``out``, or two are the same.
    """
    root = out.resolve()
    merging = _merges_case(out)
    owners: dict[str, str] = {}
    paths = []
    for name in ids:
        path = out / f"{name}.safetensors"
        if "\0" in name or not path.resolve().is_relative_to(root):
            raise UserError(f"Utterance id {name!r} leads outside {out}; rename it.")
        if long := next((p for p in path.parts if len(os.fsencode(p)) > _LONGEST_NAME), None):
            raise UserError(
                f"Utterance id {name[:80]!r}... makes a file name of {len(os.fsencode(long))} "
                f"bytes, of which {_LONGEST_NAME} are possible; rename it."
            )
        key = os.path.normpath(path)
        key = unicodedata.normalize("NFC", key).casefold() if merging else key
        other = owners.setdefault(key, name)
        if other != name:
            raise UserError(
                f"Utterances {other!r} and {name!r} would be one file in {out}; rename one."
            )
        paths.append(path)
    return paths


def _merges_case(folder: Path) -> bool:
    """Say whether a folder can be named in large and small letters alike."""
    other = folder.resolve().with_name(folder.resolve().name.swapcase())
    return other.name != folder.resolve().name and other.exists() and other.samefile(folder)


def _read(
    files: Sequence[Path] | None, spec: str | None, split: str | None, skip_bad: bool
) -> "Corpus":
    import auscult
    from auscult.corpora import read_files

    if files:
        return read_files(files, skip_bad=skip_bad)
    return auscult.corpus(spec or "", split=split, skip_bad=skip_bad)
