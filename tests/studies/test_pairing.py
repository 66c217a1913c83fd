"""Comparisons across days: kept counts of two studies give what one study gives, bit for bit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import auscult
import auscult.studies as studies
from auscult import kept
from auscult.cli.app import app
from auscult.errors import UserError
from auscult.record import Artifact
from auscult.results import difference, open_store
from auscult.studies.item import Item
from auscult.studies.ledger import FORMAT, Ledger

OPTIONS: dict[str, Any] = {
    "probes": ("linear", "mlp1"),
    "max_epochs": 2,
    "baselines": False,
    "layers": "0",
    "seeds": 2,
}


@pytest.fixture(scope="module")
def days(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of one encoder each, and one of both."""
    folder = tmp_path_factory.mktemp("days")
    corpus = f"tsv:{tones}"
    for out, upstreams, tasks in (
        ("today", ["fbank"], ["keyword", "phone"]),
        ("lastweek", ["mfcc"], ["keyword", "phone"]),
        ("both", ["fbank", "mfcc", "log_mel"], ["keyword"]),
    ):
        studies.probe(upstreams, corpus, tasks, out=folder / out, **OPTIONS)
    return folder


def measured(artifact: Artifact) -> tuple[Any, ...]:
    arrays = {name: array.tolist() for name, array in artifact.arrays.items()}
    return artifact.key, artifact.meta["over"], artifact.meta["probe"], arrays


def test_two_days_are_one_study(days: Path) -> None:
    """The same bits as of one study with both, under the same key of the store."""
    across = auscult.compare(days / "today", days / "lastweek", tasks="keyword")
    within = auscult.compare(days / "both", upstreams="fbank", over="mfcc")
    assert [x.upstream for x in across.differences] == ["fbank", "fbank"]
    assert [measured(x) for x in across.differences] == [measured(x) for x in within.differences]
    assert {x.meta["probe"] for x in across.differences} == {"linear", "mlp1"}
    assert {len(x.meta["seeds"]) for x in across.differences} == {2}
    words = across.differences[0].provenance.command.split()
    assert words[:3] == ["auscult", "results", "compare"] and words[5:9:2] == ["-u", "--over"]


def test_a_study_and_a_later_comparison_agree(days: Path) -> None:
    """What the probing study itself says of log-mel."""
    kept_then = open_store(days / "both").artifacts(difference.KIND, upstream="fbank")
    again = auscult.compare(days / "both", upstreams="fbank", over="log_mel")
    assert sorted(map(measured, kept_then), key=str) == sorted(
        map(measured, again.differences), key=str
    )
    assert len(again.differences) == 2


def test_baselines_are_no_partners_unless_named(days: Path) -> None:
    found = auscult.compare(days / "both", probes=["linear"])
    pairs = {(x.upstream, x.meta["over"]) for x in found.differences}
    assert pairs == {("fbank", "mfcc")}  # neither log_mel, nor the other way round


def test_what_has_no_partner_is_said(days: Path, tmp_path: Path) -> None:
    found = auscult.compare(days / "today", days / "both", over="mfcc")
    assert {x.task for x in found.differences} == {"keyword"}
    assert [str(x) for x in found.failures] == [
        f"fbank, phone: {days / 'both'} holds no counts of mfcc on this task."
    ]
    assert "holds no counts of mfcc" in found._repr_html_()
    with pytest.raises(UserError, match=r"Unknown encoder in .*today 'mfc'. Known: fbank"):
        auscult.compare(days / "today", days / "lastweek", upstreams="mfc")
    with pytest.raises(UserError, match=r"Unknown task in .*both 'phon'"):
        auscult.compare(days / "both", tasks="phon")
    with pytest.raises(UserError, match=r"holds no counts of a probing study .*--out of"):
        auscult.compare(days / "today", tmp_path)
    with pytest.raises(UserError, match="one measurement of one encoder alone"):
        auscult.compare(days / "today", tasks="phone")


