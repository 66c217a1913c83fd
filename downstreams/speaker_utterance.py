"""Audio ALBERT's task of telling speakers apart from an utterance: the mean over time, one layer.

The same as s3prl's ``speaker_linear_utter_libri``: the mean of the weighted layers, unprojected,
and one linear layer; cross-entropy; s3prl's AdamW at 2e-4; 300 000 steps; dev every 10 000. Batches
are of 16: s3prl asks for 32 and halves all whose longest utterance has more than 2000 samples.

Not the same, beside what :mod:`auscult.downstreams.utterance` says: batches are drawn at random,
where s3prl sorts by length and draws whole batches; the official data are LibriSpeech
train-clean-100, its utterances split so that every speaker stands in train, dev and test
(``--split sid_split``).
"""

from dataclasses import dataclass

from .score import classification_scores as score
from .utterance import UtteranceConfig, UtteranceExpert, prepare

__all__ = ["SpeakerUtteranceConfig", "UtteranceExpert", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerUtteranceConfig(UtteranceConfig):
    """s3prl's protocol."""

    label: str = "speaker"
    projector_dim: int = 0
    total_steps: int = 300_000
    batch_size: int = 16
    learning_rate: float = 2e-4
    optimizer: str = "AdamW"
    eval_step: int = 10_000
    save_step: int = 10_000
