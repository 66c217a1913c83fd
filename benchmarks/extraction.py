"""All hidden states of an encoder: Auscult's extraction against the ways they are commonly got.

Parts, each with its own peers, rounds interleaved, results compared in the same run:

* ``states``: HuBERT Base's shape on utterances of ragged lengths. Peers are transformers' own model
  (the same weights) one utterance at a time, and in padded batches with an attention mask, as the
  utterances come or sorted by length. Batches change what a group-norm encoder says of an utterance
  and differ from one by one by what is printed; Auscult's extraction must not, to 1e-4.
* ``attention``: the pass that hands out each block's map against the plain pass and against
  transformers with all maps in memory; peak memory of one long utterance, each in its own process.
* ``precision``: bfloat16 against float32; with a corpus also the accuracy of linear probes on both.
* ``subnet``: LightHuBERT's a_small cut out, the same subnet sliced out of its supernet at every
  pass, and the largest subnet of the base space.

Times are CPU seconds of the process (``--threads``, 1 by default), medians over rounds. Large
tensors stand in huge pages for all, as the command line has it.

    python benchmarks/extraction.py
    python benchmarks/extraction.py tsv:../shared/data/timit-sample --split split_nosa \
        --parts precision --task phone39
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when torch is imported

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import auscult
from auscult.audio import read_samples
from auscult.contracts import SAMPLE_RATE, AttentionMap, HiddenStates, Waveforms
from auscult.dataset import spread
from auscult.extraction import encode
from auscult.precision import Precision, computes_bfloat16
from auscult.upstream import Upstream

PARTS = ("states", "attention", "precision", "subnet")
SHAPE = "random(hubert_base)"
LONG_SECONDS = 30
TOLERANCE = 1e-4
States = list[tuple[Tensor, ...]]  # of each utterance, each (frame, dim)
Method = Callable[[], Any]


def main() -> None:
    """Print a table of CPU seconds and ratios for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="?", help="a corpus instead of noise of 1 to 8 s")
    parser.add_argument("--split", help="split column of the corpus")
    parser.add_argument("--task", default="phone39", help="of the probes, where there is a corpus")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="utterances of a padded batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--probe-utterances", type=int, default=16, help="of each split")
    parser.add_argument("--memory", choices=("plain", "visit"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        return measure_memory(options.memory)
    with tempfile.TemporaryDirectory() as folder:
        cuts = read_cuts(options, Path(folder))
        seconds = [cut.duration for cut in cuts]
        print(
            f"{len(cuts)} utterances, {sum(seconds):.1f} s in all, {min(seconds):.1f} to "
            f"{max(seconds):.1f} s; {options.threads} threads, median of {options.rounds} rounds; "
            f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
        )
        if "states" in options.parts:
            compare_states(cuts, options)
        if "attention" in options.parts:
            compare_attention(cuts[::2], options)
        if "precision" in options.parts:
            compare_precisions(cuts, options)
        if "subnet" in options.parts:
            compare_subnets(cuts[::2], options)


def read_cuts(options: argparse.Namespace, folder: Path) -> list[Any]:
    """Return utterances of the corpus at equal steps, or files of noise of 1 to 8 s."""
    from lhotse import Recording

    if options.corpus:
        corpus = auscult.corpus(options.corpus, split=options.split)
        found = [cut for cuts in corpus.splits.values() for cut in cuts]
        return spread(found, options.utterances)
    generator = np.random.default_rng(0)
    cuts = []
    for i, seconds in enumerate(generator.permutation(np.linspace(1, 8, options.utterances))):
        path = folder / f"noise{i}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(int(seconds * SAMPLE_RATE)), 16_000)
        cuts.append(Recording.from_file(path).to_cut())
    return cuts


def in_turn(
    methods: dict[str, Method], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Call every method once in each round; return CPU seconds and what the first round gave."""
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            started = time.process_time()
            found = method()
            seconds[name].append(time.process_time() - started)
            results.setdefault(name, found)
    return seconds, results


def print_times(
    title: str, seconds: dict[str, list[float]], audio: float, notes: dict[str, str]
) -> None:
    """Print seconds for each second of audio, and the median ratio to the first method."""
    ours, *_ = seconds.values()
    print(f"\n{title:34} CPU s / audio s   ratio to the first")
    for name, taken in seconds.items():
        ratio = statistics.median(t / o for t, o in zip(taken, ours, strict=True))
        rate = statistics.median(taken) / audio
        print(f"{name:34} {rate:15.4f} {ratio:10.2f}x   {notes.get(name, '')}".rstrip())


def compare_states(cuts: list[Any], options: argparse.Namespace) -> None:
    """Auscult's extraction against transformers one by one and in padded batches."""
    upstream = auscult.load(SHAPE)
    model: Any = upstream.get_submodule("model")
    ordered = sorted(range(len(cuts)), key=lambda i: cuts[i].duration)
    in_order = list(range(len(cuts)))

    def padded(implementation: str, order: list[int]) -> Method:
        return lambda: by_padded_batches(model, cuts, order, options.batch, implementation)

    methods: dict[str, Method] = {
        "auscult": lambda: by_auscult(upstream, cuts),
        "transformers one by one": lambda: by_one(model, cuts),
        f"padded by {options.batch}, sdpa": padded("sdpa", in_order),
        f"padded by {options.batch}, eager": padded("eager", in_order),
        f"padded by {options.batch}, sorted, sdpa": padded("sdpa", ordered),
    }
    seconds, results = in_turn(methods, options.rounds)
    wanted = results["transformers one by one"]
    notes = {name: f"differs by {distance(found, wanted):.1e}" for name, found in results.items()}
    assert distance(results["auscult"], wanted) < TOLERANCE
    audio = sum(cut.duration for cut in cuts)
    print_times(f"states of {SHAPE}", seconds, audio, notes)


def by_auscult(upstream: Upstream, cuts: list[Any], precision: Precision = "float32") -> States:
    """What `auscult extract` and `auscult probe` go through."""
    found: States = [()] * len(cuts)
    for row in encode(upstream, cuts, precision=precision, show=False):
        found[row.index] = row.layers
    return found


def by_one(model: Any, cuts: list[Any]) -> States:
    """transformers, one utterance at a time."""
    found: States = []
    for cut in cuts:
        with torch.inference_mode():
            output = model(read_samples(cut)[None], output_hidden_states=True)
        found.append(tuple(layer[0] for layer in output.hidden_states))
    return found


def by_padded_batches(
    model: Any, cuts: list[Any], order: list[int], size: int, implementation: str
) -> States:
    """transformers, batches padded with zeros under an attention mask."""
    found: States = [()] * len(cuts)
    model.set_attn_implementation(implementation)
    for start in range(0, len(order), size):
        indices = order[start : start + size]
        rows = [read_samples(cuts[i]) for i in indices]
        samples = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], True)
        with torch.inference_mode():
            output = model(samples, attention_mask=mask, output_hidden_states=True)
        frames = model._get_feat_extract_output_lengths(mask.sum(-1)).tolist()
        for row, index in enumerate(indices):
            found[index] = tuple(layer[row, : frames[row]] for layer in output.hidden_states)
    model.set_attn_implementation("sdpa")
    return found


def distance(found: States, wanted: States) -> float:
    """Return the largest difference over all utterances and states."""
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max()) for rows in pairs for a, b in zip(*rows, strict=True))


