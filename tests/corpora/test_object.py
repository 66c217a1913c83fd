"""Speech that somebody has in Python: a data frame, and lhotse cuts by split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lhotse.utils import fastcopy

import auscult
from auscult.errors import UserError


@pytest.fixture
def folder(tone_corpus: Callable[..., Path]) -> Path:
    return tone_corpus()


def frame_of(folder: Path) -> pd.DataFrame:
    frame = pd.read_csv(folder / "MANIFEST.tsv", sep="\t", dtype=str, keep_default_na=False)
    return frame.assign(path=[str(folder / path) for path in frame.path])


def test_a_frame_is_the_table_that_it_would_be(folder: Path, monkeypatch: Any) -> None:
    (folder / "PHONES.tsv").unlink()
    table, frame = auscult.corpus(f"tsv:{folder}"), auscult.corpus(frame_of(folder))
    assert frame.spec == "frame" and dict(frame.sha256) == dict(table.sha256)
    monkeypatch.chdir(folder)
    relative = pd.read_csv("MANIFEST.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert dict(auscult.corpus(relative, name="here").sha256) == dict(table.sha256)


def test_numbers_are_labels_and_nothing_is_none(folder: Path) -> None:
    frame = frame_of(folder).assign(age=np.arange(len(frame_of(folder))))
    frame["mood"] = None
    frame.loc[0, "mood"] = "glad"
    found = auscult.corpus(frame)
    custom = [dict(cut.supervisions[0].custom) for cut in found.split("train")]
    assert custom[0]["mood"] == "glad" and "mood" not in custom[1]
    assert [labels["age"] for labels in custom][:2] == ["0", "1"]


def test_cuts_are_the_corpus_that_they_come_from(folder: Path) -> None:
    table = auscult.corpus(f"tsv:{folder}")
    cuts = auscult.Corpus.of_cuts("mine", table.splits)
    assert dict(cuts.sha256) == dict(table.sha256) and cuts.spec == "mine"
    assert cuts.audio_sha256 == table.audio_sha256
    for name, found in table.splits.items():
        for one, other in zip(found, cuts.split(name), strict=True):
            assert one.supervisions[0].alignment == other.supervisions[0].alignment


def test_a_piece_of_a_recording_keeps_its_times(folder: Path) -> None:
    splits = {name: list(cuts) for name, cuts in auscult.corpus(f"tsv:{folder}").splits.items()}
    whole = splits["train"][0]
    splits["train"][0] = whole.truncate(offset=0.125, duration=0.1)
    found = auscult.Corpus.of_cuts("mine", splits).split("train")
    piece = next(cut for cut in found if cut.start == 0.125)
    assert piece.duration == 0.1
    items = piece.supervisions[0].alignment["phone"]
    assert (
        items[0].start == 0.0
        and items[0].symbol == whole.supervisions[0].alignment["phone"][0].symbol
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ({"train": ["x"]}, "holds a str; expected cuts"),
        ({"": []}, "A split is called ''"),
        ({"train": []}, "holds no utterances"),
        (7, "An object of type int is no corpus; expected an address, a pandas data frame"),
        (
            pd.DataFrame({"file": ["a.wav"]}),
            r"the data frame has no column 'path'; \(found: file\)",
        ),
        (pd.DataFrame({"path": ["a.wav"]}), "has no column whose name begins or ends with 'split'"),
        (pd.DataFrame({"path": ["a.wav"], "split": ["train"]}), "a.wav does not exist"),
        (pd.DataFrame([[1, 2, 3]], columns=["path", "path", "split"]), "'path' more than once"),
    ],
)
def test_what_is_no_corpus_is_said(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        auscult.corpus(content)


def test_cuts_whose_audio_is_not_the_files_are_refused(folder: Path) -> None:
    splits = {name: list(cuts) for name, cuts in auscult.corpus(f"tsv:{folder}").splits.items()}
    first = splits["train"][0]
    for changed, message in (
        (first.perturb_speed(1.1), "has transforms beside resampling"),
        (first.move_to_memory(), "has audio in memory"),
        (fastcopy(first, recording=None), "has features in the place of audio"),
    ):
        bad = {**splits, "train": [changed, *splits["train"][1:]]}
        with pytest.raises(UserError, match=message):
            auscult.Corpus.of_cuts("mine", bad)
        assert len(auscult.Corpus.of_cuts("mine", bad, skip_bad=True).skipped) == 1
    with pytest.raises(UserError, match="reads like an address"):
        auscult.Corpus.of_cuts("tsv:x", splits)
