"""Items by one process and by two: wall time, equality of numbers, and what an item costs beside.

python benchmarks/executors.py                         # noise, 12 encoders
python benchmarks/executors.py --rounds 3 --workers 4

Twelve encoders (tiny HuBERTs of random weights, a seed each) are encoded and probed, by `serial`
and by `local:N` in turns, in fresh folders, each item with one thread. The numbers must be the same
to the last bit. What an item costs beside its work is measured with items that end at once.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from auscult import studies
from auscult.progress import logger
from auscult.studies.bench import Bench
from auscult.studies.desk import Desk
from auscult.studies.executor import executor_of
from auscult.studies.item import Item

RATE = 16_000
WORDS = ("low", "mid", "high")


def write_corpus(folder: Path, seconds: float) -> str:
    """Write tones in noise by eight speakers, as many seconds in all; return the address."""
    chance = np.random.default_rng(0)
    rows = ["path\tutt\tspeaker\tkeyword\tsplit"]
    takes = 2
    size = int(seconds * RATE / (8 * len(WORDS) * takes))
    for speaker in range(8):
        split = ("train", "train", "dev", "test")[speaker % 4]
        for word, name in enumerate(WORDS):
            for take in range(takes):
                utt = f"s{speaker}-{name}-{take}"
                tone = np.sin(2 * np.pi * 200 * 4**word * np.arange(size) / RATE)
                noise = chance.standard_normal(size)
                soundfile.write(folder / f"{utt}.wav", 0.2 * tone + 0.1 * noise, RATE)
                rows.append(f"{utt}.wav\t{utt}\ts{speaker}\t{name}\t{split}")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    return f"tsv:{folder}"


def probed(executor: str, corpus: str, encoders: int, out: Path) -> tuple[float, list[object]]:
    """Probe the encoders in fresh folders; return the wall time and the numbers."""
    os.environ["AUSCULT_CACHE"] = str(out / "cache")
    names = [f"random(hubert_tiny, seed={seed})" for seed in range(encoders)]
    began = time.perf_counter()
    found = studies.probe(
        names,
        corpus,
        "keyword",
        probes=("linear", "mlp1", "mlp2"),
        max_epochs=30,
        baselines=False,
        out=out / "out",
        executor=executor,
        threads=1,
    )
    seconds = time.perf_counter() - began
    return seconds, [(r.key, r.value, r.low, r.high) for r in found.records]


def overhead(executor: str, count: int) -> float:
    """Return the seconds of an item that ends at once, when the processes are there."""
    desk = Desk(Bench(out=Path(tempfile.gettempdir()), threads=1))
    about = {"address": "no encoder of this name", "sha256": ""}

    def items(first: int) -> list[Item]:
        return [
            Item(kind="attention", upstream=about, corpus={}, what={"task": str(i)}, how={})
            for i in range(first, first + count)
        ]

    with executor_of(executor).open(desk) as carry_out:
        list(carry_out(items(0)))  # begins the processes
        began = time.perf_counter()
        list(carry_out(items(count)))
        return (time.perf_counter() - began) / count


def main() -> None:
    """Print wall times, their ratio and the cost of an item; write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--encoders", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1200.0, help="of audio")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logger.setLevel("ERROR")
    executors = ("serial", f"local:{options.workers}")
    seconds: dict[str, list[float]] = {name: [] for name in executors}
    numbers = []
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "audio"
        audio.mkdir()
        corpus = write_corpus(audio, options.seconds)
        for number in range(options.rounds):
            for name in executors:
                out = Path(folder) / f"{name[:5]}{number}"
                taken, found = probed(name, corpus, options.encoders, out)
                seconds[name].append(taken)
                numbers.append(found)
                print(f"round {number + 1}, {name}: {taken:.1f} s", flush=True)
    assert all(found == numbers[0] for found in numbers), "the executors' numbers differ"
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    ratio = middle[executors[0]] / middle[executors[1]]
    per_item = {name: overhead(name, 200) for name in executors}
    print(f"{options.encoders} encoders of {len(numbers[0])} numbers, equal to the last bit.")
    for name in executors:
        print(f"{name}: {middle[name]:.1f} s; {1000 * per_item[name]:.2f} ms an item beside work")
    print(f"{executors[1]} is {ratio:.2f} times as fast as serial, with one thread an item.")
    if options.json:
        content = {"seconds": seconds, "ratio": ratio, "seconds_an_item": per_item}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
