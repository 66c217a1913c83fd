"""Where stores may be: named rightly or refused in a sentence, and read where nobody may write."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from auscult.errors import UserError
from auscult.record import Record
from auscult.results import open_store, place
from auscult.results.store import Store


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sqlite:///file:x.sqlite", "has options of SQLite, which are not read"),
        ("sqlite:///file:x.sqlite?mode=ro&uri=true", "has options of SQLite"),
        ("sqlite:///x.sqlite?mode=ro", "has options of SQLite"),
        ("sqlite:///x.sqlite?cache=shared", "has options of SQLite"),
        ("sqlite:///:memory:", "keeps nothing"),
        ("sqlite://x.sqlite", "keeps nothing; name a file, after three slashes"),
        ("sqlite:x.sqlite", "is not a database URL such as .*sqlite:///folder/name.sqlite"),
        ("sqlite:/x.sqlite", "is not a database URL"),
        ("file:x.sqlite", "is not a database URL"),
        ("file:///x.sqlite", "names a kind of database, file, .*that is missing here"),
        ("s3://bucket/x.sqlite", "names a kind of database, s3"),
        ("mysql://u@h/db", "needs the driver MySQLdb, which is missing"),
        ("sqlite+aiosqlite:///x.sqlite", "aiosqlite"),
        ("a\0b", "has a NUL character"),
        ("sqlite:///a\0b.sqlite", "has a NUL character"),
        ("sqlite:///a%00b.sqlite", "has a NUL character"),
        ("x" * 300, "cannot be used as a store: File name too long"),
        ("/dev/null", "is no store, but a pipe or device|cannot be used"),
        ("sqlite:////dev/null", "is no store, but a pipe or device"),
    ],
)
def test_what_is_no_place_for_a_store(
    where: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Record]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_store(where).add(records[:1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///x.sqlite", "x.sqlite"),
        ("sqlite:///a b/ü%20%3F.sqlite", "a b/ü ?.sqlite"),
        ("sqlite+pysqlite:///deep/x.db", "deep/x.db"),
        ("sqlite:x/out", "sqlite:x/out/results.sqlite"),
        ("plain:name", "plain:name/results.sqlite"),
    ],
)
def test_names_of_any_kind(
    url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Record]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sqlite:x" / "out").mkdir(parents=True)  # a folder that is there is meant
    open_store(url).add(records[:1])
    assert (tmp_path / path).is_file() and open_store(url).records() == records[:1]


@pytest.mark.parametrize(
    "name", ["a ?#%20&=;ü.db", "caf\udce9.db", "a\nb.db", "-x.db", ":memory:.db"]
)
def test_a_name_of_any_characters_where_nobody_may_write(
    name: str, tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store(name).add(records[:2])
    monkeypatch.setattr(place, "_opens", lambda engine: False)
    assert open_store(name).records() == records[:2]


def test_a_folder_and_a_pipe_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").mkdir()
    os.mkfifo(tmp_path / "b.sqlite")
    for name, kind in (("a", "folder"), ("b", "pipe or device")):
        with pytest.raises(UserError, match=f"{name}.sqlite is no store, but a {kind}"):
            open_store(tmp_path / f"{name}.sqlite")


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
def test_a_pipe_beside_a_store_is_not_waited_for(
    end: str, tmp_path: Path, records: list[Record]
) -> None:
    open_store(tmp_path).add(records[:2])
    os.mkfifo(tmp_path / f"results.sqlite{end}")
    with pytest.raises(UserError, match=f"results.sqlite{end} is no store, but a pipe or device"):
        open_store(tmp_path)


def test_a_finished_store_is_one_file(tmp_path: Path, records: list[Record]) -> None:
    store = open_store(tmp_path)
    store.add(records[:2])
    store.add(records[2:3])
    assert [path.name for path in tmp_path.iterdir()] == ["results.sqlite"]
    assert (tmp_path / "results.sqlite").read_bytes()[18] == 1  # no log: SQLite's file format


def test_a_program_that_holds_a_store_is_waited_for_and_then_told_of(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "BUSY_SECONDS", 0.1)
    open_store(tmp_path).add(records[:50])
    reader = sqlite3.connect(tmp_path / "results.sqlite")
    found = reader.execute("SELECT * FROM auscult_records")
    found.fetchone()
    with pytest.raises(
        UserError, match="another program has had it open for .* goes on from there"
    ):
        open_store(tmp_path).add(records[50:60])
    found.close()
    reader.close()
    open_store(tmp_path).add(records[50:60])
    assert len(open_store(tmp_path).records()) == 60


def with_log(folder: Path, records: list[Record]) -> Store:
    """A store as earlier releases left it when they were killed: its last rows in a log."""
    store, made = open_store(folder), folder / "made"
    open_store(made).add(records[:2])
    connection = sqlite3.connect(made / "results.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("UPDATE auscult_records SET seed = 77")
    connection.commit()
    for end in ("", "-wal"):
        shutil.copy(made / f"results.sqlite{end}", folder / f"results.sqlite{end}")
    connection.close()
    shutil.rmtree(made)
    return store


def with_journal(folder: Path, records: list[Record]) -> Store:
    """A store whose writer was killed while it wrote."""
    store, made = open_store(folder), folder / "made"
    open_store(made).add(records)
    connection = sqlite3.connect(made / "results.sqlite", isolation_level=None)
    connection.execute("PRAGMA cache_size=1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE auscult_records SET seed = 55, command = hex(randomblob(3000))")
    for end in ("", "-journal"):
        shutil.copy(made / f"results.sqlite{end}", folder / f"results.sqlite{end}")
    connection.close()
    shutil.rmtree(made)
    return store


@pytest.mark.parametrize("make", [with_log, with_journal])
def test_what_a_killed_writer_left_is_read(
    make: Callable[[Path, list[Record]], Store], tmp_path: Path, records: list[Record]
) -> None:
    assert_seeds(make(tmp_path, records), make)


@pytest.mark.parametrize("make", [with_log, with_journal])
def test_it_is_read_from_a_copy_where_nobody_may_write(
    make: Callable[[Path, list[Record]], Store],
    tmp_path: Path,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make(tmp_path, records)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(place, "_opens", lambda engine: False)
    assert_seeds(store, make)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def assert_seeds(store: Store, make: object) -> None:
    seeds = {record.seed for record in store.records()}
    assert seeds == ({77} if make is with_log else {0, 1})


def test_a_file_that_may_not_be_read_is_a_sentence(
    tmp_path: Path, records: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path).add(records[:1])
    monkeypatch.setattr(place, "_opens", lambda engine: False)
    (tmp_path / "results.sqlite").chmod(0)
    (tmp_path / "results.sqlite").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(UserError, match="results.sqlite cannot be used as a store"):
        open_store(tmp_path).records()


MEDIUM = """
import subprocess, sys
from pathlib import Path
from auscult.cli import main
from auscult.errors import UserError
from auscult.results import open_store
for name in ("log", "closed", "journal", "new"):
    store = open_store(Path("/mnt") / name)
    print(name, sorted({r.seed for r in store.records()}), len(store.series()))
    try:
        store.add([])
    except UserError as error:
        print(error)
