"""What items will take, roughly, before anything is done: time of encoding, disk, memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.extraction import plan_batches
from auscult.feature import frame_bytes
from auscult.upstream import Upstream

from .desk import Desk
from .extracted import cuts_of
from .item import Item

NOISE_SECONDS = 10  # that the speed of encoding is guessed from
_ENCODES = ("encode", "attention", "head", "extract")  # kinds of items
_KEEPS = ("encode", "head")
_COPIES = 3  # of a batch's states while it is encoded; a rule of thumb


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one item takes; training of probes and heads comes on top of the time."""

    seconds: float  # of encoding, guessed from noise
    disk: int  # bytes of features that are kept
    memory: int  # bytes of weights and of the largest batch, beside the process itself

    @classmethod
    def of(cls, item: Item, desk: Desk) -> "Estimate | None":
        """Return what an item takes; None for one that reads what another has encoded."""
        if item.kind not in _ENCODES:
            return None
        encoder, cuts = desk.encoder_of(item), _cuts(item, desk)
        lengths = [cut.duration for cut in cuts]
        factor = desk.once(("factor", item.upstream["sha256"]), lambda: real_time_factor(encoder))
        return cls(
            seconds=factor * sum(lengths),
            disk=_disk(item, encoder, cuts, desk.bench.budget),
            memory=_memory(encoder, lengths),
        )


def _cuts(item: Item, desk: Desk) -> list[Any]:
    if item.kind == "extract":
        return cuts_of(item.what)
    corpus = desk.corpus_of(item)
    return [cut for name in item.corpus["sha256"] for cut in corpus.split(name)]


def real_time_factor(encoder: Upstream) -> float:
    """Return the seconds that encoding takes for each of noise, once: a rough guess."""
    generator = torch.Generator().manual_seed(0)
    samples = 0.1 * torch.randn(NOISE_SECONDS * SAMPLE_RATE, generator=generator)
    audio = Waveforms.of([samples]).to(encoder.device)
    with torch.inference_mode():
        encoder(Waveforms.of([samples[:SAMPLE_RATE]]).to(encoder.device))  # makes what is made once
        started = time.perf_counter()
        states = encoder(audio)
        float(states.layers[-1].sum())  # waits for a GPU
        return (time.perf_counter() - started) / NOISE_SECONDS


def _disk(item: Item, encoder: Upstream, cuts: Sequence[Any], budget: int) -> int:
    """Return the size of features that will be kept: frames within the budget, means always."""
    if item.kind == "extract":
        return frame_bytes(encoder, cuts) * (2 if item.what["dtype"] == "float32" else 1)
    if item.kind not in _KEEPS:
        return 0
    states = (encoder.spec.num_layers + 1) * encoder.spec.dim
    pooled = 2 * 4 * states * len(cuts)  # mean and deviation, float32
    frames = frame_bytes(encoder, cuts) if item.what.get("frames", True) else 0
    return pooled + (frames if frames <= budget else 0)


def _memory(encoder: Upstream, lengths: Sequence[float]) -> int:
    batches = plan_batches(lengths)
    longest = max((max(lengths[i] for i in batch) * len(batch) for batch in batches), default=0.0)
    spec = encoder.spec
    frames = longest * SAMPLE_RATE / spec.geometry.stride
    weights = sum(p.numel() * p.element_size() for p in encoder.parameters())
    return weights + int(_COPIES * 4 * frames * (spec.num_layers + 1) * spec.dim)
