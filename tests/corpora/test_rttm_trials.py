"""Who speaks when, and who is compared with whom: RTTM files and TRIALS.tsv of a tsv corpus."""

import numpy as np
import pytest

from auscult.corpora import load_corpus
from auscult.corpora.rttm import read_rttm
from auscult.corpora.summary import summarize_splits
from auscult.dataset import Trial, active_speakers, speaker_turns, supervision_of
from auscult.errors import UserError

HEADER = ("path", "utt", "speaker", "split")


def _turn(recording: str, onset: float, duration: float, speaker: str) -> str:
    return f"SPEAKER {recording} 1 {onset:.3f} {duration:.3f} <NA> <NA> {speaker} <NA> <NA>\n"


def test_turns_may_overlap_and_stand_in_any_file(write_corpus) -> None:
    rows = [["x.wav", "one", "", "train"], ["y.wav", "two", "", "test"]]
    folder = write_corpus(HEADER, rows)  # 0.3 s each
    one = _turn("one", 0.1, 0.1, "ann") + _turn("one", 0.15, 0.1, "bob")
    (folder / "a.rttm").write_text("SPKR-INFO one 1 <NA> <NA> <NA> unknown ann <NA>\n\n" + one)
    (folder / "b.rttm").write_text(one + _turn("two", 0, 0.05, "cat") + _turn("six", 0, 1, "dan"))
    corpus = load_corpus(f"tsv:{folder}")
    (cut,) = corpus.split("train")
    assert speaker_turns(cut) == [(0.1, 0.2, "ann"), (0.15, 0.25, "bob")]
    assert supervision_of(cut).speaker is None
    centres = np.array([1599.0, 1600.0, 2399.0, 2400.0, 3199.0, 3200.0, 4000.0])
    active = active_speakers(cut, ["bob", "ann"], centres)  # (frame, speaker)
    assert active[:, 0].tolist() == [False, False, False, True, True, True, False]
    assert active[:, 1].tolist() == [False, True, True, True, True, False, False]
    assert [part.speakers for part in summarize_splits(corpus)] == [2, 1]
    (note,) = [note for note in corpus.notes if "RTTM files" in note]
    assert "does not have: 1 (first: six)" in note


def test_a_speaker_in_two_splits_is_seen_in_the_turns(write_corpus) -> None:
    rows = [["x.wav", "one", "", "train"], ["y.wav", "two", "", "test"]]
    folder = write_corpus(HEADER, rows)
    (folder / "all.rttm").write_text(_turn("one", 0, 0.1, "ann") + _turn("two", 0, 0.1, "ann"))
    assert load_corpus(f"tsv:{folder}").speaker_overlap == ("ann",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("SPEAKER one 1 0.1\n", "a.rttm line 1 reads 'SPEAKER one 1 0.1', not 'SPEAKER RECORDING"),
        (_turn("one", 0, 0.1, "ann").replace("0.100", "nan"), "line 1 reads"),
        (
            _turn("one", 0.2, 0.2, "ann"),
            r"the speaker 'ann' at samples 3200 to 6400, but its audio",
        ),
        (_turn("one", 0.2, -0.1, "ann"), "at samples 3200 to 1600"),
    ],
)
def test_bad_turns_are_named_or_left_out(write_corpus, lines: str, message: str) -> None:
    rows = [["x.wav", "one", "", "test"], ["y.wav", "two", "", "test"]]
    folder = write_corpus(HEADER, rows)
    (folder / "a.rttm").write_text(lines)
    with pytest.raises(UserError, match=message):
        load_corpus(f"tsv:{folder}")
    assert len(load_corpus(f"tsv:{folder}", skip_bad=True).skipped) == 1


def test_a_turn_may_end_ten_milliseconds_late(write_corpus) -> None:
    folder = write_corpus(HEADER, [["x.wav", "one", "", "test"]])
    (folder / "a.rttm").write_text(_turn("one", 0.2, 0.11, "ann"))
    (cut,) = load_corpus(f"tsv:{folder}").split("test")
    assert speaker_turns(cut) == [(0.2, pytest.approx(cut.duration), "ann")]


def test_a_file_that_is_no_text_is_named(tmp_path) -> None:
    (tmp_path / "a.rttm").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.rttm, line 1: .* are no UTF-16 text"):
        read_rttm([tmp_path / "a.rttm"])


ROWS = (
    ["a/x.wav", "x", "ann", "test"],
    ["a/y.wav", "y", "ann", "test"],
    ["b/z.wav", "z", "bob", "test"],
    ["b/d.wav", "d", "dan", "dev"],
    ["b/e.wav", "e", "dan", ""],
)


def test_trials_stand_with_the_split_of_both_utterances(write_corpus) -> None:
    folder = write_corpus(HEADER, ROWS)
    bare = load_corpus(f"tsv:{folder}")
    (folder / "TRIALS.tsv").write_text(
        "target\tenrol\ttest\n1\ta/x.wav\ta/y.wav\n0\tx\tb/z.wav\n0\tx\td\n1\td\te\n"
    )
    corpus = load_corpus(f"tsv:{folder}")
    assert bare.trials == {}
    assert corpus.trials == {"test": (Trial("x", "y", True), Trial("x", "z", False))}
    assert any(note.startswith("2 of 4 trials are of utterances") for note in corpus.notes)
    assert corpus.sha256["test"] != bare.sha256["test"]
    assert corpus.sha256["dev"] == bare.sha256["dev"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yes\tx\ty", "line 2 has the target 'yes', not 0 or 1"),
        ("1\tx\tw", "line 2 names 'w', which MANIFEST.tsv lacks"),
        ("1\tx", "line 2 has 2 fields where the header has 3"),
    ],
)
def test_bad_trials_are_named_or_left_out(write_corpus, line: str, message: str) -> None:
    folder = write_corpus(HEADER, ROWS)
    (folder / "TRIALS.tsv").write_text(f"target\tenrol\ttest\n{line}\n0\tx\tz\n")
    with pytest.raises(UserError, match=message):
        load_corpus(f"tsv:{folder}")
    corpus = load_corpus(f"tsv:{folder}", skip_bad=True)
    assert corpus.trials == {"test": (Trial("x", "z", False),)} and len(corpus.skipped) == 1


def test_another_split_can_stand_as_test(write_corpus) -> None:
    rows = [["x.wav", "x", "ann", "test"], *([f"{n}.wav", n, "bob", "other"] for n in "yz")]
    folder = write_corpus(HEADER, rows)
    (folder / "TRIALS.tsv").write_text("target\tenrol\ttest\n1\ty\tz\n")
    corpus = load_corpus(f"tsv:{folder}")
    moved = corpus.tested_on("other")
    assert [cut.id for cut in moved.split("test")] == ["y", "z"]
    assert moved.trials["test"] == corpus.trials["other"] != ()
    assert (moved.tested, moved.sha256["test"]) == ("other", corpus.sha256["other"])
    assert corpus.tested_on("test").sha256 == corpus.sha256
    for name, message in (("train", "cannot be tested on"), ("odd", "has no split 'odd'")):
        with pytest.raises(UserError, match=message):
            corpus.tested_on(name)
