"""`auscult pretrain` as a user types it: what it makes loads, goes on, and says what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.loss_curve import read_curve
from auscult.upstreams.pretraining import PRETRAININGS

Command = Callable[..., tuple[int, str, str]]
SHORT = ("total_steps=3", "batch_seconds=2", "crop_seconds=1", "log_step=1", "save_step=2")
NEEDS = {
    "distilhubert": ("teacher=tiny_hubert",),
    "lighthubert": ("teacher=tiny_hubert",),
    "hubert": ("fit_seconds=4",),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of audio without labels, one file of it in a folder below."""
    generator = np.random.default_rng(0)
    root = tmp_path / "audio"
    (root / "below").mkdir(parents=True)
    for i, name in enumerate(("a.wav", "b.wav", "below/c.flac", "d.wav", "e.wav")):
        samples = generator.standard_normal(int((0.8 + 0.2 * i) * 16_000)).cumsum() / 200
        soundfile.write(root / name, samples.clip(-1, 1), 16_000)
    (root / "notes.txt").write_text("no audio")
    return root


@pytest.mark.parametrize("family", PRETRAININGS)
def test_each_family_is_made_and_loads(
    family: str, folder: Path, tmp_path: Path, run: Command
) -> None:
    out = tmp_path / "out"
    words = ("pretrain", family, "-c", folder, "--preset", "tiny", "--out", out, "--json", *SHORT)
    status, said, errors = run(*words, *NEEDS.get(family, ()))
    assert status == 0, errors
    found = json.loads(said)
    assert found["steps"] == 3 and found["utterances"] == 5
    assert [point["step"] for point in read_curve(out)] == [1, 2, 3]
    upstream = auscult.load(found["upstream"])
    audio = Waveforms.of([torch.randn(16_000) / 10])
    with torch.inference_mode():
        states = upstream(audio)
    assert len(states.layers) == upstream.spec.num_layers + 1
    assert auscult.load(f"random({found['upstream']})").spec.sha256 != upstream.spec.sha256
    status, said, errors = run(*words, *NEEDS.get(family, ()))
    assert status == 0, errors
    assert json.loads(said)["steps"] == 0
    assert "trained to its end" in errors


def test_what_a_folder_was_made_as_is_said(folder: Path, tmp_path: Path, run: Command) -> None:
    out = tmp_path / "out"
    made = ("pretrain", "mockingjay", "-c", folder, "--preset", "tiny", "--out", out, *SHORT)
    assert run(*made)[0] == 0
    with pytest.raises(UserError, match="made by `auscult pretrain mockingjay`: load it so"):
        auscult.load(f"hubert:{out}")
    (tmp_path / "file").touch()
    status, _, errors = run(*made[: -len(SHORT) - 1], tmp_path / "file", *SHORT)
    assert status == 2 and "is a file; expected a folder" in errors


def test_other_audio_of_the_same_name_and_length_is_refused(
    folder: Path, tmp_path: Path, run: Command
) -> None:
    words = ("pretrain", "mockingjay", "-c", folder, "--preset", "tiny", "--out", tmp_path / "out")
    assert run(*words, *SHORT)[0] == 0
    samples, rate = soundfile.read(folder / "a.wav")
    soundfile.write(folder / "a.wav", samples[::-1], rate)
    status, _, errors = run(*words, *SHORT)
    assert status == 2 and f"The audio of the run in {tmp_path / 'out'} has changed" in errors


def test_another_teacher_of_the_same_name_is_refused(
    folder: Path, tmp_path: Path, run: Command
) -> None:
    for seed in (0, 1):
        made = ("pretrain", "hubert", "-c", folder, "--preset", "tiny", "--seed", seed, *SHORT)
        assert run(*made, "fit_seconds=4", "--out", tmp_path / f"teacher{seed}")[0] == 0
    (tmp_path / "teacher").symlink_to(tmp_path / "teacher0")
    words = ("pretrain", "lighthubert", "-c", folder, "--preset", "tiny", "--out", tmp_path / "out")
    words = (*words, *SHORT, f"teacher=hubert:{tmp_path / 'teacher'}")
    assert run(*words)[0] == 0
    (tmp_path / "teacher").unlink()
    (tmp_path / "teacher").symlink_to(tmp_path / "teacher1")
    status, _, errors = run(*words)
    assert status == 2 and "The teacher of the run in" in errors


def test_settings_come_from_a_file_and_the_command_line(
    folder: Path, tmp_path: Path, run: Command
) -> None:
    (tmp_path / "mine.toml").write_text("dim = 32\nheads = 4\n")
    words = ("pretrain", "mockingjay", "-c", folder, "--config", tmp_path / "mine.toml")
    status, said, errors = run(*words, "heads=2", "--dry-run", "--json", "--out", tmp_path / "o")
    assert status == 0, errors
    found = json.loads(said)
    assert (found["dim"], found["heads"]) == (32, 2)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pretrain", "hubbert"), "hubbert"),
        (("pretrain", "mockingjay", "--preset", "huge"), "preset"),
        (("pretrain", "mockingjay", "diim=3"), "diim"),
        (("pretrain", "mockingjay", "total_steps=-1"), "total_steps"),
        (("pretrain", "distilhubert"), "teacher is not set"),
        (("pretrain", "mockingjay", "--preset", "tiny", "batch_seconds=0.5"), "batch_seconds=0.5"),
    ],
)
def test_a_mistake_is_said_in_a_sentence(
    words: tuple[str, ...], said: str, folder: Path, tmp_path: Path, run: Command
) -> None:
    status, _, errors = run(*words, "-c", folder, "--out", tmp_path / "out")
    assert status == 2
    assert said in errors and "Traceback" not in errors


def test_a_folder_without_audio_is_said(tmp_path: Path, run: Command) -> None:
    (tmp_path / "empty").mkdir()
    words = ("pretrain", "mockingjay", "-c", tmp_path / "empty", "--out", tmp_path / "out")
    status, _, errors = run(*words)
    assert status == 2 and "holds no audio" in errors
    status, _, errors = run(*words[:3], tmp_path / "nowhere", *words[4:])
    assert status == 2 and "nowhere is no folder; expected one with audio" in errors


def test_a_split_column_follows_the_corpus(folder: Path, tmp_path: Path, run: Command) -> None:
    splits = ("train", "train", "dev", "train")
    rows = [f"{name}.wav\t{split}\ttrain" for name, split in zip("abde", splits, strict=True)]
    (folder / "MANIFEST.tsv").write_text("path\tone_split\ttwo_split\n" + "\n".join(rows) + "\n")
    words = ("pretrain", "mockingjay", "--preset", "tiny", "--dry-run", "--json", "--out", "o")
    status, said, errors = run(*words, "-c", f"tsv:{folder}#one_split", "--splits", "train")
    assert status == 0, errors
    assert json.loads(said)["utterances"] == 3
    status, said, errors = run(*words, "-c", f"tsv:{folder}#two_split", "--splits", "all")
    assert status == 0, errors
    assert json.loads(said)["utterances"] == 4
