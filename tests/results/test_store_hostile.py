"""Stores that anyone may have changed: what is read of them is ours, or refused in one sentence."""

import io
import json
import random
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auscult.errors import UserError
from auscult.record import Artifact, Record, fingerprint
from auscult.results import open_store
from auscult.results.artifact import check_artifacts
from auscult.results.report import write_report
from auscult.results.store import Store
from auscult.results.superb.table import own_rows

Make = Callable[..., Artifact]


@pytest.fixture
def store(
    records: list[Record], make_divergence: Make, make_difference: Make, tmp_path: Path
) -> Store:
    linear = [r for r in records if (r.task, r.probe, r.seed) == ("phone39", "linear", 0)]
    found = open_store(tmp_path / "store.sqlite")
    found.add(linear, [make_divergence(heads=2, layers=2), make_difference()])
    return found


def tamper(store: Store, statement: str, *values: object) -> None:
    with sqlite3.connect(str(store)) as connection:
        connection.execute(statement, values)


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("value", "abc", "Record.value: expected float or int, got 'abc'"),
        ("value", b"\x00\xff", "Record.value: expected float or int"),
        ("value", float("inf"), "expected a finite number, got inf"),
        ("low", -float("inf"), "expected a finite number, got -inf"),
        ("high", 1e200, "expected a finite number"),  # whose square is not
        ("seed", 1.5, "Record.seed: expected int, got 1.5"),
        ("seed", "x", "Record.seed: expected int, got 'x'"),
        ("task_version", "two", "Record.task_version: expected int"),
        ("num_speakers", "some", "Record.num_speakers: expected int or nothing"),
        ("upstream", b"\xff\x00", "Record.upstream: expected str"),
        ("layer", "[1]", r"Record.layer: expected int or str or nothing, got \[1\]"),
        ("layer", "1.5", "Record.layer: expected int or str or nothing, got 1.5"),
        ("layer", "true", "Record.layer: expected int or str or nothing, got True"),
        ("layer", "9" * 30, "Record.layer: expected int or str or nothing, got 1e"),
        ("layer", "nonsense", "layer: expected JSON, got 'nonsense'"),
        ("config", "{", "config: expected JSON, got '{'"),
        ("config", "[1]", "config: expected a mapping"),
        ("config", '{"a": NaN}', "config: expected finite numbers"),
        ("config", '{"a": 1e999}', "config: expected finite numbers"),
        ("config", '{"a": ' + "9" * 23 + "}", "config: expected a whole number of at most 64 bits"),
        ("config", '{"a": ' + "9" * 5000 + "}", "config: expected JSON"),
        ("config", nested(40), "config: nested more than 32 deep"),
        ("config", nested(100_000), "config: expected JSON"),
        ("config", "{}", "config: its fingerprint is not"),
        ("config_sha256", "0" * 64, "config: its fingerprint is not '0000"),
        ("libraries", '{"torch": 2}', "libraries: expected text in it, got 2"),
        ("libraries", '["torch"]', "libraries: expected a mapping"),
        ("command", b"\x80", "Record.command: expected str"),
    ],
)
def test_a_row_that_was_tampered_with_is_named(
    store: Store, column: str, value: object, message: str
) -> None:
    key = store.records()[7].key
    tamper(store, f"UPDATE auscult_records SET {column} = ? WHERE key = ?", value, key)
    for read in (store.records, store.series):
        with pytest.raises(UserError, match=message) as caught:
            read()
        sentence = str(caught.value)
        assert f"store.sqlite, table auscult_records, row '{key}'" in sentence
        assert "take another copy of the store, or delete that row" in sentence
        assert len(sentence) < 500


def test_text_that_is_none(store: Store) -> None:
    tamper(store, "UPDATE auscult_records SET task = CAST(x'ff' AS TEXT)")
    with pytest.raises(UserError, match="cannot be used as a store"):
        store.records()


def test_a_key_that_is_no_text(store: Store) -> None:
    tamper(store, "UPDATE auscult_records SET key = x'00' WHERE rowid = 3")
    for read in (store.records, store.series):
        with pytest.raises(UserError, match="row b'.x00': key: expected text"):
            read()


