"""What showing a large store costs: seconds and peak memory of each verb, each in its own process.

A store of invented records is made once, of one of two shapes: ``sweep``, encoders by tasks,
probes, metrics, layers and seeds; ``search``, as many encoders as there can be, each with a few
numbers. The digest is of what the verb wrote, so that two versions of the code can be held to each
other: run this file with the one and with the other on the path.

    python benchmarks/store.py --records 100000 --shape sweep
"""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from auscult.record import Record
from auscult.results import open_store

CORPORA = {
    "phone39": "tsv:/data/timit-sample",
    "keyword_spotting": "speech_commands:/data/speech_commands_v0.01",
    "emotion_recognition": "tsv:/data/ravdess-subset",
    "speaker": "librispeech:/data/LibriSpeech",
    "intent_classification": "demo",
}
METRICS = ("accuracy", "macro_accuracy")
PROBES = ("linear", "mlp1")
LIBRARIES = {"torch": "2.11.0", "torchaudio": "2.11.0", "transformers": "5.23.0", "numpy": "2.4.6"}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took."""

    wall: float  # seconds
    cpu: float  # seconds of this process and the system
    megabytes: float  # peak
    digest: str  # of what it wrote


def main() -> None:
    """Make a store, run each verb on it, print what that took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="sweep")
    parser.add_argument("--folder", type=Path, help="keep the store here, or use the one there")
    parser.add_argument("--only", default="", help="verbs whose words contain this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "results.sqlite").exists():
            # In another process, as a child's peak memory begins with that of its parent.
            words = (folder, options.shape, options.records)
            maker = multiprocessing.get_context("spawn").Process(target=make, args=words)
            maker.start()
            maker.join()
        size = (folder / "results.sqlite").stat().st_size / 1e6
        print(f"{options.records:,} records, {options.shape}, {size:.0f} MB\n")
        print(f"{'verb':52} {'wall s':>7} {'cpu s':>7} {'MB':>6}  digest")
        for words in VERBS:
            if options.only in " ".join(words):
                cost = measure(words, folder)
                shown = " ".join(words).replace("STORE ", "").replace(" --out PAGE", "")
                numbers = f"{cost.wall:7.2f} {cost.cpu:7.2f} {cost.megabytes:6.0f}"
                print(f"{shown:52} {numbers}  {cost.digest}", flush=True)


def make(folder: Path, shape: str, number: int) -> None:
    """Write a store."""
    open_store(folder).add(itertools.islice(SHAPES[shape](), number))


def measure(words: tuple[str, ...], folder: Path) -> Cost:
    """Run one verb; its output goes to a file, as a reader of pipes would take time too."""
    with tempfile.TemporaryDirectory() as temporary:
        page, said = Path(temporary) / "page", Path(temporary) / "said"
        places = {"STORE": str(folder), "PAGE": str(page)}
        command = [sys.executable, "-m", "auscult", *(places.get(word, word) for word in words)]
        started = time.perf_counter()
        with said.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 2):  # 2: nothing fits, which takes its time too
            raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}.")
        written = page.read_bytes() if page.exists() else said.read_bytes()
    digest = hashlib.sha256(written.replace(str(folder).encode(), b"STORE")).hexdigest()[:12]
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, digest)


def sweep() -> Iterator[Record]:
    """Yield the records of 60 encoders, half of them twins, seeds outermost."""
    encoders = [f"hf:/models/encoder-{i:02}" for i in range(30)]
    encoders += [f"random({name})" for name in encoders]
    for seed in itertools.count():
        for encoder, task, layer in itertools.product(encoders, CORPORA, range(13)):
            for probe, metric, split in itertools.product(PROBES, METRICS, ("dev", "test")):
                yield _record(encoder, task, layer, probe, metric, split, seed)


def search() -> Iterator[Record]:
    """Yield the records of any number of subnets, each measured once."""
    for number in itertools.count():
        encoder = f"lighthubert:small.pt@{number}"
        for task, metric in itertools.product(CORPORA, METRICS):
            yield _record(encoder, task, "weighted", "linear", metric, "test", 0)


SHAPES = {"sweep": sweep, "search": search}
VERBS = (
    ("results", "ls", "STORE"),
    ("results", "show", "STORE", "-t", "phone39", "--metric", "accuracy"),
    ("results", "show", "STORE", "-u", "hf:/models/encoder-07"),
    ("results", "show", "STORE", "-u", "lighthubert:small.pt@77"),
    ("results", "show", "STORE", "-t", "nothing-of-that-name"),
    ("results", "export", "STORE", "--format", "csv", "--out", "PAGE"),
    ("results", "export", "STORE", "--format", "json", "--out", "PAGE"),
    ("results", "export", "STORE", "--format", "markdown", "--out", "PAGE"),
    ("report", "STORE", "--out", "PAGE"),
    ("superb", "table", "STORE", "--format", "csv", "--out", "PAGE"),
)


def _record(
    encoder: str, task: str, layer: int | str, probe: str, metric: str, split: str, seed: int
) -> Record:
    """Return a record that a real one of these names would resemble in size."""
    about = f"{encoder} {task} {layer} {probe} {metric} {split} {seed}"
    value = int(hashlib.sha256(about.encode()).hexdigest()[:8], 16) / 2**33 + 0.4
    corpus = CORPORA[task]
    config = {
        "learning_rates": [1e-3, 1e-2],
        "batch_size": 256,
        "max_epochs": 30,
        "pooling": "mean",
        "split_column": "split",
        "num_classes": 39,
        "train_sha256": hashlib.sha256(corpus.encode()).hexdigest(),
        "learning_rate": 1e-2 if isinstance(layer, int) and layer % 2 else 1e-3,
    }
    flat = {
        "upstream": encoder,
        "upstream_sha256": hashlib.sha256(encoder.encode()).hexdigest(),
        "corpus": corpus,
        "corpus_sha256": hashlib.sha256(f"{corpus} {split}".encode()).hexdigest(),
        "task": task,
        "task_version": 1,
        "layer": layer,
        "probe": probe,
        "metric": metric,
        "value": value,
        "low": value - 0.03,
        "high": value + 0.03,
        "majority": 0.1 if metric == "accuracy" else None,
        "split": split,
        "selected_on": "dev",
        "num_items": 5479,
        "num_speakers": 24,
        "seed": seed,
        "num_parameters": 94_371_712,
        "convention": "block_input",
        "config": config,
        "command": f"auscult probe -u '{encoder}' -c {corpus} -t {task} --out evidence-out/{task}",
        "created": f"2026-11-21T02:{seed % 60:02}:14+00:00",
        "code_version": "0.1.0+b6902c0fe5db",
        "libraries": LIBRARIES,
        "device": "cpu",
    }
    return Record.from_dict(flat)


if __name__ == "__main__":
    main()
