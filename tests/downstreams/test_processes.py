"""Several processes that train one head: the same weights, one writer, and no one left waiting."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auscult import bridge, feature, process
from auscult.downstreams import checkpoint, training
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting, KeywordSpottingConfig
from auscult.downstreams.split import LabelledCorpus, label_corpus
from auscult.errors import UserError
from auscult.process import ALONE, Processes

CONFIG = KeywordSpottingConfig(
    total_steps=9,
    batch_size=7,  # shares of four and three
    learning_rate=0.01,
    gradient_accumulate_steps=2,
    eval_step=2,
    save_step=3,
    projector_dim=16,
)
Work = Callable[[Processes], object]


class FrameHead(KeywordSpotting):
    """A head whose loss is a mean over frames."""

    def __init__(self, dim: int, corpus: LabelledCorpus) -> None:
        super().__init__(dim, corpus, CONFIG, seed=1)
        self.frames = nn.Linear(dim, len(self.classes))

    def forward(
        self, split: str, features: Any, ids: Any, labels: Any, *args: Any, **more: Any
    ) -> Any:
        super().forward(split, features, ids, labels, *args, **more)
        numbers = [self.classes.index(label) for label in labels]
        targets = torch.tensor(numbers).repeat_interleave(torch.tensor([*map(len, features)]))
        return nn.functional.cross_entropy(self.frames(torch.cat(list(features))), targets)

    def loss_size(self, features: Any, *others: Any) -> float:
        return sum(map(len, features))


class DroppingHead(KeywordSpotting):
    """A head that draws random numbers in training."""

    def __init__(self, dim: int, corpus: LabelledCorpus) -> None:
        super().__init__(dim, corpus, CONFIG, seed=1)
        self.projector = nn.Sequential(self.projector, nn.Dropout(0.5))  # type: ignore[assignment]


@pytest.fixture
def labelled(words: Any) -> LabelledCorpus:
    return label_corpus(words, "keyword")


@pytest.fixture
def upstream(labelled: LabelledCorpus, bands: Any, tmp_path: Path) -> CorpusUpstream:
    return CorpusUpstream(bands, labelled, budget=10**9, device="cpu", folder=tmp_path / "cache")


def _two(work: Work, said: Path) -> list[int | None]:
    """Do ``work`` in two processes; return their statuses. What they raise is in ``said``."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def child(rank: int) -> None:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        values = (rank, rank, 2, "localhost", port)
        os.environ.update({name: str(value) for name, value in zip(names, values, strict=True)})
        torch.set_num_threads(1)
        processes = Processes.of_environment()
        try:
            with processes.joined("cpu"):
                work(processes)
        except UserError as error:
            (said / f"{rank}.txt").write_text(str(error))
            os._exit(2)
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


def _fit(
    upstream: CorpusUpstream, build: Callable[[int], nn.Module], folder: Path, processes: Processes
) -> training.HeadTraining:
    return training.fit_head(
        upstream,
        build,
        CONFIG,
        task="keyword_spotting",
        seed=5,
        device="cpu",
        folder=folder,
        processes=processes,
    )


def _last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "states-9.ckpt", weights_only=True)