def test_series_and_records_say_the_same(store: Store, records: list[Record]) -> None:
    several = [replace(r, seed=seed) for r in records[:30] for seed in (3, 11, 2)]
    store.add(several)
    found, series = store.records(), store.series()
    assert sum(len(one.scores) for one in series) == len(found)
    assert [one.first for one in series] == sorted((o.first for o in series), key=found.index)
    places = {(r.layer, r.head, r.seed, r.value, r.low, r.high) for r in found}
    assert {tuple(score) for one in series for score in one.scores} == places  # type: ignore[arg-type]


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def with_header(header: str, body: bytes = b"") -> bytes:
    """An .npz file of one array whose header says ``header``."""
    text = header.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mean.npy", content)
    return buffer.getvalue()


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 100000), }"
EMPTY = "{'descr': '<U0', 'fortran_order': False, 'shape': (10000000000,), }"
PICKLE = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    "blob",
    [
        *(b"", b"PK", b"PK\x03\x04" + bytes(50), "text", 7),
        npz(mean=np.eye(50))[:-30],
        npz(mean=np.eye(50))[30:],
        *(with_header(HUGE, bytes(80)), with_header(EMPTY), with_header(PICKLE, b"cos\nx\n.")),
        *(with_header("[" * 5000), with_header("__import__('os')"), with_header("{}")),
    ],
)
def test_arrays_that_are_torn(store: Store, blob: object) -> None:
    tamper(store, "UPDATE auscult_artifacts SET arrays = ?", blob)
    with pytest.raises(UserError, match="table auscult_artifacts, row '.*arrays: "):
        store.artifacts()
    assert len(store.records()) > 0


def test_arrays_that_would_fill_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auscult.results.artifact.LIMIT", 2**20)
    tamper(store, "UPDATE auscult_artifacts SET arrays = ?", npz(mean=np.zeros(2**17 + 1)))
    with pytest.raises(UserError, match="bytes when unpacked"):
        store.artifacts()


