"""What it costs to check the hashes of kept features, as a share of a probe that reads them.

The features have the shape of HuBERT Base (13 states of 768 dimensions, 50 frames a second) and
noise for values, made without an encoder, for as many utterances of a corpus as asked. Each probe
learns for the fewest epochs that patience allows: those that learn something take longer. Seconds
are the processor's, which other work on the machine does not change.

    python benchmarks/kept_work.py tsv:../shared/data/timit-sample --split split_nosa
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import auscult
from auscult import kept
from auscult.contracts import HiddenStates, UpstreamSpec, Waveforms
from auscult.feature import FeatureStore
from auscult.frame import conv_geometry, conv_lengths
from auscult.probing import (
    FrameExamples,
    TrainingPlan,
    build_targets,
    resolve_tasks,
    sweep_layers,
)
from auscult.upstream import Upstream

SPLITS = ("train", "dev", "test")
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class Noise(Upstream):
    """States of the shape of HuBERT Base's."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = UpstreamSpec(
            name="noise",
            family="noise",
            num_layers=12,
            dim=768,
            geometry=conv_geometry(KERNELS, STRIDES),
            sha256="noise",
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """See :class:`Upstream`."""
        return conv_lengths(lengths, KERNELS, STRIDES)

    def forward(self, audio: Waveforms) -> HiddenStates:
        """See :class:`Upstream`."""
        frames = self.num_frames(audio.lengths)
        shape = (len(frames), int(frames.max()), self.spec.dim)
        return HiddenStates(tuple(torch.randn(shape) for _ in range(13)), frames)


def main() -> None:
    """Print bytes, seconds of the processor and the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--split")
    parser.add_argument("--task", default="phone39")
    parser.add_argument("--probe", action="append", help="linear, mlp1, mlp2; all by default")
    parser.add_argument("--utterances", type=int, default=10**9, help="of each split")
    options = parser.parse_args()
    logging.getLogger("auscult").setLevel(logging.ERROR)
    corpus = auscult.corpus(options.corpus, split=options.split)
    cuts = {name: list(corpus.split(name))[: options.utterances] for name in SPLITS}
    checking = _watch_checks()
    with tempfile.TemporaryDirectory() as folder:
        for store in _stores(cuts, folder).values():
            store.encode()
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        kept._checked.cache_clear()
        checking.clear()
        started = time.process_time()
        _probe(options.task, options.probe or ("linear", "mlp1", "mlp2"), cuts, folder)
        whole = time.process_time() - started
    hashed = sum(checking)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"features on disk       {size / 1e6:10.1f} MB in {len(checking)} files")
    print(f"checking their hashes  {hashed:10.2f} s ({size / 1e6 / hashed:.0f} MB/s)")
    print(f"the whole warm probe   {whole:10.2f} s")
    print(f"share                  {hashed / whole:10.2%}")


def _probe(task_name: str, probes: Sequence[str], cuts: dict[str, list[Any]], folder: str) -> None:
    """Probe all layers, on features that are there."""
    stores = _stores(cuts, folder)
    (task,) = resolve_tasks(task_name, cuts["train"])
    pooled = {name: store.encode().pooled() for name, store in stores.items()}
    frames = {name: found.num_frames for name, found in pooled.items()}
    geometry = Noise().spec.geometry
    classes, targets = build_targets(task, cuts, frames, geometry)
    examples = {n: FrameExamples(stores[n].frames(), pooled[n], targets[n]) for n in SPLITS}
    plan = TrainingPlan(probes=tuple(probes))
    plan = replace(plan, max_epochs=plan.patience + 1)
    sweep_layers(
        examples,
        len(classes),
        range(13),
        plan,
        title="Probing",
        identity=[],
        folder=Path(folder) / "scores",
    )


def _stores(cuts: dict[str, list[Any]], folder: str) -> dict[str, FeatureStore]:
    place = Path(folder) / "features"
    return {n: FeatureStore(Noise(), c, keep_frames=True, folder=place) for n, c in cuts.items()}


def _watch_checks() -> list[float]:
    """Return a list that the seconds of every check are added to."""
    seconds: list[float] = []
    check = kept._tensors_whole

    def timed(file: Any, path: Path) -> bool:
        started = time.process_time()
        found = check(file, path)
        seconds.append(time.process_time() - started)
        return found

    kept._tensors_whole = timed
    return seconds


if __name__ == "__main__":
    main()
