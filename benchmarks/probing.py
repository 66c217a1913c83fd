"""A layer sweep against one run for each layer and depth with the encoder inside the epoch.

The peer is how s3prl probes layers: `-l LAYER`, one run each, in which the frozen encoder computes
all its layers again for every utterance of every epoch. Here that run is Auscult's own bank fed by
features that are encoded anew at each epoch, one utterance at a time (the faster way on a CPU), so
that the scores of both must be equal, and are compared. It is measured on a part (an epoch of one
linear probe on two layers, interleaved with the same epoch on kept features) and scaled to the
epochs that the sweep's probes really ran: the scaling is printed.

    python benchmarks/probing.py tsv:../shared/data/timit-sample --split split_nosa --task phone39
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import auscult
from auscult.feature import FeatureStore
from auscult.probing import (
    FrameExamples,
    TrainingPlan,
    build_targets,
    resolve_tasks,
    sweep_layers,
    train_bank,
)
from auscult.upstream import Upstream

SPLITS = ("train", "dev", "test")


def main() -> None:
    """Print extraction, probe and peer times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--task", default="phone39")
    parser.add_argument("--upstream", default="random(hubert_base)")
    options = parser.parse_args()
    encoder = auscult.load(options.upstream)
    corpus = auscult.corpus(options.corpus, split=options.split)
    cuts = {name: list(corpus.split(name)) for name in SPLITS}
    (task,) = resolve_tasks(options.task, cuts["train"])
    if not task.frames:
        parser.error("the comparison is over frames; choose phone, phone39 or phone61")
    minutes = sum(cut.duration for rows in cuts.values() for cut in rows) / 60
    layers = list(range(encoder.spec.num_layers + 1))
    plan = TrainingPlan()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        kept = {n: _store(encoder, rows, folder, keep=True).encode() for n, rows in cuts.items()}
        extraction = time.perf_counter() - started
        pooled = {name: store.pooled() for name, store in kept.items()}
        frames = {name: found.num_frames for name, found in pooled.items()}
        classes, targets = build_targets(task, cuts, frames, encoder.spec.geometry)
        fast = {n: FrameExamples(kept[n].frames(), pooled[n], targets[n]) for n in SPLITS}
        again = {n: _store(encoder, rows, folder, keep=False) for n, rows in cuts.items()}
        slow = {n: FrameExamples(again[n].frames(), pooled[n], targets[n]) for n in SPLITS}
        part = replace(plan, probes=("linear",), max_epochs=1, chunk_examples=8192)
        rounds = []
        for layer in (layers[-1] // 2, layers[-1]):
            seconds, scores = zip(
                *(_timed(examples, len(classes), layer, part) for examples in (fast, slow)),
                strict=True,
            )
            for a, b in zip(*(found["test"] for found in scores), strict=True):
                np.testing.assert_array_equal(a.correct, b.correct)
            rounds.append(seconds)
        started = time.perf_counter()
        swept = sweep_layers(
            fast, len(classes), layers, plan, title="Probing", identity=[], folder=Path(folder)
        )
        probing = time.perf_counter() - started
    runs = swept["test"]
    epochs = [min(score.epochs + plan.patience, plan.max_epochs) for score in runs]
    kept_time, encoder_time = (sum(column) for column in zip(*rounds, strict=True))
    # A round encodes train, dev and test once; an epoch of training needs train and dev.
    share = 1 - sum(cut.duration for cut in cuts["test"]) / (60 * minutes)
    encode_epoch = share * (encoder_time - kept_time) / len(rounds)
    peer = probing + sum(epochs) * encode_epoch
    print(f"{options.upstream} on {options.corpus} ({minutes:.1f} min), {options.task}")
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"scores with kept features and with the encoder inside: equal, {len(rounds)} rounds")
    print(f"extraction, once                              {extraction:10.1f} s")
    print(f"{len(runs)} probes ({len(layers)} layers x 3 depths)          {probing:10.1f} s")
    print(f"encoder inside, one epoch of one run           {encode_epoch:10.1f} s (measured)")
    print(f"encoder inside, {len(runs)} runs, {sum(epochs)} epochs     {peer:10.1f} s (scaled)")
    print(f"ratio                                          {peer / (extraction + probing):10.1f} x")


def _store(encoder: Upstream, cuts: list, folder: str, *, keep: bool) -> FeatureStore:
    return FeatureStore(encoder, cuts, keep_frames=keep, folder=Path(folder))


def _timed(examples: dict, num_classes: int, layer: int, plan: TrainingPlan) -> tuple[float, dict]:
    started = time.perf_counter()
    scores = train_bank(examples, num_classes, [layer], plan)
    return time.perf_counter() - started, scores


if __name__ == "__main__":
    main()
