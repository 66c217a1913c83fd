"""Emotion recognition as SUPERB does it: one emotion an utterance.

The same as SUPERB's, beside what :mod:`auscult.downstreams.utterance` says: a projection to 256;
Adam at 1e-4; 4 utterances a batch, 8 batches a step, 30 000 steps, a look at dev every 1000. On
IEMOCAP the five folds are the split columns fold1 to fold5, a run each; SUPERB's score is the mean
of their test accuracies.

Not the same: which utterances of a fold are dev is the reader's choice.
"""

from dataclasses import dataclass

from .score import classification_scores as score
from .utterance import UtteranceConfig, UtteranceExpert, prepare

__all__ = ["EmotionRecognitionConfig", "UtteranceExpert", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmotionRecognitionConfig(UtteranceConfig):
    """SUPERB's protocol."""

    label: str = "emotion"
    total_steps: int = 30_000
    batch_size: int = 4
    gradient_accumulate_steps: int = 8
    learning_rate: float = 1e-4
    eval_step: int = 1_000
    save_step: int = 1_000
