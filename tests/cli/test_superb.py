"""`auscult superb` as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult.cli import main
from auscult.downstreams import TASKS
from auscult.downstreams.prediction import (
    PredictionRun,
    find_predictions,
    read_predictions,
    write_predictions,
)
from auscult.errors import UserError
from auscult.record import Provenance, Record
from auscult.results import open_store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line and gives its status, stdout and stderr."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["auscult", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        stdout, stderr = capsys.readouterr()
        return status, stdout, stderr

    return command


def _answer(folder: Path, task: str = "keyword_spotting", **changes: Any) -> Path:
    """Write the predictions of one run and return its folder."""
    place = folder / "heads" / "-".join([task, *map(str, changes.values())]).replace("/", "_")
    place.mkdir(parents=True)
    answers: dict[str, Any] = {
        "id": ["test-yes-0a7c2a8d_nohash_0", "test-no-0a7c2a8d_nohash_0"],
        "target": ["yes", "no"],
        "prediction": ["yes", "_unknown_"],
    }
    if task == "emotion_recognition":
        answers = {"id": ["Ses01F_impro01_F000"], "target": ["neu"], "prediction": ["sad"]}
    if task == "speech_recognition":
        answers = {"id": ["a"], "target": ["B C"], "prediction": ["B"], "prediction_lm": ["B C"]}
    if task == "intent_classification":
        answers = {"id": ["a"], "target": [("x",) * 3], "prediction": [("none", "heat", "bring")]}
    fields: dict[str, Any] = {
        **{"task": task, "task_version": 1, "upstream": "fbank", "upstream_sha256": "f" * 64},
        **{"stride": 160, "corpus": "speech_commands:/data/sc", "corpus_sha256": "c" * 64},
        **{"split_column": "split", "split": "test", "seed": 0, "step": 10, "config": {"x": 1}},
        "classes": ("location=none", "object=heat", "action=bring"),
    }
    write_predictions(PredictionRun(**(fields | changes)), answers, place)
    return place


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    place = _answer(tmp_path, "intent_classification")
    found = read_predictions(place)
    assert find_predictions(tmp_path) == find_predictions(place) == [place]
    assert found.run.num_items == 1 and found.run.left_out == ()
    assert found.items == (
        {"id": "a", "target": ["x"] * 3, "prediction": ["none", "heat", "bring"]},
    )
    answers = {
        "id": ["a", "b"],
        "prediction": [torch.ones(2, 1), np.float32(0.5)],
        "loss": [0.25],  # a batch's
    }
    write_predictions(found.run, answers, place)
    found = read_predictions(place)
    assert found.items == ({"id": "a", "prediction": [[1], [1]]}, {"id": "b", "prediction": 0.5})
    assert (found.run.num_items, found.run.left_out) == (2, ("loss",))


def test_broken_predictions_are_one_sentence(tmp_path: Path) -> None:
    place = _answer(tmp_path)
    lines = (place / "predictions.jsonl").read_text().splitlines(keepends=True)
    for content, message in (
        (lines[0], "holds 1 items, but its run has 2"),
        (lines[0] + lines[1][:20], "is not a file of predictions"),
    ):
        (place / "predictions.jsonl").write_text(content)
        with pytest.raises(UserError, match=message):
            read_predictions(place)
    (place / "run.json").write_text('{"task": "x"}')
    with pytest.raises(UserError, match=r"run.json is not a file of predictions"):
        read_predictions(place)
    (place / "run.json").unlink()
    with pytest.raises(UserError, match=r"run.json cannot be read: No such file"):
        read_predictions(place)


def test_zip_and_check(run: Run, tmp_path: Path) -> None:
    _answer(tmp_path / "out")
    for fold in range(1, 6):
        corpus = "iemocap:/data/ic"
        _answer(tmp_path / "out", "emotion_recognition", split_column=f"fold{fold}", corpus=corpus)
    _answer(tmp_path / "out", "speech_recognition", corpus="librispeech:/data/ls")
    _answer(tmp_path / "out", "intent_classification", corpus="fluent_speech_commands:/data/f")
    path = tmp_path / "sub" / "predict.zip"
    status, stdout, stderr = run("superb", "zip", tmp_path / "out", "--out", path, "--json")
    assert status == 1 and "is left out" not in stderr  # numbers are not the official ones
    answer = json.loads(stdout)
    codes = ["ks", "ic", *(f"er_fold{fold}" for fold in range(1, 6)), "asr", "asr_lm"]
    assert list(answer["runs"]) == [part["code"] for part in answer["parts"]] == codes

    names = tmp_path / "names.txt"
    names.write_text("yes-0a7c2a8d_nohash_0.wav yes\nno-0a7c2a8d_nohash_0.wav no\n")
    emotions = tmp_path / "emotions.txt"
    emotions.write_text("Ses01F_impro01_F000\n")
    letters = tmp_path / "letters.txt"
    letters.write_text("a\n")
    lists = [f"ks={names}", f"ic={letters}", f"asr={letters}", f"asr_lm={letters}"]
    lists += [f"er_fold{fold}={emotions}" for fold in range(1, 6)]
    against = [word for item in lists for word in ("--against", item)]
    status, stdout, stderr = run("superb", "check", path, *against)
    assert (status, stderr) == (0, ""), stdout
    assert stdout.count("pass") == len(codes) and "FAIL" not in stdout

    names.write_text("yes-0a7c2a8d_nohash_0.wav yes\nup-0a7c2a8d_nohash_0.wav no\n")
    status, stdout, _stderr = run("superb", "check", path, *against)
    assert status == 1 and stdout.count("FAIL") == 1
    assert "ks: 1 of 2 are missing, and only the others are scored" in stdout
    # without lists: the official numbers
    status, stdout, _stderr = run("superb", "check", path, "--json", "--quiet")
    problems = {part["code"]: part["problems"] for part in json.loads(stdout)["parts"]}
    assert status == 1 and "3,081" in problems["ks"][0]


def test_check_against_a_corpus(run: Run, tmp_path: Path, word_corpus: str) -> None:
    import auscult

    cuts = list(auscult.corpus(word_corpus).split("test"))
    ids = [cut.id for cut in cuts]
    place = tmp_path / "heads" / "sf"
    place.mkdir(parents=True)
    snips = _answer(tmp_path / "other", "slot_filling", corpus="snips:/data/snips")
    template = read_predictions(snips).run
    write_predictions(template, {"id": ids, "prediction": ["X"] * len(ids)}, place)
    status, _stdout, stderr = run("superb", "zip", place, "--out", tmp_path / "p.zip")
    assert (status, stderr) == (0, "")
    command = ("superb", "check", tmp_path / "p.zip", "--against", f"sf={word_corpus}")
    assert run(*command)[0] == 0
    write_predictions(template, {"id": ids[1:], "prediction": ["X"] * (len(ids) - 1)}, place)
    run("superb", "zip", place, "--out", tmp_path / "p.zip")
    status, stdout, _stderr = run(*command)
    assert status == 1 and f"1 of {len(ids)} are missing" in stdout and ids[0] in stdout
    status, _stdout, stderr = run(*command[:-1], f"sv={word_corpus}")
    assert status == 2 and "has no trials for its test split" in stderr
    # query by example: every query with every document
    quesst = _answer(tmp_path / "third", "query_by_example", corpus="quesst14:/data/quesst")
    template = read_predictions(quesst).run
    documents = [cut.id for cut in auscult.corpus(word_corpus).split("documents")]
    pairs = [(query, document) for query in ids for document in documents]
    write_predictions(template, {"id": pairs, "prediction": range(len(pairs))}, place)
    run("superb", "zip", place, "--out", tmp_path / "p.zip")
    status, stdout, _stderr = run(*command[:-1], f"qbe={word_corpus}")
    assert status == 0 and len(pairs) == 4, stdout


@pytest.fixture
def word_corpus(tmp_path: Path) -> str:
    """A corpus of utterances of one second in train, dev, test and documents."""
    import soundfile

    folder = tmp_path / "words"
    folder.mkdir()
    rows = ["path\tutt\tspeaker\tkeyword\tsplit"]
    generator = np.random.default_rng(0)
    for split in ("train", "dev", "test", "test", "documents", "documents"):
        name = f"u{len(rows)}"
        wave = 0.1 * generator.standard_normal(16_000)
        soundfile.write(folder / f"{name}.wav", wave, 16_000)
        rows.append(f"{name}.wav\t{name}\ts{len(rows)}\tyes\t{split}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return f"tsv:{folder}"


def test_mistakes_are_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    two = tmp_path / "two"
    _answer(two)
    _answer(two, upstream="log_mel")
    again = tmp_path / "again"
    _answer(again)
    _answer(again, seed=1)
    zip_ = ("superb", "zip")
    check = ("superb", "check", tmp_path / "missing.zip")
    for words, message in (
        ((*zip_, tmp_path / "empty"), "no predictions of a SUPERB task"),
        ((*zip_, two), "predictions of fbank, log_mel; choose one with -u"),
        ((*zip_, two, "-u", "fbnk"), "Did you mean fbank?"),
        ((*zip_, again), "has several predictions for ks, in"),
        (check, "missing.zip cannot be read or written: No such file"),
        ((*check, "--against", "kws=x"), "Unknown task of a submission 'kws'. Did you mean ks?"),
        (("superb", "table", tmp_path / "empty"), "There is no store"),
        (("superb", "table", two, "--against", "HuBERT Bse"), "Did you mean HuBERT Base"),
        (("superb", "table", two, "--format", "word"), "Unknown format 'word'"),
    ):
        status, stdout, stderr = run(*words)
        assert (status, stdout) == (2, ""), words
        assert message in stderr and "Traceback" not in stderr
    out = tmp_path / "p.zip"
    assert run(*zip_, two, "-u", "log_mel", "--out", out)[0] == 1 and out.is_file()
    lonely = tmp_path / "lonely"
    _answer(lonely, "emotion_recognition", corpus="tsv:/data/ravdess")
    status, _stdout, stderr = run(*zip_, lonely)
    assert status == 2 and "emotion_recognition on tsv:/data/ravdess" in stderr
    assert "no predictions on SUPERB's own corpora" in stderr


def test_a_run_on_other_data_is_left_out_and_the_rest_goes_in(run: Run, tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "p.zip"
    _answer(out)
    _answer(out, "speech_recognition", corpus="librispeech:/ls", split_column="all_train_split")
    fluent = "fluent_speech_commands:/data/f"
    foreign = {
        "intent_classification on tsv:/data/mine": (
            _answer(out, "intent_classification", corpus="tsv:/data/mine", classes=("mood=x",))
        ),
        "its intents have other slots": (
            _answer(out, "intent_classification", corpus=fluent, classes=("action=bring",))
        ),
        "phoneme_recognition on timit:/data/timit": (
            _answer(out, "phoneme_recognition", corpus="timit:/data/timit")
        ),
        "emotion_recognition on split column 'split'": (
            _answer(out, "emotion_recognition", corpus="iemocap:/data/ic")
        ),
        "keyword_spotting on the split testing": _answer(out, split="testing"),
        "speaker_verification on split column 'split'": (
            _answer(out, "speaker_verification", corpus="voxceleb1:/data/vox")
        ),
    }
    status, stdout, stderr = run("superb", "zip", out, "--out", path, "--json")
    answer = json.loads(stdout)
    assert list(answer["runs"]) == ["ks", "asr", "asr_lm"] and path.is_file()
    assert len(answer["left_out"]) == len(foreign) == stderr.count("is left out")
    for reason, place in foreign.items():
        assert f"{place} is left out: {reason}" in stderr
    assert status == 1 and answer["parts"][0]["problems"]  # two of 3 081 keywords


def test_zip_passes_where_its_check_does(run: Run, tmp_path: Path) -> None:
    _answer(tmp_path, "slot_filling", corpus="snips:/data/snips")
    status, stdout, _stderr = run("superb", "zip", tmp_path, "--out", tmp_path / "p.zip")
    assert status == 0 and "pass" in stdout


def _record(task: str, **changes: Any) -> Record:
    protocol = TASKS[task].config()
    config = {name: getattr(protocol, name) for name in protocol.__dataclass_fields__}
    fields: dict[str, Any] = {
        **{"upstream": "fbank", "upstream_sha256": "f" * 64, "task": task, "task_version": 1},
        **{"corpus": "speech_commands:/data/sc", "corpus_sha256": "c" * 64, "layer": "weighted"},
        **{"probe": "s3prl:UtteranceLevel", "metric": "accuracy", "split": "test", "seed": 0},
        **{"value": 0.5, "low": 0.48, "high": 0.52, "num_items": 3081, "selected_on": "dev"},
        "config": config | {"split_column": "split"},
        "provenance": Provenance(
            command="auscult run", created="2026", code_version="1", libraries={}, device="cpu"
        ),
    }
    return Record(**(fields | changes))


def test_table(run: Run, tmp_path: Path) -> None:
    official, toy = tmp_path / "official", tmp_path / "toy"
    open_store(official).add([_record("keyword_spotting")])
    open_store(toy).add([_record("keyword_spotting", upstream="log_mel", corpus="tsv:/data/toy")])
    status, stdout, stderr = run("superb", "table", official, toy, "--against", "fbank")
    assert status == 0, stderr
    assert "50.00*" in stdout and "+8.62" in stdout and "48.00 - 52.00" in stdout
    assert "not on SUPERB's corpus" in stdout
    assert "941.0" in stdout and "none: 1 of 10 tasks" in stdout
    assert max(map(len, stdout.splitlines())) <= 160

    status, stdout, _stderr = run("superb", "table", official, toy, "--json", "--quiet")
    models = {model["model"]: model for model in json.loads(stdout)["models"]}
    assert models["HuBERT Base"]["superb_s"] == pytest.approx(941.04, abs=0.005)
    assert models["HuBERT Base"]["published"] and models["fbank"]["published"] is None
    assert models["fbank"]["KS"] == 50 and models["fbank"]["superb_s"] is None
    assert models["log_mel"]["KS not comparable"].startswith("not on SUPERB's corpus")

    for form in ("markdown", "latex", "csv"):
        path = tmp_path / f"table.{form}"
        words = ("superb", "table", official, "--format", form)
        status, stdout, _stderr = run(*words)
        assert status == 0 and run(*words, "--out", path)[0] == 0
        assert path.read_text().strip() == stdout.strip() != ""
    empty = tmp_path / "none"
    open_store(empty).add([])
    status, stdout, stderr = run("superb", "table", empty)
    assert status == 0 and "No result on a task of SUPERB" in stderr and "WavLM Large" in stdout
