"""Where a store is: a folder, a file or a database URL, and how it is opened to be read.

A finished store can be read wherever it lies, also on a read-only medium, and in a folder of
someone else.
"""

import re
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from auscult.errors import UserError
from auscult.whole_file import writing

FILE_NAME = "results.sqlite"
BUSY_SECONDS = 60  # how long a writer of SQLite waits for another one
STEPS = 20  # of SQLite for each byte of a store; reading all takes less than one
LEAST_STEPS, LEAST_LENGTH = 10**6, 10**6  # steps, and bytes of a value, that any store may take
FORMS = "expected a folder, a .sqlite or .db file, or a database URL"
EXAMPLES = "postgresql+psycopg://user@host/name or sqlite:///folder/name.sqlite"


def open_engine(where: str | Path) -> Engine:
    """Return the engine of the store at ``where``; see :func:`auscult.results.open_store`."""
    text = str(where)
    if "\0" in text:
        raise _with_nul(text)
    if "://" in text:
        return _engine(_url(text))
    if re.match(r"(file|sqlite|postgresql)(\+\w+)?:", text) and not Path(text).exists():
        raise _no_url(text)
    path = Path(where)
    if path.suffix not in (".sqlite", ".db"):
        if _kind(path) == "file":
            raise UserError(f"{path} is no store: {FORMS}.")
        path = path / FILE_NAME
    return _engine(URL.create("sqlite", database=str(path)))


def file_of(engine: Engine) -> Path | None:
    """Return the file of an SQLite store.

    Raises:
        UserError: Something that is no file stands there, or beside it where SQLite looks.
    """
    if engine.dialect.name != "sqlite":
        return None
    file = Path(engine.url.database or "")
    for path in (file, *_beside(file), file.with_name(f"{file.name}-shm")):
        if (kind := _kind(path)) not in ("file", ""):
            raise UserError(f"{path} is no store, but a {kind}; {FORMS}.")
    return file


@contextmanager
def bounded(connection: Connection, file: Path | None) -> Iterator[None]:
    """Let no statement take more steps, and no value be longer, than an SQLite file accounts for.

    The pages of a file may say to follow each other a million times. A statement that goes on for
    too long ends as one that is interrupted.
    """
    raw = connection.connection.dbapi_connection
    if file is None or not isinstance(raw, sqlite3.Connection):
        yield
        return
    paths = [path for path in (file, *_beside(file)) if path.is_file()]
    num_bytes = sum(path.stat().st_size for path in paths)
    longest = raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(LEAST_LENGTH, num_bytes))
    steps = min(LEAST_STEPS + STEPS * num_bytes, 2**31 - 1)
    raw.set_progress_handler(lambda: 1, steps)
    try:
        yield
    finally:
        raw.set_progress_handler(None, 0)
        raw.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)


@contextmanager
def reading(engine: Engine) -> Iterator[Engine]:
    """Give an engine that reads the store of ``engine``, which may lie where nobody may write.

    SQLite wants to write even where it only reads: a store that was written with a log (WAL) needs
    a file beside it, and one whose writer was killed has to be mended. Where the folder permits
    neither, the first is opened as a file that nobody changes, the second from a copy.
    """
    file = file_of(engine)
    if file is None or _opens(engine):
        yield engine
    elif beside := [path for path in _beside(file) if path.is_file() and path.stat().st_size]:
        with tempfile.TemporaryDirectory(prefix="auscult-") as folder:
            with writing(Path(folder) / file.name):
                for path in (file, *beside):
                    shutil.copyfile(path, Path(folder) / path.name)
            yield _engine(URL.create("sqlite", database=str(Path(folder) / file.name)))
    else:
        uri = f"{file.resolve().as_uri()}?mode=ro&immutable=1"
        yield create_engine(
            "sqlite://",
            poolclass=NullPool,
            creator=lambda: sqlite3.connect(uri, uri=True, isolation_level=None),
        )


def without_password(text: str) -> str:
    """Return a database URL, malformed or not, with its password masked."""
    masked = re.sub(r"(://[^:/@]*:).*(?=@)", r"\1***", text, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", masked)


def _url(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise _no_url(text) from None  # the error may quote the password
    if url.get_backend_name() != "sqlite":
        return url
    name = without_password(text)
    if url.database in (None, "", ":memory:"):
        raise UserError(
            f"{name!r} is a database in memory and keeps nothing; name a file, after three slashes "
            "or, where its path begins with one, four."
        )
    if "\0" in str(url.database):
        raise _with_nul(text)
    if url.query or str(url.database).startswith("file:"):
        raise UserError(
            f"{name!r} has options of SQLite, which are not read; write sqlite:/// and the file "
            "alone. A store where nobody may write is opened as such without being told."
        )
    return url


def _with_nul(text: str) -> UserError:
    return UserError(f"{without_password(text)!r} is no store: its name has a NUL character.")


def _no_url(text: str) -> UserError:
    return UserError(f"{without_password(text)!r} is not a database URL such as {EXAMPLES}.")


def _engine(url: URL) -> Engine:
    sqlite = url.get_backend_name() == "sqlite"
    # Transactions are begun by hand on SQLite: its driver would begin them too late to wait.
    options = {"timeout": BUSY_SECONDS, "isolation_level": None} if sqlite else {}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=options)
    except NoSuchModuleError:
        name = url.render_as_string()
        raise UserError(
            f"{name} names a kind of database, {url.drivername}, or a driver that is missing here; "
            f"{FORMS} such as {EXAMPLES}."
        ) from None
    except ModuleNotFoundError as error:
        raise UserError(
            f"{url.render_as_string()} needs the driver {error.name}, which is missing; install "
            "it, or name another in the URL (PostgreSQL: postgresql+psycopg://)."
        ) from error
    except (ArgumentError, TypeError, ValueError):  # options that a driver does not take
        raise _no_url(url.render_as_string()) from None
    if engine.dialect.is_async or (sqlite and engine.driver != "pysqlite"):
        raise UserError(
            f"{url.render_as_string()}: the driver {engine.driver} cannot be used here."
        )
    return engine


def _opens(engine: Engine) -> bool:
    """Say whether SQLite can read a store in its place."""
    try:
        with engine.connect() as connection, bounded(connection, file_of(engine)):
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    except OperationalError as error:
        name = getattr(error.orig, "sqlite_errorname", "")
        if not name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        return False
    return True


def _beside(file: Path) -> list[Path]:
    return [file.with_name(file.name + end) for end in ("-wal", "-journal")]


def _kind(path: Path) -> str:
    """Say what stands at a path: a file, a folder, something else, or nothing ("")."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path} cannot be used as a store: {error.strerror}.") from error
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "pipe or device"