def _parts(states: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{p} {k}": v for p in ("Featurizer", "Downstream") for k, v in states[p].items()}


@pytest.mark.parametrize("head", ["utterances", "frames"])
def test_two_processes_end_where_one_does(
    head: str, upstream: CorpusUpstream, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    def build(dim: int) -> nn.Module:
        if head == "frames":
            return FrameHead(dim, labelled)
        return KeywordSpotting(dim, labelled, CONFIG, 1)

    _fit(upstream, build, tmp_path / "one", ALONE)
    assert _two(lambda p: _fit(upstream, build, tmp_path / "two", p), tmp_path) == [0, 0]
    one, two = _last(tmp_path / "one"), _last(tmp_path / "two")
    # sums over seven in another order, nine steps of Adam
    torch.testing.assert_close(_parts(two), _parts(one), rtol=1e-4, atol=1e-5)
    assert two["Curve"] == one["Curve"]
    assert (one["WorldSize"], two["WorldSize"], len(two["Random"])) == (1, 2, 2)
    assert sorted(p.name for p in (tmp_path / "two").glob("states*")) == ["states-9.ckpt"]


def test_the_comparison_sees_shares_that_are_wrongly_weighed(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(dim: int) -> nn.Module:
        return FrameHead(dim, labelled)

    _fit(upstream, build, tmp_path / "one", ALONE)
    monkeypatch.delattr(FrameHead, "loss_size")
    assert _two(lambda p: _fit(upstream, build, tmp_path / "two", p), tmp_path) == [0, 0]
    one, two = _parts(_last(tmp_path / "one")), _parts(_last(tmp_path / "two"))
    assert max(float((one[key] - two[key]).abs().max()) for key in one) > 1e-4


def test_two_killed_and_resumed_give_the_same_bits(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(dim: int) -> nn.Module:
        return DroppingHead(dim, labelled)

    assert _two(lambda p: _fit(upstream, build, tmp_path / "straight", p), tmp_path) == [0, 0]
    whole = training.HeadTraining._step

    def step(self: Any, number: int, *others: Any) -> float:
        if number == 5:
            raise UserError("killed")
        return whole(self, number, *others)

    with monkeypatch.context() as context:
        context.setattr(training.HeadTraining, "_step", step)
        assert _two(lambda p: _fit(upstream, build, tmp_path / "killed", p), tmp_path) == [2, 2]
    assert (tmp_path / "killed" / "states-3.ckpt").exists()
    assert _two(lambda p: _fit(upstream, build, tmp_path / "killed", p), tmp_path) == [0, 0]
    one, two = _last(tmp_path / "straight"), _last(tmp_path / "killed")
    torch.testing.assert_close(_parts(two), _parts(one), rtol=0, atol=0)
    states = [random["torch"] for random in one["Random"]]
    assert not torch.equal(*states)  # each process draws its own dropout
    assert all(torch.equal(a, r["torch"]) for a, r in zip(states, two["Random"], strict=True))


@pytest.mark.parametrize("loser", [0, 1])
def test_when_one_fails_the_other_stops_with_a_sentence(
    loser: int,
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def work(processes: Processes) -> None:
        whole = training.HeadTraining._features

        def features(self: Any, wavs: Any) -> Any:
            if processes.rank == loser:
                raise UserError("the disk is full.")
            return whole(self, wavs)

        monkeypatch.setattr(training.HeadTraining, "_features", features)
        _fit(upstream, lambda dim: KeywordSpotting(dim, labelled, CONFIG, 1), tmp_path, processes)

    assert _two(work, tmp_path) == [2, 2]
    other = 1 - loser
    assert (tmp_path / f"{loser}.txt").read_text() == f"process {loser} of 2: the disk is full."
    assert (
        (tmp_path / f"{other}.txt")
        .read_text()
        .startswith(f"process {other} of 2: another process stopped")
    )


def test_each_utterance_is_encoded_by_one_process(
    labelled: LabelledCorpus, bands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature, "SHARD_BYTES", 10**3)
    monkeypatch.setattr(feature, "plan_batches", lambda x: [[i] for i in range(len(x))])

    def work(processes: Processes) -> None:
        made = CorpusUpstream(
            bands,
            labelled,
            budget=10**9,
            device="cpu",
            folder=tmp_path / "cache",
            processes=processes,
        )
        made(labelled.splits["test"].utterances[:2])
        (tmp_path / f"rows-{processes.rank}").write_text(str(bands.rows))

    assert _two(work, tmp_path) == [0, 0]
    rows = [int((tmp_path / f"rows-{rank}").read_text()) for rank in range(2)]
    assert sum(rows) == 96 and min(rows) > 40


def test_one_process_is_not_slowed() -> None:
    assert Processes.of_environment() == ALONE
    assert ALONE.share("abc") == "abc" and ALONE.leads
    assert ALONE.gather(3) == [3] and ALONE.leaders(3) == 3
    with ALONE.joined("cpu"), ALONE.leader_first():
        ALONE.wait()


def test_devices_and_environments_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Processes(rank=1, size=2, local_rank=1)
    assert second.device("cpu") == "cpu" and ALONE.device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="cuda:1 is one GPU for 2 processes"):
        second.device("cuda:1")
    monkeypatch.setattr(process.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="more processes than the 1 GPUs"):
        second.device("cuda")
    monkeypatch.setattr(process.torch.cuda, "device_count", lambda: 2)
    assert second.device("cuda") == "cuda:1"
    launched = Processes(launched=True)  # by torchrun, alone
    assert launched.device("cuda") == "cuda:0" and launched.device("cuda:1") == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="start several processes with `torchrun"):
        Processes.of_environment()


@pytest.mark.slow  # three processes that import torch and s3prl
def test_torchrun_gives_the_numbers_of_one_process(word_folder: Path, tmp_path: Path) -> None:
    bridge.repair()
    words = ("auscult", "run", "-c", f"tsv:{word_folder}", "-t", "keyword_spotting")
    more = ("-u", "log_mel", "learning_rate=0.02", "batch_size=7", "--steps", "40", "--json")
    environment = os.environ | {"AUSCULT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*launcher: str, out: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", *launcher, *words, *more, "--out", str(tmp_path / out)]
        done = subprocess.run(command, capture_output=True, env=environment, text=True)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["records"]
        return found

    two = run("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", out="two")
    one = run(out="one")
    assert [(r["metric"], r["value"], r["low"]) for r in one] == [
        (r["metric"], r["value"], r["low"]) for r in two
    ]
    assert two[0]["device"] == "cpu x 2"
    assert two[0]["command"].startswith("torchrun --nproc_per_node 2 -m auscult run")
    states = []
    for out in ("one", "two"):
        (path,) = (tmp_path / out).glob("heads/*/states-40.ckpt")
        states.append(_parts(torch.load(path, weights_only=True)))
        assert checkpoint.newest_checkpoint(path.parent) == path
    # Adam divides each gradient by its size, and so multiplies the rounding of one near zero;
    # in 40 steps at 0.02 a weight can move by 0.8
    torch.testing.assert_close(*states, rtol=0, atol=1e-3)
