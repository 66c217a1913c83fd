"""Phoneme recognition as SUPERB does it: a linear head and CTC over phones.

The same as SUPERB's, beside what :mod:`auscult.downstreams.ctc` says: a projection to 256 and one
linear layer; Adam at 1e-2; two batches of 16 utterances a step, 100 000 steps; phone error rate.

Where phones come from:

* ``lexicon=FILE`` (several separated by commas), SUPERB's way: the first pronunciation of each word
  of the transcript; on LibriSpeech with s3prl's two lexicon files the targets are SUPERB's own;
* else ``label``: the symbols of an alignment of that name (``phone``, ``phone39``; their times are
  not used), or a column of phones separated by spaces. Word separators ``|`` are dropped.

Stress digits stay, as in SUPERB, unless ``stress=no``. Silences are dropped, for SUPERB's targets
have none, unless ``silence=yes``: phone error rates of TIMIT are usually given with them
(``label=phone39 silence=yes``).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from auscult.dataset import Corpus, supervision_of
from auscult.errors import UserError
from auscult.head import build_frame_head
from auscult.score import Score
from auscult.text import read_lines

from .ctc import (
    CTCConfig,
    CTCExpert,
    Tokens,
    Unlabelled,
    at_frames,
    error_rate,
    label_sequences,
    word_errors,
)
from .schedule import FILES, Records
from .score import ratio_score
from .split import LabelledCorpus
from .text import spelled

__all__ = ["PhonemeRecognition", "PhonemeRecognitionConfig", "at_frames", "prepare", "score"]

SEPARATORS = frozenset({"|", ""})
SILENCES = frozenset({"sil", "SIL", "sp", "SP", "spn", "SPN", "h#", "pau", "epi", "<eps>", "#"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PhonemeRecognitionConfig(CTCConfig):
    """SUPERB's protocol, and where phones come from."""

    label: str = "phone"  # an alignment, or a column
    lexicon: str = field(default="", metadata=FILES)  # that turn transcripts into phones
    stress: bool = True  # keep the digits of AA0, AA1, AA2
    silence: bool = False  # keep silences as phones
    projector_dim: int = 256
    total_steps: int = 100_000
    batch_size: int = 16
    gradient_accumulate_steps: int = 2
    learning_rate: float = 1e-2
    eval_step: int = 1_000
    save_step: int = 100


class PhonemeRecognition(CTCExpert):
    """The downstream expert."""

    def build_head(self, input_dim: int, num_classes: int) -> nn.Module:
        """Return s3prl's ``FrameLevel``."""
        return build_frame_head(input_dim, num_classes)

    def text(self, tokens: Sequence[str]) -> str:
        """Return phones separated by spaces."""
        return " ".join(tokens)

    def score(self, records: Records) -> float:
        """Return the negative phone error rate."""
        return -error_rate(word_errors(records["target"], records["prediction"]))


def prepare(
    corpus: Corpus, config: PhonemeRecognitionConfig, *, skip_unlabelled: bool
) -> LabelledCorpus:
    """Read the phones of every utterance.

    Raises:
        UserError: Utterances without phones, or a lexicon that cannot be read.
    """
    lexicon = read_lexicon(config.lexicon.split(",")) if config.lexicon else None

    def read(cut: Any) -> Tokens:
        if lexicon is not None:
            return _phones(_pronounced(cut, lexicon), config)
        return _phones(_written(cut, config.label), config)

    return label_sequences(corpus, read, skip_unlabelled=skip_unlabelled)


def score(answers: Records, corpus: LabelledCorpus) -> list[Score]:
    """Return the phone error rate: edits by phones of the references."""
    edits, totals = word_errors(answers["target"], answers["prediction"])
    return [ratio_score("per", edits, totals, corpus.splits["test"].speakers)]


def read_lexicon(names: Sequence[str]) -> dict[str, Tokens]:
    """Return the first pronunciation of each word: ``WORD PHONE PHONE ...`` on each line.

    Words are taken in upper case, without the ``(2)`` of further pronunciations; lines that begin
    with ``;;;`` are comments.

    Raises:
        UserError: A file that cannot be read, or a line without phones or with numbers for phones.
    """
    found: dict[str, Tokens] = {}
    for name in names:
        for number, line in enumerate(read_lines(Path(name).expanduser()), start=1):
            word, *phones = line.split() or [";;;"]
            if word.startswith(";;;"):
                continue
            if not phones or any(re.fullmatch(r"[\d.]+", phone) for phone in phones):
                raise UserError(
                    f"Line {number} of the lexicon {name} is {line[:200]!r}; expected a word and "
                    "its phones, separated by blanks, without probabilities."
                )
            found.setdefault(re.sub(r"\(\d+\)$", "", word.upper()), tuple(phones))
    return found


def _pronounced(cut: Any, lexicon: Mapping[str, Tokens]) -> Iterable[str]:
    """Return the phones of a transcript; its words are looked up as :func:`spelled` gives them."""
    words = spelled(supervision_of(cut).text or "").split()
    if not words:
        raise Unlabelled("has no transcript")
    if missing := [word for word in words if word not in lexicon]:
        raise Unlabelled(f"has words that the lexicon lacks: {' '.join(missing)}")
    return [phone for word in words for phone in lexicon[word]]


def _written(cut: Any, label: str) -> Iterable[str]:
    """Return the symbols of an alignment, or of a column where there is no such alignment."""
    supervision = supervision_of(cut)
    alignments, columns = supervision.alignment or {}, supervision.custom or {}
    if label in alignments:
        return [item.symbol for item in alignments[label]]
    if not columns.get(label):
        raise Unlabelled(
            f"has no phones {label!r}: its alignments are {', '.join(alignments) or 'none'}, its "
            f"columns {', '.join(columns) or 'none'}; choose one with label=NAME, or turn "
            "transcripts into phones with lexicon=FILE"
        )
    return str(columns[label]).split()


def _phones(symbols: Iterable[str], config: PhonemeRecognitionConfig) -> Tokens:
    dropped = SEPARATORS if config.silence else SEPARATORS | SILENCES
    phones = (symbol for symbol in symbols if symbol not in dropped)
    return tuple(phones if config.stress else (re.sub(r"(?<=\D)[012]$", "", p) for p in phones))
