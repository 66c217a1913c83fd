"""The loop: s3prl's own numbers, and the same ones however often it is killed."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from auscult import bridge
from auscult.audio import read_samples
from auscult.downstreams import checkpoint, training
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting, KeywordSpottingConfig
from auscult.downstreams.split import LabelledCorpus, label_corpus
from auscult.errors import UserError
from auscult.progress import logger

CONFIG = KeywordSpottingConfig(
    total_steps=9,  # with two batches a step and six an epoch, it ends inside the third epoch
    batch_size=8,
    learning_rate=0.01,
    gradient_accumulate_steps=2,
    eval_step=2,
    save_step=2,
    projector_dim=16,
)


class DroppingHead(KeywordSpotting):
    """A head that draws random numbers in training, so that their state matters."""

    def __init__(self, dim: int, corpus: LabelledCorpus) -> None:
        super().__init__(dim, corpus, CONFIG, seed=1)
        self.projector = nn.Sequential(self.projector, nn.Dropout(0.5))  # type: ignore[assignment]


@pytest.fixture
def labelled(words: Any) -> LabelledCorpus:
    return label_corpus(words, "keyword")


@pytest.fixture
def upstream(labelled: LabelledCorpus, bands: Any) -> CorpusUpstream:
    return CorpusUpstream(bands, labelled, budget=10**9, device="cpu")


def _train(upstream: CorpusUpstream, labelled: LabelledCorpus, folder: Path) -> Any:
    return training.train_head(
        upstream,
        lambda dim: DroppingHead(dim, labelled),
        CONFIG,
        task="keyword_spotting",
        seed=5,
        device="cpu",
        folder=folder,
    )


def _last(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.ckpt")
    assert path.name == "states-9.ckpt"
    return torch.load(path, weights_only=True)


def _train_killed(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Die in step 4, again in step 8, then run to the end."""
    whole = training.HeadTraining._step
    for fatal in (4, 8):

        def step(self: Any, number: int, *others: Any, fatal: int = fatal) -> float:
            loss = whole(self, number, *others)
            if number == fatal:
                raise KeyboardInterrupt
            return loss

        monkeypatch.setattr(training.HeadTraining, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            _train(upstream, labelled, folder)
        torch.rand(17)
    monkeypatch.setattr(training.HeadTraining, "_step", whole)
    return _train(upstream, labelled, folder)


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_killed_and_resumed_gives_the_same_bits(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = _train(upstream, labelled, tmp_path / "straight")
    resumed = _train_killed(upstream, labelled, tmp_path / "killed", monkeypatch)
    one, two = _last(tmp_path / "straight"), _last(tmp_path / "killed")
    for part in ("Featurizer", "Downstream"):
        assert _equal(one[part], two[part])
        assert _equal(one["Best"][part], two["Best"][part])
    assert torch.equal(one["Random"][0]["torch"], two["Random"][0]["torch"])
    assert (one["Epoch"], one["Batch"]) == (two["Epoch"], two["Batch"])
    assert straight.answers == resumed.answers
    assert straight.curve == resumed.curve
    assert [step for step, _ in straight.curve] == [2, 4, 6, 8, 9]
    assert straight.step == max(straight.curve, key=lambda point: point[1])[0]


def test_the_comparison_sees_a_generator_that_was_not_put_back(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _train(upstream, labelled, tmp_path / "straight")
    monkeypatch.setattr(training, "set_random_state", lambda state: None)
    _train_killed(upstream, labelled, tmp_path / "killed", monkeypatch)
    one, two = _last(tmp_path / "straight"), _last(tmp_path / "killed")
    assert not _equal(one["Downstream"], two["Downstream"])


def test_a_finished_run_is_not_trained_again(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _train(upstream, labelled, tmp_path)
    monkeypatch.setattr(training.HeadTraining, "_step", None)
    assert _train(upstream, labelled, tmp_path).answers == first.answers


class WaveformHead(KeywordSpotting):
    """The same expert with waveforms instead of features, as s3prl's own loop wants it."""

    def get_dataloader(self, split: str, epoch: int = 0) -> list[Any]:
        cuts = self._corpus.splits[split].cuts
        return [
            ([read_samples(cuts[u.index]).numpy() for u in utterances], ids, labels)
            for utterances, ids, labels in super().get_dataloader(split, epoch)
        ]

    def log_records(self, *_: Any, **__: Any) -> list[str]:
        return []


def test_the_loop_equals_s3prls(
    upstream: CorpusUpstream, labelled: LabelledCorpus, bands: Any, tmp_path: Path
) -> None:
    bridge.repair()
    from s3prl.downstream.runner import Runner

    class Theirs(Runner):
        def _get_upstream(self) -> Any:
            model = bridge.HubUpstream(bands)
            return self._init_model(model, "Upstream", False, ["get_downsample_rates"])

        def _get_downstream(self) -> Any:
            dim: Any = self.featurizer.model.output_dim
            head = WaveformHead(dim, labelled, CONFIG, 1)
            return self._init_model(head, "Downstream", True, ["get_dataloader", "log_records"])

    training.train_head(
        upstream,
        lambda dim: KeywordSpotting(dim, labelled, CONFIG, 1),
        CONFIG,
        task="keyword_spotting",
        seed=5,
        device="cpu",
        folder=tmp_path,
    )
    ours = _last(tmp_path)
    config = training.runner_config(CONFIG)
    config["runner"] |= {"log_step": 100, "save_step": 100, "max_keep": 1}
    config["runner"]["eval_dataloaders"] = ["dev"]
    args = argparse.Namespace(
        **vars(ours["Args"]) | {"init_ckpt": "", "push_to_hf_hub": False, "expdir": str(tmp_path)}
    )
    checkpoint.seed_everything(5)
    with bridge.hushed(stderr=True):
        theirs = Theirs(args, config)
        theirs.train()
    for name, entry in (("Featurizer", theirs.featurizer), ("Downstream", theirs.downstream)):
        for key, value in entry.model.state_dict().items():
            # the same operations in the same order; nothing to tolerate but their kernels
            torch.testing.assert_close(value, ours[name][key], rtol=1e-5, atol=1e-7)


def test_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("WARNING", logger="auscult")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    whole = checkpoint.write_checkpoint({"Step": 3, "x": torch.ones(1000)}, tmp_path, 3)
    (tmp_path / "states-7.ckpt").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "states-8.ckpt").write_bytes(b"")
    (tmp_path / "dev-best.ckpt").write_bytes(b"")  # s3prl's own, not ours
    assert checkpoint.newest_checkpoint(tmp_path) == whole
    said = [record.getMessage() for record in caplog.records]
    assert [name for name in ("states-7", "states-8") if any(name in x for x in said)] == [
        "states-7",
        "states-8",
    ]
    assert checkpoint.newest_checkpoint(tmp_path / "nothing") is None


def test_a_kill_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = checkpoint.write_checkpoint({"Step": 3}, tmp_path, 3)

    def torn(states: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(torch, "save", torn)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write_checkpoint({"Step": 4}, tmp_path, 4)
    assert checkpoint.newest_checkpoint(tmp_path) == old
    new = checkpoint.write_checkpoint({"Step": 5}, tmp_path, 5)
    assert list(tmp_path.glob("states-*.ckpt")) == [new]


def test_generators_are_as_they_were() -> None:
    checkpoint.seed_everything(3)
    state = checkpoint.random_state()
    wanted = _draw()
    checkpoint.set_random_state(state)
    assert _draw() == wanted
    checkpoint.set_random_state(state)
    with checkpoint.kept_random_state():
        _draw()
    assert _draw() == wanted


def _draw() -> tuple[float, float, float]:
    import random

    import numpy as np

    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_gradient_that_is_not_finite_stops_the_run(
    upstream: CorpusUpstream, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    class Broken(KeywordSpotting):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(*args, **kwargs) * float("nan")

    with pytest.raises(UserError, match="gradient of step 1 is not finite"):
        training.train_head(
            upstream,
            lambda dim: Broken(dim, labelled, CONFIG, 0),
            CONFIG,
            task="keyword_spotting",
            seed=0,
            device="cpu",
            folder=tmp_path,
        )
