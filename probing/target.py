"""Labels of a split as class numbers, checked against the classes of the training split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auscult.dataset import (
    alignment_symbols,
    frame_labels,
    label_names,
    supervision_of,
)
from auscult.errors import UserError
from auscult.frame import FrameGeometry
from auscult.progress import logger

from .task import ProbeTask

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class Targets:
    """The class of every example of one split.

    ``labels`` has one tensor (example,) for each utterance: one entry for an utterance label, one
    for each frame otherwise; ``UNLABELLED`` where there is none.
    """

    labels: tuple[Tensor, ...]
    speakers: tuple[str | None, ...]  # (item,)

    @property
    def items(self) -> list[int]:
        """Utterances with at least one labelled example."""
        return [i for i, labels in enumerate(self.labels) if (labels != UNLABELLED).any()]

    @property
    def num_unlabelled(self) -> int:
        """How many utterances have no labelled example and are left out."""
        return len(self.labels) - len(self.items)


def check_labels(
    task: ProbeTask, splits: Mapping[str, Sequence[Any]], *, skip_unlabelled: bool = False
) -> None:
    """Make sure that a task can be probed, before anything is encoded.

    Args:
        task: What is read.
        splits: ``train``, ``dev`` and ``test``, each a sequence of cuts.
        skip_unlabelled: Leave utterances without the label out, counted by
            :attr:`Targets.num_unlabelled`, instead of stopping at the first.

    Raises:
        UserError: A split without labels, one class only, no speaker of train in another split,
            or an utterance without a label.
    """
    seen = {
        name: set().union(*(_classes(task, cut) for cut in cuts)) for name, cuts in splits.items()
    }
    _check_classes(task, seen, splits)
    for name, cuts in splits.items():
        bare = [cut.id for cut in cuts if not _classes(task, cut)]
        if bare and not skip_unlabelled:
            raise UserError(
                f"Utterance {bare[0]} has no label {task.label!r} for task {task.spec.name!r} "
                f"({len(bare)} of {len(cuts)} in {name} have none); skip_bad (--skip-bad) "
                "leaves them out, counted."
            )


def build_targets(
    task: ProbeTask,
    splits: Mapping[str, Sequence[Any]],
    num_frames: Mapping[str, NDArray[np.int64]],
    geometry: FrameGeometry,
) -> tuple[tuple[str, ...], dict[str, Targets]]:
    """Return the classes, sorted, and the targets of each split.

    Classes are those of ``train``, then those that occur elsewhere only: no probe can answer
    them, and they count as wrong.

    Args:
        task: What is read; :func:`check_labels` has found it readable.
        splits: ``train``, ``dev`` and ``test``, each a sequence of cuts.
        num_frames: (item,) valid frames of each utterance, by split.
        geometry: Where the encoder's frames lie.
    """
    found = {
        name: [
            _labels(task, cut, int(frames), geometry)
            for cut, frames in zip(cuts, num_frames[name], strict=True)
        ]
        for name, cuts in splits.items()
    }
    seen = {name: {x for row in rows for x in row if x is not None} for name, rows in found.items()}
    classes = (*sorted(seen["train"]), *sorted(set().union(*seen.values()) - seen["train"]))
    number: dict[str | None, int] = {label: i for i, label in enumerate(classes)}
    number[None] = UNLABELLED
    targets = {
        name: Targets(
            tuple(torch.tensor([number[x] for x in row]) for row in rows),
            tuple(supervision_of(cut).speaker or None for cut in splits[name]),
        )
        for name, rows in found.items()
    }
    return classes, targets


def majority_class(targets: Targets) -> int:
    """Return the commonest class of a split; of equally common ones the first."""
    counts = Counter(int(x) for row in targets.labels for x in row if x != UNLABELLED)
    return min(counts, key=lambda label: (-counts[label], label))


def _classes(task: ProbeTask, cut: Any) -> set[str]:
    """Return the labels of an utterance; none where it has no label."""
    if task.aligned:
        return alignment_symbols(cut, task.label)
    label = task.label_of(cut)
    return set() if label is None else {label}


def _labels(
    task: ProbeTask, cut: Any, num_frames: int, geometry: FrameGeometry
) -> list[str | None]:
    if task.aligned:
        return frame_labels(cut, task.label, geometry.centres(num_frames))
    label = task.label_of(cut)
    return [label] * (num_frames if task.frames else 1)


def _there(task: ProbeTask, splits: Mapping[str, Sequence[Any]]) -> str:
    """Say what could be read instead: alignments of a task of frames, else labels."""
    cuts = [cut for found in splits.values() for cut in found]
    if task.aligned:
        names = sorted({name for cut in cuts for name in supervision_of(cut).alignment or ()})
        return f"alignments here: {', '.join(names) or 'none'}"
    return f"labels here: {', '.join(label_names(cuts)) or 'none'}"


def _check_classes(
    task: ProbeTask, seen: Mapping[str, set[str]], splits: Mapping[str, Sequence[Any]]
) -> None:
    name = task.spec.name
    for split, labels in seen.items():
        if not labels:
            raise UserError(
                f"Task {name!r} needs the label {task.label!r}, and no utterance of the "
                f"{split} split has it; {_there(task, splits)}."
            )
        strange = sorted(labels - seen["train"])
        if task.about_speakers and strange:
            raise UserError(
                f"Task {name!r} needs the same speakers in every split, but {split} has "
                f"{len(strange)} that train lacks ({', '.join(strange[:3])}, ...); choose a split "
                "column by utterance with split= (--split), such as sid_split."
            )
        if strange:
            logger.warning(
                f"{name}: the {split} split has {len(strange)} classes that train lacks "
                f"({', '.join(strange[:5])}); they count as wrong."
            )
    if len(seen["train"]) < 2:
        only = next(iter(seen["train"]))
        raise UserError(
            f"Task {name!r} has one class only in train ({only!r}); there is nothing to tell apart."
        )
