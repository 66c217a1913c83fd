from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from auscult.errors import UserError
from auscult.pooled import Pooled
from auscult.probing import PooledExamples, ProbeKey, Targets, TrainingPlan, train_bank
from auscult.probing.example import FrameExamples, chunks
from auscult.probing.probe import build_probe
from auscult.probing.score_file import read_scores, write_scores

PLAN = TrainingPlan(probes=("linear", "mlp1"), learning_rates=(1e-2,), batch_size=32, max_epochs=8)


class Frames:
    """Frames in memory; layer 1 holds the label, layer 0 noise, layer 2 the label squared away."""

    def __init__(self, labels: Sequence[Tensor], seed: int, kept: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.kept = kept
        self.readings = 0
        self._rows = []
        for row in labels:
            noise = torch.randn(len(row), 6, generator=generator)
            marked = noise.clone()
            marked[:, :3] += 6 * torch.nn.functional.one_hot(row.clamp(min=0), 3)
            self._rows.append([noise, marked, torch.randn(len(row), 6, generator=generator)])

    def read(self, items: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        self.readings += 1
        return [torch.cat([self._rows[i][layer] for i in items]) for layer in layers]


def frame_examples(split: str, kept: bool = True, unlabelled: bool = True) -> FrameExamples:
    seed = {"train": 0, "dev": 1, "test": 2}[split]
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(0, 3, (20 + i,), generator=generator) for i in range(12)]
    if unlabelled:
        labels[3][:5] = -1
    source = Frames(labels, seed, kept)
    stats = [torch.stack([x.mean(0) for x in row]) for row in source._rows]
    spread = [torch.stack([x.std(0, correction=0) for x in row]) for row in source._rows]
    pooled = Pooled(torch.stack(stats), torch.stack(spread), np.array([len(x) for x in labels]))
    return FrameExamples(source, pooled, Targets(tuple(labels), tuple("ab" * 6)))


def bank(layers: Sequence[int], plan: TrainingPlan = PLAN, kept: bool = True) -> Any:
    examples = {split: frame_examples(split, kept) for split in ("train", "dev", "test")}
    return train_bank(examples, 3, layers, plan)


def accuracy(score: Any) -> float:
    return float(score.correct.sum() / score.total.sum())


def test_the_layer_that_holds_the_label_is_read_and_the_others_are_chance() -> None:
    scores = bank([0, 1, 2])["test"]
    assert len(scores) == 6
    for score in scores:
        if score.key.layer == 1:
            assert accuracy(score) > 0.97
        else:
            assert abs(accuracy(score) - 1 / 3) < 0.12


def test_a_bank_equals_its_probes_trained_one_by_one() -> None:
    together = {score.key: score for score in bank([0, 1, 2])["test"]}
    for layer in (0, 1, 2):
        for probe in PLAN.probes:
            (alone,) = bank([layer], replace(PLAN, probes=(probe,)))["test"]
            np.testing.assert_array_equal(alone.correct, together[alone.key].correct)


def test_same_seed_same_scores_and_seeds_differ() -> None:
    plan = replace(PLAN, seeds=(0, 1))
    first, second = bank([0], plan)["test"], bank([0], plan)["test"]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.correct, b.correct)
    assert any((a.correct != b.correct).any() for a, b in zip(first[::2], first[1::2], strict=True))


def test_many_chunks_learn_as_well_and_need_not_be_kept() -> None:
    plan = replace(PLAN, chunk_examples=70)
    scores, again = bank([1], plan)["test"], bank([1], plan, kept=False)["test"]
    assert all(accuracy(score) > 0.97 for score in scores)
    for a, b in zip(scores, again, strict=True):
        np.testing.assert_array_equal(a.correct, b.correct)


def test_small_splits_are_read_once() -> None:
    examples = {split: frame_examples(split) for split in ("train", "dev", "test")}
    train_bank(examples, 3, [0, 1], PLAN)
    sources = [found._source for found in examples.values()]
    assert [source.readings for source in sources if isinstance(source, Frames)] == [1, 1, 1]


def test_unlabelled_frames_do_not_count() -> None:
    score = bank([1])["test"][0]
    assert score.total.sum() == sum(20 + i for i in range(12)) - 5


def test_shuffled_labels_are_chance() -> None:
    generator = torch.Generator().manual_seed(9)
    examples = {split: frame_examples(split) for split in ("train", "dev", "test")}
    for found in examples.values():
        labels = tuple(x[torch.randperm(len(x), generator=generator)] for x in found.targets.labels)
        found.targets = Targets(labels, found.targets.speakers)
    scores = train_bank(examples, 3, [1], PLAN)["test"]
    assert all(abs(accuracy(score) - 1 / 3) < 0.12 for score in scores)


