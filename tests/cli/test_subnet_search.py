"""`auscult subnet search`: the same front after a kill, scores that `auscult probe` confirms."""

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auscult.results import open_store
from auscult.score import Score
from auscult.studies.criterion import ProbeCriterion
from auscult.studies.score_log import ScoreLog
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.scaled import build_space
from auscult.upstreams.lighthubert.space import Dimensions, Subnet
from auscult.upstreams.lighthubert.supernet import draw_supernet
from auscult.watch import Stamp

Run = Callable[..., tuple[int, str, str]]
LogCapture = pytest.LogCaptureFixture
STORED = Dimensions(
    width=32,
    ffn=64,
    heads=2,
    head_dim=16,
    layers=3,
    channels=16,
    position_kernel=16,
    target_dim=128,
)
SPACE = build_space(
    "custom", STORED, embed_dims=(16, 32), heads=(1, 2), ratios=(1.0, 2.0), depths=(2, 3)
)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A supernet with few and small subnets, and a machine that is measured in no time."""
    latency = "auscult.upstreams.lighthubert.latency"
    monkeypatch.setattr(f"{latency}.LENGTHS", (4000,))
    monkeypatch.setattr(f"{latency}.RUNS", 2)
    write_supernet(draw_supernet("layer_norm", 3, STORED), SPACE, 2, tmp_path / "net")
    return f"lighthubert:{tmp_path / 'net'}"


@pytest.fixture
def words(net: str, tone_corpus: Callable[..., Path], tmp_path: Path) -> list[object]:
    folder = tone_corpus()
    budget = ("--budget", "params<=26K,macs<=8G", "--seed", "1", "-n", "8")
    return [net, "-c", f"tsv:{folder}", "--objective", "probe:phone", *budget]


def front(folder: Path) -> dict[str, Any]:
    """Return all of the front that is not measured in seconds, or of the moment."""
    found: dict[str, Any] = json.loads((folder / "front.json").read_text())
    for entry in (*found["front"], found["best"], *found["named"].values()):
        assert entry.pop("rtf") > 0
    return {key: found[key] for key in found.keys() - {"provenance", "latency", "content_sha256"}}


def test_what_is_found(run: Run, words: list[object], net: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, stdout, stderr = run("subnet", "search", *words, "--out", out)
    assert status == 0, stderr
    assert "Real-time factors on" in stdout
    found = front(out)
    assert found["budget"] == {"params": 26_000, "macs": 8_000_000_000}
    assert found["cost"] == "params" and found["evaluated"] <= 8
    costs = [entry["params"] for entry in found["front"]]
    scores = [entry["score"] for entry in found["front"]]
    assert costs == sorted(costs) and scores == sorted(set(scores)) and max(costs) <= 26_000
    assert found["best"] == found["front"][-1]
    assert set(found["named"]) == {"smallest", "default", "largest"}
    assert found["named"]["largest"]["params"] > 26_000  # marked, though it breaks the budget
    assert found["named"]["largest"]["test"] is None
    for entry in found["front"]:
        assert entry["macs"] <= 8_000_000_000
        assert entry["low"] <= entry["score"] <= entry["high"]
        shown = json.loads(run("subnet", "show", entry["address"], "--json", "--quiet")[1])
        assert shown["subnet"] == entry["subnet"] and shown["text"] == entry["text"]
        assert shown["parameters"] == entry["params"] and shown["macs"] == entry["macs"]
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    records = open_store(out).records()
    assert {r.subnet: (r.split, r.selected_on, r.value) for r in records} == {
        entry["text"]: ("test", "dev", entry["test"]["value"]) for entry in found["front"]
    }


@pytest.mark.parametrize("task", ["phone", "keyword"])
def test_a_probe_of_the_exported_best_scores_the_same(
    task: str, run: Run, words: list[object], net: str, tmp_path: Path
) -> None:
    out, cut = tmp_path / "out", tmp_path / "cut"
    words[words.index("probe:phone")] = f"probe:{task}"
    assert run("subnet", "search", *words, "-n", 4, "--out", out)[0] == 0
    best = front(out)["best"]
    assert run("subnet", "export", f"{net}@{out / 'best.json'}", "--out", cut)[0] == 0
    layer = best["subnet"]["layer_num"]
    probe = ("-t", task, "--probe", "linear", "--layers", layer, "--no-baselines")
    status, stdout, _ = run(
        *("probe", "-u", f"lighthubert:{cut}", *words[1:3], *probe, "--out", tmp_path / "probe"),
        *("--json", "--quiet"),
    )
    records = [r for r in json.loads(stdout)["records"] if r["metric"] == "accuracy"]
    scores = {r["split"]: {key: r[key] for key in ("value", "low", "high")} for r in records}
    dev = {"value": best["score"], "low": best["low"], "high": best["high"]}
    assert status == 0 and scores == {"dev": dev, "test": best["test"]}
    (stored,) = [r for r in open_store(out).records() if r.subnet == best["text"]]
    same = ("majority", "num_items", "num_speakers", "num_skipped", "layer", "upstream_sha256")
    (probed,) = [r for r in records if r["split"] == "test"]
    assert [getattr(stored, name) for name in same] == [probed[name] for name in same]


def test_a_killed_search_ends_as_if_it_had_not_been(
    run: Run, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("subnet", "search", *words, "--out", whole)[0] == 0
    measured: list[tuple[str, str]] = []
    score = ProbeCriterion.score

    def interrupted(self: ProbeCriterion, subnet: Subnet, split: str) -> Score:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append((split, str(subnet)))
        return score(self, subnet, split)

    with monkeypatch.context() as patch:
        patch.setattr(ProbeCriterion, "score", interrupted)
        assert run("subnet", "search", *words, "--out", killed)[0] == 130
    assert not (killed / "front.json").exists()
    with (killed / "scores.jsonl").open("a") as file:
        file.write('{"identity": "cut sho')  # as a kill in a write would leave it

    def counted(self: ProbeCriterion, subnet: Subnet, split: str) -> Score:
        measured.append((split, str(subnet)))
        return score(self, subnet, split)

    monkeypatch.setattr(ProbeCriterion, "score", counted)
    status, _, stderr = run("subnet", "search", *words, "--out", killed)
    assert status == 0 and "5 scores are there already" in stderr
    assert front(killed) == front(whole)
    assert (killed / "front.png").read_bytes() == (whole / "front.png").read_bytes()
    assert len(measured) == len(set(measured)) == len((whole / "scores.jsonl").open().readlines())


def test_another_seed_uses_the_scores_that_are_there(
    run: Run, words: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("subnet", "search", *words, "--out", out)[0] == 0
    table = (out / "latency.json").read_bytes()
    before = len((out / "scores.jsonl").open().readlines())
    again = ("--seed", "2", "--strategy", "random", "--cost", "rtf")
    assert run("subnet", "search", *words, *again, "--out", out)[0] == 0
    lines = (out / "scores.jsonl").open().readlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) > before and len({(r["split"], r["subnet"]) for r in rows}) == len(rows)
    assert (out / "latency.json").read_bytes() == table
    found = front(out)
    assert found["cost"] == "rtf" and found["strategy"] == "random"
    # on other speech nothing of it holds
    assert run("subnet", "search", *words, "--limit", "4", "-n", "3", "--out", out)[0] == 0
    assert len((out / "scores.jsonl").open().readlines()) > len(lines)


def test_distillation_loss(run: Run, words: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    teacher = ("--teacher", "random(hubert_tiny)", "--top-layers", "2")
    words[words.index("probe:phone")] = "distill"
    status, stdout, _ = run("subnet", "search", *words, *teacher, "--out", out, "--json", "--quiet")
    printed = json.loads(stdout)
    found = front(out)
    assert status == 0 and found["lower_is_better"]
    assert [entry["text"] for entry in printed["front"]] == [e["text"] for e in found["front"]]
    scores = [entry["score"] for entry in found["front"]]
    assert scores == sorted(scores, reverse=True) and found["best"]["score"] == scores[-1] > 0
    for record in printed["records"]:
        assert (record["task"], record["metric"]) == ("distillation", "loss")
        assert record["config"]["teacher"] == "random(hubert_tiny)" and record["low"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--budget", "params<=1K"), "params<=1,000: the smallest, embed=16,depth=2,heads=1,ffn=1"),
        (("--budget", "rtf<=1e-9"), "No subnet of the custom space has rtf<=1e-09: the smallest"),
        (("--budget", "parms<=1M"), "Unknown budget 'parms'. Did you mean params"),
        (("--objective", "prob:phone"), "Unknown objective 'prob:phone'"),
        (("--objective", "probe:phones"), "Unknown probing task 'phones'. Did you mean phone"),
        (("--objective", "probe:speaker"), "needs the same speakers in every split"),
        (("--objective", "distill"), "name the teacher with --teacher"),
        (("--cost", "flops"), "Unknown cost 'flops'"),
        (("--strategy", "grid"), "grid"),
        (("--layer", "3"), "--layer 3: there are subnets of 2 layers"),
    ],
)
def test_mistakes(
    changes: tuple[str, ...], message: str, run: Run, words: list[object], tmp_path: Path
) -> None:
    status, stdout, stderr = run("subnet", "search", *words, *changes, "--out", tmp_path / "out")
    assert status == 2 and message in stderr and "Traceback" not in stderr
    assert not (tmp_path / "out" / "front.json").exists()


def test_several_tasks_in_one_name(run: Run, words: list[object], tmp_path: Path) -> None:
    manifest = tmp_path / "tones" / "MANIFEST.tsv"
    manifest.write_text(manifest.read_text().replace('{"tone"', '{"pitch": "x", "tone"'))
    words[words.index("probe:phone")] = "probe:intent"
    status, _, stderr = run("subnet", "search", *words, "--out", tmp_path / "out")
    assert status == 2 and "several tasks; choose of slot:pitch, slot:tone" in stderr


def scored(value: float) -> Score:
    return Score(metric="loss", value=value, low=0.1, high=0.9, num_items=1, num_speakers=1)


def test_a_damaged_score_is_measured_again(tmp_path: Path, caplog: LogCapture) -> None:
    path, log = tmp_path / "scores.jsonl", ScoreLog(tmp_path / "scores.jsonl", "x", "code")
    for number, name in enumerate("abc", start=1):
        log.write(name, "dev", scored(number / 3))  # type: ignore[arg-type]
    assert not caplog.text
    path.write_text(path.read_text().replace("0.666", "0.766"))
    log = ScoreLog(path, "x", "code")
    assert len(log) == 2 and "1 of 3 rows were torn or damaged" in caplog.text
    assert log.read("a", "dev") == scored(1 / 3)  # type: ignore[arg-type]
    assert not log.has("b", "dev")  # type: ignore[arg-type]
    for content in (b"\x00\n", b'{"identity": "x", "split": "dev", "subnet": "x"}\n', b"[]\n\xff"):
        path.write_bytes(content)
        assert len(ScoreLog(path, "x", "code")) == 0 and not path.read_bytes()


def test_scores_of_other_code_are_measured_again(tmp_path: Path, caplog: LogCapture) -> None:
    path = tmp_path / "scores.jsonl"
    ScoreLog(path, "x", "old").write("a", "dev", scored(1.0))  # type: ignore[arg-type]
    assert len(ScoreLog(path, "y", "new")) == 0 and not caplog.text
    log = ScoreLog(path, "x", "new")
    assert "1 scores in" in caplog.text and "other code or libraries; they are" in caplog.text
    assert not log.has("a", "dev")  # type: ignore[arg-type]
    log.write("a", "dev", scored(2.0))  # type: ignore[arg-type]
    caplog.clear()
    assert len(ScoreLog(path, "x", "new")) == 1 and not caplog.text


def test_times_have_no_say_unless_they_are_limited(
    run: Run, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh runs on machines of ten kinds, by a clock that jumps."""
    found = []
    for number in range(3):
        chance = random.Random(number)
        clock = (chance.random() ** 8 * 10**number for _ in itertools.count())
        now = itertools.accumulate(clock)
        monkeypatch.setattr("time.perf_counter", lambda now=now: next(now))
        out = tmp_path / str(number)
        assert run("subnet", "search", *words, "--out", out)[0] == 0
        found.append((front(out), (out / "front.png").read_bytes()))
    assert found[0] == found[1] == found[2]
    tables = {(tmp_path / str(number) / "latency.json").read_bytes() for number in range(3)}
    assert len(tables) == 3


