"""Audio ALBERT's task of telling speakers apart from single frames: one linear layer on each.

The same as s3prl's ``speaker_linear_frame_libri``, beside what :mod:`auscult.downstreams.frame`
says: one linear layer; every frame of an utterance has its speaker as label; 500 000 steps; dev
every 10 000. Batches are of 16: s3prl asks for 32 and halves all whose longest utterance has more
than 2000 samples.

Not the same: padded frames are in s3prl's loss and not in ours; batches are drawn at random, where
s3prl sorts by length and draws whole batches; the official data are LibriSpeech train-clean-100,
its utterances split so that every speaker stands in train, dev and test (``--split sid_split``).
"""

from dataclasses import dataclass

from auscult.dataset import utterance_label
from auscult.upstream import Upstream

from .frame import FrameConfig, FrameExpert, number_frames, score
from .split import LabelledCorpus
from .utterance import prepare

__all__ = ["FrameExpert", "SpeakerFrameConfig", "at_frames", "prepare", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerFrameConfig(FrameConfig):
    """s3prl's protocol; ``label`` is the one that every frame of an utterance has."""

    label: str = "speaker"
    total_steps: int = 500_000


def at_frames(
    corpus: LabelledCorpus, config: SpeakerFrameConfig, encoder: Upstream
) -> LabelledCorpus:
    """Give every frame of ``encoder`` its utterance's label."""
    return number_frames(
        corpus,
        encoder,
        lambda cut, centres: [utterance_label(cut, config.label)] * len(centres),
    )
