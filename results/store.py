"""Where records and artifacts are kept: an SQLite file, or any database that SQLAlchemy knows."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)

from auscult.errors import UserError
from auscult.record import Artifact, Provenance, Record

FILE_NAME = "results.sqlite"
SCHEMA_VERSION = 3  # bumped whenever a table below changes
BUSY_SECONDS = 60  # how long a writer of SQLite waits for another one
ATTEMPTS = 3  # how often a writer tries when another one has made the tables meanwhile

_METADATA = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


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
    Column("task_version", Integer, nullable=False),
    Column("layer", JSON(none_as_null=True)),  # 3, "weighted" or NULL
    Column("head", Integer),
    _text("probe"),
    _text("metric"),
    _text("unit"),
    Column("value", Double, nullable=False),
    Column("low", Double),
    Column("high", Double),
    Column("majority", Double),
    _text("split"),
    _text("selected_on"),
    Column("num_items", Integer, nullable=False),
    Column("num_speakers", Integer),
    Column("num_skipped", Integer, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("num_parameters", Integer),
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
        sqlite = engine.dialect.name == "sqlite"
        self._file = Path(engine.url.database or "") if sqlite else None

    def __str__(self) -> str:
        if self._file:
            return str(self._file)
        return without_password(self._engine.url.render_as_string())

    def add(self, records: Iterable[Record], artifacts: Iterable[Artifact] = ()) -> None:
        """Write records and artifacts in one transaction; an equal ``key`` is replaced.

        Raises:
            UserError: The store cannot be written, or is not one of ours.
        """
        new_records = {record.key: record.to_dict() for record in records}
        new_artifacts = {artifact.key: _artifact_row(artifact) for artifact in artifacts}
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._explaining():
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
            UserError: There is no store, or it cannot be read.
        """
        wanted = {
            "upstream": upstream,
            "corpus": corpus,
            "task": task,
            "probe": probe,
            "metric": metric,
            "split": split,
        }
        rows = self._select(_RECORDS, wanted)
        return sorted((Record.from_dict(row) for row in rows), key=_record_order)

    def artifacts(self, kind: str | None = None) -> list[Artifact]:
        """Return the artifacts of one kind, or all, in one order whoever wrote them.

        Raises:
            UserError: There is no store, or it cannot be read.
        """
        found = [_artifact(row) for row in self._select(_ARTIFACTS, {"kind": kind})]
        return sorted(found, key=lambda a: (a.kind, a.corpus, a.task, a.upstream, a.key))

    def _select(self, table: Table, wanted: Mapping[str, str | None]) -> list[dict[str, Any]]:
        """Return the rows that agree with ``wanted``, without their key."""
        query = select(*(column for column in table.c if column.name != "key"))
        for name, value in wanted.items():
            if value is not None:
                query = query.where(table.c[name] == value)
        if self._file and not self._file.is_file():
            raise UserError(
                f"There is no store {self._file}; name the folder that --out was given, or run "
                "a command that measures something first."
            )
        with self._explaining(), self._engine.connect() as connection:
            self._check_schema(connection)
            return [dict(row) for row in connection.execute(query).mappings()]

    def _write(self, rows: Mapping[Table, Mapping[str, Mapping[str, Any]]]) -> None:
        """Replace rows in one transaction; make the tables where there are none yet."""
        with self._engine.connect() as connection:
            if self._file:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits here, never half-way
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
        version = connection.execute(select(_SCHEMA.c.version)).scalar()
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{self} was written with store schema {version}, but this Auscult reads schema "
                f"{SCHEMA_VERSION}; use the release that wrote it, or another --out."
            )

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn the database's complaints (corrupt, locked, read-only) into one sentence."""
        try:
            yield
        except DatabaseError as error:
            raise UserError(f"{self} cannot be used as a store: {error.orig}.") from error


def open_store(where: str | Path) -> Store:
    """Return the store at ``where``; see :func:`auscult.results.open_store`."""
    if "://" in str(where):
        return Store(_engine(_url(str(where))))
    path = Path(where)
    if path.suffix not in (".sqlite", ".db"):
        if path.is_file():
            raise UserError(
                f"{path} is no store: expected a folder, a .sqlite or .db file, or a database URL."
            )
        path = path / FILE_NAME
    return Store(_engine(URL.create("sqlite", database=str(path))))


def without_password(text: str) -> str:
    """Return a database URL, malformed or not, with its password masked."""
    masked = re.sub(r"(://[^:/@]*:).*(?=@)", r"\1***", text, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", masked)


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise _no_url(text) from None  # the error may quote the password
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        shown = without_password(text)
        raise UserError(f"{shown!r} is a database in memory and keeps nothing; name a file.")
    return url


def _no_url(text: str) -> UserError:
    return UserError(
        f"{without_password(text)!r} is not a database URL such as "
        "postgresql+psycopg://user@host/name or sqlite:///folder/name.sqlite."
    )


def _engine(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    # Transactions are begun by hand on SQLite: its driver would begin them too late to wait.
    options = {"timeout": BUSY_SECONDS, "isolation_level": None} if sqlite else {}
    try:
        return create_engine(url, poolclass=NullPool, connect_args=options)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise UserError(f"The store's database needs a driver that is missing: {error}.") from error
    except ArgumentError:
        raise _no_url(url.render_as_string()) from None


def _replace(connection: Connection, table: Table, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Insert rows by key in place of those that stand under the same key."""
    if rows:
        old = delete(table).where(table.c.key == bindparam("old"))
        connection.execute(old, [{"old": key} for key in rows])
        connection.execute(insert(table), [{"key": key, **row} for key, row in rows.items()])


def _record_order(record: Record) -> tuple[object, ...]:
    number = record.layer if isinstance(record.layer, int) else -1
    return (
        *(record.corpus, record.task, record.split, record.metric, record.probe),
        *(record.upstream, str(record.layer) if number < 0 else "", number),
        *(-1 if record.head is None else record.head, record.seed, record.key),
    )


def _artifact_row(artifact: Artifact) -> dict[str, Any]:
    run = artifact.provenance
    return {
        "kind": artifact.kind,
        "upstream": artifact.upstream,
        "upstream_sha256": artifact.upstream_sha256,
        "corpus": artifact.corpus,
        "corpus_sha256": artifact.corpus_sha256,
        "task": artifact.task,
        "arrays": _pack(artifact.arrays),
        "meta": dict(artifact.meta),
        "command": run.command,
        "created": run.created,
        "code_version": run.code_version,
        "libraries": dict(run.libraries),
        "device": run.device,
    }


def _artifact(row: Mapping[str, Any]) -> Artifact:
    values = dict(row)
    run = {column.name: values.pop(column.name) for column in _provenance()}
    values["arrays"] = _unpack(values["arrays"])
    return Artifact(**values, provenance=Provenance(**run))


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"Artifact.arrays[{name!r}]: expected numbers or text, got objects.")
    named: dict[str, Any] = dict(arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def _unpack(blob: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
