"""Kept work of whole commands: what was damaged is dropped, said and made again, bit for bit."""

import importlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auscult import kept, origin, record
from auscult.dataset import SPLITS
from auscult.downstreams import training
from auscult.downstreams.prediction import read_predictions
from auscult.errors import UserError
from auscult.probing import ProbeKey, ProbeScore, TrainingPlan
from auscult.record import Provenance
from auscult.results import open_store
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
    "outcome": (OUT, ".work/*.safetensors", ("probe", "attention")),
    "extracted": (OUT, "*.safetensors", ("extract",)),
    "snapshot": (OUT, "heads/*/states-*.ckpt", ("head",)),
    "answers": (OUT, "heads/*/predictions.jsonl", ("head",)),
    "run": (OUT, "heads/*/run.json", ("head",)),
}
CASES = [(verbs[0], kind, False) for kind, (_, _, verbs) in KINDS.items()]
CAMPAIGN = [
    pytest.param(verb, kind, True, marks=pytest.mark.slow)
    for kind, (_, _, verbs) in KINDS.items()
    for verb in verbs
]


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
    for row in found.get("records", ()):
        del row["created"]
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


@pytest.mark.parametrize(("verb", "kind", "many"), [*CASES, *CAMPAIGN])
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
        if kind != "outcome":  # which would hide it
            shutil.rmtree(out / ".work", ignore_errors=True)
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


def records(stdout: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stdout)["records"]
    return found


