"""Beam search with a language model, against a search of all word sequences."""

import errno
import gzip
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auscult.downstreams.decoder import WordDecoder, check_decoder, read_words
from auscult.downstreams.speech_recognition import (
    SpeechRecognition,
    SpeechRecognitionConfig,
    prepare,
    score,
)
from auscult.errors import UserError

CHARACTERS = ("G", "O", "T", "|")
UNIGRAMS = {"</s>": -1.0, "go": -0.7, "to": -0.5, "got": -0.9}
BACKOFF = {"<s>": -0.3, "go": -0.2, "to": -0.1, "got": -0.4}
BIGRAMS = {("<s>", "go"): -0.3, ("<s>", "to"): -0.9, ("go", "to"): -0.4, ("to", "</s>"): -0.2}


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    """A bigram model with three words, one of which the characters cannot spell beside them."""
    unigrams = [f"{UNIGRAMS[w]}\t{w}\t{BACKOFF.get(w, 0)}" for w in ("go", "to", "got")]
    unigrams += ["-1.0\t<unk>", "-99\t<s>\t-0.3", "-1.0\t</s>", "-2.0\tzoo"]
    bigrams = [f"{value}\t{' '.join(pair)}" for pair, value in BIGRAMS.items()]
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", ""]
    lines += ["\\1-grams:", *unigrams, "", "\\2-grams:", *bigrams, "", "\\end\\", ""]
    path = tmp_path / "model.arpa"
    path.write_text("\n".join(lines))
    return path


def _language(words: tuple[str, ...]) -> float:
    """Return the decimal logarithm of a sentence's probability, by the definition of backoff."""
    total = 0.0
    for pair in itertools.pairwise(("<s>", *words, "</s>")):
        total += BIGRAMS.get(pair, BACKOFF.get(pair[0], 0.0) + UNIGRAMS[pair[1]])
    return total


def _acoustic(log_probs: torch.Tensor, words: tuple[str, ...]) -> float:
    """Return the score of the best path of a sentence; -inf if it does not fit.

    Before, between and after words the decoder allows any number of further word ends.
    """
    gaps = itertools.product(("", "|", "||", "|||"), repeat=len(words) + 1)
    spelled = [f"{word.upper()}|" for word in words]
    return max(
        _best_path(log_probs, "".join(itertools.chain(*zip(gap, [*spelled, ""], strict=True))))
        for gap in gaps
    )


def _best_path(log_probs: torch.Tensor, spelling: str) -> float:
    """Return the score of the best CTC path of a spelling; -inf if it does not fit."""
    if len(spelling) > len(log_probs):
        return -math.inf
    targets = [CHARACTERS.index(c) + 1 for c in spelling]
    states = [0, *(x for t in targets for x in (t, 0))]  # blanks between
    best = [float(log_probs[0, s]) if i < 2 else -math.inf for i, s in enumerate(states)]
    for frame in log_probs[1:]:
        before = best
        best = []
        for i, state in enumerate(states):
            options = before[max(i - 1, 0) : i + 1]
            if i >= 2 and state and state != states[i - 2]:
                options = [*options, before[i - 2]]
            best.append(max(options) + float(frame[state]))
    return max(best[-2:])


def _sentences() -> Iterator[tuple[str, ...]]:
    for length in range(3):  # three words take nine frames
        yield from itertools.product(("go", "to", "got"), repeat=length)


def _flashlight() -> None:
    pytest.importorskip("flashlight", reason="needs auscult[lm]")


def test_the_best_of_all_sentences_is_found(arpa: Path) -> None:
    _flashlight()
    torch.manual_seed(0)
    found = set()
    for lm_weight, penalty in ((0.0, 1.0), (2.0, 1.0), (3.0, 0.0)):
        decoder = WordDecoder(
            arpa,
            CHARACTERS,
            lm_weight=lm_weight,
            word_penalty=penalty,
            beam_size=2000,
            beam_threshold=1e6,
        )
        for _ in range(4):
            log_probs = (2 * torch.randn(8, 5)).log_softmax(dim=-1)
            scores = {
                " ".join(words): _acoustic(log_probs, words)
                + lm_weight * _language(words)
                - penalty * len(words)
                for words in _sentences()
            }
            best = max(scores, key=lambda words: scores[words])
            assert decoder(log_probs) == best
            found.add(best)
    assert len(found) > 3  # not always the same


