"""A class for each frame: where labels come from, s3prl's own losses, scores, and learning."""

import importlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from auscult import bridge
from auscult.config import override
from auscult.contracts import UpstreamSpec
from auscult.downstreams import find_task
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.frame import UNLABELLED, FrameExpert, score
from auscult.downstreams.schedule import runner_config
from auscult.downstreams.split import LabelledCorpus
from auscult.downstreams.training import train_head
from auscult.errors import UserError
from auscult.frame import FrameGeometry

SHORT = ["total_steps=60", "batch_size=8", "learning_rate=0.02", "eval_step=20", "save_step=60"]


def _prepared(name: str, corpus: Any, bands: Any, *settings: str) -> tuple[Any, LabelledCorpus]:
    task = find_task(name)
    config = override(task.config(), [*SHORT, *settings])
    labelled = task.prepare(corpus, config, skip_unlabelled=False)
    return config, task.at_frames(labelled, config, bands)


def _theirs(module: str, weights: Mapping[str, torch.Tensor], **sizes: Any) -> Any:
    """Return s3prl's expert with the given weights, made without its data."""
    bridge.repair()
    expert = importlib.import_module(f"s3prl.downstream.{module}.expert")
    found = expert.DownstreamExpert.__new__(expert.DownstreamExpert)
    nn.Module.__init__(found)
    kind = "speaker_linear_utter_libri" if module.startswith("speaker") else module
    model = importlib.import_module(f"s3prl.downstream.{kind}.model")
    found.model = model.Model(**sizes)
    found.model.load_state_dict(weights)
    found.objective = nn.CrossEntropyLoss()
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("phoneme_classification", ("hidden=0",)),
        ("phoneme_classification", ("hidden=2", "hidden_dim=16")),
        ("speaker_frame", ("learning_rate=0.2",)),
    ],
)
def test_it_learns(
    name: str, settings: tuple[str, ...], talk: Any, bands: Any, tmp_path: Path
) -> None:
    config, labelled = _prepared(name, talk, bands, *settings)
    build = find_task(name).expert_class()
    result = train_head(
        CorpusUpstream(bands, labelled, budget=10**9, device="cpu"),
        lambda dim: build(dim, labelled, config, 0),
        config,
        task=name,
        seed=0,
        device="cpu",
        folder=tmp_path,
    )
    accuracy, macro = find_task(name).score(result.answers, labelled)
    assert accuracy.value > 0.9 and macro.value > 0.9
    assert accuracy.majority is not None and accuracy.majority < 0.5
    labels = labelled.splits["test"].labels
    assert accuracy.num_items == sum(int((row != UNLABELLED).sum()) for row in labels)
    assert accuracy.num_speakers == 3
    assert [len(row) for row in result.answers["prediction"]] == [len(row) for row in labels]


def test_a_frame_has_the_label_at_its_centre(talk: Any, bands: Any) -> None:
    _, labelled = _prepared("phoneme_classification", talk, bands)
    assert labelled.classes == ("a", "i", "o", "u")
    for cut, labels in zip(labelled.splits["dev"].cuts, labelled.splits["dev"].labels, strict=True):
        wanted = []
        for item in cut.supervisions[0].alignment["phone"]:
            number = labelled.classes.index(item.symbol) if item.symbol else UNLABELLED
            wanted += [number] * round(item.duration * 50)
        assert labels.tolist() == wanted
        assert UNLABELLED in wanted
    _, labelled = _prepared("speaker_frame", talk, bands)
    assert all(len(set(labels.tolist())) == 1 for labels in labelled.splits["test"].labels)


