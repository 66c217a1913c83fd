"""What stands around the loop: curves, precision, memory, kept features, learning rates."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auscult.downstreams import training
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.keyword_spotting import KeywordSpotting, KeywordSpottingConfig
from auscult.downstreams.search import SUPERB_RATES, Trial, search_learning_rate
from auscult.downstreams.split import LabelledCorpus, label_corpus
from auscult.errors import UserError
from auscult.upstreams import load_upstream

CONFIG = KeywordSpottingConfig(
    total_steps=8,
    batch_size=8,
    learning_rate=0.01,
    eval_step=4,
    save_step=3,
    log_step=2,
    projector_dim=16,
)


@pytest.fixture
def labelled(words: Any) -> LabelledCorpus:
    return label_corpus(words, "keyword")


@pytest.fixture
def upstream(labelled: LabelledCorpus, bands: Any, tmp_path: Path) -> CorpusUpstream:
    return CorpusUpstream(bands, labelled, budget=10**9, device="cpu", folder=tmp_path / "cache")


def _fit(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    folder: Path,
    config: Any = CONFIG,
    expert: Any = KeywordSpotting,
) -> training.HeadTraining:
    return training.fit_head(
        upstream,
        lambda dim: expert(dim, labelled, config, 0),
        config,
        task="keyword_spotting",
        seed=0,
        device="cpu",
        folder=folder,
    )


def test_progress_names_the_metric_once_dev_was_looked_at(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Errors(KeywordSpotting):
        def score(self, records: Any) -> float:
            return -1.0

    notes: list[str] = []

    @contextmanager
    def listening(*_others: Any) -> Iterator[Callable[[float, str], None]]:
        yield lambda amount, note: notes.append(note)

    monkeypatch.setattr(training, "progress", listening)
    training.fit_head(
        upstream,
        lambda dim: Errors(dim, labelled, CONFIG, 0),
        CONFIG,
        task="keyword_spotting",
        seed=0,
        device="cpu",
        folder=tmp_path,
        metric="wer",
    )
    looks = [", best dev wer 1.000" in note for note in notes]
    assert looks == sorted(looks) and {False, True} == set(looks)
    assert not any("nan" in note or "-" in note for note in notes)


def _weights(folder: Path) -> list[Any]:
    states = torch.load(folder / "states-8.ckpt", weights_only=True)
    return [states["Featurizer"], states["Downstream"], states["Best"]["Downstream"]]


# --- TensorBoard -----------------------------------------------------------------------------


def _curves(folder: Path) -> dict[str, dict[int, list[float]]]:
    """Read event files as TensorBoard does: a session's start hides later steps before it."""
    # protobuf makes the class when the module is imported
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    found: dict[str, dict[int, list[float]]] = {}
    for path in sorted(folder.glob("events*"), key=lambda p: int(p.name.rpartition(".")[2])):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + size])
            place += 16 + size
            if event.HasField("session_log"):
                for points in found.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                points = found.setdefault(value.tag, {})
                points.setdefault(event.step, []).append(value.simple_value)
    return found


