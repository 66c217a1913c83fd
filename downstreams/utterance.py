"""SUPERB's head for one answer an utterance: projected frames, their mean, one linear layer.

Which label it answers, and how it is trained, is up to the task. The same as SUPERB's in all of
them: the learned softmax over all layers, the projection, mean pooling and the linear layer
(s3prl's own featurizer and ``UtteranceLevel``), cross-entropy, gradients clipped at a norm of 1,
the best step by accuracy on dev.

Not the same in any of them: utterances, classes and splits are those of the corpus; the mean is
over the frames that the encoder calls valid, where SUPERB's are a rounded quotient; and the order
of the training utterances depends on seed and epoch alone, so that a killed run goes on as it was.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import WeightedRandomSampler

from auscult.dataset import Corpus
from auscult.errors import UserError
from auscult.head import build_utterance_head

from .batch import Batch, batches, generator_of, shuffled
from .schedule import Records, Schedule
from .split import LabelledCorpus, label_corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(Schedule):
    """What the head is and how it is trained."""

    projector_dim: int = 256  # 0: features are not projected
    balanced: bool = False  # draw all classes equally often in training

    may_be_zero: ClassVar[tuple[str, ...]] = ("projector_dim",)


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceConfig(HeadConfig):
    """The same for a head that answers one label of each utterance."""

    label: str


def prepare(corpus: Corpus, config: UtteranceConfig, *, skip_unlabelled: bool) -> LabelledCorpus:
    """Read the label of every utterance; see :func:`label_corpus`."""
    return label_corpus(corpus, config.label, skip_unlabelled=skip_unlabelled, setting="label")


class UtteranceExpert(nn.Module):
    """The downstream expert: data, head, loss and score.

    Args:
        upstream_dim: Size of the features.
        corpus: Labelled utterances.
        config: The protocol.
        seed: Of the order of the training utterances.

    Raises:
        UserError: Incomplete batches are dropped, and train has too few utterances for a batch.
    """

    drop_last: ClassVar[bool] = False  # leave out the last batch of an epoch if it is incomplete

    def __init__(
        self, upstream_dim: int, corpus: LabelledCorpus, config: HeadConfig, seed: int
    ) -> None:
        super().__init__()
        size = len(corpus.splits["train"].cuts)
        if self.drop_last and size < config.batch_size:
            raise UserError(
                f"The train split has {size} utterances, fewer than the batch_size of "
                f"{config.batch_size}; pass batch_size={size} or less."
            )
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self.classes = corpus.classes
        width = config.projector_dim or upstream_dim
        self.projector = nn.Linear(upstream_dim, width) if config.projector_dim else nn.Identity()
        self.model = build_utterance_head(width, len(self.classes))
        self.objective = nn.CrossEntropyLoss()

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        """Return the batches of a split; those of train are another draw in each epoch."""
        size, data = self._config.batch_size, self._corpus.splits[split]
        order = self._draw(data.labels, epoch) if split == "train" else range(len(data.cuts))
        found: list[Batch] = batches(data, order, size)
        if split == "train" and self.drop_last and len(found[-1][0]) < size:
            found.pop()
        return found

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        labels: Sequence[Any],
        *,
        records: Records,
        **_: Any,
    ) -> Tensor:
        """Return the loss, and append ids, targets and predictions to ``records``.

        Args:
            split: Not used.
            features: One for each utterance, (frame, dim).
            ids: Of the utterances.
            labels: Their classes.
            records: Lists by name.
        """
        device = features[0].device
        lengths = torch.tensor([len(row) for row in features], device=device)
        projected = self.projector(pad_sequence(list(features), batch_first=True))
        # MeanPooling takes row after row; on unbound rows its backward pass is six times as fast
        logits, _lengths = self.model(projected.unbind(), lengths)  # (batch, label)
        loss, predictions = self.grade(logits, labels)
        records["id"] += ids
        records["target"] += labels
        records["prediction"] += predictions
        return loss

    def grade(self, logits: Tensor, labels: Sequence[Any]) -> tuple[Tensor, list[Any]]:
        """Return the loss of ``logits`` (batch, label) and the answers that they stand for."""
        numbers = [self.classes.index(label) for label in labels]
        loss: Tensor = self.objective(logits, torch.tensor(numbers, device=logits.device))
        return loss, [self.classes[i] for i in logits.argmax(dim=-1).tolist()]

    def score(self, records: Records) -> float:
        """Return the accuracy of what was recorded."""
        pairs = zip(records["target"], records["prediction"], strict=True)
        return float(np.mean([target == found for target, found in pairs]))

    def _draw(self, labels: Sequence[Any], epoch: int) -> list[int]:
        """Return the training utterances of an epoch, in order."""
        if not self._config.balanced:
            return shuffled(len(labels), self._seed, epoch)
        counts = Counter(labels)
        weights = [len(labels) / counts[label] for label in labels]
        generator = generator_of(self._seed, epoch)
        return list(WeightedRandomSampler(weights, len(labels), generator=generator))
