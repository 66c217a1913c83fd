"""Intent classification as SUPERB does it: several slots at once, right if all of them are.

The same as SUPERB's, beside what :mod:`auscult.downstreams.utterance` says: a projection to 256;
one linear layer for the values of all slots, the sum of the slots' cross-entropies; Adam at 1e-4;
32 utterances a step, 200 000 steps. On Fluent Speech Commands the slots are action, object and
location with 6, 14 and 4 values; only the utterances with all slots right count.

Not the same: which slots there are is read off the corpus, where SUPERB knows these three; an
utterance with slots but not this one has the value ``none``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auscult.dataset import Corpus, supervision_of
from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.score import Score

from .score import accuracy_score
from .split import LabelledCorpus, LabelledSplit, label_corpus
from .utterance import HeadConfig, UtteranceExpert

__all__ = ["IntentClassification", "IntentClassificationConfig", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentClassificationConfig(HeadConfig):
    """SUPERB's protocol."""

    slots: str = ""  # names joined by commas; by default those of most training utterances
    total_steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    eval_step: int = 5_000
    save_step: int = 250


def prepare(
    corpus: Corpus, config: IntentClassificationConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read the values of all slots off every utterance, a tuple for each.

    Raises:
        UserError: No or unknown slots, utterances without slots, a slot with one value only, or a
            value that train lacks.
    """
    slots = _choose_slots(corpus, config.slots)
    parts = [label_corpus(corpus, f"slots.{s}", skip_unlabelled=skip_unlabelled) for s in slots]
    splits = {
        name: LabelledSplit(
            name, split.cuts, tuple(zip(*(p.splits[name].labels for p in parts), strict=True))
        )
        for name, split in parts[0].splits.items()
    }
    classes = [f"{s}={value}" for s, p in zip(slots, parts, strict=True) for value in p.classes]
    skipped = [
        f"{name}: {cut.id} has no slots."
        for name in splits
        for cut in corpus.split(name)
        if not _has_slots(cut)
    ]
    return LabelledCorpus(splits, tuple(classes), tuple(skipped))


class IntentClassification(UtteranceExpert):
    """The downstream expert; its logits are the values of one slot after the other."""

    def __init__(
        self,
        upstream_dim: int,
        corpus: LabelledCorpus,
        config: IntentClassificationConfig,
        seed: int,
    ) -> None:
        super().__init__(upstream_dim, corpus, config, seed)
        self.values = [sorted(set(column)) for column in _columns(corpus.splits["train"].labels)]

    def grade(self, logits: Tensor, labels: Sequence[Any]) -> tuple[Tensor, list[Any]]:
        """Return the loss of ``logits`` (batch, label) and the answers that they stand for."""
        parts = logits.split([len(values) for values in self.values], dim=-1)
        losses, columns = [], []
        for part, values, targets in zip(parts, self.values, _columns(labels), strict=True):
            numbers = torch.tensor([values.index(x) for x in targets], device=logits.device)
            losses.append(self.objective(part, numbers))
            columns.append([values[i] for i in part.argmax(dim=-1).tolist()])
        return torch.stack(losses).sum(), list(zip(*columns, strict=True))


def score(answers: Mapping[str, Sequence[Any]], corpus: LabelledCorpus) -> list[Score]:
    """Return the share of utterances with all slots right, and the mean over slots.

    Args:
        answers: Lists ``target`` and ``prediction`` in the order of the test split, tuples.
        corpus: Its train split says the commonest intent, and the commonest value of each slot.
    """
    speakers, train = corpus.splits["test"].speakers, corpus.splits["train"].labels
    targets = np.array(answers["target"])  # (item, slot)
    right = targets == np.array(answers["prediction"])
    intent = targets == np.array(_commonest(train))
    values = targets == np.array([_commonest(column) for column in _columns(train)])
    one = np.ones((len(targets), 1))
    shares = {"accuracy": (right.all(1), intent.all(1))}
    shares["slot_accuracy"] = (right.mean(1), values.mean(1))
    return [
        accuracy_score(metric, one * correct[:, None], one, speakers, always=one * always[:, None])
        for metric, (correct, always) in shares.items()
    ]


def _choose_slots(corpus: Corpus, wanted: str) -> list[str]:
    """Return the slots that were asked for, or those of most training utterances."""
    train = corpus.split("train")
    counts = Counter(slot for cut in train for slot in _slots_of(cut))
    if not counts:
        raise UserError(
            f"The train split of {corpus.spec} has no intent slots; put them into the "
            "supervision's custom['slots'], or into the column slots_json of a tsv corpus."
        )
    if wanted:
        names = [name.strip() for name in wanted.split(",")]
        for name in names:
            if name not in counts:
                raise unknown("intent slot", name, sorted(counts))
        return list(dict.fromkeys(names))
    usual = [slot for slot, count in counts.items() if 2 * count > len(train)]
    if not usual:
        raise UserError(
            f"No intent slot of {corpus.spec} stands on most of its training utterances; choose "
            f"with slots=NAME,NAME among {', '.join(sorted(counts))}."
        )
    if rare := sorted(counts.keys() - set(usual)):
        logger.info(
            f"Intents are {', '.join(usual)}; {', '.join(rare)} are on few training utterances "
            "and left out (slots=NAME,NAME chooses)."
        )
    return usual


def _has_slots(cut: Any) -> bool:
    return (supervision_of(cut).custom or {}).get("slots") is not None


def _slots_of(cut: Any) -> list[str]:
    return list((supervision_of(cut).custom or {}).get("slots") or ())


def _columns(rows: Sequence[Any]) -> list[tuple[str, ...]]:
    """Return the values of each slot, from the slots of each utterance."""
    return list(zip(*rows, strict=True))


def _commonest(values: Sequence[Any]) -> Any:
    """Return the commonest value; of equally common ones the first in order."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
