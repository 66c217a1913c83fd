"""Jensen-Shannon divergence between attention heads: which heads attend alike.

For each query row over the valid keys, mean over the valid queries of an utterance, then over
utterances with equal weight. All pairs of (block, head) are computed once; the maps that papers
show are slices of them: Audio ALBERT's figures (Chi et al., arXiv 2005.08575) compare blocks at the
same head index, in nats.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auscult import kept
from auscult.contracts import AttentionMap, Waveforms
from auscult.errors import UserError, unknown
from auscult.progress import logger, track
from auscult.record import Provenance
from auscult.upstream import Upstream

from .kernel import pairwise_divergence
from .spill import MapStack

BASES = {"2": ("bit", 1.0), "e": ("nat", math.log(2))}  # unit, and its amount in a bit
MEMORY_LIMIT = 256 * 2**20  # bytes of one utterance's maps that stay in memory
SAVE_SECONDS = 30.0  # work that a kill may lose
ROW_SUM_TOLERANCE = 1e-2  # what a softmax in half precision may be off

Utterance = tuple[str, Callable[[], Tensor]]  # name, and what reads its samples


@dataclass(frozen=True, slots=True)
class DivergenceMaps:
    """Mean divergences over utterances, and what their intervals need of each utterance.

    An item is one head of one block, blocks in order. A head index that one of two blocks lacks
    is NaN in ``same_head`` and left out of the means.
    """

    all_pairs: NDArray[np.float64]  # (item, item)
    block_of: NDArray[np.int64]  # (item,) 1 is the first block
    head_of: NDArray[np.int64]  # (item,) 0 is the first head
    same_head: NDArray[np.float64]  # (head, layer, layer)
    mean: NDArray[np.float64]  # (layer, layer), over the heads that both blocks have
    unit: str  # "bit" or "nat"
    utterances: tuple[str, ...]  # in the order of the arrays below
    utterance_all_pairs: NDArray[np.float64]  # (utterance,) mean over pairs of different items
    utterance_same_head: NDArray[np.float64]  # (utterance,) mean over pairs of different blocks
    utterance_next_layer: NDArray[np.float64]  # (utterance, layer - 1) block i + 1 against i + 2
    skipped: tuple[str, ...] = ()  # one sentence for each utterance left out
    provenance: Provenance | None = None  # of the run that finished them

    @property
    def num_utterances(self) -> int:
        """Utterances that the maps are the mean of."""
        return len(self.utterances)


class Divergence:
    """Divergences of one encoder's heads, accumulated utterance by utterance.

    Memory does not grow with the corpus: kept are one sum for each pair and a few numbers for each
    utterance.

    Example:
        >>> divergence = Divergence(upstream.spec.heads)
        >>> with divergence.batch(["utterance-1"]) as visit:
        ...     upstream.visit_attention(audio, visit)
        >>> divergence.result().mean
    """

    def __init__(
        self, heads: Sequence[int], *, base: str = "2", memory_limit: int = MEMORY_LIMIT
    ) -> None:
        """Start without utterances.

        Args:
            heads: Attention heads of each block, first block first.
            base: Base of the logarithm, ``2`` for bits or ``e`` for nats.
            memory_limit: Bytes above which one utterance's maps wait in a temporary file.

        Raises:
            UserError: Unknown base.
        """
        if base not in BASES:
            raise unknown("base", base, BASES)
        if len(heads) < 2:
            raise ValueError(f"Divergence.heads: expected two blocks or more, got {len(heads)}.")
        self.heads = tuple(heads)
        self._unit, self._scale = BASES[base]
        self._memory_limit = memory_limit
        self._sum = np.zeros((sum(heads), sum(heads)))
        self._utterances: list[str] = []
        self._summaries: list[NDArray[np.float64]] = []
        self.skipped: list[str] = []  # one sentence for each utterance left out

    @property
    def num_done(self) -> int:
        """Utterances added or skipped so far."""
        return len(self._utterances) + len(self.skipped)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that was accumulated so far; see :meth:`restore`."""
        return {
            "sum": self._sum,
            "utterances": np.array(self._utterances, np.str_),
            "summaries": np.array(self._summaries),
            "skipped": np.array(self.skipped, np.str_),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a :meth:`state` of the same heads and base; all that follows is the same."""
        if state["sum"].shape != self._sum.shape:
            raise ValueError(
                f"Divergence.restore: expected sums of shape {self._sum.shape}, "
                f"got {state['sum'].shape}."
            )
        self._sum = state["sum"].copy()
        self._utterances = state["utterances"].tolist()
        self._summaries = list(state["summaries"])
        self.skipped = state["skipped"].tolist()

    @contextmanager
    def batch(self, names: Sequence[str]) -> Iterator[Callable[[AttentionMap], None]]:
        """Give the function that takes a batch's maps; on leaving, the batch is added.

        Args:
            names: Names of the batch's utterances.

        Raises:
            UserError: An utterance has no valid frame, or its attention does not sum to one over
                the valid frames.
        """
        with ExitStack() as scope:
            stacks: list[MapStack] = []

            def visit(attention: AttentionMap) -> None:
                lengths = attention.lengths.tolist()
                if not stacks:
                    stacks.extend(scope.enter_context(self._stack(n)) for n in lengths)
                for name, stack, row in zip(names, stacks, attention.weights, strict=True):
                    self._store(name, stack, attention.block, row)

            yield visit
            if len(stacks) != len(names):
                raise ValueError(f"Expected maps of {len(names)} utterances, got {len(stacks)}.")
            for name, stack in zip(names, stacks, strict=True):
                self._add(name, stack)

    def result(self) -> DivergenceMaps:
        """Return the maps of the utterances so far.

        Raises:
            UserError: There was none.
        """
        if not self._utterances:
            raise UserError("There is no utterance to measure attention on.")
        all_pairs = self._sum / len(self._utterances)
        block_of, head_of = _items(self.heads)
        same_head = _same_head(all_pairs, self.heads)
        summaries = np.stack(self._summaries)
        return DivergenceMaps(
            all_pairs=all_pairs,
            block_of=block_of,
            head_of=head_of,
            same_head=same_head,
            mean=np.nanmean(same_head, axis=0),
            unit=self._unit,
            utterances=tuple(self._utterances),
            utterance_all_pairs=summaries[:, 0],
            utterance_same_head=summaries[:, 1],
            utterance_next_layer=summaries[:, 2:],
            skipped=tuple(self.skipped),
        )

    def _stack(self, num_frames: int) -> MapStack:
        return MapStack(sum(self.heads), num_frames, self._memory_limit)

    def _store(self, name: str, stack: MapStack, block: int, weights: Tensor) -> None:
        """Keep the valid part of one block's weights (head, frame, frame)."""
        frames = stack.num_frames
        if frames == 0:
            raise UserError(too_short(name))
        if (
            stack.num_stored != sum(self.heads[: block - 1])
            or len(weights) != self.heads[block - 1]
        ):
            raise ValueError(
                f"Attention of block {block}: expected {self.heads} heads, block by block, "
                f"got {len(weights)} heads after {stack.num_stored} maps."
            )
        valid = weights[:, :frames, :frames].detach()
        for values in valid.to("cpu", torch.float32).numpy():  # one copy for all heads
            if not (np.abs(values.sum(axis=-1) - 1) <= ROW_SUM_TOLERANCE).all():
                raise UserError(
                    f"The attention of block {block} does not sum to one over the valid frames of "
                    f"utterance {name}; run `auscult check` on this encoder."
                )
            stack.append(values)

    def _add(self, name: str, stack: MapStack) -> None:
        if stack.num_stored != sum(self.heads):
            raise ValueError(
                f"Utterance {name}: expected {sum(self.heads)} maps, got {stack.num_stored}."
            )
        pairs = pairwise_divergence(stack.tiles(), sum(self.heads), stack.num_frames)
        pairs *= self._scale
        self._sum += pairs
        self._utterances.append(name)
        self._summaries.append(_summary(pairs, self.heads))


def measure(
    upstream: Upstream,
    utterances: Sequence[Utterance],
    *,
    base: str = "2",
    skip_bad: bool = False,
    file: Path | None = None,
    provenance: Provenance | None = None,
) -> DivergenceMaps:
    """Measure the divergence of an encoder's heads, one utterance at a time.

    Args:
        upstream: An encoder with attention, on the device it shall run on.
        utterances: The name of each, and what reads its samples (time,) at the encoder's rate.
        base: Base of the logarithm, ``2`` for bits or ``e`` for nats.
        skip_bad: Leave utterances too short for one frame out instead of stopping.
        file: Where sums are kept while the work lasts and after it. A later call goes on from
            there and ends with the same bits; the file must belong to the same upstream,
            utterances and base. Where it was damaged, the work begins anew.
        provenance: Of this run. Maps of several runs say the one that finished them.

    Raises:
        UserError: The encoder has no attention, or an utterance is too short for one frame.
    """
    spec = upstream.spec
    check_attention(upstream)
    divergence = Divergence(spec.heads, base=base)
    found = kept.read_arrays(file) if file else None
    if found is not None:
        divergence.restore(found)
        if divergence.skipped and not skip_bad:
            raise UserError(divergence.skipped[0])
        logger.info(f"{spec.name}: {divergence.num_done} utterances are there, in {file}.")
    rest, saved = utterances[divergence.num_done :], time.monotonic()
    if found is not None and not rest:
        provenance = _provenance(found)
    for name, read in track(rest, f"Attention of {spec.name}", unit="utterances"):
        samples = read()
        if int(upstream.num_frames(torch.tensor([len(samples)]))) < 1:
            if not skip_bad:
                raise UserError(too_short(name))
            divergence.skipped.append(too_short(name))
            continue
        audio = Waveforms.of([samples], spec.sample_rate).to(upstream.device)
        with torch.inference_mode(), divergence.batch([name]) as visit:
            upstream.visit_attention(audio, visit)
        if file and time.monotonic() - saved >= SAVE_SECONDS:
            kept.write_arrays(divergence.state() | _run(provenance), file)
            saved = time.monotonic()
    if file and rest:
        kept.write_arrays(divergence.state() | _run(provenance), file)
    return replace(divergence.result(), provenance=provenance)


def _run(provenance: Provenance | None) -> dict[str, NDArray[Any]]:
    """Return a provenance as an array, to be kept with others."""
    text = json.dumps(None if provenance is None else asdict(provenance))
    return {"provenance": np.array(text)}


def _provenance(arrays: Mapping[str, NDArray[Any]]) -> Provenance | None:
    values = json.loads(str(arrays["provenance"]))
    return None if values is None else Provenance(**values)


def check_attention(upstream: Upstream) -> None:
    """Raise unless the encoder has attention maps in two blocks or more.

    Raises:
        UserError: It has not.
    """
    spec = upstream.spec
    if len(spec.heads) < 2:
        raise UserError(
            f"{spec.name} (family {spec.family}) has attention in {len(spec.heads)} blocks, but "
            "divergence compares two or more; choose a transformer encoder, or name the attention "
            "of your own: auscult.wrap(..., attention=)."
        )


def too_short(name: str) -> str:
    """Return the sentence about an utterance that no frame fits into."""
    return f"Utterance {name} is too short for one frame of this encoder; pass --skip-bad."


def _items(heads: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the block and the head of each item."""
    pairs = [(block, head) for block, n in enumerate(heads, start=1) for head in range(n)]
    table = np.array(pairs, np.int64)
    return table[:, 0], table[:, 1]


def _same_head(all_pairs: NDArray[np.float64], heads: Sequence[int]) -> NDArray[np.float64]:
    """Cut the (head, layer, layer) maps out of the (item, item) one; NaN where a head is absent."""
    maps = np.full((max(heads), len(heads), len(heads)), np.nan)
    block_of, head_of = _items(heads)
    for head in range(max(heads)):
        items = np.flatnonzero(head_of == head)
        layers = block_of[items] - 1
        maps[head][np.ix_(layers, layers)] = all_pairs[np.ix_(items, items)]
    return maps


def _summary(pairs: NDArray[np.float64], heads: Sequence[int]) -> NDArray[np.float64]:
    """Return one utterance's all-pairs mean, same-head mean and next-layer divergences."""
    mean = np.nanmean(_same_head(pairs, heads), axis=0)
    above = np.triu_indices(len(pairs), 1), np.triu_indices(len(mean), 1)
    scalars = pairs[above[0]].mean(), mean[above[1]].mean()
    return np.concatenate([scalars, np.diagonal(mean, 1)])
