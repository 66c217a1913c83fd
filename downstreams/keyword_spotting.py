"""Keyword spotting as SUPERB does it: one of a few words, from the mean of the weighted layers.

The same as SUPERB's: the learned softmax over all layers, a projection to 256, mean pooling and one
linear layer (s3prl's own featurizer and ``UtteranceLevel``); cross-entropy; Adam at 1e-4; 32
utterances a step, 200 000 steps; training utterances drawn with replacement so that all classes
are equally frequent, the last incomplete batch dropped; the best step by accuracy on dev.

Not the same: utterances and classes come from the corpus as they are, where SUPERB makes
``_unknown_`` of the other words, cuts ``_silence_`` at random from a few noise files at every draw
and lowers all audio by 3 dB; every dev utterance is scored once, where SUPERB draws dev with
replacement as well; the mean is over the frames that the encoder calls valid, where SUPERB's are a
rounded quotient; and the order of the training utterances depends on seed and epoch alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import WeightedRandomSampler

from auscult.dataset import Corpus
from auscult.errors import UserError
from auscult.head import build_utterance_head

from .score import classification_scores as score
from .split import LabelledCorpus, Utterance, label_corpus
from .training import Records, Schedule

__all__ = ["KeywordSpotting", "KeywordSpottingConfig", "prepare", "score"]

Batch = tuple[list[Utterance], list[str], list[str]]  # utterances, their ids, their labels


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordSpottingConfig(Schedule):
    """SUPERB's protocol; ``label`` is the one that is read off each utterance."""

    label: str = "keyword"
    projector_dim: int = 256
    balanced: bool = True  # draw all classes equally often in training
    total_steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    eval_step: int = 5_000
    save_step: int = 1_000


def prepare(
    corpus: Corpus, config: KeywordSpottingConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read the word of every utterance; see :func:`label_corpus`."""
    return label_corpus(corpus, config.label, skip_unlabelled=skip_unlabelled)


class KeywordSpotting(nn.Module):
    """The downstream expert: data, head, loss and score.

    Args:
        upstream_dim: Size of the features.
        corpus: Labelled utterances.
        config: The protocol.
        seed: Of the order of the training utterances.

    Raises:
        UserError: Fewer training utterances than a batch holds.
    """

    def __init__(
        self, upstream_dim: int, corpus: LabelledCorpus, config: KeywordSpottingConfig, seed: int
    ) -> None:
        super().__init__()
        size = len(corpus.splits["train"].cuts)
        if size < config.batch_size:
            raise UserError(
                f"The train split has {size} utterances, fewer than the batch_size of "
                f"{config.batch_size}; pass batch_size={size} or less."
            )
        self._corpus = corpus
        self._config = config
        self._seed = seed
        self.classes = corpus.classes
        self.projector = nn.Linear(upstream_dim, config.projector_dim)
        self.model = build_utterance_head(config.projector_dim, len(self.classes))
        self.objective = nn.CrossEntropyLoss()

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Batch]:
        """Return the batches of a split; those of train are another draw in each epoch."""
        size, data = self._config.batch_size, self._corpus.splits[split]
        utterances, ids = data.utterances, data.ids
        order = self._draw(data.labels, epoch) if split == "train" else list(range(len(ids)))
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        if split == "train" and len(chunks[-1]) < size:
            chunks.pop()
        return [
            ([utterances[i] for i in c], [ids[i] for i in c], [data.labels[i] for i in c])
            for c in chunks
        ]

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        labels: Sequence[str],
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
        targets = torch.tensor([self.classes.index(label) for label in labels], device=device)
        loss: Tensor = self.objective(logits, targets)
        records["id"] += ids
        records["target"] += labels
        records["prediction"] += [self.classes[i] for i in logits.argmax(dim=-1).tolist()]
        return loss

    def score(self, records: Records) -> float:
        """Return the accuracy of what was recorded."""
        pairs = zip(records["target"], records["prediction"], strict=True)
        return float(np.mean([target == found for target, found in pairs]))

    def _draw(self, labels: Sequence[str], epoch: int) -> list[int]:
        """Return the training utterances of an epoch, in order."""
        state = np.random.SeedSequence([self._seed, epoch]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        if not self._config.balanced:
            return torch.randperm(len(labels), generator=generator).tolist()
        counts = Counter(labels)
        weights = [len(labels) / counts[label] for label in labels]
        return list(WeightedRandomSampler(weights, len(labels), generator=generator))
