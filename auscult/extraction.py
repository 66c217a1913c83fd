"""One pass of frozen audio through an encoder, in batches of near-equal length."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from auscult.audio import read_batch
from auscult.contracts import SAMPLE_RATE, HiddenStates, Waveforms
from auscult.errors import UserError
from auscult.memory import within_memory
from auscult.precision import Precision, computing_in, precision_of
from auscult.progress import logger, progress
from auscult.upstream import Upstream

BATCH_SECONDS = 80.0  # of padded audio in one batch: 16 utterances of 5 s


@dataclass(frozen=True, slots=True)
class Encoded:
    """All layers of one utterance, on the CPU."""

    index: int  # position of the utterance in the cuts that were given
    layers: tuple[Tensor, ...]  # num_layers + 1 tensors, each (frame, dim) float32


def plan_batches(seconds: Sequence[float], batch_seconds: float = BATCH_SECONDS) -> list[list[int]]:
    """Group utterances of near-equal length, shortest first.

    Args:
        seconds: Duration of each utterance.
        batch_seconds: Upper limit of a batch's padded audio; a longer utterance stands alone.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(seconds)), key=lambda i: (seconds[i], i)):
        if batches and seconds[i] * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def encode(
    upstream: Upstream,
    cuts: Sequence[Any],
    batches: Sequence[Sequence[int]] | None = None,
    *,
    precision: Precision = "float32",
    show: bool = True,
) -> Iterator[Encoded]:
    """Encode each cut once and yield its layers, batch by batch.

    Args:
        upstream: The encoder, in evaluation mode, on the device to use.
        cuts: lhotse cuts.
        batches: Positions in ``cuts`` that are encoded together; by default all, as
            :func:`plan_batches` groups them.
        precision: What the encoder computes in; layers are float32 all the same.
        show: Show a progress line.

    Raises:
        UserError: Unreadable audio, an utterance too short for a single frame, or features that
            are not finite.
    """
    plan = plan_batches([cut.duration for cut in cuts]) if batches is None else batches
    if not plan:
        return
    total = sum(cuts[i].duration for batch in plan for i in batch)
    with (
        ThreadPoolExecutor(max_workers=1) as reader,
        progress(f"Encoding with {upstream.spec.name}", total, "s of audio", show) as advance,
    ):
        pending = reader.submit(read_batch, [cuts[i] for i in plan[0]])
        for position, batch in enumerate(plan):
            audio = pending.result()
            if position + 1 < len(plan):
                pending = reader.submit(read_batch, [cuts[i] for i in plan[position + 1]])
            for rows, states in _forward(upstream, audio.to(upstream.device), precision):
                for row in _unbatch([batch[row] for row in rows], states):
                    _check_finite(upstream, cuts[row.index], row)
                    yield row
            advance(sum(cuts[i].duration for i in batch))


def _forward(
    upstream: Upstream, audio: Waveforms, precision: Precision
) -> list[tuple[list[int], HiddenStates]]:
    """Return the states of each group of rows, which spares padding and cutting them apart."""
    groups = upstream.groups(audio.lengths)
    seconds = audio.samples.shape[1] / audio.sample_rate
    with (
        within_memory(
            f"{upstream.spec.name}: {len(audio.lengths)} utterances of up to {seconds:.1f} s need "
            f"more memory than {upstream.device} has; cut long utterances, choose --precision "
            "bfloat16, or another --device."
        ),
        torch.no_grad(),  # in inference mode autocast would round all weights for every group
        parametrize.cached(),  # weight-normalised weights: once for the batch
        computing_in(precision_of(upstream, precision), upstream.device),
    ):
        return [(rows, upstream(audio.take(rows))) for rows in groups]


def _unbatch(batch: Sequence[int], states: HiddenStates) -> Iterator[Encoded]:
    layers = [layer.float().cpu() for layer in states.layers]
    for row, (index, frames) in enumerate(zip(batch, states.lengths.tolist(), strict=True)):
        yield Encoded(index, tuple(layer[row, :frames] for layer in layers))


def _check_finite(upstream: Upstream, cut: Any, row: Encoded) -> None:
    for state, layer in enumerate(row.layers):
        if not bool(torch.isfinite(layer).all()):
            raise UserError(
                f"{upstream.spec.name}: hidden state {state} of utterance {cut.id} is not finite; "
                "look at the checkpoint with `auscult check` and at the audio."
            )


def too_short(upstream: Upstream, cuts: Sequence[Any]) -> list[str]:
    """Return the ids of the utterances that are too short for one frame of the encoder."""
    geometry = upstream.spec.geometry
    short = []
    for cut in cuts:
        samples = round(cut.duration * SAMPLE_RATE)
        if samples >= geometry.receptive_field + min(geometry.offset, 0):
            continue  # spares encoders whose num_frames is a forward pass
        if int(upstream.num_frames(torch.tensor([samples]))) < 1:
            short.append(str(cut.id))
    return short


def long_enough(
    upstream: Upstream, cuts: Sequence[Any], *, skip_bad: bool
) -> tuple[list[Any], list[str]]:
    """Return the cuts with at least one frame, and the ids of those left out.

    Raises:
        UserError: An utterance is too short and ``skip_bad`` is not set.
    """
    short = too_short(upstream, cuts)
    if not short:
        return list(cuts), []
    if not skip_bad:
        cut = next(cut for cut in cuts if cut.id == short[0])
        raise UserError(
            f"Utterance {cut.id} is {round(cut.duration * SAMPLE_RATE)} samples "
            f"({cut.duration:.3f} s) long, too short for one frame of {upstream.spec.name} "
            f"({len(short)} such utterances); --skip-bad leaves them out, counted."
        )
    logger.warning(
        f"{upstream.spec.name}: {len(short)} utterances are too short ({short[0]}, ...)."
    )
    out = set(short)
    return [cut for cut in cuts if cut.id not in out], short
