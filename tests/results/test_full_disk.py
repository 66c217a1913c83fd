"""A disk that is full or read-only: older files stay, no halves, and one sentence."""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from auscult.errors import UserError
from auscult.record import Artifact, Record
from auscult.results import open_store
from auscult.results.figure.drawing import layer_curves, layer_weights
from auscult.results.store import Store

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(records: list[Record], tmp_path: Path) -> Path:
    open_store(tmp_path / "out").add(records[:20])
    return tmp_path / "out"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "words",
    [
        ("report", "STORE"),
        *(("results", "export", "STORE", "--format", form) for form in ("csv", "json")),
        *(("results", "export", "STORE", "--format", form) for form in ("markdown", "latex")),
        *(("superb", "table", "STORE", "--format", form) for form in ("csv", "markdown", "latex")),
    ],
)
def test_what_a_verb_writes(words: tuple[str, ...], run: Run, store: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "file"
    place.parent.mkdir()
    place.write_text("older")
    found = (str(store) if word == "STORE" else word for word in words)
    status, _, err = run(*found, "--out", place)
    assert status == 2 and "Traceback" not in err
    assert f"auscult: {place.parent} is full, so file was not written" in err.splitlines()[-1]
    assert place.read_text() == "older" and len(list(place.parent.iterdir())) == 1


@pytest.mark.usefixtures("full")
def test_figures(
    records: list[Record], make_weights: Callable[..., Artifact], tmp_path: Path
) -> None:
    for draw in (
        lambda path: layer_curves(records[:40], path),
        lambda path: layer_weights(make_weights(), path),
    ):
        with pytest.raises(UserError, match="is full, so x.png was not written"):
            draw(tmp_path / "x.png")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("database or disk is full", "is full"),
        ("attempt to write a readonly database", "is read-only"),
        ("unable to open database file", "may not be written"),
        ("disk I/O error", "its disk reports an error"),
    ],
)
def test_a_store(
    message: str,
    reason: str,
    store: Path,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError(message))

    monkeypatch.setattr(Store, "_write", fail)
    with pytest.raises(UserError, match=reason) as caught:
        open_store(store).add(records)
    for part in (str(store), "results.sqlite was not written", "is kept", "same command again"):
        assert part in str(caught.value)
    assert "INSERT" not in str(caught.value)


def test_a_store_that_outgrows_its_disk_keeps_what_it_had(
    store: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_store(store)
    before = found.records()

    @event.listens_for(found._engine, "connect")
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # its present size, at least

    with pytest.raises(UserError, match="is full, so results.sqlite was not written"):
        found.add(records)
    assert open_store(store).records() == before


def test_a_folder_that_is_a_file(records: list[Record], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder|Not a directory"):
        open_store(tmp_path / "file" / "x").add(records[:1])
