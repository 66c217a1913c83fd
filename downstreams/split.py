"""The splits of a corpus with one label for each utterance, checked before anything is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from auscult.contracts import SAMPLE_RATE
from auscult.dataset import Corpus, label_names, supervision_of, utterance_label
from auscult.errors import UserError
from auscult.extraction import long_enough
from auscult.progress import logger
from auscult.upstream import Upstream

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Utterance:
    """Stands where s3prl has a waveform: an utterance whose features can be looked up."""

    split: str
    index: int
    num_samples: int

    def __len__(self) -> int:
        return self.num_samples


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """Cuts and the label of each: a class, a sequence of tokens, whatever the task reads."""

    name: str
    cuts: tuple[Any, ...]
    labels: tuple[Any, ...]

    @property
    def utterances(self) -> list[Utterance]:
        """The split's utterances, in order."""
        return [
            Utterance(self.name, i, round(cut.duration * SAMPLE_RATE))
            for i, cut in enumerate(self.cuts)
        ]

    @property
    def ids(self) -> list[str]:
        """The id of each utterance."""
        return [cut.id for cut in self.cuts]

    @property
    def speakers(self) -> list[str | None]:
        """The speaker of each utterance, None where unknown."""
        return [supervision_of(cut).speaker or None for cut in self.cuts]


@dataclass(frozen=True, slots=True)
class LabelledCorpus:
    """The three splits of a corpus as a task reads them."""

    splits: Mapping[str, LabelledSplit]
    classes: tuple[str, ...]  # what the head may answer: classes, phones, characters
    skipped: tuple[str, ...] = ()  # a sentence for each utterance left out for want of a label


C = TypeVar("C", bound=LabelledCorpus)


def expect_label(corpus: Corpus, label: str, advice: str) -> None:
    """Raise unless an utterance of train, dev or test has ``label``.

    Args:
        corpus: Its cuts carry the labels.
        label: What :func:`auscult.dataset.utterance_label` reads.
        advice: What to do where there is none, to stand after a semicolon.

    Raises:
        UserError: None has it.
    """
    cuts = [cut for name in SPLITS for cut in corpus.split(name)]
    if all(utterance_label(cut, label) is None for cut in cuts):
        columns = ", ".join(label_names(cuts)) or "none"
        raise UserError(
            f"{corpus.spec} has no label {label!r}: no column of this name has a value in train, "
            f"dev or test, where columns with labels are {columns}; {advice}."
        )


def label_corpus(
    corpus: Corpus, label: str, *, skip_unlabelled: bool = False, setting: str = ""
) -> LabelledCorpus:
    """Read one label off every utterance of train, dev and test.

    Args:
        corpus: Its cuts carry the labels.
        label: What :func:`auscult.dataset.utterance_label` reads.
        skip_unlabelled: Leave utterances without the label out, counted, instead of stopping.
        setting: The key of the configuration that chooses the label, where there is one.

    Raises:
        UserError: A missing split or label, one class only, or a class that train lacks.
    """
    advice = f"choose one with {setting}=NAME" if setting else "add it"
    expect_label(corpus, label, advice)
    skipped: list[str] = []
    splits = {}
    for name in SPLITS:
        labelled = [(cut, utterance_label(cut, label)) for cut in corpus.split(name)]
        without = [cut.id for cut, value in labelled if value is None]
        if without and not skip_unlabelled:
            raise UserError(
                f"Utterance {without[0]} of the {name} split of {corpus.spec} has no label "
                f"{label!r} ({len(without)} of {len(labelled)} have none); add it, or --skip-bad."
            )
        skipped += [f"{name}: {utterance} has no label {label!r}." for utterance in without]
        found = [(cut, value) for cut, value in labelled if value is not None]
        if not found:
            raise UserError(f"The {name} split of {corpus.spec} has no utterance with {label!r}.")
        cuts, labels = zip(*found, strict=True)
        splits[name] = LabelledSplit(name, cuts, labels)
    _check_classes(corpus.spec, label, splits)
    classes = sorted(set(splits["train"].labels))
    return LabelledCorpus(splits, tuple(classes), tuple(skipped))


def drop_short(corpus: C, encoder: Upstream, *, skip_bad: bool, min_frames: int = 1) -> C:
    """Return the corpus without the utterances that are too short for ``encoder``.

    Args:
        corpus: What a task has read.
        encoder: Whose frames are counted.
        skip_bad: Leave such utterances out, counted, instead of stopping.
        min_frames: That an utterance must have.

    Raises:
        UserError: There is one and ``skip_bad`` is not set, or a split has no other.
    """
    splits, skipped = {}, list(corpus.skipped)
    for name, split in corpus.splits.items():
        cuts, none = long_enough(encoder, split.cuts, skip_bad=skip_bad)
        skipped += [f"{name}: {utterance} is too short for a frame." for utterance in none]
        if min_frames > 1:
            cuts, few = _with_frames(encoder, cuts, min_frames, skip_bad=skip_bad)
            skipped += [f"{name}: {cut_id} has fewer than {min_frames} frames." for cut_id in few]
        if split.cuts and not cuts:
            raise UserError(
                f"{encoder.spec.name}: every utterance of the {name} split is too short for "
                f"{min_frames} frame{'s' if min_frames > 1 else ''}."
            )
        label_of = dict(zip(split.ids, split.labels, strict=True))
        splits[name] = LabelledSplit(name, tuple(cuts), tuple(label_of[cut.id] for cut in cuts))
    return replace(corpus, splits=splits, skipped=tuple(skipped))


def _with_frames(
    encoder: Upstream, cuts: Sequence[Any], min_frames: int, *, skip_bad: bool
) -> tuple[list[Any], list[str]]:
    """Return the cuts with so many frames, and the ids of those left out."""
    if not cuts:
        return [], []
    counts = encoder.num_frames(torch.tensor([round(c.duration * SAMPLE_RATE) for c in cuts]))
    kept, few = [], []
    for cut, count in zip(cuts, counts.tolist(), strict=True):
        if count >= min_frames:
            kept.append(cut)
        elif skip_bad:
            few.append(cut.id)
        else:
            raise UserError(
                f"Utterance {cut.id} has {count} frames of {encoder.spec.name}, but the head needs "
                f"{min_frames}; take it out of the corpus, or --skip-bad."
            )
    if few:
        logger.warning(
            f"{encoder.spec.name}: {len(few)} utterances have fewer than {min_frames} frames "
            f"({few[0]}, ...)."
        )
    return kept, few


def _check_classes(spec: str, label: str, splits: Mapping[str, LabelledSplit]) -> None:
    known = set(splits["train"].labels)
    if len(known) < 2:
        raise UserError(
            f"The train split of {spec} has one class of {label!r} only ({known.pop()!r}); there "
            "is nothing to tell apart."
        )
    for name, split in splits.items():
        for cut, value in zip(split.cuts, split.labels, strict=True):
            if value not in known:
                advice = (
                    "choose a split column by utterance with --split, such as sid_split"
                    if label == "speaker"
                    else "move some to train or leave the class out"
                )
                raise UserError(
                    f"Utterance {cut.id} of the {name} split of {spec} has {label} {value!r}, "
                    f"which no utterance of train has; {advice}."
                )