def test_arrays_of_several_rows_that_would_fill_memory(
    store: Store, make_divergence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.results.artifact.LIMIT", 2**20)
    made = make_divergence(heads=2, layers=2)
    store.add([], [replace(made, upstream=f"e{i}") for i in range(3)])
    assert len(store.artifacts()) == 5
    tamper(store, "UPDATE auscult_artifacts SET arrays = ?", npz(mean=np.zeros(2**16)))
    with pytest.raises(UserError, match="bytes when unpacked"):
        store.artifacts()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("attention_divergence", {"same_head": np.zeros((3000, 2, 2))}, "at most 2,048 heads"),
        ("attention_divergence", {"mean": None}, "in 2 dimensions as mean"),
        ("attention_divergence", {"mean": np.eye(3)}, r"expected mean of shape \(2, 2\)"),
        (
            "attention_divergence",
            {"block_of": np.array([1.0, 2.0, 2.0])},
            "whole numbers as block_of",
        ),
        ("attention_divergence", {"all_pairs": np.array([["a"]])}, "expected numbers"),
        ("layer_weights", {"weights": np.ones(0)}, "in 1 dimensions as weights"),
        ("accuracy_difference", {"interval": np.ones(3)}, "two numbers as interval"),
        ("accuracy_difference", {"value": np.array(np.nan)}, "a finite difference"),
        ("accuracy_difference", {"meta": {}}, "expected str as over, got None"),
        ("accuracy_difference", {"meta": {"layers": []}}, "whole numbers as layers"),
        ("accuracy_difference", {"meta": {"seeds": ["0"]}}, "whole numbers as seeds"),
        ("attention_divergence", {"meta": {"num_utterances": "9"}}, "int as num_utterances"),
    ],
)
def test_arrays_that_no_figure_can_draw(
    kind: str,
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    make_divergence: Make,
    make_weights: Make,
    make_difference: Make,
) -> None:
    made = {
        "attention_divergence": make_divergence(heads=2, layers=2),
        "layer_weights": make_weights(),
        "accuracy_difference": make_difference(),
    }[kind]
    check_artifacts([made])
    meta = changes.pop("meta", None)
    meta = dict(made.meta) if meta is None else {**made.meta, **meta} if meta else {}
    arrays = {k: v for k, v in {**made.arrays, **changes}.items() if v is not None}
    store = open_store(tmp_path)
    store.add([], [replace(made, arrays=arrays, meta=meta)])
    with pytest.raises(UserError, match=f"{kind} of .*{message}"):
        write_report(store, tmp_path / "report.html")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW auscult_records AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
        "FROM n) SELECT x AS key FROM n",
        "CREATE TABLE auscult_records (key TEXT, task TEXT GENERATED ALWAYS AS (zeroblob(1e9)))",
        "CREATE TABLE auscult_records (key TEXT, upstream TEXT AS (hex(zeroblob(1e8))))",
        "CREATE VIRTUAL TABLE auscult_records USING fts5(key, upstream)",
    ],
)
def test_what_computes_when_it_is_read_is_refused(store: Store, statement: str) -> None:
    tamper(store, "DROP TABLE auscult_records")
    tamper(store, statement)
    for use in (store.records, store.series, lambda: store.add([])):
        with pytest.raises(UserError, match="was not written by Auscult: it computes"):
            use()


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE VIEW AUSCULT_Records AS {ENDLESS} SELECT theirs.* FROM theirs, n",
        "CREATE TRIGGER t AFTER INSERT ON theirs BEGIN UPDATE theirs SET value = 0.99; END",
        "CREATE TRIGGER t BEFORE DELETE ON theirs BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER t AFTER UPDATE ON auscult_schema BEGIN INSERT INTO auscult_schema "
        f"{ENDLESS} SELECT x FROM n WHERE x < 0; END",
        "CREATE INDEX i ON theirs(length(upstream || hex(zeroblob(1e6))))",
        "CREATE UNIQUE INDEX i ON theirs(layer, head)",
        *(
            f"PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = "
            f"replace(sql, 'upstream TEXT', 'upstream TEXT {changed}')"
            for changed in ("COLLATE NOCASE", "CHECK (hex(zeroblob(1e6)) > 0)", "DEFAULT (7 + 7)")
        ),
    ],
)
def test_what_computes_when_it_is_written_is_refused(
    store: Store, records: list[Record], statement: str
) -> None:
    """A trigger changed every score; a view in capitals was read without an end."""
    view = "VIEW" in statement
    with sqlite3.connect(str(store)) as connection:
        if view:
            connection.execute("ALTER TABLE auscult_records RENAME TO theirs")
        connection.executescript(
            statement if view else statement.replace("theirs", "auscult_records")
        )
    for use in (store.records, store.series, lambda: store.add(records[:1])):
        with pytest.raises(UserError, match="was not written by Auscult: it computes"):
            use()


def interior(size: int, children: list[int]) -> bytes:
    """Return a page of a table's tree in SQLite's format that leads to ``children``."""
    cells = [struct.pack(">IB", child, 1 + i) for i, child in enumerate(children[:-1])]
    starts = [size - 5 * (i + 1) for i in range(len(cells))]
    head = struct.pack(">BHHHBI", 5, 0, len(cells), starts[-1], 0, children[-1])
    table = head + b"".join(struct.pack(">H", start) for start in starts)
    return table.ljust(starts[-1], b"\0") + b"".join(reversed(cells))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [({}, "is damaged: a row of auscult_records comes twice"), ({"task": "none"}, "far longer")],
)
def test_pages_that_are_read_again_and_again(
    store: Store, wanted: dict[str, str], message: str
) -> None:
    """Eight pages that lead to the next a hundred times are 10,000,000,000,000,000 rows."""
    file = Path(str(store))
    with sqlite3.connect(file) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'auscult_records'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    pages = [file.read_bytes()[i : i + size] for i in range(0, file.stat().st_size, size)]
    first = len(pages) + 1  # pages count from 1
    leaf = struct.unpack(">I", pages[root - 1][8:12])[0]
    pages[root - 1] = interior(size, [first] * 100)
    pages += [interior(size, [first + level] * 100) for level in range(1, 8)]
    pages.append(interior(size, [leaf] * 100))
    content = bytearray(b"".join(pages))
    content[28:32], content[92:96] = struct.pack(">I", len(pages)), content[24:28]
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        store.records(**wanted)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE auscult_records",
        "ALTER TABLE auscult_records DROP COLUMN majority",
        "ALTER TABLE auscult_records RENAME COLUMN value TO worth",
        "UPDATE auscult_schema SET version = 'x'",
        "DELETE FROM auscult_schema",
    ],
)
def test_another_schema_is_a_sentence(store: Store, statement: str) -> None:
    tamper(store, statement)
    with pytest.raises(UserError, match="cannot be used as a store|was written with store schema"):
        store.records()