def test_curves_have_every_point_once_however_often_it_is_killed(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fit(upstream, labelled, tmp_path / "straight")
    whole = training.HeadTraining._step
    for fatal in (6, 8):  # after points that the checkpoint of step 3, then 6, does not have

        def step(self: Any, number: int, batches: Any, fatal: int = fatal) -> float:
            if number == fatal:
                raise KeyboardInterrupt
            return whole(self, number, batches)

        with monkeypatch.context() as context:
            context.setattr(training.HeadTraining, "_step", step)
            with pytest.raises(KeyboardInterrupt):
                _fit(upstream, labelled, tmp_path / "killed")
    done = _fit(upstream, labelled, tmp_path / "killed")
    curves = _curves(tmp_path / "killed")
    assert curves == _curves(tmp_path / "straight")
    assert list(curves["train/loss"]) == [2, 4, 6, 8]
    assert {step: [pytest.approx(score)] for step, score in done.curve} == curves["dev/score"]
    assert len(list((tmp_path / "killed").glob("events*"))) == 3


# --- precision -------------------------------------------------------------------------------


def test_bfloat16_learns_the_same_a_little_differently(
    upstream: CorpusUpstream, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    _fit(upstream, labelled, tmp_path / "whole")
    _fit(upstream, labelled, tmp_path / "half", replace(CONFIG, training_precision="bfloat16"))
    for one, two in zip(_weights(tmp_path / "whole"), _weights(tmp_path / "half"), strict=True):
        assert all(two[key].dtype == torch.float32 for key in two)
        assert not all(torch.equal(one[key], two[key]) for key in one)
        torch.testing.assert_close(two, one, rtol=0.2, atol=0.05)  # eight bits of mantissa


class InfiniteAtFirst(KeywordSpotting):
    """A head whose gradient overflows in the first step, as loss scaling provokes."""

    steps = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        type(self).steps += self.training
        return super().forward(*args, **kwargs) * (float("inf") if self.steps == 1 else 1.0)


def test_loss_scaling_is_kept_and_gives_up_below_one(
    upstream: CorpusUpstream,
    labelled: LabelledCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, training_precision="float16")
    with pytest.raises(UserError, match="float16 is for GPUs, and this runs on cpu"):
        _fit(upstream, labelled, tmp_path, config)

    made = training.HeadTraining.__init__

    def scaled(self: Any, *args: Any, scale: float = 2.0**16) -> None:
        made(self, *args)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        state = self.init_ckpt.get("Scaler")
        if state:
            scaler.load_state_dict(state)
        self._scaler = scaler

    monkeypatch.setattr(training.HeadTraining, "__init__", scaled)
    _fit(upstream, labelled, tmp_path / "scaled", CONFIG, InfiniteAtFirst)
    states = torch.load(tmp_path / "scaled" / "states-8.ckpt", weights_only=True)
    assert states["Scaler"]["scale"] == 2.0**15  # halved once, one step skipped
    assert _fit(upstream, labelled, tmp_path / "scaled")._scaler.get_scale() == 2.0**15

    class AlwaysInfinite(KeywordSpotting):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs) * float("inf")

    config = replace(CONFIG, total_steps=40)
    with pytest.raises(training.Diverged, match="gradient of step 17 is not finite"):
        _fit(upstream, labelled, tmp_path / "lost", config, AlwaysInfinite)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean float16"):
        replace(CONFIG, training_precision="float61")


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_stops_the_run_with_advice(
    error: Exception, upstream: CorpusUpstream, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    class Greedy(KeywordSpotting):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise error

    with pytest.raises(UserError, match=r"batch_size=4 \(of 8\).*--budget"):
        _fit(upstream, labelled, tmp_path, CONFIG, Greedy)


def test_other_mistakes_are_not_taken_for_too_little_memory(
    upstream: CorpusUpstream, labelled: LabelledCorpus, tmp_path: Path
) -> None:
    class Wrong(KeywordSpotting):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        _fit(upstream, labelled, tmp_path, CONFIG, Wrong)


# --- kept features ---------------------------------------------------------------------------


def test_kept_features_train_the_same_head(
    upstream: CorpusUpstream, labelled: LabelledCorpus, bands: Any, tmp_path: Path
) -> None:
    live = CorpusUpstream(bands, labelled, budget=0, device="cpu")
    before = bands.rows
    one = _fit(upstream, labelled, tmp_path / "kept").result()
    assert bands.rows == before + 1  # the featurizer's second of noise
    two = _fit(live, labelled, tmp_path / "live").result()
    assert bands.rows > before + 8 * 8
    torch.testing.assert_close(
        _weights(tmp_path / "live"), _weights(tmp_path / "kept"), rtol=0, atol=0
    )
    assert one.answers == two.answers and one.curve == two.curve


def test_kept_features_of_a_transformer_differ_by_rounding_alone(
    labelled: LabelledCorpus, tmp_path: Path
) -> None:
    encoder = load_upstream("random(hubert_tiny)")
    kept = CorpusUpstream(encoder, labelled, budget=10**9, device="cpu", folder=tmp_path)
    live = CorpusUpstream(encoder, labelled, budget=0, device="cpu")
    batch = labelled.splits["train"].utterances[3:9]
    for one, two in zip(kept(batch)["hidden_states"], live(batch)["hidden_states"], strict=True):
        # other batches, so sums in another order: now and then the next float16
        torch.testing.assert_close(one, two, rtol=2**-10, atol=1e-4)
        assert float((one == two).float().mean()) > 0.95


# --- learning rates --------------------------------------------------------------------------


def test_dev_chooses_among_learning_rates_and_features_are_encoded_once(
    upstream: CorpusUpstream, labelled: LabelledCorpus, bands: Any, tmp_path: Path
) -> None:
    encoded = bands.rows

    def fit(rate: float) -> training.HeadTraining:
        if rate > 1:
            raise training.Diverged("too fast")
        config = replace(CONFIG, learning_rate=rate, total_steps=24, eval_step=8)
        return _fit(upstream, labelled, tmp_path / f"{rate:g}", config)

    found, rate, trials = search_learning_rate((100.0, 1e-7, 0.02), fit)
    assert rate == 0.02 and found.best["Score"] == trials[2].score
    assert trials[0] == Trial(100.0, None)
    assert trials[1].score is not None and trials[2].score is not None
    assert trials[1].score < trials[2].score
    assert bands.rows == encoded + 2  # a second of noise for each featurizer
    assert (SUPERB_RATES[0], SUPERB_RATES[-1], len(SUPERB_RATES)) == (1e-1, 1e-7, 7)


def test_where_every_rate_diverges_there_is_no_result() -> None:
    def fit(rate: float) -> training.HeadTraining:
        raise training.Diverged("too fast")

    with pytest.raises(UserError, match=r"every learning rate \(10, 1\)"):
        search_learning_rate((10.0, 1.0), fit)
