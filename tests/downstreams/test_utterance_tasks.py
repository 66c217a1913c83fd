"""One answer an utterance: speakers, emotions, intents; s3prl's own losses, and that they learn."""

import importlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auscult import bridge
from auscult.config import override
from auscult.downstreams import TASKS, find_task, training
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.intent_classification import score as intent_score
from auscult.downstreams.split import LabelledCorpus, LabelledSplit
from auscult.errors import UserError

SHORT = ["total_steps=60", "batch_size=8", "gradient_accumulate_steps=1", "learning_rate=0.02"]
SHORT += ["eval_step=20", "save_step=20"]
POOLED = ("speaker_identification", "emotion_recognition", "speaker_utterance")
PROTOCOL = {  # steps, batch, batches a step, learning rate, optimiser, eval, save
    "speaker_identification": (200_000, 8, 4, 1e-4, "Adam", 5_000, 1_000),
    "intent_classification": (200_000, 32, 1, 1e-4, "Adam", 5_000, 250),
    "emotion_recognition": (30_000, 4, 8, 1e-4, "Adam", 1_000, 1_000),
    "phoneme_classification": (500_000, 16, 1, 2e-4, "AdamW", 10_000, 10_000),
    "speaker_utterance": (300_000, 16, 1, 2e-4, "AdamW", 10_000, 10_000),
    "speaker_frame": (500_000, 16, 1, 2e-4, "AdamW", 10_000, 10_000),
}


def _train(
    name: str,
    corpus: Any,
    bands: Any,
    folder: Path,
    expert: Callable[..., Any] | None = None,
    settings: Sequence[str] = (),
) -> tuple[LabelledCorpus, Any]:
    """Train the task called ``name`` on a corpus; return what was asked and answered."""
    task = find_task(name)
    config = override(task.config(), [*SHORT, *settings])
    labelled = task.prepare(corpus, config, skip_unlabelled=False)
    labelled = task.at_frames(labelled, config, bands)
    upstream = CorpusUpstream(bands, labelled, budget=10**9, device="cpu")
    build = expert or task.expert_class()
    result = training.train_head(
        upstream,
        lambda dim: build(dim, labelled, config, 0),
        config,
        task=name,
        seed=0,
        device="cpu",
        folder=folder,
    )
    return labelled, result


def _expert(name: str, corpus: Any, settings: Sequence[str] = ()) -> tuple[LabelledCorpus, Any]:
    task = find_task(name)
    config = override(task.config(), [*SHORT, *settings])
    labelled = task.prepare(corpus, config, skip_unlabelled=False)
    torch.manual_seed(0)
    return labelled, task.expert_class()(8, labelled, config, 0)


def _relabelled(corpus: Any, split: str, **changes: Any) -> Any:
    """Return the corpus with the first utterance of a split relabelled."""
    first, *others = corpus.split(split)
    supervision = replace(first.supervisions[0], **changes)
    cuts = [replace(first, supervisions=[supervision]), *others]
    return replace(corpus, splits={**corpus.splits, split: cuts})


def _theirs(module: str, **parts: Any) -> Any:
    """Return s3prl's expert of a task with our parts, made without its data."""
    bridge.repair()
    expert = importlib.import_module(f"s3prl.downstream.{module}.expert")
    found = expert.DownstreamExpert.__new__(expert.DownstreamExpert)
    nn.Module.__init__(found)
    for name, part in parts.items():
        setattr(found, name, part)
    return found


def _features(generator: torch.Generator, lengths: Sequence[int]) -> list[Tensor]:
    return [torch.randn(n, 8, generator=generator) for n in lengths]


@pytest.mark.parametrize("name", PROTOCOL)
def test_the_defaults_are_the_published_protocols(name: str) -> None:
    c = find_task(name).config()
    wanted = (c.total_steps, c.batch_size, c.gradient_accumulate_steps, c.learning_rate)
    assert (*wanted, c.optimizer, c.eval_step, c.save_step) == PROTOCOL[name]
    assert c.gradient_clipping == 1
    about = ("speaker_identification", "speaker_utterance", "speaker_frame")
    assert find_task(name).about_speakers == (name in about)
    assert set(PROTOCOL) < set(TASKS)


