"""Outcomes on disk, one file each, so that finished items are read and not carried out again.

Two workers with one item write the same bits, so that there are no locks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auscult import kept, tree
from auscult.errors import UserError
from auscult.record import Artifact, Provenance, Record
from auscult.score import Tally
from auscult.snapshot import SUFFIX

from .item import Item, Outcome, TallyKey

FORMAT = 3
FOLDER = ".work"
_ABOUT = "outcome"


class Ledger:
    """What a folder remembers of items."""

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER

    def read(self, item: Item) -> Outcome | None:
        """Return an item's outcome; None where it was not finished, or was damaged since."""
        return self._read(self._path(item), item.key)

    def outcomes(self, kind: str) -> Iterator[Outcome]:
        """Yield the outcomes of all items of a kind, whichever study wrote them.

        They are numbers alone: no item comes back, so that nothing that the files name, which may
        be a stranger's, is ever built.

        Raises:
            UserError: A file is not what a ledger writes.
        """
        for path in tree.find(self.folder, f"{kind}-*-{FORMAT}.safetensors"):
            try:
                found = self._read(path, path.name.split("-")[-2])
                _check_counts(found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{path} is no outcome that Auscult wrote ({error!r}); remove it."
                ) from error
            if found is not None:
                yield found

    def _read(self, path: Path, key: str) -> Outcome | None:
        found = kept.read_tensors(path)
        if found is None:
            return None
        tensors, about = found
        content = json.loads(about[_ABOUT])
        if not all(_stands(self.folder.parent / name) for name in content["files"]):
            return None
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return Outcome(
            key=key,
            records=tuple(Record.from_dict(flat) for flat in content["records"]),
            artifacts=tuple(_artifact(flat, arrays) for flat in content["artifacts"]),
            tallies=dict(_tallies(content, arrays)),
            notes=content["notes"],
            files=tuple(content["files"]),
        )

    def has(self, item: Item) -> bool:
        """Say whether there is an outcome, whole, with its files."""
        return self._read(self._path(item), item.key) is not None

    def write(self, item: Item, outcome: Outcome) -> None:
        """Keep an item's outcome, whole or not at all."""
        arrays: dict[str, np.ndarray] = {}
        lists: list[list[str | None]] = []  # of utterances and speakers, which many tallies share
        content = {
            "item": {
                **{"kind": item.kind, "command": item.command, "upstream": dict(item.upstream)},
                **{"corpus": dict(item.corpus), "what": dict(item.what), "how": dict(item.how)},
            },
            "records": [record.to_dict() for record in outcome.records],
            "artifacts": [_flat(artifact, arrays) for artifact in outcome.artifacts],
            "tallies": [_counts(key, x, arrays, lists) for key, x in outcome.tallies.items()],
            "lists": lists,
            "notes": dict(outcome.notes),
            "files": list(outcome.files),
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        kept.write_tensors(tensors, self._path(item), {_ABOUT: json.dumps(content)})

    def _path(self, item: Item) -> Path:
        return self.folder / f"{item.kind}-{item.key[:32]}-{FORMAT}.safetensors"


def _stands(path: Path) -> bool:
    """Say whether a file is there, and, where it was closed by a hash, to its end."""
    return path.is_file() and (path.suffix != SUFFIX or kept.is_sealed(path))


def _place(array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    """Put an array among ``arrays``, equal ones once; return its name."""
    for name, other in arrays.items():
        if other is array:
            return name
    name = str(len(arrays))
    arrays[name] = array
    return name


def _check_counts(outcome: Outcome | None) -> None:
    for tally in () if outcome is None else outcome.tallies.values():
        if not (np.isfinite(tally.right).all() and np.isfinite(tally.total).all()):
            raise ValueError("counts that are no numbers")


def _counts(
    key: TallyKey, tally: Tally, arrays: dict[str, np.ndarray], lists: list[list[str | None]]
) -> dict[str, Any]:
    parts = {"right": tally.right, "total": tally.total, "answered": tally.answered}
    places = {name: _place(x, arrays) for name, x in parts.items() if x is not None}
    named = {"items": _number(tally.items, lists), "speakers": _number(tally.speakers, lists)}
    return {**asdict(key), **places, **named}


def _number(names: Sequence[str | None], lists: list[list[str | None]]) -> int:
    """Return the place of a list among ``lists``, equal ones once."""
    if list(names) not in lists:
        lists.append(list(names))
    return lists.index(list(names))


def _tallies(
    content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> list[tuple[TallyKey, Tally]]:
    found = []
    lists = [tuple(names) for names in content["lists"]]
    for row in content["tallies"]:
        key = TallyKey(**{field.name: row[field.name] for field in fields(TallyKey)})
        tally = Tally(
            right=arrays[row["right"]],
            total=arrays[row["total"]],
            answered=arrays[row["answered"]] if "answered" in row else None,
            items=lists[row["items"]],
            speakers=lists[row["speakers"]],
        )
        found.append((key, tally))
    return found


def _flat(artifact: Artifact, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    places = {name: _place(np.asarray(x), arrays) for name, x in artifact.arrays.items()}
    plain = {f.name: getattr(artifact, f.name) for f in fields(Artifact) if f.name != "arrays"}
    return {
        **plain,
        "meta": dict(artifact.meta),
        "provenance": asdict(artifact.provenance),
        "arrays": places,
    }


def _artifact(flat: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Artifact:
    values = dict(flat)
    values["arrays"] = {name: arrays[place] for name, place in values["arrays"].items()}
    values["provenance"] = Provenance(**values["provenance"])
    return Artifact(**values)
