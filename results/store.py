"""Where records and artifacts are kept: an SQLite file, or any database that SQLAlchemy knows."""

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from auscult.errors import UserError
from auscult.record import Artifact, Record
from auscult.value import check_json, shorten
from auscult.whole_file import disk_problem, writing

from .place import BUSY_SECONDS, bounded, file_of, open_engine, reading, without_password
from .row import COLUMNS, read_records, read_series
from .series import Series

SCHEMA_VERSION = 3  # bumped whenever a table below changes
ATTEMPTS = 3  # how often a writer tries when another one has made the tables meanwhile
AT_ONCE = {"auscult_records": 2000, "auscult_artifacts": 16}  # rows in memory while it is read

T = TypeVar("T")
_COLUMN = (
    r"""\s*(?:"?\w+"? [A-Z]+(?:\(\d+\))?(?: NOT NULL)?(?: DEFAULT (?:'[^']*'|[\d.-]+))?"""
    r"""|PRIMARY KEY \("key"\))\s*"""
)
_PLAIN_TABLE = re.compile(rf'CREATE TABLE "?\w+"? \({_COLUMN}(?:,{_COLUMN})*\)')
_METADATA = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _number(name: str, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


def _key() -> Column[str]:
    return Column("key", String(64), primary_key=True)


def _provenance() -> list[Column[Any]]:
    return [
        _text("command"),
        _text("created"),
        _text("code_version"),
        Column("libraries", JSON, nullable=False),
        _text("device"),
    ]


_SCHEMA = Table("auscult_schema", _METADATA, Column("version", Integer, nullable=False))

_RECORDS = Table(
    "auscult_records",
    _METADATA,
    _key(),
    _text("upstream"),
    _text("upstream_sha256"),
    _text("corpus"),
    _text("corpus_sha256"),
    _text("task"),
    _number("task_version"),
    Column("layer", JSON(none_as_null=True)),  # 3, "weighted" or NULL
    _number("head", nullable=True),
    _text("probe"),
    _text("metric"),
    _text("unit"),
    Column("value", Double, nullable=False),
    Column("low", Double),
    Column("high", Double),
    Column("majority", Double),
    _text("split"),
    _text("selected_on"),
    _number("num_items"),
    _number("num_speakers", nullable=True),
    _number("num_skipped"),
    _number("seed"),
    _number("num_parameters", nullable=True),
    _text("convention"),
    _text("subnet"),
    Column("config", JSON, nullable=False),
    _text("config_sha256"),
    *_provenance(),
)

_ARTIFACTS = Table(
    "auscult_artifacts",
    _METADATA,
    _key(),
    _text("kind"),
    _text("upstream"),
    _text("upstream_sha256"),
    _text("corpus"),
    _text("corpus_sha256"),
    _text("task"),
    Column("arrays", LargeBinary, nullable=False),  # the bytes of an .npz file
    Column("meta", JSON, nullable=False),
    *_provenance(),
)


class Store:
    """Records and artifacts behind one SQLAlchemy engine; safe with several writers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = file_of(engine)

    @property
    def file(self) -> Path | None:
        """The file of an SQLite store, None for a server."""
        return self._file

    def __str__(self) -> str:
        if self._file:
            return str(self._file)
        return without_password(self._engine.url.render_as_string())

    def add(self, records: Iterable[Record], artifacts: Iterable[Artifact] = ()) -> None:
        """Write records and artifacts in one transaction; an equal ``key`` is replaced.

        Raises:
            UserError: The store cannot be written, or is not one of ours; its disk is full; a
                record has a number that no database holds.
        """
        from .artifact import artifact_row  # and numpy, which lists of scores do without

        new_records = {record.key: _storable(record.to_dict()) for record in records}
        new_artifacts = {artifact.key: _storable(artifact_row(artifact)) for artifact in artifacts}
        with writing(self._file or Path()), self._explaining(writes=True):
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(ATTEMPTS):
                try:
                    self._write({_RECORDS: new_records, _ARTIFACTS: new_artifacts})
                    return
                except (IntegrityError, ProgrammingError):
                    # On a server, another writer may just have made the tables.
                    if attempt == ATTEMPTS - 1:
                        raise

    def records(
        self,
        *,
        upstream: str | None = None,
        corpus: str | None = None,
        task: str | None = None,
        probe: str | None = None,
        metric: str | None = None,
        split: str | None = None,
    ) -> list[Record]:
        """Return the records that agree with every given field, in one order whoever wrote them.

        Raises:
            UserError: There is no store, it cannot be read, or a row was tampered with.
        """
        wanted = {"upstream": upstream, "corpus": corpus, "task": task}
        wanted |= {"probe": probe, "metric": metric, "split": split}
        return self._read(_RECORDS, COLUMNS, wanted, lambda rows: read_records(rows, str(self)))

    def series(self) -> list[Series]:
        """Return all records as series, which take a fraction of their time and memory.

        Raises:
            UserError: As :meth:`records`.
        """
        return self._read(_RECORDS, COLUMNS, {}, lambda rows: read_series(rows, str(self)))

    def artifacts(
        self,
        kind: str | None = None,
        *,
        upstream: str | None = None,
        corpus: str | None = None,
        task: str | None = None,
    ) -> list[Artifact]:
        """Return the artifacts that agree with every given field, in one order whoever wrote them.

        Raises:
            UserError: As :meth:`records`.
        """
        from .artifact import read_artifacts

        wanted = {"kind": kind, "upstream": upstream, "corpus": corpus, "task": task}
        names = [column.name for column in _ARTIFACTS.c]

        def read(rows: Iterable[Row[Any]]) -> list[Artifact]:
            return read_artifacts((dict(zip(names, r, strict=True)) for r in rows), str(self))

        found = self._read(_ARTIFACTS, names, wanted, read)
        return sorted(found, key=lambda a: (a.kind, a.corpus, a.task, a.upstream, a.key))

    def _read(
        self,
        table: Table,
        names: Iterable[str],
        wanted: Mapping[str, str | None],
        read: Callable[[Iterable[Row[Any]]], T],
    ) -> T:
        """Give the rows that agree with ``wanted`` to ``read``; what is JSON as its text."""
        columns = (table.c[name] for name in names)
        query = select(*(cast(c, Text) if isinstance(c.type, JSON) else c for c in columns))
        for name, value in wanted.items():
            if value is not None:
                query = query.where(table.c[name] == _encodable(value))
        if self._file and not self._file.is_file():
            raise UserError(
                f"There is no store {self._file}; name the folder that was out= (--out), or run "
                "a command that measures something first."
            )
        with (
            collecting_later(),
            self._explaining(),
            reading(self._engine) as engine,
            engine.connect() as connection,
            bounded(connection, self._file),
        ):
            self._check_schema(connection)
            at_once = AT_ONCE[table.name]
            rows = connection.execution_options(yield_per=at_once).execute(query)
            return read(self._once(rows.partitions(), table))

    def _once(self, batches: Iterable[Sequence[Row[Any]]], table: Table) -> Iterator[Row[Any]]:
        """Yield rows, whose first column is their key, and refuse one that comes again."""
        keys: set[object] = set()
        count = 0
        for batch in batches:
            keys.update(map(itemgetter(0), batch))
            count += len(batch)
            if len(keys) < count:
                raise UserError(
                    f"{self} is damaged: a row of {table.name} comes twice; take another copy."
                )
            yield from batch

    def _write(self, rows: Mapping[Table, Mapping[str, Mapping[str, Any]]]) -> None:
        """Replace rows in one transaction; make the tables where there are none yet."""
        with self._engine.connect() as connection:
            if self._file:
                _keep_in_one_file(connection)
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits here, never half-way
            with bounded(connection, self._file):
                if not inspect(connection).has_table(_SCHEMA.name):
                    _METADATA.create_all(connection)
                    connection.execute(insert(_SCHEMA).values(version=SCHEMA_VERSION))
                self._check_schema(connection)
            # On a server, the one row of this table is the lock that writers wait for.
            connection.execute(update(_SCHEMA).values(version=_SCHEMA.c.version))
            for table, by_key in rows.items():
                _replace(connection, table, by_key)
            connection.commit()

    def _check_schema(self, connection: Connection) -> None:
        if not inspect(connection).has_table(_SCHEMA.name):
            raise UserError(f"{self} is a database, but holds no results of Auscult.")
        if self._file and (strange := _computed(connection)):
            raise UserError(
                f"{self} was not written by Auscult: it computes or compares what stands there "
                f"({strange})."
            )
        version = connection.execute(select(_SCHEMA.c.version)).scalar()
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{self} was written with store schema {shorten(version)}, but this Auscult reads "
                f"schema {SCHEMA_VERSION}; use the release that wrote it, or another --out."
            )

    @contextmanager
    def _explaining(self, *, writes: bool = False) -> Iterator[None]:
        """Turn the database's complaints (corrupt, locked, another schema) into one sentence."""
        try:
            yield
        except (SQLAlchemyError, UnicodeDecodeError) as error:  # the latter in names of columns
            if writes and self._file and disk_problem(error, self._file.parent):
                raise  # said as for every file that is written
            reason = str(getattr(error, "orig", error)).strip().removesuffix(".")
            if reason == "database is locked":
                reason = (
                    f"another program has had it open for {BUSY_SECONDS} s; close that, then type "
                    "the same command again: it goes on from there"
                )
            elif reason == "interrupted":
                reason = (
                    "it is damaged, and reading it would take far longer than its size accounts "
                    "for; take another copy of it"
                )
            raise UserError(f"{self} cannot be used as a store: {reason}.") from error


def open_store(where: str | Path) -> Store:
    """Return the store at ``where``; see :func:`auscult.results.open_store`."""
    return Store(open_engine(where))


def records_of(stores: Iterable[Store]) -> list[Record]:
    """Return the records of several stores; of one measurement the one in the last store."""
    found = [store.records() for store in stores]
    if len(found) == 1:
        return found[0]
    return list({record.key: record for records in found for record in records}.values())


@contextmanager
def collecting_later() -> Iterator[None]:
    """Make many objects that stay without looking for garbage among them, a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _keep_in_one_file(connection: Connection) -> None:
    """Let SQLite write a store, and one that an earlier release wrote, without a log beside it.

    A store is then whole when it is copied or put on a read-only medium. The log cannot be left
    while someone reads; it is then left another time.
    """
    with suppress(OperationalError):
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")


def _computed(connection: Connection) -> str:
    """Name a part of an SQLite file that is no plain table where ours should stand, "" if none is.

    Views, generated columns and virtual tables could take any time and memory when they are read,
    triggers, checks and indexes when they are written, and change what is kept; a collation finds
    other rows. SQLite does not tell names by case.
    """
    query = text("SELECT name, tbl_name, type, sql FROM sqlite_master")
    for name, table, kind, sql in connection.execute(query):
        if not {str(name).lower(), str(table).lower()} & _METADATA.tables.keys():
            continue
        plain = (
            _PLAIN_TABLE.fullmatch(sql or "") if kind == "table" else kind == "index" and not sql
        )
        if not plain:
            return f"{kind} {shorten(name)}"
    return ""


def _replace(connection: Connection, table: Table, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Insert rows by key in place of those that stand under the same key."""
    if rows:
        old = delete(table).where(table.c.key == bindparam("old"))
        connection.execute(old, [{"old": key} for key in rows])
        connection.execute(insert(table), [{"key": key, **row} for key, row in rows.items()])


def _storable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as every database can hold it.

    Raises:
        UserError: A number is too large.
    """
    try:
        for name, value in row.items():
            if name != "arrays":
                check_json(name, value)
    except ValueError as error:
        raise UserError(f"A result cannot be kept in a store: {error}") from error
    return {n: _encodable(v) if isinstance(v, str) else v for n, v in row.items()}


def _encodable(text: str) -> str:
    r"""Write what no database holds, bytes of a path that are no text and NUL, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", r"\x00")