def test_columns_that_we_do_not_know_are_left_alone(store: Store) -> None:
    before = store.records()
    tamper(store, "ALTER TABLE auscult_records ADD COLUMN mine TEXT DEFAULT 'x'")
    assert store.records() == before


def test_a_seed_of_23_digits_is_refused_before_it_is_written(
    store: Store, records: list[Record]
) -> None:
    before = store.records()
    for changes in ({"seed": 10**22}, {"num_items": -(2**63) - 1}, {"config": {"a": [10**30]}}):
        with pytest.raises(UserError, match="whole number of at most 64 bits"):
            store.add([records[0], replace(records[1], **changes)])  # type: ignore[arg-type]
    assert store.records() == before


def test_names_that_no_database_holds_are_kept_as_escapes(
    records: list[Record], tmp_path: Path
) -> None:
    """A path may hold bytes that are no text; work of hours must not fail for it at its end."""
    odd = "tsv:/data/caf\udce9\0"
    store = open_store(tmp_path)
    store.add([replace(records[0], corpus=odd)])
    assert [r.corpus for r in store.records(corpus=odd)] == [r"tsv:/data/caf\udce9\x00"]


def test_settings_of_any_type_are_compared(records: list[Record]) -> None:
    """A list times a number would be a list of that length."""
    config = {
        "batch_size": [1],
        "gradient_accumulate_steps": 10**12,
        "split_column": "fold" + "9" * 99,
    }
    mine = replace(
        records[0],
        task="emotion_recognition",
        corpus="iemocap:/x",
        layer="weighted",
        config=config,
    )
    (row,) = own_rows([mine], {"emotion_recognition": {"batch_size": 32}})
    assert "batch_size" not in row.cells and row.cells["ER"].remarks


def test_mutants_are_ours_or_a_sentence(store: Store, tmp_path: Path) -> None:
    """Tens of thousands of these were tried, of other seeds too."""
    content, path = Path(str(store)).read_bytes(), tmp_path / "mutant.sqlite"
    generator = random.Random(0)
    refused = 0
    for _ in range(80):
        mutant = bytearray(content)
        for _ in range(generator.randint(1, 20)):
            mutant[generator.randrange(len(mutant))] = generator.choice(
                (0, 255, generator.randrange(256))
            )
        path.write_bytes(mutant)
        try:
            found = open_store(path)
            for read in (found.series, found.records, found.artifacts):
                read()
        except UserError:
            refused += 1
    assert 20 < refused <= 80


def test_a_record_in_json_is_checked_too(records: list[Record]) -> None:
    flat = json.loads(json.dumps(records[0].to_dict()))
    for changes, message in (
        ({"value": "abc"}, "Record.value: expected float or int, got 'abc'"),
        ({"seed": True}, "Record.seed: expected int, got True"),
        ({"layer": [1]}, "Record.layer"),
        ({"config": []}, "Record.config: expected a mapping"),
        ({"config": {"x": float("nan")}}, "Record.config: expected finite numbers"),
        ({"seed": 10**22}, "Record.seed: expected a whole number of at most 64 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            Record.from_dict(flat | changes | {"config_sha256": None})
    assert Record.from_dict(flat).config_sha256 == fingerprint(records[0].config)
