"""Phoneme classification: the phone at each frame, read by zero, one or two hidden layers.

The same as s3prl's ``phone_linear``, and with hidden=1 its ``phone_1hidden`` (and with hidden=2
Audio ALBERT's probe of two layers), beside what :mod:`auscult.downstreams.frame` says: hidden
layers of 768 with ReLU, no dropout; 500 000 steps (phone_1hidden: 1 000 000); dev every 10 000.
Batches are of 16: s3prl asks for 32 and halves all whose longest utterance has more than 2000
samples. On LibriSpeech the labels are those of the Montreal alignment, silence and unknown words
among them (41 classes); on TIMIT alignment=phone39 or alignment=phone61.

Not the same: a frame has the one label at its centre, where s3prl's labels stand every 10 ms and
features are repeated or cut to match; batches are drawn at random, where s3prl sorts by length and
draws whole batches; splits are those of the corpus, where s3prl divides train-clean-100 (which
``--split sid_split`` does too).
"""

from dataclasses import dataclass
from typing import ClassVar

from auscult.dataset import Corpus, alignment_symbols, frame_labels
from auscult.errors import UserError
from auscult.progress import logger
from auscult.upstream import Upstream

from .frame import FrameConfig, FrameExpert, number_frames, score
from .split import SPLITS, LabelledCorpus, LabelledSplit

__all__ = ["PhonemeClassification", "PhonemeClassificationConfig", "at_frames", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonemeClassificationConfig(FrameConfig):
    """s3prl's protocol."""

    alignment: str = "phone"  # which alignment of the corpus
    hidden: int = 0  # hidden layers: 0, 1 or 2
    hidden_dim: int = 768
    total_steps: int = 500_000

    may_be_zero: ClassVar[tuple[str, ...]] = ("hidden",)

    def __post_init__(self) -> None:
        FrameConfig.__post_init__(self)  # super() does not find its way in a class with slots
        if self.hidden > 2:
            raise UserError(f"hidden={self.hidden}: expected 0, 1 or 2 hidden layers.")


def prepare(
    corpus: Corpus, config: PhonemeClassificationConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read which phones each utterance has, and the classes off all of them.

    Classes are those of train, then those that occur elsewhere only: they count as wrong.

    Raises:
        UserError: A missing split, an utterance without the alignment, or one class only.
    """
    name, skipped, splits = config.alignment, [], {}
    for split in SPLITS:
        found = [(cut, alignment_symbols(cut, name)) for cut in corpus.split(split)]
        bare = [cut.id for cut, symbols in found if not symbols]
        if bare and (len(bare) == len(found) or not skip_unlabelled):
            raise UserError(
                f"Utterance {bare[0]} of the {split} split of {corpus.spec} has no alignment "
                f"{name!r} ({len(bare)} of {len(found)} have none); alignment=NAME takes another, "
                "--skip-bad leaves utterances without it out."
            )
        skipped += [f"{split}: {utterance} has no alignment {name!r}." for utterance in bare]
        cuts, labels = zip(*((cut, symbols) for cut, symbols in found if symbols), strict=True)
        splits[split] = LabelledSplit(split, cuts, labels)
    seen = {split: set[str]().union(*part.labels) for split, part in splits.items()}
    if len(seen["train"]) < 2:
        raise UserError(
            f"The train split of {corpus.spec} has one class of {name!r} only "
            f"({seen['train'].pop()!r}); there is nothing to tell apart."
        )
    strange = sorted(set[str]().union(*seen.values()) - seen["train"])
    if strange:
        logger.warning(
            f"{', '.join(strange[:5])}: {len(strange)} classes of {name!r} that train lacks "
            "count as wrong."
        )
    return LabelledCorpus(splits, (*sorted(seen["train"]), *strange), tuple(skipped))


def at_frames(
    corpus: LabelledCorpus, config: PhonemeClassificationConfig, encoder: Upstream
) -> LabelledCorpus:
    """Label the frames of ``encoder``; see :func:`number_frames`."""
    return number_frames(
        corpus, encoder, lambda cut, centres: frame_labels(cut, config.alignment, centres)
    )


class PhonemeClassification(FrameExpert):
    """The downstream expert."""

    def __init__(
        self,
        upstream_dim: int,
        corpus: LabelledCorpus,
        config: PhonemeClassificationConfig,
        seed: int,
    ) -> None:
        hidden = [config.hidden_dim] * config.hidden
        super().__init__(upstream_dim, corpus, config, seed, hidden=hidden)
