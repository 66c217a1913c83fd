"""Sequences by connectionist temporal classification (CTC): what its three tasks share.

A target is a tuple of tokens (phones, characters, slot tags); the head gives every frame a
distribution over the tokens of train and the blank.

The same as SUPERB's in all three: the learned softmax over all layers, a projection and s3prl's own
heads; Adam, gradients clipped at a norm of 1; batches of utterances of similar length, each
beginning at an utterance drawn without replacement, half of one where its longest utterance passes
300 000 samples; greedy decoding: the likeliest token of each frame, repetitions and blanks left
out; the best step by the first metric on dev.

Not the same in any of them: tokens are those of the corpus' train split and targets end without the
``<eos>`` that s3prl appends, so the head has no outputs for ``<eos>``, ``<unk>`` and padding; a
token that train lacks cannot be answered and counts as an error where s3prl's targets say
``<unk>``; utterances are sorted by duration, where s3prl sorts phones and slots by the length of
the target; a training utterance whose target does not fit its frames stops the run, or is left out
and counted (``drop_crowded=yes``), where SUPERB sets its loss to zero; frames are those that the
encoder calls valid; and the order of the training utterances depends on seed and epoch alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import jiwer
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auscult.dataset import Corpus
from auscult.errors import UserError
from auscult.head import build_recurrent_head, build_spec_augment
from auscult.progress import logger
from auscult.upstream import Upstream

from .batch import Batch, batches, shuffled
from .schedule import Records, Schedule
from .split import SPLITS, LabelledCorpus, LabelledSplit

Tokens = tuple[str, ...]

BLANK = 0
HALVED_ABOVE = 300_000  # samples
NARROWEST_MASKED = 25  # frames; 4 % of fewer is no frame, and s3prl's masks fail


class Unlabelled(Exception):
    """An utterance without a target; the message says what it lacks, after its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CTCConfig(Schedule):
    """What the protocols of the three tasks have in common."""

    projector_dim: int
    specaugment: bool = False  # mask and warp features in training
    drop_crowded: bool = False  # train without utterances that have fewer frames than they need


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterConfig(CTCConfig):
    """SUPERB's protocol of the two tasks whose tokens are characters."""

    specaugment: bool = True
    hidden_dim: int = 1024
    projector_dim: int = 1024
    total_steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    eval_step: int = 2_000
    save_step: int = 500