def test_a_small_set_does_not_stop_untrained() -> None:
    """A handful of steps an epoch: patience alone would end before anything is learnt."""
    plan = replace(PLAN, batch_size=512, max_epochs=3, patience=1)
    hasty, patient = bank([1], plan)["test"], bank([1], replace(plan, min_steps=400))["test"]
    assert all(score.epochs <= 3 for score in hasty)
    assert all(accuracy(score) > 0.97 for score in patient)
    assert accuracy(hasty[0]) < 0.9


def test_dev_chooses_the_learning_rate() -> None:
    plan = replace(PLAN, probes=("linear",), learning_rates=(1e-9, 1e-2), max_epochs=3)
    (score,) = bank([1], plan)["test"]
    assert score.key.learning_rate == 1e-2


def test_probe_shapes_and_weights_are_a_function_of_the_key() -> None:
    key = ProbeKey(3, "mlp2", 0, 1e-3)
    before = torch.random.get_rng_state()
    network = build_probe(key, 10, 5)
    sizes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert sizes == [(768, 10), (768, 768), (5, 768)]
    other = build_probe(replace(key, learning_rate=1.0), 10, 5)
    assert_close(next(network.parameters()), next(other.parameters()))
    assert torch.equal(before, torch.random.get_rng_state())


def test_chunks_hold_everything_in_order() -> None:
    examples = frame_examples("train")
    runs = chunks(examples, [5, 1, 7, 2], limit=50)
    assert [i for run in runs for i in run] == [5, 1, 7, 2]
    assert all(len(run) == 1 or sum(20 + i for i in run) <= 50 for run in runs)


def test_constant_dimensions_stay_silent() -> None:
    """A mean after CMVN is zero but for rounding, which must not become a feature."""
    generator = torch.Generator().manual_seed(0)
    mean = 1e-8 * torch.randn(30, 1, 4, generator=generator)
    pooled = Pooled(mean, torch.ones(30, 1, 4), np.full(30, 10))
    targets = Targets(tuple(torch.tensor([i % 3]) for i in range(30)), (None,) * 30)
    examples = PooledExamples(pooled, targets)
    centre, spread = examples.scale(0)
    assert examples.constant(0)
    assert ((pooled.mean[:, 0] - centre) / spread).abs().max() < 1e-6
    assert not PooledExamples(replace(pooled, mean=mean * 1e9), targets).constant(0)


def test_scores_survive_on_disk(tmp_path: Any) -> None:
    scores = bank([1])
    write_scores(scores, tmp_path / "x.npz")
    found = read_scores(tmp_path / "x.npz")
    assert found is not None and found.keys() == scores.keys()
    for a, b in zip(found["test"], scores["test"], strict=True):
        assert (a.key, a.items, a.epochs) == (b.key, b.items, b.epochs)
        np.testing.assert_array_equal(a.correct, b.correct)
    assert read_scores(tmp_path / "none.npz") is None


def test_somebodys_own_probe_draws_as_it_would_alone(tmp_path: Path) -> None:
    """Its dropout does not depend on the others in the bank, and is off when it answers."""
    text = "from torch import nn\ndef probe(dim, size):\n"
    text += (
        "    return nn.Sequential(nn.Dropout(0.3), nn.Linear(dim, size), nn.BatchNorm1d(size))\n"
    )
    (tmp_path / "my.py").write_text(text)
    name = f"python:{tmp_path / 'my.py'}:probe"
    plan = replace(PLAN, probes=(name,), max_epochs=3)
    torch.manual_seed(5)
    alone = bank([1], plan)["test"]
    torch.manual_seed(6)
    both = bank([1], replace(plan, probes=("linear", name)))["test"]
    (mine,) = [score for score in both if score.key.probe == name]
    assert (mine.correct == alone[0].correct).all() and mine.epochs == alone[0].epochs


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return nn.ReLU()", "makes a ReLU without weights"),
        ("return 3", "makes a int without weights"),
        ("return nn.Linear(dim, size + 1)", r"returns logits \(3, 6\) for features \(3, 4\)"),
        ("return nn.Linear(size, dim)", r"cannot read features: RuntimeError"),
    ],
)
def test_what_is_no_probe(body: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(f"from torch import nn\ndef probe(dim, size):\n    {body}\n")
    with pytest.raises(UserError, match=sentence):
        build_probe(ProbeKey(0, f"python:{tmp_path / 'my.py'}:probe", 0, 1e-3), 4, 5)
