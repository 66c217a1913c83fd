"""Extracted features on disk: a file for each utterance, which says what it is made from."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError
from auscult.whole_file import writing

if TYPE_CHECKING:
    from auscult.extraction import Encoded
    from auscult.upstream import Upstream

DTYPES = ("float32", "float16")
_LONGEST_NAME = 255  # bytes of a file's name on the usual file systems


class State(Enum):
    """What stands where a file is to be written."""

    THERE = auto()
    MISSING = auto()
    OTHER_CODE = auto()  # or other libraries


@dataclass(frozen=True, slots=True)
class Target:
    """One file to write and what it is made from, which stands in its own metadata."""

    path: Path
    made_from: Mapping[str, str]
    made_by: str  # fingerprint of code and libraries

    @classmethod
    def of(
        cls, cut: Any, path: Path, encoder: "Upstream", made: Mapping[str, str], made_by: str
    ) -> "Target":
        """Return where the states of a cut go."""
        from auscult.feature import audio_sha256

        made_from = {
            "upstream": encoder.spec.name,
            "upstream_sha256": encoder.spec.sha256,
            "audio_sha256": audio_sha256(cut),
            **made,
        }
        return cls(path, made_from, made_by)

    def state(self) -> State:
        """Say whether the file is there; one of ours that was damaged is removed, and said.

        Raises:
            UserError: It is there and whole, but made from something else.
        """
        from auscult import kept

        if not self.path.exists():
            return State.MISSING
        found = _metadata(self.path)
        if found is None and not _begins_as_ours(self.path):
            _set_aside(self.path)
            return State.MISSING
        if found is None or kept.SEAL in found:
            if kept.open_tensors(self.path) is None:
                return State.MISSING
        about = found or {}
        for name, value in self.made_from.items():
            if about.get(name) != value:
                raise UserError(
                    f"{self.path} is there already, with {name} {about.get(name, 'unknown')} "
                    f"where {value} is wanted; choose another --out or remove it."
                )
        whole = kept.SEAL in about  # older versions wrote no hash
        return State.THERE if whole and about["made_by"] == self.made_by else State.OTHER_CODE

    def write(self, row: "Encoded") -> None:
        """Write all layers, whole or not at all."""
        from auscult import kept
        from auscult.record import code_version

        tensors = {f"layer_{i:02d}": layer for i, layer in enumerate(row.layers)}
        if self.made_from["dtype"] == "float16":
            tensors = {name: layer.half() for name, layer in tensors.items()}
            for name, layer in tensors.items():
                if not bool(layer.isfinite().all()):
                    raise UserError(
                        f"{name} of {self.path.stem} holds values beyond 65,504, which float16 "
                        "cannot; write --dtype float32."
                    )
        maker = {"made_by": self.made_by, "auscult": code_version()}
        kept.write_tensors(tensors, self.path, {**self.made_from, **maker})


def _metadata(path: Path) -> Mapping[str, str] | None:
    """Return the metadata of a safetensors file; None where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return None


def _begins_as_ours(path: Path) -> bool:
    """Say whether an unreadable file was one of ours, or has lost all that it held."""
    with path.open("rb") as file:
        start = file.read(2**14)
    return b"upstream_sha256" in start or not start.strip(b"\0")


def _set_aside(path: Path) -> None:
    """Rename a file that is nothing that we know, so that nobody's work is lost."""
    from auscult.progress import logger

    other = path.with_name(f"{path.name}.unreadable")
    with writing(other):
        path.replace(other)
    logger.warning(f"{path} is no safetensors file; it is now {other.name}, and made anew.")


def cuts_of(what: Mapping[str, Any]) -> list[Any]:
    """Return the cuts that stand in an item as JSON values."""
    from lhotse.serialization import deserialize_item

    return [deserialize_item(deepcopy(flat)) for flat in what["cuts"]]  # it takes them apart


def paths_of(ids: Sequence[str], out: Path) -> list[Path]:
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