@pytest.mark.parametrize("name", POOLED)
def test_a_label_is_learnt(name: str, talk: Any, bands: Any, tmp_path: Path) -> None:
    labelled, result = _train(name, talk, bands, tmp_path)
    accuracy, macro = find_task(name).score(result.answers, labelled)
    assert accuracy.value > 0.9  # chance is 0.33 or 0.5
    assert accuracy.majority is not None and accuracy.majority < 0.8
    assert (accuracy.num_items, accuracy.num_speakers) == (12, 3)
    assert (accuracy.metric, macro.metric) == find_task(name).spec.metrics
    assert result.answers["id"] == labelled.splits["test"].ids
    projected = 0 if name == "speaker_utterance" else 8 * 256 + 256
    width = 256 if projected else 8
    assert result.num_parameters == 2 + projected + (width + 1) * len(labelled.classes)


def test_intents_are_learnt_slot_by_slot(talk: Any, bands: Any, tmp_path: Path) -> None:
    labelled, result = _train("intent_classification", talk, bands, tmp_path)
    assert labelled.classes == ("action=bring", "action=take", "object=lamp", "object=shoes")
    intent, slots = find_task("intent_classification").score(result.answers, labelled)
    assert (intent.metric, slots.metric) == ("accuracy", "slot_accuracy")
    assert intent.value > 0.9 and slots.value >= intent.value
    assert intent.majority == pytest.approx(0.25) and slots.majority == pytest.approx(0.5)
    assert set(result.answers["prediction"]) <= {
        (verb, noun) for verb in ("bring", "take") for noun in ("lamp", "shoes")
    }


