"""Beam search over the words of an n-gram language model, by torchaudio's (Flashlight's) decoder.

Flashlight and KenLM come with ``pip install auscult[lm]``.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from torch import Tensor

from auscult.errors import UserError

from .text import spelled

BLANK = "<blank>"
WORD_END = "|"
_LONGEST_LINE = 2**20  # bytes
MARKS = frozenset({"<s>", "</s>", "<unk>", "<UNK>"})


class WordDecoder:
    """Finds the words that maximise acoustic score + weight * language model - penalty a word.

    The acoustic score is that of the best path, all in natural logarithms but for the language
    model's, which is in decimal ones, as in SUPERB.

    Args:
        path: N-gram model in ARPA format, perhaps compressed by gzip.
        characters: What the head answers beside blank, which comes first; with ``|``.
        lm_weight: Of the language model.
        word_penalty: For each word.
        beam_size: Hypotheses kept after each frame.
        beam_threshold: Hypotheses so much below the best are dropped.

    Raises:
        UserError: The decoder is not installed, or the file is no ARPA file or has no word that
            the characters can spell.
    """

    def __init__(
        self,
        path: Path,
        characters: Sequence[str],
        *,
        lm_weight: float,
        word_penalty: float,
        beam_size: int,
        beam_threshold: float,
    ) -> None:
        known = set(characters)
        spellings = ((word, spelled(word)) for word in read_words(path))
        lines = [
            f"{word} {' '.join(spelling)} {WORD_END}"
            for word, spelling in spellings
            if spelling and set(spelling) <= known
        ]
        if not lines:
            raise UserError(f"None of the words of {path} is spelled with the characters of train.")
        with TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon.txt"
            try:
                lexicon.write_text("\n".join(lines) + "\n", encoding="utf-8")
                self._decode = _ctc_decoder()(
                    lexicon=str(lexicon),
                    tokens=[BLANK, *characters],
                    lm=str(path),
                    beam_size=beam_size,
                    beam_threshold=beam_threshold,
                    lm_weight=lm_weight,
                    word_score=-word_penalty,
                    blank_token=BLANK,
                    sil_token=WORD_END,
                )
            except OSError as error:
                raise UserError(
                    f"The temporary folder {gettempdir()} cannot take the words of {path} "
                    f"({error.strerror}); set TMPDIR to a larger one."
                ) from error
            except RuntimeError as error:  # KenLM's, which says where in its sources first
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"KenLM cannot read {path}: {reason}.") from error

    def __call__(self, log_probs: Tensor) -> str:
        """Return the best words for log probabilities (frame, label), on the CPU."""
        (best,) = self._decode(log_probs.float().contiguous().unsqueeze(0))
        return " ".join(best[0].words) if best else ""


def check_decoder(path: Path) -> None:
    """Find out before anything is trained whether the model can be used.

    Raises:
        UserError: The decoder is not installed, or the file is no ARPA file.
    """
    _ctc_decoder()
    if next(read_words(path), None) is None:
        raise UserError(f"{path} has no words; expected an n-gram model in ARPA format.")


def read_words(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file's unigrams.

    Raises:
        UserError: The file cannot be read as an ARPA file, or has no bigrams.
    """
    inside = bigrams = False
    for line in _lines(path):
        if inside and line.startswith("\\"):
            return
        bigrams = bigrams or line.startswith("ngram 2")
        inside = inside or line.strip() == "\\1-grams:"
        if inside and not bigrams:
            raise UserError(f"{path} has unigrams only; KenLM wants bigrams as well.")
        parts = line.split()
        if inside and len(parts) >= 2 and parts[1] not in MARKS:
            yield parts[1]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file that may be large or compressed, as KenLM reads it."""
    if not path.is_file():
        raise UserError(f"The language model {path} cannot be read: there is no such file.")
    number = 1
    try:
        opened = gzip.open if _is_gzip(path) else open
        with opened(path, "rb") as file:
            while raw := file.readline(_LONGEST_LINE):
                line = raw.decode()
                if number == 1 and line.startswith("\ufeff"):
                    raise UserError(
                        f"{path} begins with a byte order mark, which KenLM does not read; save it "
                        "as UTF-8 without one."
                    )
                yield line
                number += 1
    except UnicodeDecodeError as error:
        raise UserError(
            f"The language model {path} cannot be read: line {number} is no UTF-8 text."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"The language model {path} cannot be read: {error}.") from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _ctc_decoder() -> Callable[..., Any]:
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:  # torchaudio makes one of the other
        raise UserError(
            "Decoding with a language model needs Flashlight: pip install auscult[lm]."
        ) from error
    found: Callable[..., Any] = ctc_decoder
    return found
