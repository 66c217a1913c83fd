"""Speaker identification as SUPERB does it: which of the training speakers talks.

The same as SUPERB's, beside what :mod:`auscult.downstreams.utterance` says: a projection to 256;
Adam at 1e-4; 8 utterances a batch, 4 batches a step, 200 000 steps; in training at most 8 s of each
utterance, from a random place; dev and test utterances whole. On VoxCeleb1 the classes are its
1251 speakers and the splits the official ones, by video.

Not the same: the 8 s are cut from the frames of the whole utterance, which are encoded once, where
SUPERB cuts the waveform and encodes it anew; frames near a cut have thus seen what lies beyond it.
The place depends on seed, epoch and the utterance's turn alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .crop import Crop, take_crop, with_crops
from .schedule import Records
from .score import classification_scores as score
from .utterance import UtteranceConfig, UtteranceExpert, prepare

__all__ = ["SpeakerIdentification", "SpeakerIdentificationConfig", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerIdentificationConfig(UtteranceConfig):
    """SUPERB's protocol."""

    label: str = "speaker"
    crop_seconds: float = 8.0  # of longer training utterances
    total_steps: int = 200_000
    batch_size: int = 8
    gradient_accumulate_steps: int = 4
    learning_rate: float = 1e-4
    eval_step: int = 5_000
    save_step: int = 1_000


class SpeakerIdentification(UtteranceExpert):
    """The downstream expert; its training batches say which part of each utterance to take."""

    _config: SpeakerIdentificationConfig

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        """Return the batches of a split; those of train are another draw in each epoch."""
        found = super().get_dataloader(split, epoch)
        if split != "train":
            return found
        return with_crops(found, self._config.crop_seconds, self._seed, epoch)

    def forward(
        self,
        split: str,
        features: Sequence[Tensor],
        ids: Sequence[str],
        labels: Sequence[Any],
        crops: Sequence[Crop] | None = None,
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
            crops: The part to take of each utterance; None for all of it.
            records: Lists by name.
        """
        if crops is not None:
            features = [take_crop(row, crop) for row, crop in zip(features, crops, strict=True)]
        return super().forward(split, features, ids, labels, records=records)
