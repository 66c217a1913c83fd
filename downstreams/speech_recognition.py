"""Speech recognition as SUPERB does it: two bidirectional LSTMs and CTC over characters.

The same as SUPERB's, beside what :mod:`auscult.downstreams.ctc` says: a projection to 1024, two
layers of 1024 units in each direction with dropout 0.2 (s3prl's ``RNNs``); SpecAugment of the
features; Adam at 1e-4; 32 utterances a step, 200 000 steps; every word ends with ``|``; word error
rate. With ``lm=FILE`` test is also decoded by beam search over the words of an n-gram model
(``wer_lm``), by the decoder and with the weights of SUPERB; dev still selects without it.

Not the same: transcripts are spelled as :func:`auscult.downstreams.text.spelled` says, which leaves
LibriSpeech's as they are; batches hold the 32 utterances of the protocol, where s3prl's rule for
long utterances, meant in frames but applied to samples, halves every batch; they are drawn anew
each epoch, where s3prl's ``asr`` keeps them; the beam search knows the words of the model's own
list, where SUPERB reads them from a lexicon file of the same words; and the character error rate
counts spaces between words, not the end of the last word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from auscult.dataset import Corpus, supervision_of
from auscult.score import Score

from .ctc import (
    CharacterConfig,
    CharacterExpert,
    Tokens,
    Unlabelled,
    at_frames,
    character_errors,
    error_rate,
    label_sequences,
    word_errors,
)
from .decoder import WORD_END, WordDecoder, check_decoder
from .schedule import FILES, Records
from .score import ratio_score
from .split import LabelledCorpus, expect_label
from .text import spelled

__all__ = ["SpeechRecognition", "SpeechRecognitionConfig", "at_frames", "prepare", "score"]

_DECODING = {"trained": False}  # of fields on which no weight depends: a trained head is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecognitionConfig(CharacterConfig):
    """SUPERB's protocol, and how test is decoded with a language model."""

    lm: str = field(default="", metadata=_DECODING | FILES)  # ARPA, may be compressed by gzip
    lm_weight: float = field(default=2.0, metadata=_DECODING)
    word_penalty: float = field(default=1.0, metadata=_DECODING)
    beam_size: int = field(default=5, metadata=_DECODING)
    beam_threshold: float = field(default=25.0, metadata=_DECODING)

    may_be_zero: ClassVar[tuple[str, ...]] = ("lm_weight", "word_penalty")


class SpeechRecognition(CharacterExpert):
    """The downstream expert."""

    _config: SpeechRecognitionConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    _decoder: WordDecoder | None = None

    def text(self, tokens: Sequence[str]) -> str:
        """Return words separated by one space."""
        return " ".join("".join(tokens).replace(WORD_END, " ").split())

    def score(self, records: Records) -> float:
        """Return the negative word error rate."""
        return -error_rate(word_errors(records["target"], records["prediction"]))

    def decode(self, split: str, log_probs: Tensor, records: Records) -> None:
        """Decode greedily, and test with the language model as well where there is one."""
        super().decode(split, log_probs, records)
        config = self._config
        if split != "test" or not config.lm:
            return
        if self._decoder is None:  # reading a large model takes minutes
            self._decoder = WordDecoder(
                Path(config.lm).expanduser(),
                self.classes,
                lm_weight=config.lm_weight,
                word_penalty=config.word_penalty,
                beam_size=config.beam_size,
                beam_threshold=config.beam_threshold,
            )
        records["prediction_lm"].append(spelled(self._decoder(log_probs)))


def prepare(
    corpus: Corpus, config: SpeechRecognitionConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Spell the transcript of every utterance.

    Raises:
        UserError: Utterances without a transcript, or a language model that cannot be used.
    """
    if config.lm:
        check_decoder(Path(config.lm).expanduser())
    expect_label(corpus, "transcript", "add a column transcript")
    return label_sequences(corpus, _characters, skip_unlabelled=skip_unlabelled)


def score(answers: Records, corpus: LabelledCorpus) -> list[Score]:
    """Return word and character error rate, and the former with the language model if there is."""
    speakers = corpus.splits["test"].speakers
    texts = answers["target"], answers["prediction"]
    scores = [
        ratio_score("wer", *word_errors(*texts), speakers),
        ratio_score("cer", *character_errors(*texts), speakers),
    ]
    if "prediction_lm" in answers:
        counts = word_errors(answers["target"], answers["prediction_lm"])
        scores.append(ratio_score("wer_lm", *counts, speakers))
    return scores


def _characters(cut: Any) -> Tokens:
    text = spelled(supervision_of(cut).text or "")
    if not text:
        raise Unlabelled("has no transcript")
    return tuple(text.replace(" ", WORD_END) + WORD_END)
