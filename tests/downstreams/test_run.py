"""`auscult run` as a user types it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auscult import bridge
from auscult.downstreams.checkpoint import newest_checkpoint
from auscult.downstreams.training import HeadTraining
from auscult.record import Record
from auscult.results import open_store
from auscult.watch import Stamp

Run = Callable[..., tuple[int, str, str]]
SETTINGS = ("learning_rate=0.02", "batch_size=8")


def _words(folder: Path, *others: object) -> tuple[object, ...]:
    return ("run", "-c", f"tsv:{folder}", "-t", "keyword_spotting", *others)


def test_two_encoders_give_records_weights_and_figures(
    run: Run, word_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    encoders = ("-u", "log_mel", "-u", "random(hubert_tiny)")
    command = _words(word_folder, *encoders, *SETTINGS, "--steps", 40, "--out", out, "--json")
    status, stdout, stderr = run(*command)
    assert status == 0, stderr
    answer = json.loads(stdout)
    records = [Record.from_dict(record) for record in answer["records"]]
    assert {r.convention for r in records} >= {"block_input"}
    assert [(r.upstream, r.metric) for r in records] == [
        (upstream, metric)
        for upstream in ("log_mel", "random(hubert_tiny)")
        for metric in ("accuracy", "macro_accuracy")
    ]
    for record in records:
        assert (record.layer, record.split, record.selected_on) == ("weighted", "test", "dev")
        assert (record.num_items, record.num_speakers, record.seed) == (24, 2, 0)
        assert record.majority == pytest.approx(1 / 3)
        assert record.low is not None and record.high is not None
        assert record.low <= record.value <= record.high
        assert record.config["total_steps"] == 40 and record.config["learning_rate"] == 0.02
    assert records[0].value > 0.9  # tones; chance is 0.33
    assert len(answer["figures"]) == 2
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in answer["figures"])
    _check_store(out, records)

    # the same command again finds its heads trained and says the same
    status, stdout, stderr = run(*command)
    again = [Record.from_dict(record) for record in json.loads(stdout)["records"]]
    assert [r.value for r in again] == [r.value for r in records]
    assert stderr.count("going on from") == 2


def _check_store(out: Path, records: list[Record]) -> None:
    from auscult.results import open_store

    store = open_store(out)
    assert {r.key for r in store.records()} == {r.key for r in records}
    weights = {a.upstream: a.arrays["weights"] for a in store.artifacts()}
    assert weights["log_mel"].tolist() == [1.0]
    hubert = np.asarray(weights["random(hubert_tiny)"])
    assert len(hubert) > 1 and hubert.sum() == pytest.approx(1) and hubert.std() > 0


def test_the_protocol_is_shown_without_touching_anything(run: Run, tmp_path: Path) -> None:
    words = ("run", "-u", "hf:/nowhere", "-c", "tsv:/nowhere", "-t", "keyword_spotting")
    status, stdout, stderr = run(*words, "--dry-run", "--json", "--out", tmp_path / "out")
    assert status == 0, stderr
    config = json.loads(stdout)["config"]
    assert (config["total_steps"], config["eval_step"], config["save_step"]) == (
        200_000,
        5_000,
        1_000,
    )
    status, stdout, _ = run(*words, "--dry-run", "--steps", 4000, "eval_step=7")
    shown = dict(line.split()[1:4:2] for line in stdout.splitlines() if "step" in line)
    assert (shown["total_steps"], shown["eval_step"], shown["save_step"]) == ("4000", "7", "25")
    assert not (tmp_path / "out").exists()


def test_mistakes_end_with_status_2_and_a_sentence(
    run: Run, word_folder: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    lines = (word_folder / "MANIFEST.tsv").read_text().replace("\ts2\t", "\ts1\t")
    (shared / "MANIFEST.tsv").write_text(lines)
    for audio in word_folder.glob("*.flac"):
        (shared / audio.name).symlink_to(audio)
    cases = (
        (_words(word_folder, "-u", "fbank", "learning_rat=1"), "Did you mean learning_rate"),
        (_words(word_folder, "-u", "fbank", "eval_step"), "expected KEY=VALUE"),
        (_words(word_folder, "-u", "fbank", "label=mood"), "has no label 'mood'"),
        (_words(shared, "-u", "fbank"), "--allow-shared-speakers"),
        (
            _words(word_folder, "-u", "fbank", "label=mood"),
            "columns with labels are speaker, keyword; choose one with label=NAME",
        ),
        (("run", "-u", "fbank", "-c", "demo", "-t", "asr"), "Unknown task 'asr'"),
        (("run", "-u", "a", "-c", "b", "-t", "emotion"), "Did you mean emotion_recognition?"),
    )
    for words, message in cases:
        status, stdout, stderr = run(*words, "--out", tmp_path / "out")
        assert (status, stdout) == (2, "")
        assert message in stderr and "Traceback" not in stderr


def test_a_head_that_cannot_learn_is_announced(run: Run, word_folder: Path, tmp_path: Path) -> None:
    words = _words(word_folder, "-u", "fbank", *SETTINGS, "--steps", 1, "--out", tmp_path)
    words = (*words, "--no-baselines")
    status, stdout, stderr = run(*words)
    assert status == 0, stderr
    assert "cannot rise above chance" in stderr
    assert "Layer weights: " in stdout
    assert run(*words, "--quiet", "--json")[2] == ""


def test_learning_rates_are_chosen_on_dev_and_all_are_recorded(
    run: Run, word_folder: Path, tmp_path: Path
) -> None:
    command = _words(word_folder, "-u", "log_mel", "batch_size=8", "--steps", 25, "--json")
    command = (*command, "--learning-rates", "1e-6,0.02", "--out", tmp_path)
    status, stdout, stderr = run(*command)
    assert status == 0, stderr
    first, _ = (Record.from_dict(record) for record in json.loads(stdout)["records"])
    assert first.config["learning_rate"] == 0.02
    scores = first.config["dev_scores"]
    assert list(scores) == ["1e-06", "0.02"] and scores["1e-06"] < scores["0.02"]
    assert len(list((tmp_path / "heads").iterdir())) == 2
    assert len(list((tmp_path / "heads").glob("*/predictions.jsonl"))) == 1
    _, again, stderr = run(*command)
    assert stderr.count("going on from") == 2
    assert json.loads(again)["records"][0]["value"] == first.value
    cases = (("--learning-rates", "0.1", "learning_rate=1"), ("--learning-rates", "fast"))
    for more, sentence in zip(cases, ("choose one", "expected positive numbers"), strict=True):
        status, _, stderr = run(*_words(word_folder, "-u", "log_mel", *more, "--out", tmp_path))
        assert status == 2 and sentence in stderr


def test_fine_tuned_and_limited_runs_say_so(run: Run, word_folder: Path, tmp_path: Path) -> None:
    encoders = ("-u", "random(hubert_tiny)", "-u", "log_mel", "--no-baselines")
    command = _words(word_folder, *encoders, *SETTINGS, "--steps", 2, "--json", "--out", tmp_path)
    records = {}
    for more in ((), ("--finetune",), ("--limit", 12)):
        status, stdout, stderr = run(*command, *more)
        assert status == 0, stderr
        records[more] = [Record.from_dict(r) for r in json.loads(stdout)["records"]]
    frozen, tuned, limited = (found[0] for found in records.values())
    assert tuned.probe == "s3prl:UtteranceLevel, fine-tuned"
    assert tuned.config["finetuned"] and not frozen.config["finetuned"]
    assert tuned.config["head_parameters"] == frozen.config["head_parameters"]
    assert not records[("--finetune",)][2].config["finetuned"]  # log_mel has nothing to train
    assert records[("--finetune",)][2].key == records[()][2].key
    assert (limited.num_items, limited.config["limit"]) == (12, 12)
    assert len({frozen.key, tuned.key, limited.key}) == 3
    assert len(list((tmp_path / "heads").iterdir())) == 5


@pytest.mark.parametrize(
    ("how", "shown"),
    [("fine-tuned", True), ("encoded anew", True), ("encoded anew", False)],
    ids=["fine-tuned", "encoded anew", "shown by content alone"],
)
def test_audio_that_is_swapped_while_a_head_is_trained(
    how: str,
    shown: bool,
    run: Run,
    word_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "words"
    shutil.copytree(word_folder, folder)
    path, other = folder / "s0-go-0.flac", folder / "s0-stop-0.flac"
    content = path.read_bytes()
    if not shown:
        monkeypatch.setattr("auscult.watch.Stamp.of", lambda path: Stamp(1, 1, 1))
    step = HeadTraining._step

    def swapping(self: HeadTraining, number: int, batches: Any) -> float:
        if number == 12:
            path.write_bytes(other.read_bytes())
        return step(self, number, batches)

    words = ("run", "-c", f"tsv:{folder}", "-t", "keyword_spotting", "--steps", 25, "batch_size=3")
    words = (*words, "save_step=5", "--no-baselines", "--out", tmp_path / "out", "--json")
    words += ("-u", "random(hubert_tiny)", "--finetune") if how == "fine-tuned" else ()
    words += ("-u", "log_mel", "--budget", "0") if how == "encoded anew" else ()
    whole = json.loads(run(*words, "--out", tmp_path / "whole")[1])["records"]
    with monkeypatch.context() as patch:
        patch.setattr(HeadTraining, "_step", swapping)
        status, _, said = run(*words)
    assert status == 2 and "s0-go-0.flac changed while it was in use" in said
    assert not open_store(tmp_path / "out").records()
    left = list((tmp_path / "out").rglob("states-*.ckpt"))
    assert len(left) == (1 if shown else 0)  # of the old audio, or nobody knows of which
    path.write_bytes(content)
    found = json.loads(run(*words)[1])["records"]
    assert [r["value"] for r in found] == [r["value"] for r in whole]


@pytest.mark.slow  # three processes that import torch and s3prl
def test_kill_9_and_the_same_command_give_the_same_bits(word_folder: Path, tmp_path: Path) -> None:
    bridge.repair()  # lets torch.load accept s3prl's argparse.Namespace

    def command(out: str) -> list[str]:
        words = _words(word_folder, "-u", "log_mel", *SETTINGS, "--steps", 1500)
        more = ("save_step=20", "eval_step=100", "--quiet", "--json", "--out", tmp_path / out)
        return [sys.executable, "-m", "auscult", *map(str, (*words, *more))]

    whole = subprocess.run(command("whole"), capture_output=True, check=True)
    killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("killed/heads/*/states-*.ckpt")):
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    killed.kill()
    assert killed.wait() == -9
    (folder,) = tmp_path.glob("killed/heads/*")
    state = newest_checkpoint(folder)  # there are two between a replacement and a removal
    assert state is not None and 20 <= torch.load(state, weights_only=True)["Step"] < 1500
    resumed = subprocess.run(command("killed"), capture_output=True, check=True)
    assert _values(whole.stdout) == _values(resumed.stdout)
    one, two = (_final(tmp_path / out) for out in ("whole", "killed"))
    for part in ("Featurizer", "Downstream", "Best"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=0)


def _values(stdout: bytes) -> list[Any]:
    return [(r["metric"], r["value"], r["low"]) for r in json.loads(stdout)["records"]]


def _final(out: Path) -> dict[str, Any]:
    (path,) = out.glob("heads/*/states-*.ckpt")
    assert path.name == "states-1500.ckpt"
    return torch.load(path, weights_only=True)


@pytest.mark.skipif(
    not (Path(__file__).resolve().parents[2].parent / "shared" / "data").is_dir(),
    reason="needs the shared speech",
)
@pytest.mark.slow  # encodes 36 minutes of speech
def test_real_keywords_rise_above_the_majority(run: Run, tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    corpus = f"tsv:{data / 'speech-commands-v2-test-subset'}"
    words = ("run", "-u", "log_mel", "-c", corpus, "--split", "kws_split")
    status, stdout, stderr = run(
        *words, "-t", "keyword_spotting", "--steps", 400, "--out", tmp_path, "--json"
    )
    assert status == 0, stderr
    accuracy = json.loads(stdout)["records"][0]
    assert accuracy["low"] > 2 * accuracy["majority"] - 0.02
    assert (accuracy["num_items"], accuracy["num_speakers"]) == (541, 54)
    assert os.path.exists(tmp_path / "results.sqlite")
