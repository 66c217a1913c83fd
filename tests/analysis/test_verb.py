import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from torch import Tensor

from auscult.audio import read_samples
from auscult.cli import main
from auscult.record import Record
from auscult.results import open_store

Run = Callable[..., tuple[int, str, str]]
TINY = ("random(hubert_tiny)", "random(hubert_tiny, seed=1)")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `auscult attention` and gives status, stdout and stderr."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["auscult", "attention", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    """Tones of which the test split has two speakers and six utterances."""
    return f"tsv:{tone_corpus()}"


def test_records_figures_and_arrays_of_two_encoders(run: Run, corpus: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, stdout, stderr = run(
        "-u", TINY[0], "-u", TINY[1], "-c", corpus, "--out", out, "--json", "--limit", 4
    )
    assert status == 0, stderr
    answer = json.loads(stdout)
    records = [Record.from_dict(r) for r in answer["records"]]
    assert [r.upstream for r in records[::5]] == list(TINY)
    assert [(r.metric, r.layer) for r in records[:5]] == [
        ("jsd_same_head", None),
        ("jsd_all_pairs", None),
        *(("jsd_next_layer", layer) for layer in (1, 2, 3)),
    ]
    for record in records:
        assert 0 < (record.low or 0) <= record.value <= (record.high or 0) < 0.1
        assert (record.unit, record.split) == ("bit", "test")
        assert (record.num_items, record.num_speakers) == (4, 2)
    files = [Path(name) for name in answer["files"]]
    assert len(set(files)) == 6 and all(path.parent == out for path in files)
    assert sum(path.read_bytes().startswith(b"\x89PNG") for path in files) == 4
    arrays = np.load(next(path for path in files if path.suffix == ".npz"))
    assert arrays["all_pairs"].shape == (16, 16)
    assert arrays["same_head"].shape == (4, 4, 4)
    assert str(arrays["unit"]) == "bit"
    between = np.triu_indices(4, 1)
    assert arrays["mean"][between].mean() == pytest.approx(records[0].value)
    assert len(list(open_store(out).records())) == 10
    assert len(list(open_store(out).artifacts())) == 2


def test_table_in_nats_and_the_same_numbers_twice(run: Run, corpus: str, tmp_path: Path) -> None:
    words = ("-u", TINY[0], "-c", corpus, "--split-name", "dev", "--base", "e", "--quiet")
    first, second = (run(*words, "--out", tmp_path / name) for name in "ab")
    assert first[0] == 0 and first[2] == ""
    assert "Attention divergence in nats" in first[1] and TINY[0] in first[1]
    assert first[1].replace(str(tmp_path / "a"), "") == second[1].replace(str(tmp_path / "b"), "")
    one, two = ([r.value for r in open_store(tmp_path / name).records()] for name in "ab")
    assert one == two and len(one) == 5


def test_a_store_that_cannot_be_used_is_named_before_any_work(
    run: Run, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results.sqlite").write_text("not a database" * 100)
    monkeypatch.setattr("auscult.analysis.measure", lambda *_, **__: pytest.fail("measured"))
    status, _, stderr = run("-u", TINY[0], "-c", corpus, "--out", tmp_path)
    assert status == 2 and "cannot be used as a store" in stderr


def test_an_interrupted_run_goes_on(
    run: Run, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listened: list[str] = []

    def read(cut: Any) -> Tensor:
        if len(listened) == 4:
            raise KeyboardInterrupt
        listened.append(cut.id)
        return read_samples(cut)

    monkeypatch.setattr("auscult.analysis.divergence.SAVE_SECONDS", 0)
    monkeypatch.setattr("auscult.audio.read_samples", read)
    words = ("-u", TINY[0], "-c", corpus, "--json", "--out")
    status, stdout, stderr = run(*words, tmp_path / "a")
    assert (status, stdout) == (130, "") and "goes on from here" in stderr
    first = [listened.pop() for _ in range(4)]
    status, resumed, _ = run(*words, tmp_path / "a")
    assert status == 0 and len(listened) == 2 and not {*listened} & {*first}
    monkeypatch.setattr("auscult.audio.read_samples", read_samples)
    status, whole, _ = run(*words, tmp_path / "b")
    assert status == 0
    keys = ("metric", "layer", "value", "low", "high", "num_items", "num_speakers", "convention")
    rows = [[[r[k] for k in keys] for r in json.loads(x)["records"]] for x in (resumed, whole)]
    assert rows[0] == rows[1] and rows[0][0][-2:] == [2, "block_input"]
    arrays = [np.load(next((tmp_path / name).glob("*.npz"))) for name in "ab"]
    for name in arrays[1].files:
        assert_array_equal(arrays[0][name], arrays[1][name], name)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-u", TINY[0], "-u", "fbank"), "fbank (family fbank) has attention in 0 blocks"),
        (("-u", TINY[0], "--base", "10"), "Unknown base '10'. Known: 2, e"),
        (("-u", TINY[0], "--split-name", "tset"), "has no split 'tset'"),
        (("-u", TINY[0], "--limit", "0"), "Invalid value for '--limit'"),
    ],
)
def test_mistakes_exit_with_2_and_a_sentence(
    run: Run, corpus: str, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    status, stdout, stderr = run(*words, "-c", corpus, "--out", tmp_path / "out")
    assert status == 2 and stdout == ""
    assert sentence in stderr and "Traceback" not in stderr


def test_an_utterance_shorter_than_a_frame_is_named_or_counted(
    run: Run, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    import soundfile

    folder = tone_corpus()
    wave, rate = soundfile.read(folder / "s3-0.flac")
    soundfile.write(folder / "s3-0.flac", wave[:390], rate)
    (folder / "PHONES.tsv").unlink()
    words = ("-u", TINY[0], "-c", f"tsv:{folder}", "--out", tmp_path / "out", "--json")
    status, _, stderr = run(*words)
    assert status == 2 and "s3-0" in stderr and "too short" in stderr
    status, stdout, stderr = run(*words, "--skip-bad")
    assert status == 0, stderr
    assert {(r["num_items"], r["num_skipped"]) for r in json.loads(stdout)["records"]} == {(5, 1)}
