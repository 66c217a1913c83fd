"""Keyword spotting as SUPERB does it: one of a few words.

The same as SUPERB's, beside what :mod:`auscult.downstreams.utterance` says: a projection to 256;
Adam at 1e-4; 32 utterances a step, 200 000 steps; training utterances drawn with replacement so
that all classes are equally frequent, the last incomplete batch dropped.

Not the same: utterances and classes come from the corpus as they are, where SUPERB makes
``_unknown_`` of the other words, cuts ``_silence_`` at random from a few noise files at every draw
and lowers all audio by 3 dB; and every dev utterance is scored once, where SUPERB draws dev with
replacement as well.
"""

from dataclasses import dataclass
from typing import ClassVar

from .score import classification_scores as score
from .utterance import UtteranceConfig, UtteranceExpert, prepare

__all__ = ["KeywordSpotting", "KeywordSpottingConfig", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeywordSpottingConfig(UtteranceConfig):
    """SUPERB's protocol."""

    label: str = "keyword"
    balanced: bool = True
    total_steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    eval_step: int = 5_000
    save_step: int = 1_000


class KeywordSpotting(UtteranceExpert):
    """The downstream expert; every batch is a whole one."""

    drop_last: ClassVar[bool] = True
