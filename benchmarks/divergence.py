"""All-pairs attention divergence against the ways it is commonly computed, and its peak memory.

Peers, each on the same float32 maps, each checked against our result in the same run:

* ``numpy loop``: what Clark et al. (2019) describe and their script does: every head against all
  heads in one numpy expression, two logarithms for each element. Its smoothing is computed with
  strength 0, since it changes the value.
* ``scipy``: the square of `scipy.spatial.distance.jensenshannon` for each pair, timed on a part of
  the pairs and scaled to all of them.
* ``torch entr``: the entropy identity, every head against the later ones with `torch.special.entr`.

Rounds are interleaved and the medians compared. numpy and scipy use one thread; torch and Auscult
as many as ``--threads`` says, so that CPU seconds stand beside wall seconds.

    python benchmarks/divergence.py --frames 100 250 --long 1500
"""

import argparse
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from auscult.analysis import Divergence
from auscult.contracts import AttentionMap

BLOCKS, HEADS = 12, 12
ITEMS = BLOCKS * HEADS
SCIPY_PAIRS = 100
TOLERANCE = 1e-6  # bits for ours; the float32 peers get ten times as much

Maps = NDArray[np.float32]  # (block, head, frame, frame)
Pairs = NDArray[np.float64]  # (item, item), NaN where not computed
Method = Callable[[Maps], Pairs]


def main() -> None:
    """Print times and ratios at each number of frames, then the peak memory of a long utterance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="*", default=[100, 250])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--long", type=int, default=1500, help="frames of the memory run; 0: none")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only_memory:
        return measure_memory(options.long)
    print(f"{ITEMS} heads, {options.threads} threads, median of {options.rounds} rounds")
    by_auscult(random_maps(16))  # compiled before anything is timed
    for num_frames in options.frames:
        compare(random_maps(num_frames), options.rounds)
    if options.long:
        words = ["--only-memory", "--long", str(options.long), "--threads", str(options.threads)]
        subprocess.run([sys.executable, __file__, *words], check=True)


def compare(maps: Maps, rounds: int) -> None:
    """Time every method in turn, check that all agree, print seconds and ratios to ours."""
    methods: dict[str, Method] = {
        "auscult": by_auscult,
        "numpy loop": by_numpy_loop,
        "scipy": by_scipy,
        "torch entr": by_torch_entropy,
    }
    scale = {"scipy": ITEMS * (ITEMS - 1) / 2 / SCIPY_PAIRS}
    wall: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, Pairs] = {}
    for _ in range(rounds):
        for name, method in methods.items():
            started = time.perf_counter(), time.process_time()
            found[name] = method(maps)
            wall[name].append((time.perf_counter() - started[0]) * scale.get(name, 1))
            cpu[name].append((time.process_time() - started[1]) * scale.get(name, 1))
    print(
        f"\n{maps.shape[-1]} frames     wall s   ratio    cpu s   ratio   largest difference, bit"
    )
    ours = statistics.median(wall["auscult"]), statistics.median(cpu["auscult"])
    for name in methods:
        seconds = statistics.median(wall[name]), statistics.median(cpu[name])
        error = float(np.nanmax(np.abs(found[name] - found["auscult"])))
        assert error < (TOLERANCE if name == "scipy" else 10 * TOLERANCE), (name, error)
        times = (f"{s:9.3f} {s / o:6.1f}x" for s, o in zip(seconds, ours, strict=True))
        print(f"{name:12}", *times, f"  {error:.1e}")


def random_maps(num_frames: int) -> Maps:
    """Softmax of normal scores, heads from nearly uniform to peaked."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.empty(BLOCKS, HEADS, num_frames, num_frames)
    for i, head in enumerate(maps.flatten(0, 1)):
        head.normal_(generator=generator).mul_(0.1 + 5 * i / ITEMS)
        torch.softmax(head, -1, out=head)
    return maps.numpy()


def by_auscult(maps: Maps) -> Pairs:
    """Our divergence, through the interface that a forward pass would use."""
    divergence = Divergence([HEADS] * BLOCKS)
    lengths = torch.tensor([maps.shape[-1]])
    with divergence.batch(["utterance"]) as visit:
        for block, weights in enumerate(torch.from_numpy(maps), start=1):
            visit(AttentionMap(block, weights[None], lengths))
    return divergence.result().all_pairs


def by_numpy_loop(maps: Maps) -> Pairs:
    """Every head against all heads, both directions of the divergence written out."""
    items = maps.reshape(ITEMS, *maps.shape[2:])
    strength = np.float32(0.0)
    pairs = np.empty((ITEMS, ITEMS))
    for i in range(ITEMS):
        one = strength / items.shape[1] + (1 - strength) * items[i : i + 1]
        every = strength / items.shape[1] + (1 - strength) * items
        middle = (one + every) / 2
        nats = (-one * np.log(middle / one) - every * np.log(middle / every)) / 2
        pairs[i] = nats.sum(-1).sum(-1)
    return pairs / (items.shape[1] * math.log(2))


def by_scipy(maps: Maps) -> Pairs:
    """Pair by pair, for SCIPY_PAIRS of the pairs."""
    items = maps.reshape(ITEMS, *maps.shape[2:])
    first, second = np.triu_indices(ITEMS, 1)
    pairs = np.full((ITEMS, ITEMS), np.nan)
    for k in np.linspace(0, len(first) - 1, SCIPY_PAIRS).astype(int):
        i, j = first[k], second[k]
        pairs[i, j] = (jensenshannon(items[i], items[j], 2, axis=-1) ** 2).mean()
    return pairs


def by_torch_entropy(maps: Maps) -> Pairs:
    """Every head against the later ones: entropy of the middle less the mean of the entropies."""
    items = torch.from_numpy(maps).flatten(0, 1)
    own = torch.special.entr(items).sum((-2, -1))
    pairs = np.full((ITEMS, ITEMS), np.nan)
    for i in range(ITEMS - 1):
        middle = torch.special.entr((items[i + 1 :] + items[i]) / 2).sum((-2, -1))
        pairs[i, i + 1 :] = (middle - (own[i + 1 :] + own[i]) / 2).numpy()
    return pairs / (maps.shape[-1] * math.log(2))


def measure_memory(num_frames: int) -> None:
    """Print the peak memory of one long utterance whose maps come block by block."""
    by_auscult(random_maps(16))
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([num_frames])
    before = _resident_megabytes()
    started = time.perf_counter()
    divergence = Divergence([HEADS] * BLOCKS)
    weights = torch.empty(1, HEADS, num_frames, num_frames)
    with divergence.batch(["utterance"]) as visit:
        for block in range(1, BLOCKS + 1):
            for head in weights[0]:
                torch.softmax(head.normal_(generator=generator), -1, out=head)
            visit(AttentionMap(block, weights, lengths))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = ITEMS * num_frames**2 * 4 / 2**20
    print(
        f"\n{num_frames} frames: {size:.0f} MB of maps, peak {peak - before:.0f} MB above the "
        f"{before:.0f} MB before, of which {size / BLOCKS:.0f} MB are the block's maps in hand; "
        f"{seconds:.1f} s"
    )


def _resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
