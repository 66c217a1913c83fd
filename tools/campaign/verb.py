"""Every verb that keeps work, tiny, and what it leaves: what the campaigns run and compare.

A verb runs in a child that is forked from a process which has imported everything, so that a
campaign of hundreds of runs does not spend its time on imports.
"""

import contextlib
import gc
import hashlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent))
import seed_file  # noqa: E402

RATE = 16_000
TONES = {"low": 200.0, "mid": 900.0, "high": 3000.0}
STARTED_BY = (
    "command",
    "created",
    "code_version",
    "libraries",
    "device",
    "provenance",
    "content_sha256",
)
MEASURED = (
    "rtf",
    "seconds",
    "checked",
    "error",
    "stem",
    "layer",
    "predicted",
    "measured",
)  # by a clock: never the same
Words = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: its words, given the folder of inputs and that of outputs."""

    words: Callable[[Path, Path], Words]
    clocked: frozenset[str] = field(default_factory=frozenset)  # keys that a clock decides


def _tones(folder: Path) -> None:
    """Write a corpus of tones: keyword, phones, speakers, transcripts."""
    folder.mkdir(parents=True)
    rows = ["path\tutt\tspeaker\tkeyword\ttranscript\tsplit"]
    phones = ["utt\tstart\tend\tphone"]
    chance = np.random.default_rng(0)
    for s in range(8):
        split = ("train", "train", "dev", "test")[s % 4]
        for take, (name, pitch) in enumerate(TONES.items()):
            size = int(RATE * (0.4 + 0.03 * take))
            wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(size) / RATE)
            utt = f"s{s}-{take}"
            soundfile.write(folder / f"{utt}.wav", wave + 0.01 * chance.standard_normal(size), RATE)
            rows.append(f"{utt}.wav\t{utt}\ts{s}\t{name}\t{name[0]}\t{split}")
            phones.append(f"{utt}\t0\t{size // 2}\t{name}\n{utt}\t{size // 2}\t{size}\tsil")
    (folder / "MANIFEST.tsv").write_text("\n".join(rows) + "\n")
    (folder / "PHONES.tsv").write_text("\n".join(phones) + "\n")


def make_inputs(folder: Path) -> None:
    """Write everything that the verbs read."""
    _tones(folder / "tones")
    (folder / "net").mkdir()
    seed_file.CHECKPOINTS["lighthubert"].build(folder / "net")
    (folder / "w2v").mkdir()
    seed_file.CHECKPOINTS["w2v_bert"].build(folder / "w2v")
    (folder / "data" / "speech_commands_v0.01").mkdir(parents=True)
    seed_file.CORPORA["speech_commands"].build(folder / "data" / "speech_commands_v0.01")


def _on_tones(*words: object) -> Callable[[Path, Path], Words]:
    """Return a verb's words, ``{}`` in them standing for the folder of inputs."""

    def build(inputs: Path, out: Path) -> Words:
        first, *rest = (str(word).format(inputs) for word in words)
        return (first, *rest, "-c", f"tsv:{inputs / 'tones'}", "--out", out)

    return build


