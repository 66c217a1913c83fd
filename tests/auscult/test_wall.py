"""The wall: what files say is never imported. Each file here names code that would leave a mark."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import auscult
import auscult.studies as studies
from auscult import kept
from auscult.record import Record
from auscult.results import open_store
from auscult.studies.item import Outcome
from auscult.studies.ledger import Ledger
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.scaled import build_space
from auscult.upstreams.lighthubert.space import Dimensions
from auscult.upstreams.lighthubert.supernet import draw_supernet

Run = Callable[..., tuple[int, str, str]]
STORED = Dimensions(
    width=16, ffn=32, heads=1, head_dim=16, layers=2, channels=8, position_kernel=16, target_dim=16
)
SPACE = build_space("custom", STORED, embed_dims=(16,), heads=(1,), ratios=(1.0, 2.0), depths=(2,))


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[str]:
    """The address of a file that leaves a mark where it is imported; there must be none."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Encoder: pass\n")
    yield f"python:{tmp_path / 'evil.py'}:Encoder"
    assert not mark.exists()


def test_a_mark_is_left_where_the_user_says_so(tmp_path: Path) -> None:
    """The guard is guarded."""
    (tmp_path / "x.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nEncoder = 3\n")
    with pytest.raises(Exception, match="made already"):
        auscult.load(f"python:{tmp_path / 'x.py'}:Encoder")
    assert (tmp_path / "mark").exists()


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    return f"tsv:{tone_corpus(4, 3)}"


@pytest.mark.parametrize("form", ["{}", " {}", "random({})", "random( {} , seed=3)"])
def test_a_training_that_names_a_teacher(
    evil: str, form: str, corpus: str, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    write_supernet(draw_supernet("layer_norm", 3, STORED), SPACE, 2, folder)
    said = {"family": evil, "corpora": evil, "teacher": form.format(evil), "labels_from": evil}
    kept.write_object(said, folder / "training.json")
    net = f"lighthubert:{folder}"
    words = ("subnet", "search", net, "-c", corpus, "--objective", "distill", "-n", 2)
    status, _, err = run(*words, "--out", tmp_path / "o", "--device", "cpu")
    assert status == 2 and "training.json names Python code" in err
    assert run("describe", net)[0] == 0
    status, _, err = run("describe", f"hubert:{folder}")  # which hints at what the folder says
    assert status == 2 and "python:" not in err.replace(evil, "")


def test_a_settings_file_of_a_pretraining(evil: str, corpus: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(f'total_steps = 2\nteacher = "{evil}"\n')
    words = ("pretrain", "distilhubert", "-c", corpus, "--preset", "tiny", "--dry-run")
    status, _, err = run(*words, "--config", tmp_path / "s.toml", "--out", tmp_path / "o")
    assert status == 2 and "s.toml names Python code" in err
    (tmp_path / "s.toml").write_text(f'labels_from = "{evil}"\n')
    words = ("pretrain", "hubert", "-c", corpus, "--preset", "tiny", "--dry-run")
    status, _, err = run(*words, "--config", tmp_path / "s.toml", "--out", tmp_path / "o")
    assert status == 2 and "s.toml names Python code" in err


def hostile(record: Record, evil: str) -> Record:
    made = replace(record.provenance, command=f"auscult probe -u {evil}", libraries={evil: evil})
    names = dict.fromkeys(("upstream", "corpus", "task", "probe", "subnet", "convention"), evil)
    return replace(record, **names, config={"teacher": evil, "task": evil}, provenance=made)


def test_a_store_and_the_kept_outcomes_of_a_study(
    evil: str, corpus: str, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = {"probes": ("linear",), "max_epochs": 1, "device": "cpu", "out": out}
    found = studies.probe("log_mel", corpus, "keyword", **given)
    assert found.plan is not None
    (item,) = [x for x in found.plan.items if x.kept]
    ledger = Ledger(out)
    outcome = ledger.read(item)
    assert outcome is not None
    records = tuple(hostile(record, evil) for record in outcome.records)
    others = tuple(replace(x, upstream=evil, corpus=evil) for x in outcome.artifacts)
    ledger.write(item, replace(outcome, records=records, artifacts=others))
    for path in (out / ".work").rglob("*.safetensors"):
        tensors, about = kept.read_tensors(path) or ({}, {})
        text = about["outcome"].replace(item.command, f"auscult probe -u {evil}")
        kept.write_tensors(tensors, path, {**about, "outcome": text})
    again = studies.probe("log_mel", corpus, "keyword", **given)
    assert {record.upstream for record in again.records} == {evil}, "they were read"
    words = ("-u", "log_mel", "-c", corpus, "-t", "keyword", "--plan", "--out", out)
    assert run("probe", *words)[0] == 0
    open_store(out).add(records, others)
    for words in (
        ("results", "ls", out),
        ("results", "show", out),
        ("results", "export", out),
        ("results", "compare", out),
        ("results", "compare", out, "--over", evil),
        ("report", out, "--out", tmp_path / "page.html"),
        ("superb", "table", out),
    ):
        status, _, err = run(*words)
        assert status in (0, 2) and "Traceback" not in err, words


def test_a_heads_answers_and_checkpoint(evil: str, corpus: str, run: Run, tmp_path: Path) -> None:
    words = ("run", "-u", "log_mel", "-c", corpus, "-t", "keyword_spotting", "batch_size=4")
    words += ("--steps", "2", "--device", "cpu", "--out", tmp_path / "out")
    assert run(*words)[0] == 0
    (file,) = (tmp_path / "out").rglob("run.json")
    said = json.loads(file.read_text())
    said |= dict.fromkeys(("task", "upstream", "corpus"), evil)
    kept.write_object({k: v for k, v in said.items() if "sha256" != k}, file)
    (states,) = (tmp_path / "out").rglob("states-*.ckpt")
    found = torch.load(states, weights_only=False)
    for name in vars(found["Args"]):
        if "upstream" in name or "ckpt" in name or name == "downstream":
            setattr(found["Args"], name, evil)
    torch.save(found, states)
    assert "Traceback" not in run(*words)[2]
    run("superb", "zip", tmp_path / "out", "--out", tmp_path / "zip")


def test_the_folder_of_a_search(evil: str, corpus: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    write_supernet(draw_supernet("layer_norm", 3, STORED), SPACE, 2, folder)
    status, stdout, _ = run("subnet", "show", f"lighthubert:{folder}@largest", "--json")
    assert status == 0
    best = json.loads(stdout)["subnet"]
    for name, content in {
        "best.json": {**best, "address": evil, "text": evil},
        "front.json": {"upstream": evil, "front": [{"address": evil}], "objective": evil},
        "latency.json": {"place": evil, "address": evil},
    }.items():
        kept.write_object(content, tmp_path / name)
    (tmp_path / "scores.jsonl").write_text(json.dumps({"subnet": evil, "address": evil}) + "\n")
    address = f"lighthubert:{folder}@{tmp_path / 'best.json'}"
    assert "Traceback" not in run("subnet", "show", address)[2]
    (tmp_path / "text.json").write_text(json.dumps(evil))
    assert run("subnet", "show", f"lighthubert:{folder}@{tmp_path / 'text.json'}")[0] == 2


def test_an_outcome_holds_no_address_to_follow() -> None:
    """A worker gets its items from the plan alone; what is kept of one are numbers and names."""
    assert "address" not in Outcome.__dataclass_fields__
