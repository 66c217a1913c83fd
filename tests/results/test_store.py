"""Whatever goes into the store comes out again, from however many writers."""

import math
import multiprocessing
import sqlite3
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from auscult.errors import UserError
from auscult.record import Artifact, Provenance, Record
from auscult.results import open_store
from auscult.results.place import without_password
from auscult.results.store import _RECORDS

RUN = Provenance(
    command="auscult probe -u fbank -c 'tsv:/data/a b' -t phone39 --out out",
    created="2026-01-02T03:04:05+00:00",
    code_version="0.1.0+abc",
    libraries={"torch": "2.11.0"},
    device="cpu",
)


def record(**changes: object) -> Record:
    values: dict[str, object] = {
        "upstream": "fbank",
        "upstream_sha256": "a" * 64,
        "corpus": "tsv:/data/a b",
        "corpus_sha256": "b" * 64,
        "task": "phone39",
        "task_version": 1,
        "layer": 0,
        "probe": "linear",
        "metric": "accuracy",
        "value": 0.1 + 0.2,
        "low": math.nextafter(0.25, 1),
        "high": 1 / 3,
        "split": "test",
        "num_items": 7,
        "seed": 0,
        "config": {"learning_rate": 1e-3, "hidden": [768, 768], "name": "é"},
        "provenance": RUN,
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def artifact(**changes: object) -> Artifact:
    values: dict[str, object] = {
        "kind": "layer_weights",
        "upstream": "fbank",
        "upstream_sha256": "a" * 64,
        "corpus": "demo",
        "corpus_sha256": "b" * 64,
        "task": "keyword_spotting",
        "arrays": {"weights": np.array([0.25, np.nan, 0.5], np.float32)},
        "meta": {"unit": "bit"},
        "provenance": RUN,
    }
    return Artifact(**(values | changes))  # type: ignore[arg-type]


def test_records_round_trip_exactly(tmp_path: Path) -> None:
    written = [
        record(layer=10),
        record(layer=2),
        record(layer="weighted", majority=0.0, num_speakers=3, num_skipped=2),
        record(layer=None, low=None, high=None, selected_on="dev", convention="features"),
        record(layer=2, head=11, unit="bit", seed=1),
    ]
    open_store(tmp_path).add(written)
    found = open_store(tmp_path / "results.sqlite").records()
    assert len(found) == len(written)
    assert {r.key: r for r in found} == {r.key: r for r in written}
    assert [type(r.layer) for r in found if r.layer == 10] == [int]
    numbers = [r.layer for r in found if isinstance(r.layer, int)]
    assert numbers == [2, 2, 10]  # as numbers, not as text


def test_numpy_numbers_become_plain_ones(tmp_path: Path) -> None:
    written = record(value=np.float32(0.3), low=np.float64(0.1))
    open_store(tmp_path).add([written])
    (found,) = open_store(tmp_path).records()
    assert found == written and type(found.value) is float
    assert found.value == float(np.float32(0.3))


def test_the_order_does_not_depend_on_the_writer(tmp_path: Path) -> None:
    many = [record(layer=layer, seed=seed) for layer in range(12) for seed in range(3)]
    open_store(tmp_path / "a").add(many)
    for one in reversed(many):
        open_store(tmp_path / "b").add([one])
    assert open_store(tmp_path / "a").records() == open_store(tmp_path / "b").records()


def test_a_measurement_repeated_is_not_a_second_row(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add([record(), record(layer=1)], [artifact()])
    again = replace(RUN, created="2027-01-01T00:00:00+00:00")
    other = artifact(provenance=again, arrays={"weights": np.ones(3)})
    store.add([record(value=0.5, provenance=again)] * 2, [other])
    assert [r.value for r in store.records()] == [0.5, 0.1 + 0.2]
    (kept,) = store.artifacts()
    assert kept.provenance == again
    np.testing.assert_array_equal(kept.arrays["weights"], np.ones(3))


def test_selection(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add([record(), record(upstream="mfcc"), record(task="speaker", metric="eer")])
    assert [r.upstream for r in store.records(upstream="mfcc")] == ["mfcc"]
    assert len(store.records(corpus="tsv:/data/a b", probe="linear", split="test")) == 3
    assert [r.task for r in store.records(metric="eer")] == ["speaker"]
    assert store.records(task="nothing") == []


def test_artifacts_round_trip_exactly(tmp_path: Path) -> None:
    maps = {"mean": np.eye(3), "head_of": np.arange(4, dtype=np.int64)}
    store = open_store(tmp_path)
    store.add([], [artifact(), artifact(kind="attention_divergence", arrays=maps)])
    divergence, weights = store.artifacts()
    assert [a.kind for a in store.artifacts("layer_weights")] == ["layer_weights"]
    assert weights.meta == {"unit": "bit"} and weights.provenance == RUN
    np.testing.assert_array_equal(weights.arrays["weights"], artifact().arrays["weights"])
    for name, array in maps.items():
        np.testing.assert_array_equal(divergence.arrays[name], array)
        assert divergence.arrays[name].dtype == array.dtype


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got objects"):
        open_store(tmp_path).add([], [artifact(arrays={"weights": np.array([{}])})])
    assert not (tmp_path / "results.sqlite").exists()


def test_every_field_of_a_record_has_a_column() -> None:
    names = {f.name for cls in (Record, Provenance) for f in fields(cls)} - {"provenance"}
    assert {c.name for c in _RECORDS.c} == names | {"key", "config_sha256"}


def _write(where: Path, upstream: str) -> None:
    for i in range(0, 200, 4):
        few = [record(upstream=upstream, layer=i + k) for k in range(4)]
        open_store(where).add(few, [artifact(upstream=upstream)])


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = ("one", "two")
    writers = [context.Process(target=_write, args=(tmp_path / "new", name)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = open_store(tmp_path / "new").records()
    assert len(found) == 400
    assert {(r.upstream, r.layer) for r in found} == {(n, i) for n in names for i in range(200)}


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no store .*results.sqlite"):
        open_store(tmp_path / "out").records()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nonsense://", "driver"),
        ("sqlite://", "keeps nothing"),
        ("postgresql+psycopg_of_nobody://u@h/db", "driver"),
        ("://", "not a database URL"),
    ],
)
def test_bad_urls(where: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_store(where)


@pytest.mark.parametrize(
    "where",
    [
        "postgresql://me:secret@host:port/db",
        "post gres://me:s/e@secret@host/db",
        "sqlite://me:secret@",
        "sqlite://me:secret@host/x.sqlite",
    ],
)
def test_a_bad_url_shows_no_password(where: str) -> None:
    with pytest.raises(UserError) as found:
        open_store(where).records()
    assert "://me:***@" in str(found.value) and "secret" not in str(found.value)
    assert found.value.__cause__ is None


def test_a_password_in_the_query_is_masked() -> None:
    url = "postgresql://me@host/db?x=1&password=secret&y=2"
    assert without_password(url) == "postgresql://me@host/db?x=1&password=***&y=2"
    assert without_password("sqlite:///a@b/c.sqlite") == "sqlite:///a@b/c.sqlite"


def test_a_url_is_a_store_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/x.sqlite"
    open_store(url).add([record()])
    assert open_store(tmp_path / "deep" / "x.sqlite").records() == [record()]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    with pytest.raises(UserError, match="report.html is no store"):
        open_store(tmp_path / "report.html")


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"not a database" * 100)
    for attempt in (open_store(path).records, lambda: open_store(path).add([record()])):
        with pytest.raises(UserError, match="results.sqlite cannot be used as a store"):
            attempt()
    path.unlink()
    open_store(path).add([record(layer=i) for i in range(200)])
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="results.sqlite cannot be used as a store"):
        open_store(path).records()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add([record()])
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        connection.execute("update auscult_schema set version = 99")
    for attempt in (store.records, store.artifacts, lambda: store.add([record()])):
        with pytest.raises(UserError, match="schema 99, but this Auscult reads schema 3"):
            attempt()


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("create table t (x)")
    with pytest.raises(UserError, match="holds no results of Auscult"):
        open_store(tmp_path / "other.db").records()


def test_rows_of_types_that_were_checked_are_read_fast(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check on every row is what made a hundred thousand of them take half a minute."""
    store = open_store(tmp_path)
    store.add(records)
    checked: list[object] = []
    check = Record.from_checked

    def count(flat: dict[str, object]) -> Record:
        checked.append(flat)
        return check(flat)

    monkeypatch.setattr(Record, "from_checked", count)
    found = store.records()
    assert len(found) == len(records) > 200 and len(checked) <= 30  # layers, types
    assert len({id(record.config) for record in found}) == 1  # kept once
    assert {record.key for record in found} == {record.key for record in records}
    series = store.series()
    assert sum(len(one.scores) for one in series) == len(records) > 20 * len(series) / 3
