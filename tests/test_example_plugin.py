"""docs/example_plugin, installed in a folder of its own and used by every verb."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import auscult
import auscult.studies as studies
from auscult.errors import UserError
from auscult.results import open_store

Run = Callable[..., tuple[int, str, str]]
SOURCE = Path(__file__).resolve().parents[1] / "docs/example_plugin"
CPU = ("--device", "cpu")
PROBE = ("--probe", "example_narrow", "-t", "example_length", "--max-epochs", "2", *CPU)
BROKEN = """[auscult.upstreams]
example_broken = no_such_module_of_theirs:encoder
tiny_hubert = auscult_example:encoder
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project installed, and beside it a package that is broken."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(SOURCE, folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    words = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site")]
    subprocess.run([*words, str(folder / "source")], check=True)
    broken = folder / "site/broken-2.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (broken / "entry_points.txt").write_text(BROKEN)
    return folder / "site"


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("auscult_example", None)


def said(run: Run, *words: object) -> Any:
    status, stdout, err = run(*words, "--json", "--quiet")
    assert status == 0, err
    return json.loads(stdout)


def test_it_is_listed_and_nothing_is_imported(run: Run) -> None:
    for verb, key, names in (
        ("upstreams", "installed", ["example_broken", "example_encoder", "tiny_hubert"]),
        ("corpora", "installed", ["example_tones"]),
        ("tasks", "installed", ["example_pitch"]),
        ("probes", "installed", ["example_narrow"]),
        ("probes", "installed_tasks", ["example_length"]),
    ):
        rows = {row["name"]: row for row in said(run, verb)[key]}
        assert list(rows) == names
        assert rows[names[len(names) > 1]]["problem"] == ""
        status, stdout, _ = run(verb)
        assert status == 0 and "auscult-example==0.1.0" in stdout
    rows = {row["name"]: row for row in said(run, "upstreams")["installed"]}
    assert rows["example_broken"]["origin"] == "broken==2.0"
    assert "no such module" in rows["example_broken"]["problem"]
    assert "one of ours, which stays" in rows["tiny_hubert"]["problem"]
    assert "auscult_example" not in sys.modules


def test_a_broken_package_stops_nothing_and_replaces_nothing() -> None:
    assert auscult.load("tiny_hubert").spec.origin == ""
    assert auscult.load("example_encoder").spec.origin == "auscult-example==0.1.0"
    with pytest.raises(UserError, match="example_broken of broken==2.0 cannot be imported"):
        auscult.load("example_broken")
    with pytest.raises(UserError, match="Did you mean example_encoder"):
        auscult.load("example_encodr")


ENCODER = """import auscult
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
    def forward(self, x):
        return x + self.attend(x, x, x, average_attn_weights=False)[0]

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(1, 16, 400, 320)
        self.blocks = nn.Sequential(Block(), Block())
    def forward(self, waves):
        return self.blocks(self.front(waves[:, None]).transpose(1, 2))

def encoder(): return auscult.wrap(Network(), blocks="blocks", attention="attend")
"""


def test_a_file_of_under_20_lines_goes_through_every_verb(run: Run) -> None:
    assert len(ENCODER.splitlines()) < 20
    Path("my.py").write_text(ENCODER)
    words = ("-u", "python:my.py:encoder", "-c", "example_tones:wavs", "--out", "out", *CPU)
    assert all(x["passed"] for x in said(run, "check", "python:my.py:encoder")["checks"])
    assert said(run, "describe", "python:my.py:encoder")["upstream"]["num_layers"] == 2
    assert said(run, "attention", *words)["records"]
    plan = said(run, "probe", *words, "-t", "label:pitch", "--plan")["plan"]
    assert {row["upstream"] for row in plan} >= {"random(python:my.py:encoder)"}
    assert said(run, "probe", *words, "-t", "label:pitch", "--max-epochs", "1")["margins"]
    head = ("-t", "example_pitch", "--steps", "25", "--no-baselines")
    record = said(run, "run", *words, *head)["records"][0]
    assert record["upstream"] == "python:my.py:encoder"
    assert record["libraries"]["my.py"].startswith("sha256 ")
    assert run("report", "out", "--out", "page.html")[0] == 0


def test_verbs_about_the_encoder(run: Run) -> None:
    for upstream in ("example_encoder", "random(example_encoder, seed=2)"):
        found = said(run, "check", upstream)
        assert all(check["passed"] for check in found["checks"]) and found["upstream"]["heads"]
        assert said(run, "describe", upstream)["upstream"]["origin"] == "auscult-example==0.1.0"
        words = ("-u", upstream, "-c", "example_tones:wavs", *CPU)
        said(run, "extract", *words, "--out", f"features {upstream}")
        maps = said(run, "attention", *words, "--out", "maps")
        assert {record["upstream"] for record in maps["records"]} == {upstream}
    assert len(list(Path("features example_encoder").rglob("*.safetensors"))) == 24
    assert said(run, "corpora", "example_tones:wavs")["corpus"]["splits"][0]["utterances"] == 12


def test_probes_heads_and_the_report(run: Run) -> None:
    words = ("-u", "example_encoder", "-c", "example_tones:wavs", "--out", "out")
    found = said(run, "probe", *words, *PROBE)
    names = {"example_encoder", "random(example_encoder)", "log_mel"}
    assert {record["upstream"] for record in found["records"]} == names
    record = found["records"][0]
    assert record["task"] == "example_length" and record["probe"] == "example_narrow"
    assert record["libraries"]["auscult-example"] == "0.1.0" and found["margins"]
    assert "-t example_length" in record["command"] and "example_narrow" in record["command"]
    heads = said(run, "run", *words, *CPU, "-t", "example_pitch", "--no-baselines")
    (best, _) = heads["records"]
    assert best["task"] == "example_pitch" and best["value"] == 1
    assert best["libraries"]["auscult-example"] == "0.1.0"
    assert run("report", "out", "--out", "page.html")[0] == 0
    assert "example_narrow" in Path("page.html").read_text()
    assert {record.task for record in open_store("out").records()} == {
        "example_length",
        "example_pitch",
    }


@pytest.mark.slow
def test_files_and_processes_give_the_same_numbers(site: Path) -> None:
    file = f"python:{site / 'auscult_example.py'}"
    tones, probes = "example_tones:wavs", ["example_narrow"]
    given: dict[str, Any] = {"max_epochs": 2, "device": "cpu", "baselines": False}
    by_name = studies.probe("example_encoder", tones, "example_length", probes=probes, **given)
    by_file = studies.probe(
        f"{file}:encoder",
        f"{file}:tones:wavs",
        f"{file}:LENGTH",
        probes=[f"{file}:Narrow"],
        executor="local:2",
        out="elsewhere",
        **given,
    )
    assert [x.value for x in by_file.records] == [x.value for x in by_name.records]
    libraries = by_file.records[0].provenance.libraries
    assert libraries["auscult_example.py"].startswith("sha256 ")


def test_s3prl_takes_it_by_its_name() -> None:
    auscult.register_s3prl()
    from s3prl.nn import S3PRLUpstream

    upstream = S3PRLUpstream("auscult", path_or_url="example_encoder").eval()
    states, _ = upstream(torch.randn(1, 8000), torch.tensor([8000]))
    assert len(states) == 3


def test_a_pretraining_learns_from_it(run: Run) -> None:
    words = ("pretrain", "hubert", "-c", "example_tones:wavs", "--preset", "tiny", "--dry-run")
    for teacher in ("example_encoder", "random(example_encoder)"):
        said(run, *words, f"labels_from={teacher}", "layer=1", "clusters=4", "--out", "model")