def test_other_utterances_are_no_partners(
    days: Path, tones: Path, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    fewer, others = tmp_path / "fewer", tmp_path / "others"
    studies.probe("mfcc", f"tsv:{tones}", "keyword", out=fewer, limit=5, **OPTIONS)
    with pytest.raises(UserError, match=r"mfcc was scored on other utterances"):
        auscult.compare(days / "today", fewer, tasks="keyword")
    corpus = f"tsv:{tone_corpus(seconds=0.4)}"  # other audio under the same names
    studies.probe("mfcc", corpus, "keyword", out=others, **OPTIONS)
    with pytest.raises(UserError, match=r"mfcc was scored on other utterances, of tsv:.*tones"):
        auscult.compare(days / "today", others, tasks="keyword")


def test_readers_that_were_trained_otherwise_are_said(
    days: Path, tones: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An encoder beside itself, read by other probes."""
    corpus = f"tsv:{tones}"
    studies.probe("fbank", corpus, "keyword", out=tmp_path, **{**OPTIONS, "max_epochs": 3})
    found = auscult.compare(tmp_path, days / "today", tasks="keyword", probes="linear")
    assert len(found.differences) == 1
    assert "were not read alike (max_epochs: 3 and 2)" in caplog.text
    row = found.compared().iloc[0]
    assert row["upstream"] == "fbank"  # of the same weights, which tell nothing apart
    assert row["minus"] == "fbank (in the other study)"


def test_verb(days: Path, tmp_path: Path) -> None:
    words = ["results", "compare", str(days / "today"), str(days / "lastweek"), "-t", "keyword"]
    done = CliRunner().invoke(app, [*words, "--json", "--quiet", "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    found = auscult.compare(days / "today", days / "lastweek", tasks="keyword")
    assert [x["value"] for x in said["margins"]] == [
        float(x.arrays["value"]) for x in found.differences
    ]
    assert len(open_store(tmp_path).artifacts(difference.KIND)) == 2
    table = CliRunner().invoke(app, words)
    assert "fbank" in table.stdout and "mfcc" in table.stdout


def hostile(
    folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]
) -> None:
    """A stranger's ledger: one of ours, sealed anew after a change."""
    for path in sorted((folder / ".work").glob("probe-*")):
        found = kept.read_tensors(path)
        assert found is not None
        tensors, about = found
        content = json.loads(about["outcome"])
        change(content, tensors)
        kept.write_tensors(tensors, path, {"outcome": json.dumps(content)})


def test_a_strangers_ledger_runs_no_code(days: Path, tmp_path: Path) -> None:
    """Encoders stand in it by name alone; python: in one is text."""
    import shutil

    folder, mark = tmp_path / "theirs", tmp_path / "ran"
    shutil.copytree(days / "lastweek", folder)
    code = tmp_path / "evil.py"
    code.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nEncoder = object\n")

    def rename(content: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        content["item"]["upstream"]["address"] = f"python:{code}:Encoder"
        for record in content["records"]:
            record["upstream"] = f"python:{code}:Encoder"

    hostile(folder, rename)
    found = auscult.compare(days / "today", folder)
    assert len(found.differences) == 4 and not mark.exists()
    assert not any(isinstance(x, Item) for x in Ledger(folder).outcomes("probe"))


@pytest.mark.parametrize(
    "change",
    [
        lambda content, tensors: content.pop("tallies"),
        lambda content, tensors: content.update(records=[{"value": 1}]),
        lambda content, tensors: content["tallies"][0].update(items=["only one"]),
        lambda content, tensors: content["tallies"][0].update(right="no such array"),
        lambda content, tensors: tensors.update({k: v * np.nan for k, v in tensors.items()}),
        lambda content, tensors: content.update(files=3),
    ],
)
def test_a_broken_ledger_is_a_sentence(days: Path, tmp_path: Path, change: Any) -> None:
    import shutil

    folder = tmp_path / "theirs"
    shutil.copytree(days / "lastweek", folder)
    hostile(folder, change)
    with pytest.raises(UserError, match=rf"probe-.*-{FORMAT}.safetensors is no outcome that"):
        auscult.compare(days / "today", folder)


def test_of_equal_settings_the_newest_counts(days: Path, tmp_path: Path) -> None:
    """An encoder that was measured twice, under other code, is compared once."""
    import shutil

    folder = tmp_path / "twice"
    shutil.copytree(days / "lastweek", folder)
    ledger = Ledger(folder)
    (first, *_) = [x for x in ledger.outcomes("probe") if x.records[0].task == "keyword"]
    later = tuple(
        replace(r, provenance=replace(r.provenance, created="2999-01-01T00:00:00+00:00"))
        for r in first.records
    )
    item = Item(kind="probe", upstream={"a": 1}, corpus={}, what={}, how={})
    ledger.write(item, replace(first, records=later))
    found = auscult.compare(days / "today", folder, tasks="keyword")
    assert len(found.differences) == 2
    assert {r.provenance.created for o in found.outcomes for r in o.records} >= {
        "2999-01-01T00:00:00+00:00"
    }


def test_probes_of_two_studies_in_one_folder_are_both_there(tones: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out", {**OPTIONS}
    given.pop("probes", None)
    for probe in ("mlp1", "linear"):
        studies.probe(
            ["log_mel", "mfcc"], f"tsv:{tones}", "keyword", out=out, probes=probe, **given
        )
    for probe in ("mlp1", "linear"):
        found = auscult.compare(out, upstreams="log_mel", over="mfcc", probes=probe)
        assert {artifact.meta["probe"] for artifact in found.differences} == {probe}