@pytest.mark.parametrize("verb", ["probe", "attention", "head"])
def test_records_name_the_command_that_measured_them(
    verb: str, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(f"2026-01-01T00:00:0{i}+00:00" for i in range(9))

    def provenance(command: str, device: str) -> Provenance:
        return replace(original(command, device), created=next(now))

    original = record.provenance
    for place in ("record", "studies.layer", "studies.divergence"):
        monkeypatch.setattr(f"auscult.{place}.provenance", provenance)
    first = records(command(verb, tmp_path)[1])
    assert {r["created"][:17] for r in first} == {"2026-01-01T00:00:"}
    status, stdout, stderr = command(verb, tmp_path, "--skip-bad")  # which changes no number
    assert status == 0, stderr
    assert records(stdout) == first
    kept_records = {r.key: r for r in open_store(tmp_path).records()}
    assert all("--skip-bad" not in r.provenance.command for r in kept_records.values())
    (tmp_path / "elsewhere").mkdir()
    anew = records(command(verb, tmp_path / "elsewhere", "--skip-bad")[1])
    assert all("--skip-bad" in r["command"].split() for r in anew)
    assert [r["value"] for r in anew] == [r["value"] for r in first]


def test_a_head_of_two_commands_names_the_last(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.HeadTraining._step

    def killed(self: Any, number: int, *others: Any) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *others)

    with monkeypatch.context() as context:
        context.setattr(training.HeadTraining, "_step", killed)
        assert command("head", tmp_path)[0] == 130
    found = records(command("head", tmp_path, "--skip-bad")[1])
    assert all("--skip-bad" in r["command"].split() for r in found)
    assert records(command("head", tmp_path)[1]) == found


def test_a_head_that_is_asked_otherwise_names_who_asked(command: Any, tmp_path: Path) -> None:
    """The answers depend on more than the head, so that a later command may be the first."""
    command("head", tmp_path)
    (place,) = tmp_path.glob("heads/*/run.json")
    run = kept.read_object(place)
    assert run is not None and "--skip-bad" not in run["provenance"]["command"]
    kept.write_object(run | {"config": {**run["config"], "beam": 5}}, place)
    found = records(command("head", tmp_path, "--skip-bad")[1])
    assert all("--skip-bad" in r["command"].split() for r in found)


def utterances(encoder: Any) -> list[int]:
    """Return the samples of what was encoded, but for s3prl's second of noise; forget them."""
    found = [samples for samples in encoder.encoded if samples != 16_000]
    encoder.encoded.clear()
    return found


SAID = {
    "probe": ("3 feature shards were made by other code", "1 files of scores were made by other"),
    "attention": ("1 sums of divergences were made by other code",),
    "extract": ("24 files were made by other code",),
    "head": ("3 feature shards were made by other code", "1 heads of keyword_spotting were made"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_mended_code_makes_its_work_anew(
    verb: str, command: Any, tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(verb, tmp_path)[0] == 0
    of = origin._sha256
    encoder = (
        "auscult.upstreams.huggingface.upstream" if verb == "attention" else type(toy).__module__
    )

    def mended(*names: str) -> None:
        monkeypatch.setattr(origin, "_sha256", lambda n: f"{of(n)} mended" if n in names else of(n))

    mended("auscult.cli.probe", "auscult.cli.run", "auscult.results.table", "auscult.progress")
    utterances(toy)
    _, before, stderr = command(verb, tmp_path)
    assert utterances(toy) == [] and "made by other code" not in stderr
    mended(encoder)
    status, stdout, stderr = command(verb, tmp_path)
    assert status == 0 and all(sentence in stderr for sentence in SAID[verb]), stderr
    assert len(utterances(toy)) == (0 if verb == "attention" else 24)
    values = [[r["value"] for r in json.loads(x).get("records", ())] for x in (before, stdout)]
    assert values[0] == values[1]
    assert "made by other code" not in command(verb, tmp_path)[2] and utterances(toy) == []
    mended()  # the old code again: its work is still there, but for files that have one name each
    assert ("made by other code" in command(verb, tmp_path)[2]) == (verb == "extract")


def test_a_features_code_is_no_others(
    command: Any, tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mending a probe trains probes anew, on the features that are there."""
    assert command("probe", tmp_path)[0] == 0
    of = origin._sha256
    bank = "auscult.probing.bank"
    monkeypatch.setattr(origin, "_sha256", lambda n: f"{of(n)} mended" if n == bank else of(n))
    utterances(toy)
    stderr = command("probe", tmp_path)[2]
    assert utterances(toy) == [] and SAID["probe"][1] in stderr and SAID["probe"][0] not in stderr


def test_gpus_of_one_kind_share_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(*_: object, device: str, **__: object) -> dict[str, list[ProbeScore]]:
        trained.append(device)
        counts, key = np.ones((1, 2)), ProbeKey(0, "linear", 0, 1e-3)
        return {s: [ProbeScore(key, counts, counts, (0,), 1)] for s in SPLITS[1:]}

    sweep = importlib.import_module("auscult.probing.sweep")
    monkeypatch.setattr(sweep, "train_bank", train)
    for device in ("cuda:0", "cuda:1", "cuda", "cpu"):
        sweep.sweep_layers(
            {"train": cast(Any, SimpleNamespace(by_layer=True))},
            2,
            [0],
            TrainingPlan(),
            title="x",
            identity=[],
            folder=tmp_path,
            device=device,
        )
    assert trained == ["cuda:0", "cpu"]


def test_somebody_elses_file_is_no_damaged_one(command: Any, tmp_path: Path) -> None:
    assert command("extract", tmp_path)[0] == 0
    path = tmp_path / "s0-0.safetensors"
    save_file({"mine": torch.ones(3)}, path)
    status, _, stderr = command("extract", tmp_path)
    assert status == 2 and "with upstream unknown where" in stderr and path.exists()
    path.write_text("my notes")
    status, _, stderr = command("extract", tmp_path)
    assert status == 0 and f"{path} is no safetensors file" in stderr
    assert path.with_name(f"{path.name}.unreadable").read_text() == "my notes"


def test_damaged_answers_are_no_submission(command: Any, tmp_path: Path) -> None:
    assert command("head", tmp_path)[0] == 0
    (place,) = tmp_path.glob("heads/*")
    assert read_predictions(place).run.num_items == 6
    for name, old, new in (
        ("predictions.jsonl", '"low"', '"mid"'),
        ("run.json", '"seed": 0', '"seed": 1'),
    ):
        content = (place / name).read_text()
        (place / name).write_text(content.replace(old, new, 1))
        with pytest.raises(UserError, match=rf"{name} was damaged .* run the task again"):
            read_predictions(place)
        (place / name).write_text(content)
