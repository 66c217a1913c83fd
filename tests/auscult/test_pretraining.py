"""The loop of pretraining: what a kill, a second process or a bad batch may change, and may not."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording
from torch import Tensor, nn

from auscult.errors import UserError
from auscult.loss_curve import read_curve
from auscult.objective import Batch, Objective, Term, Training
from auscult.pretraining import learning_rate, pretrain
from auscult.process import ALONE, Processes
from auscult.record import fingerprint
from auscult.snapshot import newest_snapshot, write_archive
from auscult.speech_pool import SpeechPool, draw_of
from auscult.training_run import Run, check_settings
from auscult.upstreams.hubert.network import NetworkTraining
from auscult.upstreams.lighthubert.sharing import Sharing
from auscult.upstreams.lighthubert.validation import read_settings

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

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the weights."""
        write_archive(self.state_dict(), folder / "toy.pt")
        return (folder / "toy.pt",)


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
        reads={"corpora": fingerprint([cut.id for cut in cuts])},
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


def test_one_process_of_torchrun_is_connected_as_several_are(
    cuts: list[Any], tmp_path: Path
) -> None:
    """The toy leaves a weight out, which torch's wrapper for processes must be told of."""
    config = Config(dropout=0.2)
    pretrain(_run(cuts, tmp_path / "alone", config))
    seen: list[bool] = []

    class Watched(Toy):
        def before_step(self, step: int, total_steps: int) -> None:
            seen.append(torch.distributed.is_initialized())

    def work() -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (0, 0, 1, "localhost", port)
        os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        os.environ["TORCHELASTIC_RUN_ID"] = "none"
        processes = Processes.of_environment()
        assert processes.connected and processes.leads and processes.size == 1
        with processes.joined("cpu"):
            run = _run(cuts, tmp_path / "launched", config, processes)
            torch.manual_seed(3)
            pretrain(replace(run, objective=Watched(config.dropout)))
            assert processes.leaders("it") == "it" and processes.gather(3) == [3]
        assert all(seen) and len(seen) == 12
        assert not torch.distributed.is_initialized()

    assert _in_child(work) == 0
    one, other = _weights(tmp_path / "alone"), _weights(tmp_path / "launched")
    assert all(torch.equal(one[name], other[name]) for name in one)


class Mixed(Toy):
    """Two terms whose counts differ, and statistics of the batches that were seen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, batch: Batch) -> Mapping[str, Term]:
        """Return the toy's loss, and a mean over rows of their first frames."""
        first = torch.stack([row[:WIDTH] for row in batch.audio.rows()])
        if len(first) > 1:
            self.norm(first)
        errors = (self.model(first * 10) - 0.3).abs().mean(1)
        return {**super().forward(batch), "rows": Term(errors.sum(), len(first), 0.7)}


def _gradients(folder: Path) -> dict[int, Tensor]:
    """Return those of a run of one step, which Adam's first average is a tenth of."""
    snapshot = newest_snapshot(folder / "checkpoints")
    assert snapshot is not None and snapshot[0].name == "states-1.ckpt"
    states = snapshot[1]["optimizer"]["state"]
    return {number: state["exp_avg"] * 10 for number, state in states.items()}


@pytest.mark.parametrize(
    ("batch_seconds", "parts"), [(6.0, 2), (6.0, 3), (1.0, 2)], ids=["two", "three", "one row"]
)
def test_accumulated_parts_have_the_gradients_of_the_whole(
    batch_seconds: float, parts: int, cuts: list[Any], tmp_path: Path
) -> None:
    config = Config(total_steps=1, batch_seconds=batch_seconds, gradient_clipping=1e9, log_step=1)
    rows = len(next(_run(cuts, tmp_path, config).pool.batches()))
    assert rows == 1 if batch_seconds == 1.0 else rows >= 5
    for name, number in (("whole", 1), ("parts", parts)):
        mine = replace(config, gradient_accumulation=number)
        pretrain(replace(_run(cuts, tmp_path / name, mine), objective=Mixed()))
    whole, found = _gradients(tmp_path / "whole"), _gradients(tmp_path / "parts")
    assert len(whole) >= 4 and whole.keys() == found.keys()
    for number in whole:
        torch.testing.assert_close(found[number], whole[number], rtol=1e-4, atol=1e-6)
    (one,), (other,) = read_curve(tmp_path / "whole"), read_curve(tmp_path / "parts")
    assert one == pytest.approx(other, rel=1e-5)


