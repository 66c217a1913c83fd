"""A store as findings, the page of it, and which runs go into a submission."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import auscult
import auscult.studies as studies
from auscult.cli.app import app
from auscult.errors import UserError
from auscult.record import Record
from auscult.results import open_store
from auscult.studies.item import Outcome

OPTIONS: dict[str, Any] = {"probes": ("linear",), "max_epochs": 2, "baselines": False}


@pytest.fixture(scope="module")
def out(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    studies.probe(
        ["fbank", "log_mel"], f"tsv:{tones}", "keyword", out=folder, layers="0", **OPTIONS
    )
    return folder


def test_a_store_is_what_the_study_returned(out: Path, tones: Path, tmp_path: Path) -> None:
    measured = studies.probe(
        ["fbank", "log_mel"], f"tsv:{tones}", "keyword", out=out, layers="0", **OPTIONS
    )
    found = auscult.findings(out)
    assert {r.key: r.value for r in found.records} == {r.key: r.value for r in measured.records}
    assert [x.key for x in found.differences] == [x.key for x in measured.differences]
    assert found.best().sort_values("upstream").values.tolist() == (
        measured.best().sort_values("upstream").values.tolist()
    )
    assert found.compared().equals(measured.compared()) and len(found.compared()) == 1
    assert found.plot(tmp_path / "a.png").is_file() and "<table" in found._repr_html_()
    assert found.to_html(tmp_path / "a.html").is_file()


def test_the_room_is_a_function_too(out: Path) -> None:
    code = f"import auscult; print(len(auscult.results({str(out)!r}).to_pandas()))"
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert int(said) == len(auscult.findings(out).to_pandas())
    results: Any = importlib.import_module("auscult.results")
    assert len(results(out, upstream="fbank").records) < int(said)
    assert results.open_store is open_store


def test_some_of_a_store(out: Path, tmp_path: Path) -> None:
    found = auscult.findings(f"sqlite:///{out / 'results.sqlite'}", upstream="fbank", split="test")
    frame = found.to_pandas()
    assert set(frame.upstream) == {"fbank"} and set(frame.split) == {"test"}
    assert len(found.differences) == 1
    assert len(auscult.findings(out, out).records) == len(auscult.findings(out).records)
    with pytest.raises(UserError, match="There is no store"):
        auscult.findings(tmp_path)
    with pytest.raises(UserError, match="Name a store"):
        auscult.findings()


def test_selectivity_is_a_column_where_there_is_one(out: Path) -> None:
    found = auscult.findings(out)
    assert "selectivity" not in found.to_pandas()
    (first, *_) = [r for r in found.records if r.metric == "accuracy"]
    more = replace(first, metric="selectivity", value=0.25)
    outcome = Outcome(key="", records=(*found.records, more))
    frame = replace(found, outcomes=(outcome,)).to_pandas()
    said = frame[frame.selectivity.notna()]
    assert said.key.tolist() == [first.key] and said.selectivity.tolist() == [0.25]
    assert list(frame)[:13][-1] == "selectivity"


def test_report_is_the_verbs(out: Path, tmp_path: Path) -> None:
    page = auscult.report(out, out=tmp_path / "page.html")
    done = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "verb.html")])
    assert done.exit_code == 0
    assert page.read_text() == (tmp_path / "verb.html").read_text()
    with pytest.raises(UserError, match=r"is a folder; expected a file"):
        auscult.report(out, out=tmp_path)


def test_a_superb_result_stands_beside_published_ones(out: Path, tmp_path: Path) -> None:
    """In the page of findings as in the report."""
    store = open_store(tmp_path / "store")
    (first, *_) = open_store(out).records(metric="accuracy", split="test")
    store.add([replace(first, task="keyword_spotting", layer="weighted")])
    found = auscult.findings(tmp_path / "store")
    assert isinstance(found.records[0], Record)
    assert "HuBERT Base" in found.to_html(tmp_path / "a.html").read_text()
