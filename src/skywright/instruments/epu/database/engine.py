"""Opening the database: driver, pragmas, transactions, migrations."""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from skywright.errors import ConfigError
from skywright.instruments.epu.database import schema_exchange, schema_quality
from skywright.instruments.epu.database.schema import metadata, setting
from skywright.instruments.epu.database.write import announce_stored
from skywright.waiting import pause

__all__ = ["Database", "is_away", "metadata", "open_database", "schema_exchange", "schema_quality"]

logger = logging.getLogger(__name__)

WRITER_LOCK = 0x5E9A
"""Advisory lock of PostgreSQL that makes writers take turns, so messages keep commit order."""

ANNOUNCES = "announces"
"""Setting of a database whose changes are announced."""

LIMIT_EXCEEDED = "54"
"""Class of PostgreSQL's errors of a value that is too large, such as a key of 3 kB."""

BUSY_S = 30.0
"""Longest wait of a SQLite connection for another process's transaction."""

SILENCE = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""Limits of libpq, seconds and (``tcp_user_timeout``) ms, where the URL names no others. Without
them a server whose machine or network is gone is waited for a quarter of an hour."""

FILE_NAME = re.compile(r"(?![a-z0-9+]{2,}:).+\.(sqlite3?|db)", re.DOTALL | re.IGNORECASE)
"""A text that names a SQLite file to be made: no other kind of URL, such as ``sqlite:epu.db``."""

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
"""SQLite's codes of a file that another connection holds."""


@dataclass(frozen=True)
class Database:
    """An open entity database.

    Attributes
    ----------
    engine
        SQLAlchemy's engine; its pool is safe to share between threads.
    announce
        Whether this process has switched on the outbox: a change also writes a message into it, in
        the same transaction. Every process does so once one has switched it on.
    """

    engine: Engine
    announce: bool = False

    @property
    def dialect(self) -> str:
        """Name of the dialect: ``sqlite`` or ``postgresql``."""
        return self.engine.dialect.name

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection in a transaction, committed at the end, rolled back on an error.

        Writers of all processes take turns. Keep these transactions short.
        """
        with self.engine.connect() as connection:
            connection = connection.execution_options(writes=True, announce=self.announce)
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK}
                    )
                if not self.announce and _announces(connection):
                    connection.execution_options(announce=True)
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection for reading; on SQLite it never waits for a writer."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def identity(self) -> str:
        """Uuid of this database, made once; message ids begin with it."""
        with self.write() as connection:
            query = select(setting.c.value).where(setting.c.name == "identity")
            found = connection.execute(query).scalar()
            if found is None:
                found = str(uuid4())
                connection.execute(insert(setting).values(name="identity", value=found))
            return found

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def is_away(error: Exception) -> bool:
    """Return whether an error is the database's own, and not that of a value to be stored."""
    if isinstance(error, DataError | IntegrityError):
        return False
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return False  # a value that the driver cannot convert
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state.startswith(LIMIT_EXCEEDED):
        return False
    return isinstance(error, SQLAlchemyError)


def reason_of(error: BaseException) -> str:
    """Return what the database says of an error, in one line, without the statement."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def report_failure(what: str, error: Exception, before: str) -> str:
    """Log what fails and why, unless it was so `before`; return the reason.

    An error of the database is logged in one line, any other error with its traceback.
    """
    reason = reason_of(error)
    if reason != before and isinstance(error, SQLAlchemyError):
        logger.error("%s: the database fails: %s", what, reason)
    elif reason != before:
        logger.error("%s", what, exc_info=error)
    return reason


def open_database(url: str | Path, *, announce: bool = False, durable: bool = True) -> Database:
    """Open the entity database and bring its tables up to date.

    Parameters
    ----------
    url
        ``sqlite:////ABS/FILE``, ``postgresql://...``, or the path of a SQLite file. A text is the
        path of a new file only if it ends in ``.sqlite``, ``.sqlite3`` or ``.db``.
    announce
        Write a message for the broker or the API with each change (see `Database`), from now on
        and by every process; where it is switched on first, one for each entity that is stored.
    durable
        Whether a commit waits for the disk of a SQLite database. Without it a power cut may take
        back the last transactions, never a part of one, and a killed process loses nothing; for
        writers that can read everything again.

    Raises
    ------
    ConfigError
        The URL is of another kind, or the database cannot be reached or is newer than this
        program.
    """
    parsed = _url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite(parsed, durable)
    else:
        limits = {name: limit for name, limit in SILENCE.items() if name not in parsed.query}
        engine = create_engine(
            parsed, connect_args=limits, pool_pre_ping=True, pool_size=10, max_overflow=20
        )
    from skywright.instruments.epu.database.migrate import migrate

    try:
        migrate(engine)
        if announce:
            _switch_on(Database(engine))
    except (SQLAlchemyError, OSError, ValueError) as error:  # ValueError: NUL, or not UTF-8
        engine.dispose()
        reason = reason_of(error)
        raise ConfigError(f"database {parsed.render_as_string()}: {reason}") from error
    return Database(engine, announce)


def _announces(connection: Connection) -> bool:
    query = select(setting.c.name).where(setting.c.name == ANNOUNCES)
    return connection.execute(query).first() is not None


def _switch_on(database: Database) -> None:
    """Keep in the database that changes are announced, and announce what is stored."""
    with database.read() as connection:
        if _announces(connection):
            return
    with database.write() as connection:
        if not _announces(connection):
            connection.execute(insert(setting).values(name=ANNOUNCES, value="yes"))
            announce_stored(connection)


def _url(url: str | Path) -> URL:
    if not str(url).strip():
        raise ConfigError("database: empty; use sqlite:////ABS/FILE or postgresql://HOST/NAME")
    place = str(url).rpartition("@")[2]  # without password
    if isinstance(url, Path) or "://" not in url:
        path = Path(url).expanduser().absolute()
        # Not `Path.is_file`, which raises where a directory may not be entered.
        is_there = os.path.isfile(path)  # noqa: PTH113
        if isinstance(url, str) and not FILE_NAME.fullmatch(url) and not is_there:
            raise ConfigError(
                f"database {place}: use sqlite:////ABS/FILE, postgresql://HOST/NAME, or a file "
                "whose name ends in .sqlite, .sqlite3 or .db"
            )
        return URL.create("sqlite", database=str(path))
    try:
        parsed = make_url(str(url))
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"database {place}: not a URL") from error
    backend = parsed.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(f"database {place}: use sqlite:////ABS/FILE or postgresql://HOST/NAME")
    return parsed


def _use_wal(dbapi: Any) -> None:
    """Switch a new file to the write-ahead log.

    SQLite refuses at once, without its own wait, while another connection does the same.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            dbapi.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError as error:
            # The low byte is the code without what SQLite adds. A full disk is not waited for.
            if error.sqlite_errorcode & 0xFF not in BUSY or time.monotonic() > deadline:
                raise
            pause(0.01)
        else:
            return


def _sqlite(url: URL, durable: bool) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError("database: a SQLite database must be a file, sqlite:////ABS/FILE")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"database {url.database}: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(dbapi: Any, _record: Any) -> None:
        dbapi.isolation_level = None  # The driver would begin transactions at moments of its own.
        _use_wal(dbapi)
        for pragma in (
            f"synchronous={'FULL' if durable else 'NORMAL'}",
            "foreign_keys=ON",
            "cache_size=-65536",
        ):
            dbapi.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        # A reader that became a writer in mid-transaction could fail with SQLITE_BUSY.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