def test_two_processes_accumulate_what_one_does_at_once(cuts: list[Any], tmp_path: Path) -> None:
    config = Config(total_steps=1, batch_seconds=5.0, gradient_clipping=1e9)
    parts = replace(config, gradient_accumulation=2)
    pretrain(_run(cuts, tmp_path / "one", config))
    assert _two(lambda p: pretrain(_run(cuts, tmp_path / "two", parts, p))) == [0, 0]
    one, two = _gradients(tmp_path / "one"), _gradients(tmp_path / "two")
    for number in one:
        torch.testing.assert_close(two[number], one[number], rtol=1e-4, atol=1e-6)


def test_counting_ahead_leaves_no_trace(cuts: list[Any], tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Noisy(Mixed):
        def forward(self, batch: Batch) -> Mapping[str, Term]:
            if torch.is_grad_enabled():
                seen.append(torch.rand(2))
            else:
                torch.rand(2)
            return super().forward(batch)

    config = Config(total_steps=1, batch_seconds=6.0, gradient_accumulation=2)
    pretrain(replace(_run(cuts, tmp_path / "out", config), objective=Noisy()))
    assert len({tuple(draws.tolist()) for draws in seen}) == 2
    torch.manual_seed(draw_of(5, 0, 0))
    assert torch.equal(torch.cat(seen), torch.cat([torch.rand(2) for _ in range(2)]))
    assert int(_weights(tmp_path / "out")["norm.num_batches_tracked"]) == 2


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


def test_a_changed_corpus_does_not_go_on(cuts: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_settings(_run(cuts[:-1], out, Config()))
    check_settings(_run(cuts[:-1], out, Config()))
    with pytest.raises(UserError, match="The corpora of the run in"):
        check_settings(_run(cuts, out, Config()))
    settings = json.loads((out / "training.json").read_text())
    assert len(settings.pop("read_sha256")["corpora"]) == 64
    del settings["content_sha256"]
    (out / "training.json").write_text(json.dumps(settings))  # as it was written before
    check_settings(_run(cuts, out, Config()))


def test_a_changed_teacher_does_not_go_on(cuts: list[Any], tmp_path: Path) -> None:
    class Taught(Toy):
        teacher = "a"

        def sources(self) -> dict[str, str]:
            return {"teacher": self.teacher * 64}

    run = replace(_run(cuts, tmp_path, Config()), objective=Taught())
    check_settings(run)
    check_settings(run)
    Taught.teacher = "b"
    with pytest.raises(UserError, match="The teacher of the run in"):
        check_settings(run)


@pytest.mark.parametrize("text", ['{"seed": 5, "total_', "[]", "", '{"read_sha256": []}'])
def test_torn_settings_are_said(text: str, cuts: list[Any], tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(UserError, match=r"training\.json (is no JSON|holds no settings)"):
        check_settings(_run(cuts, tmp_path, Config()))
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    sharing = SimpleNamespace(address=SimpleNamespace(checkpoint=str(file)))
    with pytest.raises(UserError, match=r"training\.json (is no JSON|holds no settings)"):
        read_settings(cast(Sharing, sharing))


@pytest.mark.parametrize("name", ["training.json", "curve.jsonl"])
def test_files_are_written_whole_or_not_at_all(
    name: str, cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(cuts, tmp_path / "out", Config(total_steps=8))
    if name == "curve.jsonl":
        pretrain(run)
        (tmp_path / "out" / "checkpoints" / "states-8.ckpt").unlink()
    path = tmp_path / "out" / name
    before = path.read_text() if path.exists() else None

    replace_file = os.replace

    def killed(source: Path, target: Path) -> None:
        if target.name == name:
            raise KeyboardInterrupt(target.name)
        replace_file(source, target)

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt, match=name):
        pretrain(_run(cuts, tmp_path / "out", Config(total_steps=8)))
    assert (path.read_text() if path.exists() else None) == before


def test_followers_compare_with_what_the_leader_wrote(cuts: list[Any], tmp_path: Path) -> None:
    def work(processes: Processes) -> None:
        run = _run(cuts, tmp_path / "out", Config(), processes)
        processes.wait()
        if processes.leads:
            time.sleep(0.5)
            check_settings(run)
        else:
            with pytest.raises(UserError, match="seed 5, and this one has 6"):
                check_settings(replace(run, seed=6))

    assert _two(work) == [0, 0]


def test_tensorboard_keeps_the_checkpoints_own_point(cuts: list[Any], tmp_path: Path) -> None:
    pretrain(_run(cuts, tmp_path / "out", Config()))
    (tmp_path / "out" / "checkpoints" / "states-12.ckpt").unlink()
    shutil.rmtree(tmp_path / "out" / "tensorboard")  # its files are named by the second
    pretrain(_run(cuts, tmp_path / "out", Config()))
    (new,) = (tmp_path / "out" / "tensorboard").iterdir()
    starts = [event.step for event in _events(new) if event.HasField("session_log")]
    assert starts == [9]
    assert [point["step"] for point in read_curve(tmp_path / "out")] == [4, 8, 12]


def _events(path: Path) -> Iterator[Any]:
    messages: Any = import_module("tensorboardX.proto.event_pb2")
    stored = path.read_bytes()
    while stored:  # length, its checksum, the event and its checksum
        length = int.from_bytes(stored[:8], "little")
        yield messages.Event.FromString(stored[12 : 12 + length])
        stored = stored[16 + length :]


def test_an_interrupt_saves_the_whole_step(cuts: list[Any], tmp_path: Path) -> None:
    config = Config(dropout=0.2)
    pretrain(_run(cuts, tmp_path / "whole", config))

    class Interrupted(Toy):
        presses = 1

        def save(self, folder: Path) -> Sequence[Path]:
            with (folder / "saves").open("a") as file:
                file.write("x")
            return super().save(folder)

        def forward(self, batch: Batch) -> Mapping[str, Term]:
            for _ in range(self.presses if batch.step == 5 else 0):
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(batch)

    class Impatient(Interrupted):
        presses = 2

    def interrupted(name: str, toy: type[Toy]) -> int | None:
        def work() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run = _run(cuts, tmp_path / name, config)
            torch.manual_seed(3)
            with pytest.raises(KeyboardInterrupt):
                pretrain(replace(run, objective=toy(config.dropout)))
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

        return _in_child(work)

    for name, toy, step in (("once", Interrupted, 6), ("twice", Impatient, 4)):
        assert interrupted(name, toy) == 0
        newest = newest_snapshot(tmp_path / name / "checkpoints")
        assert newest is not None and newest[1]["step"] == step
        assert (tmp_path / name / "saves").read_text() == "x"  # at step 4; at 6 states alone
        assert pretrain(_run(cuts, tmp_path / name, config)) == 12 - step
        one, other = _weights(tmp_path / "whole"), _weights(tmp_path / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_said(error: Exception, cuts: list[Any], tmp_path: Path) -> None:
    class Large(Toy):
        def forward(self, batch: Batch) -> Mapping[str, Term]:
            if batch.step == 5:
                raise error
            return super().forward(batch)

    run = replace(_run(cuts, tmp_path / "out", Config()), objective=Large())
    said = r"Step 6 .* cpu .*gradient_accumulation \(of 1\).*batch_seconds \(of 4\).* stay"
    with pytest.raises(UserError, match=said):
        pretrain(run)
    assert (tmp_path / "out" / "checkpoints" / "states-4.ckpt").exists()


def test_a_network_that_does_not_fit_is_said(
    cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Toy, "to", fail)  # accelerate moves it
    with pytest.raises(UserError, match=r"The network alone, of [\d,]+ parameters, needs more mem"):
        pretrain(_run(cuts, tmp_path / "out", Config()))


def test_float16_is_refused_without_a_gpu(cuts: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="float16 is for GPUs"):
        pretrain(_run(cuts, tmp_path / "out", Config(precision="float16")))
    assert not (tmp_path / "out").exists()


def test_the_gpu_that_was_asked_for_is_used(
    cuts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cpu", "cuda", "cuda:1"):
        run = _run(cuts, tmp_path / "out", Config())
        monkeypatch.setattr("auscult.pretraining.check_settings", _stop)
        with pytest.raises(InterruptedError):
            pretrain(replace(run, device=device))
    assert chosen == ["cuda:1"]


def _stop(run: Run) -> None:
    raise InterruptedError


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
        ({"learning_rate": math.nan}, "learning_rate=nan: expected a finite number"),
        ({"batch_seconds": math.inf}, "batch_seconds=inf: expected a finite number"),
        ({"warmup": 500.0}, "warmup=500: expected a share of the steps"),
        ({"beta1": 1.0}, "beta1=1: expected a share below 1"),
        ({"beta2": 1.5}, "beta2=1.5: expected a share below 1"),
        ({"dropout": 1.0}, "dropout=1: expected a share below 1"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Config(**change)


def test_a_familys_layerdrop_is_checked_too() -> None:
    with pytest.raises(UserError, match="layerdrop=1.5: expected a share below 1"):
        NetworkTraining(
            total_steps=1, batch_seconds=1.0, crop_seconds=1.0, learning_rate=1.0, layerdrop=1.5
        )
