"""results.json: the shape of lm-evaluation-harness, a function of the store's records alone."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import auscult.studies as studies
from auscult.record import Record
from auscult.results import open_store
from auscult.results.series import Series
from auscult.results.summary import NORMAL, summary, summary_text, write_summary
from auscult.studies import execution

OUTER = {"results", "configs", "versions", "n-samples", "higher_is_better", "git_hash", "date"}
OPTIONS: dict[str, Any] = {"probes": ("linear",), "max_epochs": 2, "baselines": False}


def as_series(records: Sequence[Record]) -> list[Series]:
    return [Series(record, (record,)) for record in records]


def table(found: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """The rows that the harness' own table has, by its rules."""
    for task, values in found["results"].items():
        direction = found["higher_is_better"][task]
        for name in sorted(values.keys() - {"alias"}):
            metric, comma, kind = name.partition(",")
            assert comma == ","
            if not metric.endswith("_stderr"):
                error = values[f"{metric}_stderr,{kind}"]
                assert error == "N/A" or isinstance(error, float)
                assert isinstance(values[name], float)
                yield (
                    (values["alias"], found["versions"][task], kind, found["n-shot"][task]),
                    (
                        metric,
                        direction[metric],
                        values[name],
                        error,
                    ),
                )


def test_the_harness_reads_it(records: list[Record]) -> None:
    found = json.loads(summary_text(as_series(records)))
    assert set(found) >= OUTER
    rows = list(table(found))
    assert len(rows) == 3 * 2 * 3 * 2  # encoders, tasks, probes, metrics
    key = "phone39|tsv:/data/timit-sample|hf:/models/hubert-base-ls960"
    values, config = found["results"][key], found["configs"][key]
    assert values["alias"] == "phone39, hf:hubert-base-ls960"
    mine = [r for r in records if (r.task, r.probe, r.metric) == ("phone39", "mlp1", "accuracy")]
    best = max(
        (r for r in mine if r.upstream == "hf:/models/hubert-base-ls960"), key=lambda r: r.value
    )
    assert config["metadata"]["layer"]["accuracy,mlp1"] == best.layer
    assert values["accuracy,mlp1"] == pytest.approx(best.value - 0.002)  # the mean of two seeds
    assert values["accuracy_stderr,mlp1"] == pytest.approx(0.06 / NORMAL)
    assert found["n-samples"][key] == {"original": 51_211, "effective": 51_211}
    assert found["higher_is_better"][key] == {"accuracy": True, "macro_accuracy": True}
    assert found["git_hash"] == "0123456789ab" and found["date"] == 1767323045.0


def test_it_is_a_function_of_the_records(records: list[Record], tmp_path: Path) -> None:
    """Whichever order they came in, from whatever store; beside a file, not beside a server."""
    mixed = list(records)
    random.Random(0).shuffle(mixed)
    open_store(tmp_path / "a").add(records)
    for record in mixed[:40]:
        open_store(tmp_path / "b.sqlite").add([record])
    open_store(tmp_path / "b.sqlite").add(mixed)
    paths = [write_summary(open_store(tmp_path / name)) for name in ("a", "b.sqlite")]
    assert paths == [tmp_path / "a" / "results.json", tmp_path / "b.json"]
    first, second = (path.read_bytes() for path in paths if path)
    assert first == second


def test_what_is_alike_is_told_apart(records: list[Record]) -> None:
    """Folds, splits, weights, states of a corpus and settings, and a probe with a comma."""
    one = next(r for r in records if r.metric == "accuracy")
    others = [
        replace(one, config={"split_column": "fold1"}),
        replace(one, split="test-other"),
        replace(one, upstream_sha256="b" * 64),
        replace(one, corpus_sha256="d" * 64),
        replace(one, config={"pooling": "statistics"}),
        replace(one, probe="mlp,wide"),
        replace(one, metric="edits", config={"direction": "lower"}),
        replace(one, metric="edits,all", low=None, high=None),
    ]
    found = summary(as_series([one, *others]))
    assert len(list(table(found))) == 1 + len(others)
    directions = {k: v for task in found["higher_is_better"].values() for k, v in task.items()}
    assert directions == {"accuracy": True, "edits": False, "edits;all": True}


def test_nothing_is_something(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(())
    found = json.loads((write_summary(store) or Path()).read_text())
    assert found["results"] == {} and found["date"] is None


def test_a_study_writes_it_at_its_end(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed and resumed ends with the same, but for the date."""

    class Killed(BaseException):
        pass

    words = (["fbank", "mfcc"], f"tsv:{tones}", "keyword")
    options = {**OPTIONS, "layers": "0"}
    studies.probe(*words, out=tmp_path / "whole", **options)
    serial = execution.Ledger.write
    written: list[object] = []

    def write(*about: Any) -> None:
        serial(*about)
        written.append(about)
        if len(written) == 1:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(execution.Ledger, "write", write)
        with pytest.raises(Killed):
            studies.probe(*words, out=tmp_path / "killed", **options)
    studies.probe(*words, out=tmp_path / "killed", **options)
    whole, killed = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")
    )
    dates = [one.pop("date") for one in (whole, killed)]
    assert whole == killed and all(date > 1e9 for date in dates)
    assert len(whole["results"]) == 2


def test_a_shared_store_that_cannot_be_read_loses_nothing(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from auscult.errors import UserError
    from auscult.results import summary as module

    def refuse(store: object) -> None:
        raise UserError("No room.")

    monkeypatch.setattr(module, "write_summary", refuse)
    found = studies.probe("fbank", f"tsv:{tones}", "keyword", out=tmp_path, layers="0", **OPTIONS)
    assert len(found.records) and "was not written: No room." in caplog.text


def test_export_writes_it_of_any_store(records: list[Record], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from auscult.cli.app import app

    open_store(tmp_path).add(records)
    done = CliRunner().invoke(app, ["results", "export", str(tmp_path), "--format", "lm-eval"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads(summary_text(open_store(tmp_path).series()))
