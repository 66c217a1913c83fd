"""Slot filling as SUPERB does it: speech recognition whose characters have slot tags among them.

The same as SUPERB's, beside what :mod:`auscult.downstreams.ctc` says: the protocol of speech
recognition, SpecAugment with as many time masks, and as wide, as 4 % of the frames allow; targets
are characters with ``B-SLOT`` before a slot's first word and ``E-SLOT`` after its last; s3prl's
metrics, on the same texts: ``slot_type_f1``, the mean over utterances of the F1 of the sets of slot
types, and ``slot_value_cer``, the character error rate of the values of the reference's slots, each
beside the most similar value that was found for its slot.

A corpus must have transcripts and, among each utterance's labels, ``slot_tags``: one IOB tag for
each word of the transcript, separated by spaces, such as ``O O B-city I-city``. Tags without ``B-``
and ``I-`` are read as SUPERB's file has them: equal neighbours are one slot.

Not the same: words are spelled as :func:`auscult.downstreams.text.spelled` says, where s3prl leaves
out a few punctuation marks and what its alphabet lacks becomes ``<unk>``; what is no word then is
left out of its slot.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from auscult.dataset import Corpus, supervision_of, utterance_label
from auscult.errors import UserError
from auscult.score import Score

from .ctc import (
    CharacterConfig,
    CharacterExpert,
    Tokens,
    Unlabelled,
    at_frames,
    character_errors,
    label_sequences,
)
from .schedule import Records
from .score import ratio_score
from .split import LabelledCorpus, expect_label
from .text import spelled

__all__ = ["SlotFilling", "SlotFillingConfig", "at_frames", "prepare", "score"]

LABEL = "slot_tags"
SPACE = " "
_SLOT = re.compile(r"B-(?P<name>\S+) (?P<value>.+?) E-(?P=name)")  # as s3prl finds one in a text


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFillingConfig(CharacterConfig):
    """SUPERB's protocol."""


class SlotFilling(CharacterExpert):
    """The downstream expert."""

    adaptive: ClassVar[bool] = True

    def text(self, tokens: Sequence[str]) -> str:
        """Return words and tags separated by spaces, ``FROM B-city NEW YORK E-city``."""
        spaced = (
            f"{token} " if token.startswith("B-") else f" {token}" if len(token) > 1 else token
            for token in tokens
        )
        return "".join(spaced)

    def score(self, records: Records) -> float:
        """Return the F1 of slot types."""
        found = type_f1(records["target"], records["prediction"])
        return sum(found) / len(found)


def prepare(corpus: Corpus, config: SlotFillingConfig, *, skip_unlabelled: bool) -> LabelledCorpus:
    """Read words and slots of every utterance.

    Raises:
        UserError: Utterances without transcript or tags, or a split without a slot.
    """
    expect_label(corpus, LABEL, f"give the column of IOB tags the name {LABEL}")
    expect_label(corpus, "transcript", "add a column transcript")
    found = label_sequences(corpus, _tokens, skip_unlabelled=skip_unlabelled)
    for name, split in found.splits.items():
        if not any(len(token) > 1 for label in split.labels for token in label):
            raise UserError(f"The {name} split of {corpus.spec} has no slot: all of {LABEL} is O.")
    return found


def score(answers: Records, corpus: LabelledCorpus) -> list[Score]:
    """Return F1 of slot types and character error rate of slot values."""
    speakers = corpus.splits["test"].speakers
    texts = answers["target"], answers["prediction"]
    found = type_f1(*texts)
    return [
        ratio_score("slot_type_f1", found, [1] * len(found), speakers),
        ratio_score("slot_value_cer", *value_errors(*texts), speakers),
    ]


def type_f1(references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
    """Return for each utterance the F1 of the set of its slot types; one where there is none."""
    scores = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        wanted, found = set(slots_of(reference)), set(slots_of(hypothesis))
        both = len(wanted) + len(found)
        scores.append(2 * len(wanted & found) / both if both else 1.0)
    return scores


def value_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return for each utterance the edits and characters of the values of its slots.

    Every value of the reference is compared with the most similar value of the same slot in the
    hypothesis, or with nothing.
    """
    edits, totals = [], []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        found = slots_of(hypothesis)
        wanted = [(name, value) for name, some in slots_of(reference).items() for value in some]
        compared = [
            character_errors([value] * len(some), some)
            for name, value in wanted
            for some in [found.get(name, [""])]
        ]
        edits.append(sum(min(errors) for errors, _ in compared))
        totals.append(sum(characters[0] for _, characters in compared))
    return edits, totals


def slots_of(text: str) -> dict[str, list[str]]:
    """Return the values of each slot of a text, without the tags that stand in them."""
    found: dict[str, list[str]] = {}
    for match in _SLOT.finditer(re.sub(" +", SPACE, text)):
        value = re.sub(r" E-\S+", "", re.sub(r"B-\S+ ", "", match["value"]))
        found.setdefault(match["name"], []).append(value)
    return found


def _tokens(cut: Any) -> Tokens:
    words = (supervision_of(cut).text or "").split()
    tags = (utterance_label(cut, LABEL) or "").split()
    if not words:
        raise Unlabelled("has no transcript")
    if len(words) != len(tags):
        raise Unlabelled(f"has {len(words)} words but {len(tags)} {LABEL}")
    numbers = _number_slots(tags)
    kept = [(spelled(w), t, n) for w, t, n in zip(words, tags, numbers, strict=True) if spelled(w)]
    tokens: list[str] = []
    for i, (word, tag, number) in enumerate(kept):
        name = re.sub("^[BI]-", "", tag)
        if number and (i == 0 or kept[i - 1][2] != number):
            tokens.append(f"B-{name}")
        tokens += word
        if number and (i + 1 == len(kept) or kept[i + 1][2] != number):
            tokens.append(f"E-{name}")
        tokens.append(SPACE)
    return tuple(tokens[:-1])


def _number_slots(tags: Sequence[str]) -> list[int]:
    """Return for each tag which slot of the utterance it belongs to, from one on; zero for none."""
    numbers: list[int] = []
    slot, before = 0, ""
    for tag in tags:
        name = "" if tag == "O" else re.sub("^[BI]-", "", tag)
        slot += bool(name) and (name != before or tag.startswith("B-"))
        numbers.append(slot if name else 0)
        before = name
    return numbers
