"""`auscult superb run` as a user types it."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from torch import Tensor, nn

import auscult
from auscult.cli.option import duration
from auscult.corpora import READERS
from auscult.downstreams import TASKS
from auscult.record import Record
from auscult.results import open_store
from auscult.results.superb.official import OFFICIAL
from auscult.studies import task as heads
from auscult.studies.bench import Bench
from auscult.studies.cost import Job, cost
from auscult.studies.desk import Desk
from auscult.studies.estimate import real_time_factor
from auscult.studies.superb import Choice, read_jobs

Run = Callable[..., tuple[int, str, str]]


class Frames(nn.Module):
    sample_rate, stride = 16_000, 320

    def forward(self, waves: Tensor) -> Tensor:
        return waves[:, : waves.shape[1] // 320 * 320].reshape(len(waves), -1, 320)


TONES = {"yes": 300.0, "no": 1500.0, "up": 4000.0}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a tiny Speech Commands and a tiny IEMOCAP, tones for words and moods."""
    folder = tmp_path / "data"
    words = folder / "speech_commands_v0.01"
    generator = np.random.default_rng(0)

    def tone(path: Path, pitch: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(6400) / 16_000
        wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * generator.standard_normal(6400)
        soundfile.write(path, wave, 16_000)

    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for speaker in range(8):
        for word, pitch in TONES.items():
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            tone(words / name, pitch)
            if speaker >= 4:
                lists["validation" if speaker < 6 else "testing"].append(name)
    for part, names in lists.items():
        (words / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    (words / "_background_noise_").mkdir()
    for session in range(1, 6):
        lines = []
        place = folder / "IEMOCAP" / f"Session{session}"
        for number in range(10):
            mood = ("neu", "ang")[number % 2]
            utterance = f"Ses0{session}F_impro01_{'FM'[number // 5]}{number:03d}"
            lines.append(f"[0.0 - 0.4]\t{utterance}\t{mood}\t[2.5, 2.5, 2.5]")
            tone(
                place / "sentences" / "wav" / f"Ses0{session}F_impro01" / f"{utterance}.wav",
                {"neu": 300.0, "ang": 3000.0}[mood],
            )
        labels = place / "dialog" / "EmoEvaluation" / f"Ses0{session}F_impro01.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text("\n".join(lines) + "\n")
    return folder


def _write_words(folder: Path, root: Path, parts: Sequence[str]) -> None:
    """A table of two words a split, with a label of its own name."""
    folder.mkdir()
    lines = ["path\tspeaker\tmood\tsplit"]
    for part in parts:
        for number, name in enumerate(("yes", "no")):
            source = root / "speech_commands_v0.01" / name / "00000000_nohash_0.wav"
            (folder / f"{part}{number}.wav").write_bytes(source.read_bytes())
            lines.append(f"{part}{number}.wav\t{part}\t{name}\t{part}")
    (folder / "MANIFEST.tsv").write_text("\n".join(lines) + "\n")


def _command(root: Path, *others: object) -> tuple[object, ...]:
    return ("superb", "run", "-u", "log_mel", "--no-baselines", "--data", root, *others)


def test_every_task_has_a_place_by_its_official_reader() -> None:
    assert len(OFFICIAL) == 10 and set(OFFICIAL) <= set(TASKS)
    for task, place in OFFICIAL.items():
        assert place.folders and place.metrics
        columns = [column for column in place.columns if column is not None]
        assert set(columns) <= set(READERS[place.reader].split_columns)
        assert all(hasattr(TASKS[task].config(), setting) for setting, _ in place.files)
    assert OFFICIAL["speaker_verification"].columns == ("veri_split",)
    emotions = OFFICIAL["emotion_recognition"]
    assert sum(emotions.fold_items) == emotions.num_items and len(emotions.columns) == 5


def test_plan_says_what_is_there_and_trains_nothing(run: Run, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = _command(root, "--plan", "--json", "--out", out, "--budget", "20KB", "--quiet")
    status, stdout, stderr = run(*command)
    assert status == 0, stderr
    answer = json.loads(stdout)
    assert not out.exists() and answer["records"] == [] and answer["failures"] == []
    assert {line["name"] for line in answer["missing"]} == set(OFFICIAL) - {
        "keyword_spotting",
        "emotion_recognition",
    }
    assert [(line["task"], line["split_column"]) for line in answer["plan"]] == [
        ("keyword_spotting", "split"),
        *(("emotion_recognition", f"fold{number}") for number in range(1, 6)),
    ]
    words = answer["plan"][0]
    assert words["utterances"] == {"train": 12, "dev": 6, "test": 6}
    assert words["seconds"]["train"] == pytest.approx(12 * 0.4)
    assert words["steps"] == 200_000
    frames = 24 * 6400 // 160
    assert words["feature_bytes"] == frames * 80 * 2 and not words["kept"]
    kept = json.loads(run(*_command(root, "--plan", "--json", "--quiet"))[1])["plan"][0]
    assert kept["kept"] and words["encoding_seconds_guessed"] > kept["encoding_seconds_guessed"]

    status, stdout, _ = run(*_command(root, "--dry-run", "--limit", 3))
    assert "train 3 (0.00 h), dev 3 (0.00 h), test 3 (0.00 h)" in " ".join(stdout.split())
    assert "looked for IEMOCAP" not in stdout and "looked for SNIPS" in stdout


def test_time_is_what_has_to_be_encoded(root: Path) -> None:
    def job_of(**options: Any) -> Job:
        choice = Choice(
            root=root,
            tasks=("keyword_spotting",),
            corpora={},
            columns={},
            tests={},
            settings={},
            **options,
        )
        (job,) = read_jobs(choice, Desk(Bench(out=root)))
        assert isinstance(job, Job)
        return job

    encoder = auscult.load("log_mel")
    assert real_time_factor(encoder) > 0
    job = job_of(learning_rates="1,2,3")
    kept = cost(job, encoder, 0.5, budget=10**6)
    assert kept.kept and kept.seconds == pytest.approx(0.5 * 24 * 0.4)
    anew = cost(job, encoder, 0.5, budget=kept.num_bytes - 1)
    # three times 200 000 steps of 32 utterances and 40 looks at dev; test once
    assert anew.seconds == pytest.approx(0.5 * 0.4 * (3 * (200_000 * 32 + 40 * 6) + 6))
    # an encoder that is trained is never kept, and heard three times a step
    hubert, trained = auscult.load("random(hubert_tiny)"), job_of(finetune=True)
    both = cost(trained, hubert, 0.5, budget=10**9)
    assert both.finetuned and not both.kept
    assert both.seconds == pytest.approx(0.5 * 0.4 * (3 * 200_000 * 32 + 40 * 6 + 6))
    none = cost(trained, encoder, 0.5, budget=10**6)
    assert none.kept and not none.finetuned  # log_mel has nothing to train
    assert [duration(s) for s in (90, 600, 8000, 10**6)] == [
        "90 s",
        "10.0 min",
        "2.2 h",
        "11.6 days",
    ]


def test_all_that_is_found_is_run_and_goes_on(run: Run, root: Path, tmp_path: Path) -> None:
    settings = [f"keyword_spotting.{word}" for word in ("learning_rate=0.02", "batch_size=4")]
    settings += ["emotion_recognition.learning_rate=0.02", "--split"]
    settings += ["emotion_recognition=fold1,fold2"]
    out = tmp_path / "out"
    command = _command(root, *settings, "--steps", 25, "--out", out)
    status, stdout, stderr = run(*command, "--json")
    assert status == 0, stderr
    records = [Record.from_dict(record) for record in json.loads(stdout)["records"]]
    assert [(r.task, r.metric) for r in records] == [
        (task, metric)
        for task in ("keyword_spotting", *["emotion_recognition"] * 2)
        for metric in ("accuracy", "macro_accuracy")
    ]
    assert records[0].value > 0.9 and records[0].corpus.startswith("speech_commands:")
    folds = [record.config["split_column"] for record in records[2::2]]
    assert folds == ["fold1", "fold2"]
    assert {r.key for r in open_store(out).records()} == {r.key for r in records}

    status, stdout, stderr = run(*command)
    assert status == 0 and stderr.count("going on from") == 3
    assert "HuBERT Base" in stdout and "auscult superb table" in stdout
    assert len(list(open_store(out).records())) == len(records)
    plan = json.loads(run(*command, "--plan", "--json")[1])["plan"]
    assert [line["state"] for line in plan] == ["there"] * 3


def test_an_encoder_as_an_object(root: Path, tmp_path: Path) -> None:
    found = auscult.superb(
        auscult.wrap(Frames()),
        root,
        tasks=["keyword_spotting"],
        settings=["keyword_spotting.batch_size=4"],
        steps=25,
        baselines=False,
        out=tmp_path / "out",
    )
    assert {record.upstream for record in found.records} == {"Frames"}
    assert found.plan is not None
    (item,) = found.plan.items
    assert item.command.startswith("auscult.run(Frames, 'speech_commands:")
    assert found.plan.done() == {item.key}
    shutil.rmtree(tmp_path / "out" / "heads")
    assert found.plan.done() == set()


def test_encoders_are_trained_and_another_split_is_scored(
    run: Run, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "words"
    _write_words(folder, root, ("train", "dev", "test", "late"))
    command = _command(root, "-u", "random(hubert_tiny)", "--finetune", "--json")
    command += ("--tasks", "keyword_spotting", "--corpus", f"keyword_spotting=tsv:{folder}")
    command += ("--steps", 2, "keyword_spotting.batch_size=2", "keyword_spotting.label=mood")
    command += ("--test-split", "keyword_spotting=late", "--out", tmp_path / "out")
    status, stdout, stderr = run(*command)
    assert status == 0, stderr
    answer = json.loads(stdout)
    records = [Record.from_dict(record) for record in answer["records"]]
    probes = {record.upstream: record.probe for record in records}
    assert "fine-tuned" in probes["random(hubert_tiny)"] and "fine" not in probes["log_mel"]
    assert {record.split for record in records} == {"late"}
    made_with = {"train_sha256", "dev_sha256"}  # else other training data would replace this
    assert all(made_with <= record.config.keys() for record in records)
    assert [line["finetuned"] for line in answer["plan"]] == [False, True]
    assert "the encoder is trained" in " ".join(stderr.split())


def test_a_failure_is_told_at_the_end_and_stops_nothing(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = heads.train

    def broken(encoder: Any, shared: Any, *others: Any) -> Any:
        if shared.task.spec.name == "keyword_spotting":
            raise ZeroDivisionError("nobody foresaw this")
        return original(encoder, shared, *others)

    monkeypatch.setattr(heads, "train", broken)
    next((root / "IEMOCAP" / "Session1" / "sentences").rglob("*.wav")).write_bytes(b"no audio")
    words = tmp_path / "words"
    _write_words(words, root, ("train", "dev", "test"))
    command = _command(root, "-u", "hf:/nowhere", "--steps", 2, "--out", tmp_path / "out")
    more = ("--tasks", "keyword_spotting,emotion_recognition,slot_filling,speaker_utterance")
    more += ("--split", "emotion_recognition=fold1")
    status, stdout, stderr = run(*command, *more, "--json")
    failures = {(f["name"], f["upstream"]): f["reason"] for f in json.loads(stdout)["failures"]}
    assert status == 1 and "nobody foresaw this" in stderr and "Traceback" in stderr
    assert list(failures) == [
        ("all tasks", "hf:/nowhere"),
        ("emotion_recognition, fold1", ""),
        ("slot_filling", ""),
        ("speaker_utterance", ""),
        ("keyword_spotting", "log_mel"),
    ]
    assert failures["keyword_spotting", "log_mel"] == "ZeroDivisionError: nobody foresaw this"

    # with the bad file left out and another corpus for one task, the others are trained
    more = (*more, "--skip-bad", "--corpus", f"keyword_spotting=tsv:{words}")
    status, stdout, stderr = run(*command, *more, "keyword_spotting.label=mood")
    assert status == 1 and "4 failed" in stdout and "own" in stdout
    (record, *_others) = open_store(tmp_path / "out").records()
    assert record.task == "emotion_recognition" and record.num_skipped == 1


def test_ctrl_c_stops_everything(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_others: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(heads, "train", interrupted)
    status, _, stderr = run(*_command(root, "--out", tmp_path / "out"))
    assert status == 130 and "[1/6]" in stderr and "[2/6]" not in stderr


def test_mistakes_end_with_status_2_and_a_sentence(
    run: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: tuple[tuple[tuple[object, ...], str], ...] = (
        (_command(empty), "No corpus of SUPERB was found"),
        (_command(tmp_path / "nowhere"), "is no folder"),
        (("superb", "run", "-u", "fbnk", "--data", root, "--no-baselines"), "Did you mean fbank"),
        (("superb", "run", "-u", "fbnk", "--data", root), "no encoder to run. fbnk: Unknown"),
        (_command(root, "--test-split", "keyword_spotting"), "expected --test-split TASK=VALUE"),
        (_command(root, "--tasks", "keyword"), "Did you mean keyword_spotting"),
        (_command(root, "--corpus", "keyword=tsv:x"), "Did you mean keyword_spotting"),
        (_command(root, "--corpus", "keyword_spotting"), "expected --corpus TASK=VALUE"),
        (_command(root, *["--split", "keyword_spotting=a"] * 2), "was given twice"),
        (
            _command(root, "--tasks", "slot_filling", "--split", "emotion_recognition=fold1"),
            "not run",
        ),
        (_command(root, "label=word"), "expected TASK.KEY=VALUE"),
        (_command(root, "keyword_spotting.lable=word"), "Did you mean label"),
    )
    for command, message in cases:
        status, _, stderr = run(*command, "--out", tmp_path / "out")
        assert status == 2 and message in " ".join(stderr.split()), (command, stderr)
    assert not list((tmp_path / "out").glob("heads*"))
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    status, _, stderr = run(*_command(root))
    assert status == 2 and "torchrun is for `auscult run`" in stderr


def test_superbs_own_files_beside_the_corpora_are_used(run: Run, tmp_path: Path) -> None:
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        spoken = tmp_path / "LibriSpeech" / part / part[:2] / "2"
        spoken.mkdir(parents=True)
        noise = 0.1 * np.random.default_rng(len(part)).standard_normal(6400)
        soundfile.write(spoken / f"{part[:2]}-2-0.flac", noise, 16_000)
        (spoken / f"{part[:2]}-2.trans.txt").write_text(f"{part[:2]}-2-0 HELLO\n")
    command = _command(tmp_path, "--plan", "--json", "--tasks", "phoneme_recognition")
    status, stdout, _ = run(*command)
    (failure,) = json.loads(stdout)["failures"]
    assert status == 1 and "lexicon=FILE" in failure["reason"]

    ((_, names),) = OFFICIAL["phoneme_recognition"].files
    for name in names:
        (tmp_path / name).write_text("HELLO HH AH0 L OW1\n")
    status, stdout, stderr = run(*command)
    assert status == 0 and names[0] in stderr
    (line,) = json.loads(stdout)["plan"]
    assert line["config"]["lexicon"] == ",".join(str(tmp_path / name) for name in names)
    other = tmp_path / "other.txt"
    other.write_text("HELLO OW\n")
    status, stdout, _ = run(*command, f"phoneme_recognition.lexicon={other}")
    (line,) = json.loads(stdout)["plan"]
    assert status == 0 and line["config"]["lexicon"] == str(other)
