"""Records and artifacts of the sizes and shapes that real runs give, with invented numbers."""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest

from auscult.record import Artifact, Provenance, Record
from auscult.results.difference import build_difference

UPSTREAMS = ("fbank", "random(hubert_base)", "hf:/models/hubert-base-ls960")
TASKS = {"phone39": ("tsv:/data/timit-sample", 0.08), "keyword": ("demo", 0.1)}
PROBES = {"linear": 0.0, "mlp1": 0.06, "mlp2": 0.07}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def run(upstream: str, verb: str = "probe") -> Provenance:
    return Provenance(
        command=f"auscult {verb} -u '{upstream}' -c tsv:/data/timit-sample -t phone39 --out out",
        created="2026-01-02T03:04:05+00:00",
        code_version="0.1.0+0123456789ab",
        libraries={"torch": "2.11.0", "s3prl": "0.4.18"},
        device="cpu",
    )


def probe_records(num_layers: int = 13, seeds: int = 2) -> list[Record]:
    return [
        probe_record(upstream, task, probe, metric, layer, seed)
        for upstream in UPSTREAMS
        for task in TASKS
        for probe in PROBES
        for metric in ("accuracy", "macro_accuracy")
        for layer in range(1 if upstream == "fbank" else num_layers)
        for seed in range(seeds)
    ]


def probe_record(
    upstream: str, task: str, probe: str, metric: str, layer: int, seed: int
) -> Record:
    corpus, majority = TASKS[task]
    rise = math.sin(math.pi * (layer + 1) / 14) * (0.25 if upstream.startswith("hf") else 0.05)
    value = 0.45 + rise + PROBES[probe] + 0.004 * seed + (0.1 if task == "keyword" else 0)
    value -= 0.05 if metric == "macro_accuracy" else 0
    half = 0.03 if task == "phone39" else 0.06
    return Record(
        upstream=upstream,
        upstream_sha256=sha256(upstream),
        corpus=corpus,
        corpus_sha256=sha256(corpus),
        task=task,
        task_version=1,
        layer=layer,
        probe=probe,
        metric=metric,
        value=value,
        low=value - half,
        high=value + half,
        majority=majority if metric == "accuracy" else None,
        split="test",
        selected_on="dev",
        num_items=51_211 if task == "phone39" else 320,
        num_speakers=24 if task == "phone39" else 6,
        num_skipped=0,
        seed=seed,
        num_parameters=0 if upstream == "fbank" else 94_371_712,
        config={"learning_rate": 1e-3},
        provenance=run(upstream),
    )


def divergence(upstream: str = UPSTREAMS[1], heads: int = 12, layers: int = 12) -> Artifact:
    """Heads that resemble their neighbours; the last layer lacks the last head."""
    block_of, head_of = (grid.ravel() for grid in np.mgrid[1 : layers + 1, :heads])
    block_of, head_of = block_of[:-1], head_of[:-1]
    phase = block_of / layers + 0.37 * head_of
    far = np.abs(np.sin(phase[:, None] - phase[None])) * 0.6
    all_pairs = np.where(np.eye(len(far), dtype=bool), 0, far + 0.05)
    same_head = np.full((heads, layers, layers), np.nan)
    for head in range(heads):
        where = np.flatnonzero(head_of == head)
        rows = block_of[where] - 1
        same_head[head][np.ix_(rows, rows)] = all_pairs[np.ix_(where, where)]
    return Artifact(
        kind="attention_divergence",
        upstream=upstream,
        upstream_sha256=sha256(upstream),
        corpus="tsv:/data/timit-sample",
        corpus_sha256="c" * 64,
        task="attention_divergence",
        arrays={
            "all_pairs": all_pairs,
            "block_of": block_of,
            "head_of": head_of,
            "same_head": same_head,
            "mean": np.nanmean(same_head, axis=0),
        },
        meta={"unit": "bit", "num_utterances": 40},
        provenance=run(upstream, "attention"),
    )


def weights(upstream: str = UPSTREAMS[2]) -> Artifact:
    raw = np.exp(-((np.arange(13) - 8.0) ** 2) / 18)
    return Artifact(
        kind="layer_weights",
        upstream=upstream,
        upstream_sha256=sha256(upstream),
        corpus="demo",
        corpus_sha256="c" * 64,
        task="keyword_spotting",
        arrays={"weights": raw / raw.sum()},
        provenance=run(upstream, "run"),
    )


def difference(
    over: str = UPSTREAMS[1],
    task: str = "phone39",
    value: float = 0.2,
    interval: tuple[float, float] = (0.1, 0.3),
    layers: tuple[int, int] = (6, 0),
    seeds: int = 2,
) -> Artifact:
    """HuBERT minus another encoder, both read by linear probes."""
    ours, theirs = (
        [
            probe_record(upstream, task, "linear", "accuracy", layer, seed)
            for layer in range(1 if upstream == "fbank" else 13)
            for seed in range(seeds)
        ]
        for upstream in (UPSTREAMS[2], over)
    )
    return build_difference(ours, theirs, layers, value, interval)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return probe_records()


@pytest.fixture(scope="session")
def make_divergence() -> Callable[..., Artifact]:
    return divergence


@pytest.fixture(scope="session")
def make_weights() -> Callable[..., Artifact]:
    return weights


@pytest.fixture(scope="session")
def make_difference() -> Callable[..., Artifact]:
    return difference