def compare_attention(cuts: list[Any], options: argparse.Namespace) -> None:
    """The pass that hands out maps against the plain pass, and the memory of both."""
    upstream = auscult.load(SHAPE)
    model: Any = upstream.get_submodule("model")
    audio = [Waveforms.of([read_samples(cut)]) for cut in cuts]

    def plain() -> list[HiddenStates]:
        with torch.inference_mode():
            return [upstream(one) for one in audio]

    def visited() -> list[HiddenStates]:
        with torch.inference_mode():
            return [upstream.visit_attention(one, look) for one in audio]

    def all_maps() -> list[Any]:
        model.set_attn_implementation("eager")
        with torch.inference_mode():
            found = [
                model(one.samples, output_hidden_states=True, output_attentions=True)
                for one in audio
            ]
        model.set_attn_implementation("sdpa")
        return [output.hidden_states for output in found]

    methods = {"plain": plain, "with maps": visited, "transformers, all maps": all_maps}
    seconds, results = in_turn(methods, options.rounds)
    for one, other in zip(results["plain"], results["with maps"], strict=True):
        for a, b in zip(one.layers, other.layers, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
    print_times(f"attention of {SHAPE}", seconds, sum(cut.duration for cut in cuts), {})
    words = ["--threads", str(options.threads)]
    for kind in ("plain", "visit"):
        subprocess.run([sys.executable, __file__, "--memory", kind, *words], check=True)


def look(found: AttentionMap) -> None:
    """A visitor that costs nothing."""
    assert found.weights.ndim == 4


def measure_memory(kind: str) -> None:
    """Print the peak memory of one long utterance."""
    upstream = auscult.load(SHAPE)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        short = Waveforms.of([torch.randn(SAMPLE_RATE, generator=generator)])
        upstream(short)
        audio = Waveforms.of([torch.randn(LONG_SECONDS * SAMPLE_RATE, generator=generator)])
        before = _resident_megabytes()
        states = upstream(audio) if kind == "plain" else upstream.visit_attention(audio, look)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    frames = int(states.lengths[0])
    one = upstream.spec.heads[0] * frames**2 * 4 / 2**20
    what = "plain pass" if kind == "plain" else "with maps"
    print(
        f"{what:12}of {LONG_SECONDS} s: peak {peak:.0f} MB above the weights; a block's maps are "
        f"{one:.0f} MB, all maps {one * upstream.spec.num_layers:.0f} MB"
    )


def _resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def compare_precisions(cuts: list[Any], options: argparse.Namespace) -> None:
    """bfloat16 against float32: seconds, largest relative error, accuracy of probes."""
    upstream = auscult.load(SHAPE)
    rounds = options.rounds
    if not computes_bfloat16():
        cuts, rounds = [min(cuts, key=lambda cut: cut.duration)], 1
        print(
            "\nThis CPU has no instructions for bfloat16, so that its speed says nothing: "
            "one short utterance, one round."
        )
    methods: dict[str, Method] = {
        "bfloat16": lambda: by_auscult(upstream, cuts, "bfloat16"),
        "float32": lambda: by_auscult(upstream, cuts),
    }
    seconds, results = in_turn(methods, rounds)
    errors = [
        float((a - b).norm() / b.norm())
        for rows in zip(*results.values(), strict=True)
        for a, b in zip(*rows, strict=True)
    ]
    notes = {"bfloat16": f"relative error at most {max(errors):.3f}"}
    print_times(f"precision of {SHAPE}", seconds, sum(cut.duration for cut in cuts), notes)
    if options.corpus:
        compare_probes(upstream, options)


def compare_probes(upstream: Upstream, options: argparse.Namespace) -> None:
    """Print test accuracy of linear probes on features of both precisions, every other layer."""
    from auscult.feature import FeatureStore
    from auscult.probing import (
        FrameExamples,
        PooledExamples,
        TrainingPlan,
        build_targets,
        resolve_tasks,
        sweep_layers,
    )

    corpus = auscult.corpus(options.corpus, split=options.split)
    cuts = {
        name: spread(list(corpus.split(name)), options.probe_utterances)
        for name in ("train", "dev", "test")
    }
    (task,) = resolve_tasks(options.task, cuts["train"])
    plan = TrainingPlan(probes=("linear",), max_epochs=10)
    layers = list(range(0, upstream.spec.num_layers + 1, 2))
    found: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for precision, accuracies in found.items():
        with tempfile.TemporaryDirectory() as folder:
            stores = {
                name: FeatureStore(
                    upstream, rows, keep_frames=True, folder=Path(folder), precision=precision
                ).encode()
                for name, rows in cuts.items()
            }
            pooled = {name: store.pooled() for name, store in stores.items()}
            frames = {name: statistic.num_frames for name, statistic in pooled.items()}
            classes, targets = build_targets(task, cuts, frames, upstream.spec.geometry)
            examples: dict[str, Any] = {
                name: FrameExamples(stores[name].frames(), pooled[name], targets[name])
                if task.frames
                else PooledExamples(pooled[name], targets[name], "statistics")
                for name in cuts
            }
            swept = sweep_layers(
                examples,
                len(classes),
                layers,
                plan,
                title=precision,
                identity=[precision],
                folder=Path(folder) / "probe",
            )
        accuracies += [float(s.correct.sum() / s.total.sum()) for s in swept["test"]]
    print(
        f"\n{options.task} in {SHAPE}, linear probe, {options.probe_utterances} utterances a split"
    )
    print("layer    float32   bfloat16   change of test accuracy")
    for layer, exact, rounded in zip(layers, *found.values(), strict=True):
        print(f"{layer:5} {exact:10.4f} {rounded:10.4f} {rounded - exact:+10.4f}")
    changes = [b - a for a, b in zip(*found.values(), strict=True)]
    print(f"mean change {statistics.mean(changes):+.4f}, largest {max(changes, key=abs):+.4f}")


def compare_subnets(cuts: list[Any], options: argparse.Namespace) -> None:
    """a_small on its own, sliced out of the supernet in every pass, and the largest subnet."""
    from auscult.upstreams.lighthubert.space import SPACES
    from auscult.upstreams.lighthubert.supernet import draw_supernet

    seed = 0
    cut = auscult.load("random(lighthubert_small@a_small)", seed=seed)
    largest = auscult.load("random(lighthubert_base@largest)", seed=seed)
    supernet = draw_supernet("layer_norm", seed).eval()
    subnet = SPACES["small"].default

    def sliced() -> States:
        found: States = []
        for one in cuts:
            samples = read_samples(one)
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
            with torch.inference_mode():
                layers = supernet(samples[None], torch.tensor([len(samples)]), subnet)
            found.append(tuple(layer[0] for layer in layers))
        return found

    methods: dict[str, Method] = {
        "a_small, cut": lambda: by_auscult(cut, cuts),
        "a_small, sliced at each pass": sliced,
        "largest": lambda: by_auscult(largest, cuts),
    }
    seconds, results = in_turn(methods, options.rounds)
    apart = distance(results["a_small, cut"], results["a_small, sliced at each pass"])
    assert apart < TOLERANCE
    audio = sum(one.duration for one in cuts)
    macs = [one.count_macs(4 * SAMPLE_RATE).total for one in (cut, largest)]
    notes = {
        "a_small, sliced at each pass": f"differs by {apart:.1e}",
        "largest": f"{macs[1] / macs[0]:.2f}x by MACs",
    }
    print_times("LightHuBERT's subnets", seconds, audio, notes)


if __name__ == "__main__":
    main()