def test_test_is_decoded_with_the_model_and_dev_without(arpa: Path, words: Any) -> None:
    _flashlight()
    said = {"go": "go to", "stop": "got", "yes": "to"}
    splits = {
        name: [
            replace(cut, supervisions=[replace(s, text=said[s.custom["keyword"]])])
            for cut in cuts
            for s in cut.supervisions
        ]
        for name, cuts in words.splits.items()
    }
    config = SpeechRecognitionConfig(projector_dim=8, hidden_dim=8, batch_size=4, lm=str(arpa))
    labelled = prepare(replace(words, splits=splits), config, skip_unlabelled=False)
    assert labelled.classes == CHARACTERS
    head = SpeechRecognition(8, labelled, config, 0).eval()
    answers: dict[str, list[Any]] = {}
    for split in ("dev", "test"):
        answers = {name: [] for name in ("id", "target", "prediction", "prediction_lm")}
        for utterances, ids, labels in head.get_dataloader(split):
            rows = [torch.randn(12, 8) for _ in utterances]
            head(split, rows, ids, labels, records=answers)
        assert len(answers["prediction"]) == 24
        assert len(answers["prediction_lm"]) == (24 if split == "test" else 0)
    assert set(" ".join(answers["prediction_lm"]).split()) <= {"GO", "TO", "GOT"}
    assert [s.metric for s in score(answers, labelled)] == ["wer", "cer", "wer_lm"]
    answers["prediction_lm"] = answers["target"]
    assert score(answers, labelled)[2].value == 0


def test_words_are_read_from_arpa_files(arpa: Path, tmp_path: Path) -> None:
    assert list(read_words(arpa)) == ["go", "to", "got", "zoo"]
    packed = tmp_path / "model.arpa.gz"
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert list(read_words(packed)) == ["go", "to", "got", "zoo"]


def test_text_that_kenlm_does_not_read_is_named(arpa: Path, tmp_path: Path) -> None:
    text, packed = arpa.read_bytes(), tmp_path / "model.arpa.gz"
    mixed, path = text.replace(b"\tzoo", b"\tz\xf6\xf6"), tmp_path / "other.arpa"
    assert mixed != text
    line = mixed[: mixed.index(b"\xf6")].count(b"\n") + 1
    for content, message in (
        (mixed, f"other.arpa cannot be read: line {line} is no UTF-8 text"),
        (b"\xef\xbb\xbf" + text, "begins with a byte order mark, which KenLM does not read"),
        (text.decode().encode("utf-16"), "cannot be read: line 1 is no UTF-8 text"),
        (b"\x1f\x8b" + text, "cannot be read: "),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            list(read_words(path))
    packed.write_bytes(gzip.compress(text)[:30])
    with pytest.raises(UserError, match=r"model\.arpa\.gz cannot be read: "):
        list(read_words(packed))
    with pytest.raises(UserError, match="there is no such file"):
        list(read_words(tmp_path))


def test_files_that_are_no_models_are_named(arpa: Path, tmp_path: Path) -> None:
    _flashlight()
    text, binary = tmp_path / "notes.arpa", tmp_path / "model.bin"
    text.write_text("no model\n")
    unigrams, cut = tmp_path / "unigrams.arpa", tmp_path / "cut.arpa"
    unigrams.write_text(arpa.read_text().replace("ngram 2", "ngrams 2"))
    cut.write_text(arpa.read_text()[:-60])
    binary.write_bytes(b"\xff\xfe\x00mmap lm")
    for path, message in (
        (text, "has no words; expected an n-gram model"),
        (binary, "cannot be read"),
        (unigrams, "has unigrams only"),
        (tmp_path / "none.arpa", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            check_decoder(path)
    settings: dict[str, Any] = dict(lm_weight=1, word_penalty=0, beam_size=5, beam_threshold=9)
    with pytest.raises(UserError, match="None of the words of .* is spelled"):
        WordDecoder(arpa, ("X", "|"), **settings)
    with pytest.raises(UserError, match="KenLM cannot read .*cut.arpa: "):
        WordDecoder(cut, CHARACTERS, **settings)


def test_a_full_temporary_folder_is_named(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "lexicon.txt")

    monkeypatch.setattr(Path, "write_text", full)
    settings: dict[str, Any] = dict(lm_weight=1, word_penalty=0, beam_size=5, beam_threshold=9)
    with pytest.raises(UserError, match=r"temporary folder .* \(No space left.*set TMPDIR"):
        WordDecoder(arpa, CHARACTERS, **settings)


def test_a_missing_decoder_says_what_to_install(
    arpa: Path, monkeypatch: pytest.MonkeyPatch, words: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", None)
    with pytest.raises(UserError, match=r"pip install auscult\[lm\]"):
        prepare(words, SpeechRecognitionConfig(lm=str(arpa)), skip_unlabelled=False)
