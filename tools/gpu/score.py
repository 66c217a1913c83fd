"""A probe and a head of every task on the device, each within the interval of the CPU's score."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import auscult
from auscult.config import override
from auscult.downstreams import TASKS, HeadTask
from auscult.downstreams.feature import CorpusUpstream
from auscult.downstreams.score import accuracy_score
from auscult.downstreams.split import drop_short
from auscult.downstreams.training import fit_head
from auscult.feature import FeatureStore
from auscult.probing import (
    FrameExamples,
    ProbeKey,
    TrainingPlan,
    build_targets,
    resolve_tasks,
    train_bank,
)
from auscult.score import Score

from .part import Check, Setting, attempt
from .speech import write_tones

ENCODER = "tiny_hubert"
BUDGET = 10**9  # bytes: all features are kept
SPLITS = ("train", "dev", "test")
# At which heads of characters, with dropout and masks that every kind of device draws anew, have
# learned all that there is whatever was drawn.
STEPS = {"speech_recognition": 400, "slot_filling": 400}
_SMALL: Mapping[str, Any] = {
    "batch_size": 8,
    "gradient_accumulate_steps": 1,
    "learning_rate": 0.005,
    "projector_dim": 32,
    "hidden_dim": 64,
    "embedding_dim": 32,
    "pooled_dim": 48,
    "median_frames": 3,
    "chunk_frames": 40,
}


def heads(setting: Setting) -> Iterator[Check]:
    """Train a head of every task, and of some tasks in the other ways that there are."""
    corpus = write_tones(setting.folder / "tones", 8 if setting.dry else 32)
    for name in TASKS:
        yield from attempt(name, _hold, name, corpus, setting)
    ways: dict[str, Mapping[str, Any]] = {
        "fine-tuned": {"finetune": True},
        "encoded anew": {"budget": 0},
        "in bfloat16": {"settings": ("training_precision=bfloat16",)},
    }
    if setting.device != "cpu":
        ways |= {"in float16": {"settings": ("training_precision=float16",)}}
    for way, options in ways.items():
        yield from attempt(way, _hold, "keyword_spotting", corpus, setting, way, **options)


def _hold(
    name: str, corpus: Any, setting: Setting, way: str = "", **options: Any
) -> Iterator[Check]:
    """Score one head on the CPU and on the device."""
    shown = f"{name}, {way}" if way else name
    wanted, found = (
        _score(
            TASKS[name],
            corpus,
            device,
            2 if setting.dry else STEPS.get(name, 120),
            setting.folder / place,
            shown,
            **options,
        )
        for place, device in (("reference", setting.reference), ("device", setting.device))
    )
    for one, other in zip(wanted, found, strict=True):
        yield _inside(f"{shown}: {one.metric}", one, other.value)


def _inside(name: str, wanted: Score, value: float) -> Check:
    """Hold a score against an interval that is one item's worth wider on either side.

    One of no width, where nothing was wrong or everything, would say that nothing may ever differ.
    """
    low, high = wanted.value, wanted.value
    if wanted.low is not None and wanted.high is not None:
        low, high = wanted.low, wanted.high
    item = 1 / wanted.num_items
    return Check(name, value, low - item, high + item, note=f"{wanted.value:.4f} on the CPU")


def _score(
    task: HeadTask,
    corpus: Any,
    device: str,
    steps: int,
    folder: Path,
    shown: str,
    *,
    finetune: bool = False,
    budget: int = BUDGET,
    settings: tuple[str, ...] = (),
) -> list[Score]:
    """Train a head on ``device`` and return its scores on test."""
    encoder = auscult.load(ENCODER).to(device)
    config = task.config()
    small = _SMALL | {"total_steps": steps, "eval_step": steps // 2, "save_step": steps}
    known = {name: value for name, value in small.items() if hasattr(config, name)}
    config = override(config, [*(f"{name}={value}" for name, value in known.items()), *settings])
    if device == "cpu" and getattr(config, "training_precision", "") == "float16":
        config = replace(config, training_precision="float32")  # which the CPU has instead
    labelled = task.prepare(corpus, config, skip_unlabelled=False)
    labelled = drop_short(labelled, encoder, skip_bad=False, min_frames=task.min_frames)
    labelled = task.at_frames(labelled, config, encoder)
    if not task.trains:
        result = task.evaluate(encoder, labelled, budget=budget, device=device, precision="float32")
        return list(task.score(result.answers, labelled))
    upstream = CorpusUpstream(
        encoder, labelled, budget=budget, device=device, folder=folder / "kept", finetune=finetune
    )
    expert = task.expert_class()
    training = fit_head(
        upstream,
        lambda dim: expert(dim, labelled, config, 0),
        config,
        task=task.spec.name,
        seed=0,
        device=device,
        folder=folder / shown,
    )
    return list(task.score(training.result().answers, labelled))


def probe(setting: Setting) -> Iterator[Check]:
    """Probe every layer for the phone of each frame, on the device and on the CPU."""
    corpus = write_tones(setting.folder / "tones", 8 if setting.dry else 32)
    wanted, found = (
        _probe(corpus, device, setting.folder / str(place), 2 if setting.dry else 10)
        for place, device in enumerate((setting.reference, setting.device))
    )
    for key, score in wanted.items():
        yield _inside(f"{key.probe} probe of layer {key.layer}", score, found[key].value)


def _probe(corpus: Any, device: str, folder: Path, epochs: int) -> dict[ProbeKey, Score]:
    """Return the accuracy of each probe on test."""
    encoder = auscult.load(ENCODER).to(device)
    cuts = {name: list(corpus.split(name)) for name in SPLITS}
    stores = {
        name: FeatureStore(encoder, found, keep_frames=True, folder=folder).encode()
        for name, found in cuts.items()
    }
    pooled = {name: store.pooled() for name, store in stores.items()}
    (task,) = resolve_tasks("phone", [cut for found in cuts.values() for cut in found])
    frames = {name: found.num_frames for name, found in pooled.items()}
    classes, targets = build_targets(task, cuts, frames, encoder.spec.geometry)
    examples = {
        name: FrameExamples(stores[name].frames(), pooled[name], targets[name]) for name in SPLITS
    }
    layers = range(encoder.spec.num_layers + 1)
    plan = TrainingPlan(probes=("linear", "mlp1"), max_epochs=epochs)
    scores = train_bank(examples, len(classes), layers, plan, device=device)["test"]
    speakers = targets["test"].speakers
    return {
        score.key: accuracy_score(
            "accuracy", score.correct, score.total, speakers, always=score.correct
        )
        for score in scores
    }