sys.argv = ["auscult", "results", "show", "/mnt/closed", "--quiet"]
main()
"""


@pytest.fixture
def on_read_only_medium() -> Callable[[Path, str], str]:
    """Run Python with a copy of a folder as a read-only file system at /mnt, of this process."""

    def run(folder: Path, script: str) -> str:
        shell = (
            f"mount -t tmpfs none /mnt && cp -r '{folder}'/. /mnt && mount -o remount,ro /mnt && "
            'exec "$0" -c "$1"'
        )
        command = ["unshare", "-m", "sh", "-c", shell, sys.executable, script]
        done = subprocess.run(command, capture_output=True, text=True)
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("needs the right to mount a file system")
        assert done.returncode == 0, done.stderr
        return done.stdout

    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    return run


def test_a_store_on_a_read_only_medium_is_shown(
    on_read_only_medium: Callable[[Path, str], str], tmp_path: Path, records: list[Record]
) -> None:
    for name in ("log", "closed", "journal", "new"):
        (tmp_path / name).mkdir()
    with_log(tmp_path / "log", records)
    with_journal(tmp_path / "journal", records)
    open_store(tmp_path / "new").add(records[:2])
    open_store(tmp_path / "closed").add(records[:2])
    with sqlite3.connect(tmp_path / "closed" / "results.sqlite") as connection:
        connection.execute("PRAGMA journal_mode=WAL")  # as earlier releases wrote every store
    connection.close()
    said = on_read_only_medium(tmp_path, MEDIUM)
    for line in ("log [77] 1", "closed [0, 1] 1", "journal [0, 1] 36", "new [0, 1] 1"):
        assert line in said
    assert said.count("results.sqlite was not written; what was finished before is kept") == 4
    assert "brackets: 95 % interval" in said and "fbank" in said