def label_sequences(
    corpus: Corpus, read: Callable[[Any], Tokens], *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read the target of every utterance of train, dev and test.

    Args:
        corpus: Its cuts carry the labels.
        read: Returns the target of a cut, or raises :class:`Unlabelled`.
        skip_unlabelled: Leave utterances without a target out, counted, instead of stopping.

    Raises:
        UserError: A missing split or target.
    """
    skipped: list[str] = []
    splits = {}
    for name in SPLITS:
        found: list[tuple[Any, Tokens]] = []
        without: list[str] = []
        for cut in corpus.split(name):
            try:
                found.append((cut, _target(cut, read)))
            except Unlabelled as problem:
                without.append(f"{cut.id} {problem}")
        total = len(found) + len(without)
        if without and not skip_unlabelled:
            raise UserError(
                f"{corpus.spec}, {name} split: utterance {without[0]} ({len(without)} of {total} "
                "have no target); mend it, or leave such utterances out with --skip-bad."
            )
        if not found:
            raise UserError(f"The {name} split of {corpus.spec} has no utterance with a target.")
        skipped += [f"{name}: {sentence}." for sentence in without]
        cuts, labels = zip(*found, strict=True)
        splits[name] = LabelledSplit(name, cuts, labels)
    tokens = {name: {t for label in split.labels for t in label} for name, split in splits.items()}
    for name in SPLITS:
        if strange := sorted(tokens[name] - tokens["train"]):
            logger.warning(
                f"{corpus.spec}: {name} has what train lacks, which can only count as errors: "
                f"{' '.join(strange)}."
            )
    return LabelledCorpus(splits, tuple(sorted(tokens["train"])), tuple(skipped))


def _target(cut: Any, read: Callable[[Any], Tokens]) -> Tokens:
    tokens = read(cut)
    if not tokens:
        raise Unlabelled("has an empty target")
    return tokens


def at_frames(corpus: LabelledCorpus, config: CTCConfig, encoder: Upstream) -> LabelledCorpus:
    """Return the corpus, each of whose training targets has a path through the encoder's frames.

    Raises:
        UserError: One has none and ``drop_crowded`` is not set.
    """
    train = corpus.splits["train"]
    samples = torch.tensor([len(utterance) for utterance in train.utterances])
    fits, crowded = [], []
    counts = encoder.num_frames(samples).tolist()
    for i, (utterance, label, frames) in enumerate(
        zip(train.ids, train.labels, counts, strict=True)
    ):
        needed = len(label) + sum(a == b for a, b in pairwise(label))  # a blank parts equal tokens
        if needed <= frames:
            fits.append(i)
        else:
            crowded.append(f"{utterance} has {frames} frames for a target that needs {needed}")
    if not crowded:
        return corpus
    if not config.drop_crowded:
        raise UserError(
            f"{encoder.spec.name}: utterance {crowded[0]} ({len(crowded)} of {len(counts)} in "
            "train); its label is wrong, or the encoder's frames are too long for it and "
            "drop_crowded=yes trains without such utterances."
        )
    logger.warning(f"{encoder.spec.name}: {len(crowded)} utterances of train have too few frames.")
    kept = LabelledSplit(
        "train", tuple(train.cuts[i] for i in fits), tuple(train.labels[i] for i in fits)
    )
    skipped = (*corpus.skipped, *(f"train: {sentence}." for sentence in crowded))
    return replace(corpus, splits={**corpus.splits, "train": kept}, skipped=skipped)


class CTCExpert(nn.Module, ABC):
    """The downstream expert: data, head, loss and decoding.

    Args:
        upstream_dim: Size of the features.
        corpus: Targets are tuples of its classes.
        config: The protocol.
        seed: Of the order of the training utterances.

    Raises:
        UserError: Fewer training utterances than a batch holds.
    """

    adaptive: ClassVar[bool] = False  # time masks of SpecAugment grow with the batch

    def __init__(
        self, upstream_dim: int, corpus: LabelledCorpus, config: CTCConfig, seed: int
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
        self._number = {token: i for i, token in enumerate(self.classes, start=BLANK + 1)}
        self.projector = nn.Linear(upstream_dim, config.projector_dim)
        self.model = self.build_head(config.projector_dim, len(self.classes) + 1)
        self.augment = build_spec_augment(adaptive=self.adaptive) if config.specaugment else None
        self.objective = nn.CTCLoss(blank=BLANK)

    @abstractmethod
    def build_head(self, input_dim: int, num_classes: int) -> nn.Module:
        """Return the module behind the projection; blank is class 0."""

    @abstractmethod
    def text(self, tokens: Sequence[str]) -> str:
        """Return tokens as records hold them."""

    @abstractmethod
    def score(self, records: Records) -> float:
        """Return what dev selects by; higher is better."""

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Batch]:
        """Return the batches of a split; those of train come in another order in each epoch."""
        size, data = self._config.batch_size, self._corpus.splits[split]
        if split != "train":
            return batches(data, range(len(data.cuts)), size)
        utterances, ids = data.utterances, data.ids
        order = sorted(range(len(utterances)), key=lambda i: -len(utterances[i]))
        found = []
        for first in shuffled(len(order), self._seed, epoch):
            start = min(first, len(order) - size)
            halved = len(utterances[order[start]]) > HALVED_ABOVE and size > 1
            some = order[start : start + (size // 2 if halved else size)]
            found.append(
                (
                    [utterances[i] for i in some],
                    [ids[i] for i in some],
                    [data.labels[i] for i in some],
                )
            )
        return found

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        labels: Sequence[Tokens],
        records: Records,
        **_: Any,
    ) -> Tensor:
        """Return the loss on train, zero elsewhere; there append what is answered to ``records``.

        Args:
            split: Name of the split.
            features: One for each utterance, (frame, dim).
            ids: Of the utterances.
            labels: Their targets.
            records: Lists by name: ``id``, ``target`` and ``prediction`` as texts.
        """
        if split == "train":
            return self._loss(features, labels)
        log_probs, lengths = self._log_probs(features)
        records["id"] += ids
        records["target"] += [self.text(label) for label in labels]
        for row, frames in zip(log_probs.cpu(), lengths.tolist(), strict=True):
            self.decode(split, row[:frames], records)
        return log_probs.new_zeros(())

    def decode(self, split: str, log_probs: Tensor, records: Records) -> None:
        """Append what an utterance is taken for to ``records``.

        Args:
            split: Name of the split.
            log_probs: (frame, label), on the CPU.
            records: Lists by name.
        """
        best = log_probs.argmax(dim=-1).unique_consecutive().tolist()
        tokens = [self.classes[i - BLANK - 1] for i in best if i != BLANK]
        records["prediction"].append(self.text(tokens))

    def _loss(self, features: Sequence[Tensor], labels: Sequence[Tokens]) -> Tensor:
        if self.augment is not None and max(map(len, features)) >= NARROWEST_MASKED:
            features, _lengths = self.augment(features)
        log_probs, lengths = self._log_probs(features)
        targets = [torch.tensor([self._number[token] for token in label]) for label in labels]
        loss: Tensor = self.objective(
            log_probs.transpose(0, 1),  # (frame, batch, label)
            pad_sequence(targets, batch_first=True).to(log_probs.device),
            lengths,
            torch.tensor([len(label) for label in labels]),
        )
        return loss

    def _log_probs(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return log probabilities (batch, frame, label) and the valid frames (batch,)."""
        lengths = torch.tensor([len(row) for row in features])  # packing wants them on the CPU
        projected = self.projector(pad_sequence(list(features), batch_first=True))
        logits, _lengths = self.model(projected, lengths)
        return logits.float().log_softmax(dim=-1), lengths


class CharacterExpert(CTCExpert):
    """The same with SUPERB's two bidirectional LSTMs of 1024 units in each direction."""

    _config: CharacterConfig

    def build_head(self, input_dim: int, num_classes: int) -> nn.Module:
        """Return s3prl's ``RNNs``."""
        return build_recurrent_head(input_dim, num_classes, self._config.hidden_dim)


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the edits that each hypothesis needs, and the words of each reference."""
    return _errors(jiwer.process_words, references, hypotheses)


def character_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the edits that each hypothesis needs, and the characters of each reference."""
    return _errors(jiwer.process_characters, references, hypotheses)


def _errors(
    compare: Callable[[str, str], Any], references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[int], list[int]]:
    found = [compare(*pair) for pair in zip(references, hypotheses, strict=True)]
    edits = [output.substitutions + output.deletions + output.insertions for output in found]
    return edits, [output.hits + output.substitutions + output.deletions for output in found]


def error_rate(counts: tuple[Sequence[int], Sequence[int]]) -> float:
    """Return all edits by all tokens of the references."""
    edits, totals = counts
    return sum(edits) / sum(totals)
