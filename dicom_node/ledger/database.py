"""The database behind the ledger: SQLite in WAL mode, or PostgreSQL by URL.

Writers take their lock at once (``BEGIN IMMEDIATE`` on SQLite), so that a transaction never
fails half-way because another process wrote in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import LedgerError, LedgerGone
from dicom_node.ledger import tables
from dicom_node.ledger.schema import bring_up_to_date, is_current, is_new

__all__ = ["Database", "inserted_id", "rows_changed"]

_MIGRATION_LOCK = 0x6D336C75  # any constant: one advisory lock for "the schema of this ledger"


class Database:
    """An engine with the ledger's habits: one write transaction at a time, UTC seconds, JSON.

    Parameters
    ----------
    url : str
        SQLAlchemy URL.
    clock : callable
        Seconds since the epoch, UTC; tests put their own in.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self.url = sa.make_url(url)
        self.clock = clock
        try:
            if self.is_sqlite:
                self._sqlite_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.engine = sa.create_engine(
                    self.url, creator=self._open_sqlite, hide_parameters=True
                )
                sa.event.listen(self.engine, "connect", self._note_file)
                sa.event.listen(self.engine, "connect", _prepare_sqlite)
                sa.event.listen(self.engine, "begin", _begin_sqlite)
            else:
                self.engine = sa.create_engine(
                    self.url,
                    pool_pre_ping=True,
                    connect_args={"connect_timeout": 10},
                    hide_parameters=True,  # rows hold patient identifiers; errors must not
                )
                sa.event.listen(self.engine, "connect", _prepare_postgresql)
        except (OSError, SQLAlchemyError) as error:
            raise LedgerError(f"the ledger cannot be opened: {error}") from error

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the one-machine default."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def _sqlite_file(self) -> Path:
        return Path(self.url.database or "ledger.sqlite3")

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One write transaction: durable at the end, rolled back on an exception.

        Raises
        ------
        LedgerGone
            Nothing is recorded.
        """
        with self.engine.connect() as connection, connection.begin():
            yield connection
            self._require_file(connection)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent view, without the writers' lock."""
        with (
            self.engine.connect().execution_options(ledger_read=True) as connection,
            connection.begin(),
        ):
            self._require_file(connection)
            yield connection

    def _open_sqlite(self) -> sqlite3.Connection:
        # mode=rw: SQLite would put an empty database where ours was taken away.
        name = quote(str(self._sqlite_file.absolute()))
        return sqlite3.connect(
            f"file:{name}?mode=rw", uri=True, timeout=30.0, check_same_thread=False
        )

    def _note_file(self, _connection: Any, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["file"] = _identity(self._sqlite_file)

    def _require_file(self, connection: sa.Connection) -> None:
        """Refuse to go on in a file that was deleted or replaced: nobody would find it again."""
        if not self.is_sqlite or _identity(self._sqlite_file) == connection.info.get("file"):
            return
        connection.invalidate()
        raise LedgerGone("the ledger's file was removed or replaced under the running node")

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self.clock()

    def migrate(self, before_making: Callable[[], None] = lambda: None) -> None:
        """Bring the schema to this software's version; safe to call from many processes at once.

        Parameters
        ----------
        before_making : callable
            Called before the schema is made where there is none; it may raise.

        Raises
        ------
        SchemaMismatch
            The database was written by a newer version.
        LedgerError
            The database cannot be reached.
        """
        try:
            if self.is_sqlite and not self._sqlite_file.exists():
                before_making()  # not even an empty file, if it raises
            with self._one_migration_at_a_time() as connection:
                if not is_current(connection):
                    if is_new(connection):
                        before_making()
                    bring_up_to_date(connection)
        except (OSError, SQLAlchemyError) as error:
            raise LedgerError(f"the ledger cannot be opened: {error}") from error

    @contextlib.contextmanager
    def _one_migration_at_a_time(self) -> Iterator[sa.Connection]:
        if self.is_sqlite:
            # The kernel drops a flock when its process ends, however it ends.
            with self._sqlite_file.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self._sqlite_file.exists():
                    self._sqlite_file.touch(mode=0o600)
                with self.write() as connection:
                    yield connection
        else:
            with self.write() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                yield connection

    def insert_new(
        self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]
    ) -> None:
        """Insert `rows`, leaving those alone that a unique key already holds."""
        if not rows:
            return
        dialect: Any
        if self.is_sqlite:
            from sqlalchemy.dialects import sqlite as dialect
        else:
            from sqlalchemy.dialects import postgresql as dialect
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)

    def event(
        self, connection: sa.Connection, kind: str, series_id: int | None, **detail: Any
    ) -> None:
        """Add a line to the journal; `detail` holds no patient data."""
        connection.execute(
            tables.events.insert().values(
                at=self.now(), series_id=series_id, kind=kind, detail=detail
            )
        )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def rows_changed(result: sa.CursorResult[Any]) -> int:
    """Return how many rows an UPDATE touched: 0 means somebody else was faster."""
    return result.rowcount


def inserted_id(result: sa.CursorResult[Any]) -> int:
    """Return the id that an INSERT of one row got."""
    key = result.inserted_primary_key
    if key is None:
        raise LedgerError("the database gave no id for a new row")
    return int(key[0])


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None if there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116  half the time of Path.stat, and each image waits
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    """Wait for the disk at each commit, though the server's default may be not to."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone() == ("off",):
            cursor.execute("SET synchronous_commit TO on")
    connection.commit()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin_sqlite`
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: a commit is on the disk when it returns. Acknowledged means durable.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("ledger_read", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
