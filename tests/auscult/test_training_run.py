"""The folder of a pretraining after kills, damage, swapped audio, other code and a full disk."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from auscult import training_run, watch
from auscult.corpora import read_files
from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term, Training
from auscult.pretraining import pretrain
from auscult.process import ALONE, Processes
from auscult.snapshot import newest_snapshot, write_archive
from auscult.speech_pool import SpeechPool
from auscult.training_run import Run, check_settings, read_training

FILES = ("curve.jsonl", "toy.pt", "training.json")
CONFIG = Training(
    total_steps=10,
    batch_seconds=1.5,
    crop_seconds=0.5,
    learning_rate=1e-2,
    save_step=4,
    log_step=3,
)


class Toy(Objective):
    """Predicts 80 samples from the 80 before, with dropout; keeps its best loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(80, 8), nn.Dropout(0.2), nn.Linear(8, 80))

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the squared error, and one term more in every other step."""
        frames = torch.cat([row[: len(row) // 80 * 80].view(-1, 80) for row in batch.audio.rows()])
        errors = (self.model(frames[:-1]) - frames[1:]).square()
        terms = {"loss": Term(errors.sum(), errors.numel())}
        if batch.step % 2:
            terms["odd"] = Term(errors.detach().max(), 1.0, 0.0)
        return terms

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the weights."""
        write_archive(self.state_dict(), folder / "toy.pt")
        return (folder / "toy.pt",)


@pytest.fixture
def cuts(tmp_path: Path) -> list[Any]:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"u{i}.wav" for i in range(5)]
    for i, path in enumerate(paths):
        soundfile.write(path, 0.1 * generator.standard_normal(6000 + 800 * i).clip(-3, 3), 16_000)
    return list(read_files(paths).split("files"))


def make(
    cuts: list[Any],
    folder: Path,
    config: Training = CONFIG,
    objective: Objective | None = None,
    processes: Processes = ALONE,
) -> Run:
    return Run(
        objective=objective or Toy(),
        config=config,
        pool=SpeechPool.of(cuts, crop_seconds=0.5, batch_seconds=1.5, seed=5),
        seed=5,
        folder=folder,
        about={"family": "toy"},
        reads={"audio": "a" * 64},
        processes=processes,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def in_children(*works: Callable[[], object]) -> list[int | None]:
    """Do each of ``works`` in a process of its own; return their statuses."""

    def child(work: Callable[[], object]) -> None:
        torch.set_num_threads(1)
        work()
        os._exit(0)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(work,)) for work in works]
    for one in children:
        one.start()
    for one in children:
        one.join(30)
        one.kill()
    return [one.exitcode for one in children]


class Killed(Toy):
    """Gets a signal before a step."""

    at, sign = 0, signal.SIGKILL

    def before_step(self, step: int, total_steps: int) -> None:
        """Send it."""
        if step == self.at:
            os.kill(os.getpid(), self.sign)


# --- kills -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("parts", [1, 2])
def test_any_kill_leaves_the_very_files(
    sign: signal.Signals, parts: int, cuts: list[Any], tmp_path: Path
) -> None:
    config = replace(CONFIG, gradient_accumulation=parts)
    pretrain(make(cuts, tmp_path / "whole", config))
    for at in range(0, 10, 1 if parts == 1 else 3):
        folder = tmp_path / f"killed-{at}"

        def work(at: int = at, folder: Path = folder) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            Killed.at, Killed.sign = at, sign
            with pytest.raises(KeyboardInterrupt):
                pretrain(make(cuts, folder, config, Killed()))

        (status,) = in_children(work)
        assert status == (-signal.SIGKILL if sign == signal.SIGKILL else 0)
        pretrain(make(cuts, folder, config, Killed()) if at == -1 else make(cuts, folder, config))
        assert contents(folder) == contents(tmp_path / "whole"), at