def test_shuffled_labels_are_not_learnt(talk: Any, bands: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def shuffle(cuts: Any) -> list[Any]:
        speakers = generator.permutation([cut.supervisions[0].speaker for cut in cuts])
        return [
            replace(cut, supervisions=[replace(cut.supervisions[0], speaker=str(speaker))])
            for cut, speaker in zip(cuts, speakers, strict=True)
        ]

    broken = replace(talk, splits={name: shuffle(cuts) for name, cuts in talk.splits.items()})
    labelled, result = _train("speaker_identification", broken, bands, tmp_path)
    assert find_task("speaker_identification").score(result.answers, labelled)[0].value < 0.7


@pytest.mark.parametrize("name", POOLED[:2])
def test_loss_and_answers_equal_s3prls(
    name: str, talk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    util = ModuleType("librosa.util")
    vars(util)["find_files"] = None  # what s3prl's voxceleb1 imports for its data code
    monkeypatch.setitem(sys.modules, "librosa", ModuleType("librosa"))
    monkeypatch.setitem(sys.modules, "librosa.util", util)
    labelled, ours = _expert(name, talk)
    parts = {"projector": ours.projector, "model": ours.model, "objective": nn.CrossEntropyLoss()}
    emotions = dict(enumerate(labelled.classes))
    theirs = _theirs(
        {"speaker_identification": "voxceleb1", "emotion_recognition": "emotion"}[name],
        **parts,
        test_dataset=SimpleNamespace(idx2emotion=emotions),
    )
    features = _features(torch.Generator().manual_seed(1), (9, 4, 6, 9))
    ids, labels = list("abcd"), [labelled.classes[i] for i in (0, 1, -1, 0)]
    numbers = [labelled.classes.index(label) for label in labels]
    a: dict[str, list[Any]] = defaultdict(list)
    b: dict[str, list[Any]] = defaultdict(list)
    loss = ours("dev", features, ids, labels, records=a)
    torch.testing.assert_close(loss, theirs("dev", features, numbers, ids, records=b))
    assert [float(t == p) for t, p in zip(a["target"], a["prediction"], strict=True)] == b["acc"]
    assert ours.score(a) == pytest.approx(np.mean(b["acc"]))
    assert a["id"] == b["filename"]


def test_intent_loss_and_accuracy_equal_s3prls(talk: Any) -> None:
    labelled, ours = _expert("intent_classification", talk)
    values = [["bring", "take"], ["lamp", "shoes"], ["none"]]  # theirs wants three slots
    numbered = [dict(enumerate(v)) | {x: i for i, x in enumerate(v)} for v in values]
    theirs = _theirs(
        "fluent_commands",
        projector=ours.projector,
        model=lambda x, n: [torch.cat([ours.model(x, n)[0], torch.zeros(len(x), 1)], -1), None],
        objective=nn.CrossEntropyLoss(),
        values_per_slot=[2, 2, 1],
        Sy_intent=dict(zip(("action", "object", "location"), numbered, strict=True)),
    )
    features = _features(torch.Generator().manual_seed(2), (5, 8, 3, 8, 7, 4))
    labels = [(v, n) for v in values[0] for n in values[1]] + [("take", "lamp"), ("take", "shoes")]
    numbers = [[numbered[i][x] for i, x in enumerate(row)] + [0] for row in labels]
    ids = list("abcdef")
    a: dict[str, list[Any]] = defaultdict(list)
    b: dict[str, list[Any]] = defaultdict(list)
    loss = ours("dev", features, ids, labels, records=a)
    torch.testing.assert_close(loss, theirs("dev", features, numbers, ids, records=b))
    assert a["prediction"] == [row[:2] for row in b["predict"]]
    assert 0 < ours.score(a) < 1
    assert ours.score(a) == pytest.approx(np.mean(b["acc"]))
    test = LabelledSplit("test", labelled.splits["test"].cuts[:6], tuple(labels))
    asked = replace(labelled, splits={**labelled.splits, "test": test})
    assert intent_score(a, asked)[0].value == pytest.approx(np.mean(b["acc"]))


def test_intents_scored_by_hand(talk: Any) -> None:
    labelled, _ = _expert("intent_classification", talk)
    test = LabelledSplit("test", labelled.splits["test"].cuts[:4], ())
    train = replace(
        labelled.splits["train"], labels=(("take", "lamp"), ("take", "lamp"), ("bring", "shoes"))
    )
    asked = replace(labelled, splits={"train": train, "dev": test, "test": test})
    targets = [("take", "lamp"), ("take", "shoes"), ("bring", "shoes"), ("bring", "lamp")]
    found = [("take", "lamp"), ("take", "lamp"), ("take", "lamp"), ("bring", "lamp")]
    intent, slots = intent_score({"target": targets, "prediction": found}, asked)
    assert (intent.value, slots.value) == (2 / 4, 5 / 8)
    assert (intent.majority, slots.majority) == (1 / 4, 4 / 8)  # always take, lamp
    assert (intent.num_items, slots.num_items) == (4, 4)
    assert intent.low is not None and intent.high is not None
    assert intent.low <= 0.5 <= intent.high


def test_crops_are_parts_of_long_training_utterances_alone(talk: Any) -> None:
    labelled, ours = _expert("speaker_identification", talk, ["crop_seconds=0.16"])  # 8 frames
    longest = labelled.splits["train"].utterances
    seen = defaultdict(set)
    for epoch in range(12):
        assert ours.get_dataloader("train", epoch) == ours.get_dataloader("train", epoch)
        for utterances, _, _, crops in ours.get_dataloader("train", epoch):
            for utterance, (start, end) in zip(utterances, crops, strict=True):
                assert 0 <= start < end <= 1
                size = (end - start) * len(utterance)
                assert size == pytest.approx(min(len(utterance), 0.16 * 16_000))
                seen[utterance.index].add(start)
    long = [u.index for u in longest if len(u) > 2560]
    assert long and all(len(seen[i]) > 1 for i in long)
    assert all(len(seen[u.index]) == 1 for u in longest if len(u) <= 2560)
    assert all(len(batch) == 3 for batch in ours.get_dataloader("test"))


def test_a_crop_is_what_the_head_sees(talk: Any) -> None:
    labelled, ours = _expert("speaker_identification", talk)
    frames = torch.randn(10, 8)
    label = [labelled.classes[0]]

    def loss(rows: Tensor, *crops: Any) -> Tensor:
        found: Tensor = ours("train", [rows], ["a"], label, *crops, records=defaultdict(list))
        return found

    torch.testing.assert_close(loss(frames, [(0.2, 0.7)]), loss(frames[2:7]))
    torch.testing.assert_close(loss(frames, [(0.98, 1.0)]), loss(frames[9:]))
    torch.testing.assert_close(loss(frames, [(0.0, 1.0)]), loss(frames))
    assert not torch.allclose(loss(frames, [(0.2, 0.7)]), loss(frames))


@pytest.mark.parametrize("name", ["speaker_identification", "phoneme_classification"])
def test_killed_and_resumed_gives_the_same_bits(
    name: str, talk: Any, bands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["total_steps=7", "eval_step=3", "save_step=2", "gradient_accumulate_steps=2"]
    if name == "speaker_identification":
        settings.append("crop_seconds=0.1")
    straight = _train(name, talk, bands, tmp_path / "a", settings=settings)[1]
    whole = training.HeadTraining._step

    def step(self: Any, number: int, *others: Any) -> float:
        loss = whole(self, number, *others)
        if number == 5:
            raise KeyboardInterrupt
        return loss

    with monkeypatch.context() as context:
        context.setattr(training.HeadTraining, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            _train(name, talk, bands, tmp_path / "b", settings=settings)
    resumed = _train(name, talk, bands, tmp_path / "b", settings=settings)[1]
    assert (straight.answers, straight.curve) == (resumed.answers, resumed.curve)
    states = [torch.load(tmp_path / x / "states-7.ckpt", weights_only=True) for x in "ab"]
    for key, value in states[0]["Downstream"].items():
        assert torch.equal(value, states[1]["Downstream"][key])


def test_incomplete_batches_are_kept(talk: Any) -> None:
    _, ours = _expert("emotion_recognition", talk, ["batch_size=7"])
    assert [len(ids) for _, ids, _ in ours.get_dataloader("train")] == [7, 7, 7, 3]
    assert sorted(i for _, ids, _ in ours.get_dataloader("train", 3) for i in ids) == sorted(
        cut.id for cut in talk.split("train")
    )


def test_missing_labels_end_in_a_sentence(talk: Any, words: Any) -> None:
    def prepare(name: str, corpus: Any, *settings: str) -> Any:
        task = find_task(name)
        return task.prepare(corpus, override(task.config(), settings), skip_unlabelled=False)

    name = talk.split("dev")[0].id
    with pytest.raises(UserError, match=f"{name} of the dev split .* no label 'emotion'"):
        prepare("emotion_recognition", _relabelled(talk, "dev", custom={}))
    with pytest.raises(UserError, match=f"{name} of the dev split .* no label 'speaker'"):
        prepare("speaker_identification", _relabelled(talk, "dev", speaker=None))
    with pytest.raises(UserError, match=f"{name} of the dev split .* no label 'slots.action'"):
        prepare("intent_classification", _relabelled(talk, "dev", custom={}))
    with pytest.raises(UserError, match="choose a split column by utterance with --split"):
        prepare("speaker_identification", words)
    with pytest.raises(UserError, match="has no intent slots"):
        prepare("intent_classification", words)
    with pytest.raises(UserError, match="Did you mean object"):
        prepare("intent_classification", talk, "slots=action,objekt")
    new = {"slots": {"action": "throw", "object": "lamp"}}
    with pytest.raises(UserError, match="slots.action 'throw', which no utterance of train has"):
        prepare("intent_classification", _relabelled(talk, "test", custom=new))


def test_utterances_without_slots_are_counted_once(talk: Any) -> None:
    broken = _relabelled(talk, "dev", custom={})
    task = find_task("intent_classification")
    labelled = task.prepare(broken, task.config(), skip_unlabelled=True)
    assert labelled.skipped == (f"dev: {talk.split('dev')[0].id} has no slots.",)
    assert len(labelled.splits["dev"].cuts) == len(talk.split("dev")) - 1


def test_slots_are_chosen(talk: Any) -> None:
    task = find_task("intent_classification")
    config = override(task.config(), ["slots=object"])
    labelled = task.prepare(talk, config, skip_unlabelled=False)
    assert labelled.classes == ("object=lamp", "object=shoes")
    rare = {"slots": {"action": "take", "object": "lamp", "colour": "red"}}
    labelled = task.prepare(
        _relabelled(talk, "train", custom=rare), task.config(), skip_unlabelled=False
    )
    assert not any("colour" in name for name in labelled.classes)


def test_the_command_line_knows_tasks_about_speakers(
    run: Callable[..., tuple[int, str, str]], talk_folder: Path, tmp_path: Path
) -> None:
    words = ("run", "-u", "log_mel", "--no-baselines", "-c", f"tsv:{talk_folder}", "--json")
    words += ("--steps", "2", "--out", str(tmp_path), "-t")
    for task in ("speaker_identification", "speaker_frame"):
        status, stdout, stderr = run(*words, task)
        assert status == 0, stderr
        records = json.loads(stdout)["records"]
        assert [r["metric"] for r in records] == ["accuracy", "macro_accuracy"]
        assert records[0]["num_speakers"] == 3
    status, stdout, stderr = run(*words, "emotion_recognition")
    assert (status, stdout) == (2, "") and "--allow-shared-speakers" in stderr
    status, stdout, stderr = run(*words, "emotion_recognition", "optimizer=Adem")
    assert status == 2 and "Did you mean Adam" in stderr