def test_labels_follow_the_encoders_geometry(
    talk: Any, bands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = _prepared("phoneme_classification", talk, bands)
    late = replace(bands.spec, geometry=FrameGeometry(320, 320, offset=320))
    assert isinstance(late, UpstreamSpec)
    monkeypatch.setattr(bands, "spec", late)
    _, after = _prepared("phoneme_classification", talk, bands)
    for one, two in zip(before.splits["test"].labels, after.splits["test"].labels, strict=True):
        assert two.tolist() == [*one.tolist()[1:], UNLABELLED]


@pytest.mark.parametrize("hidden", [0, 1])
def test_phone_loss_and_accuracy_equal_s3prls(hidden: int, talk: Any, bands: Any) -> None:
    config, labelled = _prepared(
        "phoneme_classification", talk, bands, f"hidden={hidden}", "hidden_dim=12"
    )
    torch.manual_seed(0)
    ours = find_task("phoneme_classification").expert_class()(8, labelled, config, 0)
    parameters = list(ours.model.parameters())
    names = ["linear"] if hidden == 0 else ["in_linear", "out_linear"]
    keys = [f"{layer}.{part}" for layer in names for part in ("weight", "bias")]
    theirs = _theirs(
        "phone_linear" if hidden == 0 else "phone_1hidden",
        {key: value.detach() for key, value in zip(keys, parameters, strict=True)},
        input_dim=8,
        output_class_num=4,
        hidden_size=12,
        dropout=0.0,
    )
    features = [torch.randn(n, 8) for n in (7, 4, 6)]
    labels = [np.arange(n, dtype=np.int16) % 4 for n in (7, 4, 6)]
    a: dict[str, list[Any]] = defaultdict(list)
    b: dict[str, list[Any]] = defaultdict(list)
    loss = ours("dev", features, ["x", "y", "z"], labels, records=a)
    numbers = [torch.from_numpy(row.astype(np.int64)) for row in labels]
    torch.testing.assert_close(loss, theirs("dev", features, numbers, records=b))
    assert 0 < ours.score(a) < 1
    assert ours.score(a) == pytest.approx(np.mean(b["acc"]))


def test_speaker_loss_equals_s3prls_where_nothing_is_padded(talk: Any, bands: Any) -> None:
    config, labelled = _prepared("speaker_frame", talk, bands)
    ours = FrameExpert(8, labelled, config, 0)
    keys = ["linear.weight", "linear.bias"]
    weights = dict(zip(keys, ours.model.parameters(), strict=True))
    theirs = _theirs("speaker_linear_frame_libri", weights, input_dim=8, output_class_num=3)
    features = [torch.randn(6, 8) for _ in range(3)]
    a: dict[str, list[Any]] = defaultdict(list)
    b: dict[str, list[Any]] = defaultdict(list)
    labels = [np.full(6, i, dtype=np.int16) for i in (2, 0, 1)]
    loss = ours("dev", features, ["x", "y", "z"], labels, records=a)
    torch.testing.assert_close(loss, theirs("dev", features, torch.tensor([2, 0, 1]), records=b))
    assert ours.score(a) == pytest.approx(np.mean(b["acc"]))


def test_unlabelled_frames_change_nothing(talk: Any, bands: Any) -> None:
    config, labelled = _prepared("phoneme_classification", talk, bands)
    ours = FrameExpert(8, labelled, config, 0)
    features, labels = [torch.randn(5, 8)], [np.array([0, 1, -1, 2, -1], dtype=np.int16)]
    kept = torch.tensor([0, 1, 3])
    a: dict[str, list[Any]] = defaultdict(list)
    b: dict[str, list[Any]] = defaultdict(list)
    with_gap = ours("dev", features, ["x"], labels, records=a)
    without = ours("dev", [features[0][kept]], ["x"], [labels[0][kept.numpy()]], records=b)
    torch.testing.assert_close(with_gap, without)
    assert ours.score(a) == ours.score(b)
    nothing = ours("dev", features, ["x"], [np.full(5, -1, dtype=np.int16)], records=a)
    assert float(nothing.detach()) == 0


def test_frames_scored_by_hand(talk: Any, bands: Any) -> None:
    _, labelled = _prepared("phoneme_classification", talk, bands)
    cuts = labelled.splits["test"].cuts[:2]
    rows = (np.array([0, 0, 0, 1, -1]), np.array([1, 2, 2]))
    test = replace(labelled.splits["test"], cuts=cuts, labels=rows)
    train = replace(labelled.splits["train"], labels=(np.array([2, 2, 1, -1, -1, -1]),))
    asked = replace(labelled, splits={"train": train, "dev": test, "test": test})
    answers = {"target": [[0, 0, 0, 1, -1], [1, 2, 2]], "prediction": [[0, 0, 1, 1, 0], [0, 2, 1]]}
    accuracy, macro = score(answers, asked)
    assert accuracy.value == pytest.approx(4 / 7)
    assert macro.value == pytest.approx((2 / 3 + 1 / 2 + 1 / 2) / 3)
    assert accuracy.majority == pytest.approx(2 / 7)  # always class 2, train's commonest
    assert macro.majority == pytest.approx(1 / 3)
    assert accuracy.num_items == 7


def test_a_class_that_train_lacks_counts_as_wrong(talk: Any, bands: Any) -> None:
    train = [cut for cut in talk.split("train") if "u" not in _phones(cut)]
    _, labelled = _prepared(
        "phoneme_classification", replace(talk, splits={**talk.splits, "train": train}), bands
    )
    assert labelled.classes == ("a", "i", "o", "u")
    assert not any((row == 3).any() for row in labelled.splits["train"].labels)
    assert any((row == 3).any() for row in labelled.splits["test"].labels)


def test_missing_alignments_end_in_a_sentence(talk: Any, words: Any, bands: Any) -> None:
    with pytest.raises(UserError, match=r"no alignment 'phone' \(48 of 48 have none\)"):
        _prepared("phoneme_classification", words, bands)
    with pytest.raises(UserError, match="no alignment 'phone39'"):
        _prepared("phoneme_classification", talk, bands, "alignment=phone39")
    first, *others = talk.split("dev")
    bare = replace(first, supervisions=[replace(first.supervisions[0], alignment={})])
    broken = replace(talk, splits={**talk.splits, "dev": [bare, *others]})
    with pytest.raises(UserError, match=rf"Utterance {first.id} of the dev .* \(1 of 12"):
        _prepared("phoneme_classification", broken, bands)
    task = find_task("phoneme_classification")
    labelled = task.prepare(broken, task.config(), skip_unlabelled=True)
    assert labelled.skipped == (f"dev: {first.id} has no alignment 'phone'.",)
    for settings in (["hidden=3"], ["hidden=-1"]):
        with pytest.raises(UserError, match="hidden=(3|-1): expected"):
            override(task.config(), settings)


def test_s3prls_adamw_is_what_trains() -> None:
    assert runner_config(find_task("speaker_frame").config())["optimizer"] == {
        "name": "AdamW",
        "lr": 2e-4,
    }


def _phones(cut: Any) -> set[str]:
    return {item.symbol for item in cut.supervisions[0].alignment["phone"]}