def test_killed_again_and_again_with_torn_and_later_lines(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(make(cuts, tmp_path / "whole"))
    folder = tmp_path / "killed"
    Killed.sign = signal.SIGKILL
    for at in (2, 5, 5, 6, 9):

        def work(at: int = at) -> None:
            Killed.at = at
            pretrain(make(cuts, folder, objective=Killed()))

        assert in_children(work) == [-signal.SIGKILL]
        with (folder / "curve.jsonl").open("a") as file:
            file.write('{"step": 9, "loss": 0.1}\n{"step": 9, "lo')
    pretrain(make(cuts, folder))
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_killed_processes_leave_the_very_files(cuts: list[Any], tmp_path: Path) -> None:
    def two(folder: Path, at: int) -> list[int | None]:
        def work(rank: int) -> None:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            values = (rank, rank, 2, "localhost", port)
            os.environ.update({n: str(value) for n, value in zip(names, values, strict=True)})
            processes = Processes.of_environment()
            Killed.at, Killed.sign = at, signal.SIGKILL
            with processes.joined("cpu"):
                pretrain(make(cuts, folder, CONFIG, Killed(), processes))

        port = free_port()
        return in_children(lambda: work(0), lambda: work(1))

    assert two(tmp_path / "whole", -1) == [0, 0]
    assert two(tmp_path / "killed", 5) == [-signal.SIGKILL] * 2
    assert two(tmp_path / "killed", -1) == [0, 0]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def test_a_checkpoint_of_an_older_version_is_gone_on_from(
    cuts: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(make(cuts, tmp_path / "whole"))
    folder = tmp_path / "old"
    Killed.at, Killed.sign = 6, signal.SIGKILL
    in_children(lambda: pretrain(make(cuts, folder, objective=Killed())))
    path = folder / "checkpoints" / "states-4.ckpt"
    states = torch.load(path, weights_only=True)
    names = ("step", "objective", "optimizer", "scaler")
    torch.save({name: states[name] for name in names}, path)
    settings = json.loads((folder / "training.json").read_text())
    del settings["content_sha256"], settings["made_by"]
    (folder / "training.json").write_text(json.dumps(settings))
    curve = folder / "curve.jsonl"
    (first, *_) = curve.read_text().splitlines()
    lines = [first, "[]", '{"step": null}', "by hand", first, '{"step": 3, "loss": 9.0}', first[:9]]
    curve.write_text("\n".join(lines))
    pretrain(make(cuts, folder))
    assert curve.read_text().splitlines()[0] == first
    whole = contents(tmp_path / "whole")
    assert (folder / "toy.pt").read_bytes() == whole["toy.pt"]
    points = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in points] == [3, 6, 9, 10]
    assert "of an older Auscult: the next point" in caplog.text
    assert "were made by other code or libraries (an older Auscult)" in caplog.text


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "no text"])
def test_damage_to_a_finished_run_is_noticed_and_mended(
    name: str, how: str, cuts: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(make(cuts, tmp_path))
    whole = contents(tmp_path)
    content = whole[name]
    half = len(content) // 2
    damaged = {
        "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "cut": content[:half],
        "no text": b"\xff\xfe\x00" + content,
    }
    (tmp_path / name).unlink()
    if how in damaged:
        (tmp_path / name).write_bytes(damaged[how])
    assert pretrain(make(cuts, tmp_path)) == 0
    assert contents(tmp_path) == whole
    assert name in caplog.text
    caplog.clear()
    assert pretrain(make(cuts, tmp_path)) == 0 and not caplog.text


def test_a_damaged_checkpoint_costs_its_steps(
    cuts: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrain(make(cuts, tmp_path))
    whole = contents(tmp_path)
    path = tmp_path / "checkpoints" / "states-10.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert pretrain(make(cuts, tmp_path)) == 2
    assert contents(tmp_path) == whole and f"{path} was damaged" in caplog.text


def test_settings_without_any_checkpoint_are_not_guessed(cuts: list[Any], tmp_path: Path) -> None:
    check_settings(make(cuts, tmp_path))
    path = tmp_path / "training.json"
    path.write_text(path.read_text().replace('"total_steps": 10', '"total_steps": 11'))
    with pytest.raises(UserError, match="training.json was damaged or changed since"):
        check_settings(make(cuts, tmp_path))


def test_lost_settings_are_not_those_of_another_command(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(make(cuts, tmp_path))
    (tmp_path / "training.json").unlink()
    with pytest.raises(UserError, match="total_steps 10, and this one has 12"):
        pretrain(make(cuts, tmp_path, replace(CONFIG, total_steps=12)))


# --- audio that changes ----------------------------------------------------------------------


def swap(path: Path) -> bytes:
    """Put other audio of the same size in the place of ``path``; return the old file's bytes."""
    before, status = path.read_bytes(), path.stat()
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[::-1], rate)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.read_bytes() != before
    return before


class Swapping(Toy):
    """Swaps a file in mid-run."""

    path: Path
    before: bytes

    def before_step(self, step: int, total_steps: int) -> None:
        """Do it once."""
        if step == 5:
            Swapping.before = swap(self.path)


def test_audio_that_is_swapped_in_mid_run(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(make(cuts, tmp_path / "whole"))
    folder, Swapping.path = tmp_path / "out", tmp_path / "u2.wav"
    with pytest.raises(UserError, match=r"u2\.wav changed while it was trained on.*made of the"):
        pretrain(make(cuts, folder, objective=Swapping()))
    found = newest_snapshot(folder / "checkpoints")
    assert found is not None and found[1]["step"] < 10
    Swapping.path.write_bytes(Swapping.before)
    pretrain(make(cuts, folder))  # what was kept was of the old audio
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_swap_that_no_stamp_shows_ends_the_run_for_good(
    cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.Stamp, "of", lambda path: watch.Stamp(1, 1, 1))
    watch.check_content(cuts)
    folder, Swapping.path = tmp_path / "out", tmp_path / "u2.wav"
    with pytest.raises(UserError, match=r"u2\.wav became other audio.*another --out"):
        pretrain(make(cuts, folder, objective=Swapping()))
    found = newest_snapshot(folder / "checkpoints")
    assert found is not None and found[1]["step"] == 8  # not the last
    Swapping.path.write_bytes(Swapping.before)
    with pytest.raises(UserError, match=r"does not go on: .*u2\.wav became other audio"):
        pretrain(make(cuts, folder))


def test_a_swap_before_the_first_step_blocks_no_folder(
    cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.Stamp, "of", lambda path: watch.Stamp(1, 1, 1))
    watch.check_content(cuts)
    before = swap(tmp_path / "u1.wav")
    with pytest.raises(UserError, match=r"u1\.wav changed while it was in use"):
        pretrain(make(cuts, tmp_path / "out"))
    (tmp_path / "u1.wav").write_bytes(before)
    assert pretrain(make(cuts, tmp_path / "out")) == 10


# --- other code ------------------------------------------------------------------------------


def test_code_is_noted_and_a_change_is_said(
    cuts: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Killed.at, Killed.sign = 6, signal.SIGKILL
    in_children(lambda: pretrain(make(cuts, tmp_path, objective=Killed())))
    (first,) = (read_training(tmp_path) or {})["made_by"]
    assert first["from_step"] == 0 and len(first["sha256"]) == 64
    monkeypatch.setattr(training_run, "made_by", lambda *parts: "b" * 64)
    pretrain(make(cuts, tmp_path))
    assert "first 4 steps" in caplog.text and "no one state of the code" in caplog.text
    history = (read_training(tmp_path) or {})["made_by"]
    assert [(entry["from_step"], entry["sha256"]) for entry in history] == [
        (0, first["sha256"]),
        (4, "b" * 64),
    ]
    caplog.clear()
    for _ in range(2):  # by the code of its end, and by that of its beginning
        pretrain(make(cuts, tmp_path))
        assert "was trained, at least in part, by other code or libraries" in caplog.text
        caplog.clear()
        monkeypatch.undo()
    assert (read_training(tmp_path) or {})["made_by"] == history


# --- disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["states-4", "states-8", "toy.pt", "curve.jsonl", "training.json", "tensorboard"]
)
def test_a_disk_that_fills_up_is_a_sentence_and_costs_no_step(
    name: str, cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(make(cuts, tmp_path / "whole"))
    folder = tmp_path / "out"
    full = OSError(28, "No space left on device")
    replace_file, opened = os.replace, Path.open

    def failing_replace(source: Path, target: Path) -> None:
        if name in str(target):
            raise full
        replace_file(source, target)

    def failing_open(path: Path, mode: str = "r", *others: Any, **more: Any) -> Any:
        if path.name == name and mode == "a":
            raise full
        return opened(path, mode, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing_replace)
        patch.setattr(Path, "open", failing_open)
        if name == "tensorboard":
            writer = "tensorboardX.event_file_writer.EventsWriter.flush"
            patch.setattr(writer, lambda self: (_ for _ in ()).throw(full))
        with pytest.raises(UserError, match=r"is full, so .* was not written.*same command again"):
            pretrain(make(cuts, folder))
    pretrain(make(cuts, folder))
    assert contents(folder) == contents(tmp_path / "whole")
    assert not [path for path in folder.rglob("*") if path.suffix == ".part"]
