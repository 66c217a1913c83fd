"""The loop of pretraining: what a kill, a second process or a bad batch may change, and may not."""

import math
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording
from torch import Tensor, nn

from auscult.errors import UserError
from auscult.objective import Batch, Objective, Term, Training
from auscult.pretraining import Run, learning_rate, pretrain, read_curve
from auscult.process import ALONE, Processes
from auscult.snapshot import newest_snapshot
from auscult.speech_pool import SpeechPool

WIDTH = 160


class Toy(Objective):
    """Frames of samples, some hidden by row, restored by a hidden layer; one weight is unused."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(WIDTH, 32), nn.Tanh(), nn.Dropout(dropout), nn.Linear(32, WIDTH)
        )
        self.unused = nn.Linear(3, 3)
        self.register_buffer("mean", torch.zeros(WIDTH))

    def fit(self, pool: object) -> None:
        """Note that this was called: once."""
        self.mean += 0.01

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the squared error at hidden values, and their share."""
        hidden, total = torch.zeros(()), 0
        count = 0
        for row, draw in zip(batch.audio.rows(), batch.draws, strict=True):
            frames = row[: len(row) // WIDTH * WIDTH].view(-1, WIDTH) * 10
            mask = torch.rand(frames.shape, generator=torch.Generator().manual_seed(draw)) < 0.3
            found = self.model(frames.masked_fill(mask, 0.0)) + self.mean
            hidden = hidden + (found - frames)[mask].square().sum()
            count += int(mask.sum())
            total += mask.numel()
        return {"loss": Term(hidden, count), "share": Term(torch.tensor(float(count)), total, 0)}

    def save(self, folder: Path) -> None:
        """Write the weights."""
        torch.save(self.state_dict(), folder / "toy.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Training):
    """The toy's own field."""

    total_steps: int = 12
    batch_seconds: float = 4.0
    crop_seconds: float = 1.0
    learning_rate: float = 1e-2
    save_step: int = 4
    log_step: int = 4
    dropout: float = 0.0

    may_be_zero: ClassVar[tuple[str, ...]] = (*Training.may_be_zero, "dropout")


@pytest.fixture
def cuts(tmp_path: Path) -> list[Any]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(11):
        path = tmp_path / f"u{i}.wav"
        samples = 0.1 * generator.standard_normal(int((0.5 + 0.1 * i) * 16_000)).cumsum() / 20
        soundfile.write(path, samples.clip(-1, 1), 16_000)
        found.append(Recording.from_file(path).to_cut())
    return found


def _run(cuts: list[Any], folder: Path, config: Config, processes: Processes = ALONE) -> Run:
    torch.manual_seed(3)
    return Run(
        objective=Toy(config.dropout),
        config=config,
        pool=SpeechPool.of(
            cuts, crop_seconds=config.crop_seconds, batch_seconds=config.batch_seconds, seed=5
        ),
        seed=5,
        folder=folder,
        about={"family": "toy"},
        processes=processes,
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    snapshot = newest_snapshot(folder / "checkpoints")
    assert snapshot is not None
    found: dict[str, Tensor] = snapshot[1]["objective"]
    return found


def _in_child(work: Callable[[], object]) -> int | None:
    """Do ``work`` in a process of its own; return its status, negative for a signal."""

    def child() -> None:
        torch.set_num_threads(1)
        work()
        os._exit(0)

    one = multiprocessing.get_context("fork").Process(target=child)
    one.start()
    one.join(60)
    return one.exitcode


def test_the_loss_falls_and_is_noted(cuts: list[Any], tmp_path: Path) -> None:
    config = Config(total_steps=40, learning_rate=3e-2)
    pretrain(_run(cuts, tmp_path / "out", config))
    curve = list(read_curve(tmp_path / "out"))
    assert [point["step"] for point in curve] == list(range(4, 41, 4))
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert all(0.28 < point["share"] < 0.32 for point in curve)
    assert (tmp_path / "out" / "toy.pt").exists()


@pytest.mark.parametrize("killed_at", [1, 5, 8, 11])
def test_a_killed_run_ends_with_the_same_weights(
    killed_at: int, cuts: list[Any], tmp_path: Path
) -> None:
    config = Config(dropout=0.2)
    pretrain(_run(cuts, tmp_path / "whole", config))

    class Killed(Toy):
        def before_step(self, step: int, total_steps: int) -> None:
            if step == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        run = _run(cuts, tmp_path / "killed", config)
        torch.manual_seed(3)
        pretrain(replace(run, objective=Killed(config.dropout)))

    assert _in_child(killed) == -signal.SIGKILL
    pretrain(_run(cuts, tmp_path / "killed", config))
    one, other = _weights(tmp_path / "whole"), _weights(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert float(one["mean"][0]) == pytest.approx(0.01)  # fitted once
    assert list(read_curve(tmp_path / "whole")) == list(read_curve(tmp_path / "killed"))


def test_a_kill_while_saving_costs_one_checkpoint(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(_run(cuts, tmp_path / "whole", Config()))
    pretrain(_run(cuts, tmp_path / "torn", Config()))
    newest = tmp_path / "torn" / "checkpoints" / "states-12.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(_run(cuts, tmp_path / "torn", Config()))
    one, other = _weights(tmp_path / "whole"), _weights(tmp_path / "torn")
    assert all(torch.equal(one[name], other[name]) for name in one)


def _two(work: Callable[[Processes], object]) -> list[int | None]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def child(rank: int) -> None:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (rank, rank, 2, "localhost", port)
        os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        torch.set_num_threads(1)
        processes = Processes.of_environment()
        with processes.joined("cpu"):
            work(processes)
        os._exit(0)

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(rank,)) for rank in range(2)]
    for one in children:
        one.start()
    for one in children:
        one.join(60)
    statuses = [one.exitcode for one in children]
    for one in children:
        one.kill()
    return statuses


def test_two_processes_learn_what_one_does_with_all_of_the_batch(
    cuts: list[Any], tmp_path: Path
) -> None:
    # 11 utterances: batches of one row leave a process without a share
    config = Config(total_steps=20, batch_seconds=2.0, log_step=1, save_step=20)
    pretrain(_run(cuts, tmp_path / "one", config))
    assert _two(lambda p: pretrain(_run(cuts, tmp_path / "two", config, p))) == [0, 0]
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
    pairs = zip(read_curve(tmp_path / "one"), read_curve(tmp_path / "two"), strict=True)
    for a, b in pairs:
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_accumulated_parts_make_one_update(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(_run(cuts, tmp_path / "whole", Config()))
    pretrain(_run(cuts, tmp_path / "parts", Config(gradient_accumulation=2)))
    whole, parts = list(read_curve(tmp_path / "whole")), list(read_curve(tmp_path / "parts"))
    assert whole[-1]["loss"] == pytest.approx(parts[-1]["loss"], rel=0.05)
    assert whole[0]["share"] == pytest.approx(parts[0]["share"], rel=1e-6)


def test_a_loss_that_is_not_finite_names_the_utterances(cuts: list[Any], tmp_path: Path) -> None:
    class Diverging(Toy):
        def forward(self, batch: Batch) -> Mapping[str, Term]:
            terms = dict(super().forward(batch))
            if batch.step == 5:
                terms["loss"] = Term(terms["loss"].total * math.nan, terms["loss"].count)
            return terms

    run = replace(_run(cuts, tmp_path / "out", Config()), objective=Diverging())
    with pytest.raises(UserError, match=r"loss of step 6 is not finite, on utterances u\d+.*stay"):
        pretrain(run)
    assert (tmp_path / "out" / "checkpoints" / "states-4.ckpt").exists()


def test_another_run_does_not_go_on_in_the_folder(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(_run(cuts, tmp_path / "out", Config()))
    assert pretrain(_run(cuts, tmp_path / "out", Config())) == 0  # it is at its end
    with pytest.raises(UserError, match="total_steps 12, and this one has 13"):
        pretrain(_run(cuts, tmp_path / "out", Config(total_steps=13)))


def test_unreadable_audio_is_named(cuts: list[Any], tmp_path: Path) -> None:
    (tmp_path / "u3.wav").write_bytes(b"RIFF, as if")
    with pytest.raises(UserError, match=r"u3\.wav cannot be read as audio"):
        pretrain(_run(cuts, tmp_path / "out", Config()))


def test_crops_are_of_each_utterance_once_an_epoch(cuts: list[Any]) -> None:
    pool = SpeechPool.of(cuts, crop_seconds=1.0, batch_seconds=3.0, seed=0)
    batches = pool.batches()
    seen: list[str] = []
    while len(seen) < len(cuts):
        batch = next(batches)
        assert max(crop.seconds for crop in batch) * len(batch) <= 3.0 + 1e-6
        seen.extend(crop.cut.id for crop in batch)
    assert sorted(seen) == sorted(cut.id for cut in cuts)
    later = next(pool.batches(7))
    again = [batch for batch, _ in zip(pool.batches(), range(8), strict=False)][7]
    assert [(c.cut.id, c.draw) for c in later] == [(c.cut.id, c.draw) for c in again]


def test_rates_rise_and_fall() -> None:
    config = Config(total_steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1 / 90) and max(rates) == pytest.approx(1.0)
    cosine = replace(config, schedule="cosine")
    assert learning_rate(cosine, 55) == pytest.approx(0.5, abs=0.02)
    assert learning_rate(replace(config, schedule="constant"), 99) == 1.0
    inverse_root = replace(config, schedule="inverse_root")
    assert learning_rate(inverse_root, 9) == 1.0
    assert learning_rate(inverse_root, 39) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0: expected a positive number"),
        ({"schedule": "step"}, "schedule"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Config(**change)