_SEARCH = ("-n", 6, "--seed", 1, "--objective", "probe:phone", "--budget", "params<=26K")
VERBS: Mapping[str, Verb] = {
    "probe": Verb(
        _on_tones(
            *("probe", "-u", "tiny_audio_albert", "-t", "phone", "-t", "keyword"),
            *("--probe", "linear", "--max-epochs", 3),
        )
    ),
    "attention": Verb(_on_tones("attention", "-u", "tiny_audio_albert")),
    "run": Verb(
        _on_tones(
            *("run", "-u", "log_mel", "-t", "keyword_spotting", "--steps", 40, "batch_size=4"),
            *("save_step=10", "eval_step=10"),
        )
    ),
    "extract": Verb(_on_tones("extract", "-u", "tiny_audio_albert")),
    "pretrain": Verb(
        _on_tones(
            *("pretrain", "mockingjay", "--preset", "tiny", "total_steps=12", "save_step=4"),
            *("batch_seconds=2", "crop_seconds=0.4", "log_step=3", "num_layers=1"),
        )
    ),
    "finetune": Verb(
        _on_tones(
            *("finetune", "w2v_bert:{}/w2v", "projection_dim=12", "predictor_dim=10"),
            *("predictor_layers=1", "joint_dim=12", "freeze_steps=2", "total_steps=6"),
            *("save_step=2", "batch_seconds=3", "crop_seconds=0.6", "learning_rate=1e-2"),
        )
    ),
    "subnet search": Verb(
        lambda inputs, out: (
            *("subnet", "search", f"lighthubert:{inputs / 'net'}", *_SEARCH),
            *("-c", f"tsv:{inputs / 'tones'}", "--out", out),
        ),
        frozenset(MEASURED),
    ),
    "superb run": Verb(
        lambda inputs, out: (
            *("superb", "run", "-u", "log_mel", "--data", inputs / "data", "--no-baselines"),
            *("keyword_spotting.batch_size=2", "--steps", 20, "--out", out),
        )
    ),
}
EXECUTED = ("probe", "attention", "run", "extract", "subnet search", "superb run")  # --executor


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run ended."""

    status: int  # exit status, or minus the signal
    said: str  # stdout and stderr
    seconds: float

    @property
    def traceback(self) -> bool:
        """Say whether a traceback reached the user."""
        return "Traceback (most recent call last)" in self.said


def import_all() -> None:
    """Import what verbs import, before anything is forked."""
    for name in ("torch", "torchaudio", "transformers", "lhotse", "sklearn", "matplotlib.pyplot"):
        importlib.import_module(name)
    for room in (
        "cli.app",
        "corpora",
        "upstreams",
        "downstreams",
        "probing",
        "analysis",
        "results",
    ):
        importlib.import_module(f"auscult.{room}")
    import matplotlib

    from auscult.upstreams.lighthubert import latency

    matplotlib.use("Agg")
    latency.LENGTHS, latency.RUNS = (4000,), 2  # a search measures the machine in no time
    gc.freeze()


def start(words: Words, cache: Path, log: Path, limit: int | None = None) -> int:
    """Start a command in a child; return its process number.

    Args:
        words: After ``auscult``.
        cache: ``$AUSCULT_CACHE``.
        log: Receives stdout and stderr.
        limit: Bytes that no file may pass, in place of a full disk where none can be mounted.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ["AUSCULT_CACHE"] = str(cache)
        sys.argv = ["auscult", *map(str, words)]
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from auscult.cli import main

        main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # as the interpreter would: print it, exit 1
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def wait(process: int, log: Path, began: float) -> Ended:
    """Wait for a child of :func:`start`."""
    _, status = os.waitpid(process, 0)
    said = log.read_text(errors="replace") if log.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), said, time.monotonic() - began)


def run(words: Words, cache: Path, log: Path, limit: int | None = None) -> Ended:
    """Run a command to its end."""
    began = time.monotonic()
    return wait(start(words, cache, log, limit), log, began)


def outcome(out: Path, clocked: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return what a verb left, without what every run has of its own: time, command, clock."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(out).parts):
            continue
        if path.name == "results.json":
            found[name] = True  # of the store's numbers alone, but for its date
        elif name.endswith("results.sqlite"):
            found[name] = _store(path, clocked)
        elif path.suffix == ".safetensors":
            found[name] = _tensors(path)
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_plain(json.loads(line), clocked) for line in lines]
        elif path.suffix in (".png", ".html"):
            found[name] = path.stat().st_size > 0
    return found


def left_over(folder: Path) -> list[str]:
    """Return the temporary files below ``folder``."""
    return [path.name for path in folder.rglob("*") if path.name.endswith((".part", ".tmp"))]


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs between two outcomes."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _store(path: Path, clocked: frozenset[str]) -> Any:
    from auscult.results import open_store

    store = open_store(path)
    records = [_plain(record.to_dict(), clocked) for record in store.records()]
    kept = [record for record in records if record["metric"] not in clocked]
    artifacts = [
        (artifact.key, {name: array.tolist() for name, array in artifact.arrays.items()})
        for artifact in store.artifacts()
    ]
    return [kept, artifacts]


def _tensors(path: Path) -> str:
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(file.get_tensor(name)).tobytes())
    return digest.hexdigest()


def _plain(value: Any, clocked: frozenset[str]) -> Any:
    """Return a JSON value without what names the run, its folders or its clock."""
    if isinstance(value, dict):
        left_out = {*STARTED_BY, *clocked}
        return {key: _plain(item, clocked) for key, item in value.items() if key not in left_out}
    if isinstance(value, list):
        return [_plain(item, clocked) for item in value]
    return value
