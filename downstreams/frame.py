"""A class for each frame: where the labels of frames come from, the head, and what it is worth.

The same in all tasks of frames as in s3prl's: the learned softmax over all layers, unprojected,
and ``FrameLevel`` on each frame alone (linear or with ReLU layers before it); the mean
cross-entropy over the labelled frames of a batch; s3prl's AdamW at 2e-4; gradients clipped at a
norm of 1. A frame's label is the one at the centre of its receptive field; frames in a gap and
padding never count, neither in the loss nor in a score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.head import build_frame_head
from auscult.score import Score
from auscult.upstream import Upstream

from .batch import Batch, batches, shuffled
from .schedule import Records, Schedule
from .score import accuracy_score
from .split import LabelledCorpus

UNLABELLED = -1
LabelsAt = Callable[[Any, NDArray[np.float64]], Sequence[str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameConfig(Schedule):
    """s3prl's protocol."""

    batch_size: int = 16
    learning_rate: float = 2e-4
    optimizer: str = "AdamW"
    eval_step: int = 10_000
    save_step: int = 10_000


def number_frames(corpus: LabelledCorpus, encoder: Upstream, labels_at: LabelsAt) -> LabelledCorpus:
    """Return the corpus with the class number of every frame, (frame,), as labels.

    Args:
        corpus: Its classes are what the numbers stand for.
        encoder: Whose frames they are.
        labels_at: Gives the labels of a cut at frame centres, (frame,), in samples from its start.

    Raises:
        UserError: No frame of the training split has a label.
    """
    number: dict[str | None, int] = {label: i for i, label in enumerate(corpus.classes)}
    number[None] = UNLABELLED
    geometry = encoder.spec.geometry
    splits = {}
    for name, split in corpus.splits.items():
        samples = torch.tensor([round(cut.duration * SAMPLE_RATE) for cut in split.cuts])
        labels = [
            np.array([number[x] for x in labels_at(cut, geometry.centres(frames))], dtype=np.int16)
            for cut, frames in zip(split.cuts, encoder.num_frames(samples).tolist(), strict=True)
        ]
        if not any((row != UNLABELLED).any() for row in labels):
            raise UserError(f"No frame of {encoder.spec.name} has a label in the {name} split.")
        splits[name] = replace(split, labels=tuple(labels))
    return replace(corpus, splits=splits)


class FrameExpert(nn.Module):
    """The downstream expert: data, head, loss and score.

    Args:
        upstream_dim: Size of the features.
        corpus: Its labels are the class numbers of frames, see :func:`number_frames`.
        config: The protocol.
        seed: Of the order of the training utterances.
        hidden: Sizes of the head's hidden layers.
    """

    def __init__(
        self,
        upstream_dim: int,
        corpus: LabelledCorpus,
        config: FrameConfig,
        seed: int,
        *,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self.model = build_frame_head(upstream_dim, len(corpus.classes), hidden)
        self.objective = nn.CrossEntropyLoss(ignore_index=UNLABELLED, reduction="sum")

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Batch]:
        """Return the batches of a split; those of train are in another order in each epoch."""
        data = self._corpus.splits[split]
        size = len(data.cuts)
        order = shuffled(size, self._seed, epoch) if split == "train" else range(size)
        return batches(data, order, self._config.batch_size)

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        labels: Sequence[NDArray[np.int16]],
        records: Records,
        **_: Any,
    ) -> Tensor:
        """Return the loss, and append ids and the class numbers of frames to ``records``.

        Args:
            split: Not used.
            features: One for each utterance, (frame, dim).
            ids: Of the utterances.
            labels: The class number of each frame, (frame,).
            records: Lists by name.
        """
        frames = torch.cat(list(features))  # (frame, dim) of all utterances, no padding
        targets = torch.from_numpy(np.concatenate(labels).astype(np.int64)).to(frames.device)
        logits, _none = self.model(frames)
        loss: Tensor = self.objective(logits, targets)
        answers = logits.argmax(dim=-1).split([len(row) for row in features])
        records["id"] += ids
        records["target"] += [row.tolist() for row in labels]
        records["prediction"] += [row.tolist() for row in answers]
        return loss / (targets != UNLABELLED).sum().clamp(min=1)

    def loss_size(
        self, features: Sequence[Tensor], ids: Sequence[str], labels: Sequence[NDArray[np.int16]]
    ) -> float:
        """Return how many frames the loss is the mean of."""
        return float(sum((row != UNLABELLED).sum() for row in labels))

    def score(self, records: Records) -> float:
        """Return the share of labelled frames that were answered right."""
        targets = np.concatenate([np.array(row) for row in records["target"]])
        found = np.concatenate([np.array(row) for row in records["prediction"]])
        return float((targets == found)[targets != UNLABELLED].mean())


def score(answers: Mapping[str, Sequence[Any]], corpus: LabelledCorpus) -> list[Score]:
    """Return micro and class-macro accuracy over labelled frames.

    Args:
        answers: Lists ``target`` and ``prediction`` in the order of the test split, the class
            numbers of frames.
        corpus: Its train split says the commonest class.
    """
    size = len(corpus.classes)
    rows = [(np.array(t), np.array(p)) for t, p in _pairs(answers)]
    total = np.stack([_count(targets, size) for targets, _ in rows])
    correct = np.stack([_count(targets[targets == found], size) for targets, found in rows])
    train = sum(_count(labels, size) for labels in corpus.splits["train"].labels)
    always = total * (np.arange(size) == np.argmax(train))
    speakers = corpus.splits["test"].speakers
    return [
        accuracy_score(metric, correct, total, speakers, always=always)
        for metric in ("accuracy", "macro_accuracy")
    ]


def _pairs(answers: Mapping[str, Sequence[Any]]) -> Any:
    return zip(answers["target"], answers["prediction"], strict=True)


def _count(numbers: NDArray[Any], size: int) -> NDArray[np.float64]:
    """Return how often each class occurs, (label,)."""
    return np.bincount(numbers[numbers != UNLABELLED], minlength=size).astype(np.float64)
