"""Kept work of whole commands: what was damaged is dropped, said and made again, bit for bit."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auscult import kept
from auscult.upstreams import load_upstream

Run = Callable[..., tuple[int, str, str]]
Verb = Callable[[Path, Path], tuple[object, ...]]
TINY = "random(hubert_tiny)"


def probe(corpus: Path, out: Path) -> tuple[object, ...]:
    tasks = ("-t", "keyword", "-t", "phone", "--probe", "linear", "--max-epochs", "1")
    tasks = (*tasks, "--layers", "1")
    return ("probe", "-c", f"tsv:{corpus}", *tasks, "--no-baselines", "--json", "--out", out)


def attention(corpus: Path, out: Path) -> tuple[object, ...]:
    return ("attention", "-c", f"tsv:{corpus}", "--json", "--limit", "2", "--out", out)


def extract(corpus: Path, out: Path) -> tuple[object, ...]:
    return ("extract", "-c", f"tsv:{corpus}", "--json", "--out", out)


def head(corpus: Path, out: Path) -> tuple[object, ...]:
    task = ("-t", "keyword_spotting", "batch_size=8", "learning_rate=0.02", "--steps", "4")
    words = ("run", "-c", f"tsv:{corpus}", *task, "save_step=2", "eval_step=2")
    return (*words, "--no-baselines", "--json", "--out", out)


VERBS: dict[str, tuple[Verb, str]] = {
    "probe": (probe, "toy"),
    "attention": (attention, TINY),
    "extract": (extract, "toy"),
    "head": (head, "toy"),
}
# kinds of kept files: the folder that holds them, how they are named, the verbs that read them
OUT, CACHE = "out", "cache"
KINDS = {
    "pooled": (CACHE, "features/*.pooled.safetensors", ("probe", "head")),
    "frames": (CACHE, "features/*.frames.safetensors", ("probe", "head")),
    "scan": (CACHE, "scans/*.json", ("probe", "attention", "extract", "head")),
    "scores": (OUT, ".probe/*.npz", ("probe",)),
    "sums": (OUT, ".attention/*.npz", ("attention",)),
    "extracted": (OUT, "*.safetensors", ("extract",)),
    "snapshot": (OUT, "heads/*/states-*.ckpt", ("head",)),
    "answers": (OUT, "heads/*/predictions.jsonl", ("head",)),
    "run": (OUT, "heads/*/run.json", ("head",)),
}
CASES = [(verb, kind) for kind, (_, _, verbs) in KINDS.items() for verb in verbs]


@pytest.fixture
def command(
    run: Run, toy: Any, monkeypatch: pytest.MonkeyPatch, tone_corpus: Callable[..., Path]
) -> Callable[[str, Path], tuple[int, str, str]]:
    """Return a function that runs a verb on tones and gives its status, stdout and stderr."""
    encoders = {"toy": toy, TINY: load_upstream(TINY)}
    monkeypatch.setattr("auscult.load", lambda spec, seed=0: encoders[spec])
    corpus = tone_corpus()

    def call(name: str, out: Path, *more: object) -> tuple[int, str, str]:
        verb, encoder = VERBS[name]
        return run(*verb(corpus, out), "-u", encoder, *more)

    return call


def measured(stdout: str, out: Path) -> dict[str, Any]:
    """Return all that a command says and leaves, but for when it ran."""
    found: dict[str, Any] = json.loads(stdout)
    for record in found.get("records", ()):
        del record["created"]
    found["features"] = {}
    for path in sorted(out.glob("*.safetensors")):
        tensors, about = kept.read_tensors(path) or ({}, {})
        found["features"][path.name] = about, {k: x.numpy().tobytes() for k, x in tensors.items()}
    for path in sorted(out.glob("attention*.npz")):
        with np.load(path) as arrays:
            found[path.name] = {name: arrays[name].tobytes() for name in arrays.files}
    for path in sorted(out.glob("heads/*/predictions.jsonl")):
        found[str(path)] = path.read_text()
    return found


def damages(content: bytes, many: bool) -> Iterator[bytes]:
    """Yield what a bad disk, a kill or a stranger makes of a file."""
    chance = random.Random(0)
    size = len(content)
    places = [size // 2, size - 40]
    if many:
        places += [0, 9, size // 3, size - 1, *chance.sample(range(size), 9)]
        yield from (content[:-1], content[:1000], content + b"x", b"\0" * size, b"garbage" * 99)
    for place in places:
        flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
        yield content[:place] + flipped + content[place + 1 :]
    yield from (b"", content[: size // 2])


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("verb", "kind"), CASES)
def test_damaged_work_is_made_again(
    verb: str, kind: str, many: bool, command: Any, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "out"
    status, stdout, stderr = command(verb, out)
    assert status == 0, stderr
    clean = measured(stdout, out)
    folder, pattern, _ = KINDS[kind]
    root = {OUT: out, CACHE: cache}[folder]
    path = sorted(root.glob(pattern))[0]
    content = path.read_bytes()
    for damaged in damages(content, many):
        path.write_bytes(damaged)
        if folder == CACHE:  # what was made of it would hide it
            for name in (".probe", "heads", ".attention"):
                shutil.rmtree(out / name, ignore_errors=True)
        status, stdout, stderr = command(verb, out)
        assert status == 0 and "Traceback" not in stderr, stderr
        assert measured(stdout, out) == clean
        assert path.exists()
        said = any(f"{path} {what}" in stderr for what in ("was damaged", "cannot", "is no"))
        # a flipped bit may leave the same JSON, and answers are written anew at each command
        assert said or kind in ("scan", "run", "answers"), stderr