def test_limited_times_are_those_of_the_table_that_was_kept(
    run: Run, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("subnet", "search", *words, "--budget", "rtf<=9,params<=26K", "--out", out)[0] == 0
    first = json.loads((out / "front.json").read_text())
    monkeypatch.setattr("time.perf_counter", lambda: pytest.fail("measured again"))
    (out / "scores.jsonl").unlink()
    assert run("subnet", "search", *words, "--budget", "rtf<=9,params<=26K", "--out", out)[0] == 0
    second = json.loads((out / "front.json").read_text())
    for one in (first, second):
        del one["provenance"], one["content_sha256"]
    assert first == second
    (out / "latency.json").write_text((out / "latency.json").read_text().replace("0.0", "0.1", 1))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        run("subnet", "search", *words, "--budget", "rtf<=9,params<=26K", "--out", out)


@pytest.mark.parametrize("shown", [True, False], ids=["by a stamp", "by content alone"])
def test_audio_that_is_swapped_in_a_search(
    shown: bool, run: Run, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = tmp_path / "out", tmp_path / "tones" / "s3-0.flac"
    other = (tmp_path / "tones" / "s3-1.flac").read_bytes()
    if not shown:
        monkeypatch.setattr("auscult.watch.Stamp.of", lambda path: Stamp(1, 1, 1))
    score = ProbeCriterion.score
    measured: list[str] = []

    def swapping(self: ProbeCriterion, subnet: Subnet, split: str) -> Score:
        found = score(self, subnet, split)
        measured.append(split)
        if len(measured) == 3:
            path.write_bytes(other)
        return found

    monkeypatch.setattr(ProbeCriterion, "score", swapping)
    status, _, stderr = run("subnet", "search", *words, "-n", 4, "--out", out)
    assert status == 2 and f"{path} changed while it was in use" in stderr
    assert not (out / "front.json").exists() and not open_store(out).records()
    # what was scored before is of the old audio, unless nobody can tell
    assert len((out / "scores.jsonl").read_text().splitlines()) == (4 if shown else 0)


@pytest.mark.slow
def test_the_order_of_hashes_has_no_say(run: Run, words: list[object], tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert run("subnet", "search", *words, "--out", here)[0] == 0
    code = (
        "from auscult.cli import main\n"
        "from auscult.upstreams.lighthubert import latency\n"
        "latency.LENGTHS, latency.RUNS = (4000,), 1\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "subnet", "search", *words, "--out", there]
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": other, "OMP_NUM_THREADS": "1"}
    subprocess.run([*map(str, command)], check=True, capture_output=True, env=environment)
    assert front(here) == front(there)


def test_a_damaged_best_is_not_read_as_another(
    run: Run, words: list[object], net: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("subnet", "search", *words, "-n", 2, "--out", out)[0] == 0
    path = out / "best.json"
    spec = f"{net}@{path}"
    assert run("subnet", "show", spec)[0] == 0
    content = path.read_text()
    path.write_text(content.replace('"layer_num": 2', '"layer_num": 3').replace("score", "scorf"))
    status, _, stderr = run("subnet", "show", spec)
    assert status == 2 and f"{path}: the file was damaged or changed since" in stderr


def test_help_has_a_runnable_example(run: Run) -> None:
    status, stdout, _ = run("subnet", "search", "--help")
    assert status == 0 and "auscult subnet search " in stdout
