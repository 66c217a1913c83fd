"""What a head answered on test, item by item, on disk: for submissions and for error analysis.

Two files in the folder of a head: ``predictions.jsonl``, one JSON object for each item, and
``run.json``, which says what the items are answers to, which command measured them, and by their
hashes that nothing was damaged since. An object has ``id``, ``target`` and
``prediction``, and whatever else the task records for each item; a trial's ``id`` is its two
utterances, a diarised item's ``prediction`` the probability of each speaker, (frame, speaker).
Where the items have ``turns``, these stand in ``hypothesis.rttm`` and the targets in
``reference.rttm``, for any other scorer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from auscult import kept
from auscult.errors import UserError
from auscult.record import Provenance
from auscult.tree import walk
from auscult.whole_file import whole_file

from .turn import rttm_lines

ITEMS, RUN = "predictions.jsonl", "run.json"
RTTM = {"hypothesis.rttm": "turns", "reference.rttm": "target"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRun:
    """What predictions are answers to."""

    task: str
    task_version: int
    upstream: str
    upstream_sha256: str
    stride: int  # of the encoder's frames, in samples
    corpus: str
    corpus_sha256: str  # of the split
    split_column: str
    split: str
    seed: int
    step: int  # that dev preferred
    classes: tuple[str, ...]  # what the head may answer
    config: Mapping[str, Any]
    num_items: int = 0
    left_out: tuple[str, ...] = ()  # what the task recorded, but not for each item
    items_sha256: str = ""  # of the file of the items
    provenance: Provenance | None = None  # of the command that finished the head and asked it


@dataclass(frozen=True, slots=True)
class Predictions:
    """The items of one run, in the order of the split."""

    run: PredictionRun
    items: tuple[Mapping[str, Any], ...]
    folder: Path


def write_predictions(
    run: PredictionRun, answers: Mapping[str, Sequence[Any]], folder: Path
) -> None:
    """Write what a head answered to ``folder``; each file appears when all of it is on the disk.

    Args:
        run: What the answers are answers to; their number and hash are filled in here.
        answers: Lists by name, ``id`` among them; those of its length are written.
        folder: Of this head.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    size = len(answers["id"])
    names = [name for name, values in answers.items() if len(values) == size]
    left_out = tuple(name for name in answers if name not in names)
    rows = zip(*(answers[name] for name in names), strict=True)
    lines = (json.dumps(dict(zip(names, row, strict=True)), default=_plain) for row in rows)
    digest = _write(folder / ITEMS, (f"{line}\n" for line in lines))
    if "turns" in answers:
        for file, column in RTTM.items():
            pairs = zip(answers["id"], answers[column], strict=True)
            _write(folder / file, (f"{line}\n" for pair in pairs for line in rttm_lines(*pair)))
    found = replace(run, num_items=size, left_out=left_out, items_sha256=digest)
    kept.write_object(json.loads(json.dumps(asdict(found), default=_plain)), folder / RUN)


def find_predictions(folder: Path) -> list[Path]:
    """Return the folders with predictions at or below ``folder``, in order."""
    return sorted(p.parent for p in walk(folder) if p.name == RUN and (p.parent / ITEMS).is_file())


def read_predictions(folder: Path) -> Predictions:
    """Read what :func:`write_predictions` wrote.

    Raises:
        UserError: A file is missing, damaged or not ours.
    """
    place = folder / RUN
    try:
        values = json.loads(place.read_bytes())
        run = _run(values)
        damaged = [place] if kept.is_damaged(values) else []
        place = folder / ITEMS
        content = place.read_bytes()
        items = tuple(json.loads(line) for line in content.splitlines())
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}; run the task again.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{place} is not a file of predictions ({error}); run it again.") from error
    if len(items) != run.num_items:
        raise UserError(
            f"{place} holds {len(items)} items, but its run has {run.num_items}; run it again."
        )
    if run.items_sha256 not in ("", hashlib.sha256(content).hexdigest()):
        damaged.append(place)
    if damaged:
        raise UserError(f"{damaged[0]} was damaged since it was written; run the task again.")
    return Predictions(run, items, folder)


def find_run(folder: Path) -> PredictionRun | None:
    """Return what the predictions in ``folder`` are answers to.

    Returns:
        None where there are none, or the file was damaged: it is then said and removed.
    """
    values = kept.read_object(folder / RUN)
    return None if values is None else _run(values)


def _run(values: Mapping[str, Any]) -> PredictionRun:
    given = {field.name: values[field.name] for field in fields(PredictionRun)[:-2]}
    given |= {name: tuple(given[name]) for name in ("classes", "left_out")}
    given["items_sha256"] = values.get("items_sha256", "")  # older versions had neither
    if values.get("provenance") is not None:
        given["provenance"] = Provenance(**values["provenance"])
    return PredictionRun(**given)


def _write(path: Path, parts: Iterable[str]) -> str:
    """Write a file and return its sha256."""
    digest = hashlib.sha256()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            content = part.encode()
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")
