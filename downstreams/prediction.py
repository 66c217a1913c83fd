"""What a head answered on test, item by item, on disk: for submissions and for error analysis.

Two files in the folder of a head: ``predictions.jsonl``, one JSON object for each item, and
``run.json``, which says what the items are answers to. An object has ``id``, ``target`` and
``prediction``, and whatever else the task records for each item; a trial's ``id`` is its two
utterances, a diarised item's ``prediction`` the probability of each speaker, (frame, speaker).
Where the items have ``turns``, these stand in ``hypothesis.rttm`` and the targets in
``reference.rttm``, for any other scorer.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from auscult.errors import UserError
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
        run: What the answers are answers to; their number is filled in here.
        answers: Lists by name, ``id`` among them; those of its length are written.
        folder: Of this head.
    """
    size = len(answers["id"])
    names = [name for name, values in answers.items() if len(values) == size]
    left_out = tuple(name for name in answers if name not in names)
    found = replace(run, num_items=size, left_out=left_out)
    rows = zip(*(answers[name] for name in names), strict=True)
    lines = (json.dumps(dict(zip(names, row, strict=True)), default=_plain) for row in rows)
    _write(folder / ITEMS, (f"{line}\n" for line in lines))
    if "turns" in answers:
        for file, column in RTTM.items():
            pairs = zip(answers["id"], answers[column], strict=True)
            _write(folder / file, (f"{line}\n" for pair in pairs for line in rttm_lines(*pair)))
    _write(folder / RUN, [json.dumps(asdict(found), indent=1, default=_plain) + "\n"])


def find_predictions(folder: Path) -> list[Path]:
    """Return the folders with predictions at or below ``folder``, in order."""
    return sorted(p.parent for p in walk(folder) if p.name == RUN and (p.parent / ITEMS).is_file())


def read_predictions(folder: Path) -> Predictions:
    """Read what :func:`write_predictions` wrote.

    Raises:
        UserError: A file is missing, cut short or not ours.
    """
    place = folder / RUN
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
        known = {field.name for field in fields(PredictionRun)}
        lists = {name: tuple(values[name]) for name in ("classes", "left_out")}
        given: dict[str, Any] = {name: values[name] for name in known} | lists
        run = PredictionRun(**given)
        place = folder / ITEMS
        with place.open(encoding="utf-8") as file:
            items = tuple(json.loads(line) for line in file)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}; run the task again.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is not a file of predictions ({error}); run it again.") from error
    if len(items) != run.num_items:
        raise UserError(
            f"{place} holds {len(items)} items, but its run has {run.num_items}; run it again."
        )
    return Predictions(run, items, folder)


def _write(path: Path, parts: Iterable[str]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")
