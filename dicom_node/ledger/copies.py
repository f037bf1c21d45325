"""A whole ledger, copied: out of one that is in use, and into one that is empty.

A copy is an SQLite file whichever database it came from, so that a node may also move from the one
to the other by it. It is one moment of the ledger: writers are not kept waiting and not seen.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import BackupUnusable, LedgerError
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState, RevisionState

__all__ = ["CopiedLedger", "LedgerFile", "copy_in", "copy_out", "refuse_unless_empty"]

_CHUNK = 1000  # rows at a time
_UNFINISHED_REVISION = (RevisionState.RECEIVING, RevisionState.COMPLETE)
_UNFINISHED_ANALYSIS = (AnalysisState.WAITING, AnalysisState.RUNNING, AnalysisState.QUARANTINED)
# Others may hold rows that migrations make.
_FILLED_BY_USE = (t.associations, t.series, t.events, t.console_users, t.tallies, t.processes)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LedgerFile:
    """A file that a ledger names; `path` is relative to the spool or to the results."""

    path: str
    size_bytes: int


def copy_out(
    database: Database, target: Path, progress: Progress = lambda done, total: None
) -> str:
    """Write the ledger as it is now to the new file `target`; return the schema's version."""
    target.touch(mode=0o600)
    if database.is_sqlite:
        _copy_pages(database, target)
    else:
        with contextlib.closing(Database(f"sqlite:///{target}")) as copy:
            copy.migrate()
            with _one_moment(database) as source, copy.write() as connection:
                _copy_rows(source, connection, progress)
    with contextlib.closing(sqlite3.connect(target)) as raw:
        (version,) = raw.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(version)


class CopiedLedger:
    """A copy, as what it is: rows that say which files belong to it.

    Parameters
    ----------
    path : Path
        Of the SQLite file. It is written to only by :meth:`settle`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(f"sqlite:///{path}")

    def close(self) -> None:
        """Leave one file without companions."""
        self._database.close()
        with contextlib.closing(sqlite3.connect(self._path)) as raw:
            raw.execute("PRAGMA journal_mode=DELETE")
        self._path.with_suffix(".lock").unlink(missing_ok=True)

    def images(self, *, unfinished_only: bool) -> Iterator[LedgerFile]:
        """Yield the received instances that the spool holds.

        Parameters
        ----------
        unfinished_only : bool
            Only those of series that are being received or wait for a reading; without images
            that were set aside for a used UID.
        """
        i, r, a, c = t.instances.c, t.revisions.c, t.analyses.c, t.conflicts.c
        query = sa.select(i.path, i.size_bytes).where(i.purged_at.is_(None))
        if unfinished_only:
            open_revision = sa.select(r.series_id).where(r.state.in_(_UNFINISHED_REVISION))
            open_analysis = (
                sa.select(r.series_id)
                .join(t.analyses, a.revision_id == r.id)
                .where(a.state.in_(_UNFINISHED_ANALYSIS))
            )
            query = query.where(i.series_id.in_(sa.union(open_revision, open_analysis)))
        yield from self._files(query.order_by(i.id))
        if not unfinished_only:
            yield from self._files(sa.select(c.path, sa.literal(0)).order_by(c.id))

    def results(self) -> Iterator[LedgerFile]:
        """Yield the objects that were made."""
        o = t.objects.c
        yield from self._files(sa.select(o.path, o.size_bytes).order_by(o.id))

    def _files(self, query: sa.Select[Any]) -> Iterator[LedgerFile]:
        with self._database.read() as connection:
            for row in connection.execution_options(yield_per=_CHUNK).execute(query):
                yield LedgerFile(PurePosixPath(row[0]).as_posix(), int(row[1]))

    def count(self, table: sa.Table) -> int:
        """Return how many rows `table` has."""
        with self._database.read() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def settle(self, held: Container[str]) -> int:
        """Make the copy fit for another place; return how many images it no longer holds.

        The schema is brought up to date. Images whose path is not in `held` count as removed, as
        retention removes them: sent again, they are held again. Who ran and who was logged in at
        the old place is forgotten; a lease of its workers runs out by itself.

        Raises
        ------
        SchemaMismatch
            The copy was made by a newer version.
        """
        self._database.migrate()
        i, s, now = t.instances.c, t.series.c, self._database.now()
        with self._database.read() as connection:
            rows = connection.execute(sa.select(i.id, i.path).where(i.purged_at.is_(None)))
            absent = [key for key, path in rows if PurePosixPath(path).as_posix() not in held]
        with self._database.write() as connection:
            for start in range(0, len(absent), _CHUNK):
                gone = i.id.in_(absent[start : start + _CHUNK])
                connection.execute(t.instances.update().where(gone).values(purged_at=now))
            if absent:
                some_held = sa.exists().where(i.series_id == s.id, i.purged_at.is_(None))
                connection.execute(
                    t.series.update()
                    .where(s.removed_at.is_(None), ~some_held)
                    .values(removed_at=now)
                )
            connection.execute(t.processes.delete())
            connection.execute(t.console_sessions.delete())
        return len(absent)


def copy_in(source: Path, url: str, progress: Progress = lambda done, total: None) -> None:
    """Write all rows of the settled copy `source` into the empty database at `url`, or none.

    Raises
    ------
    BackupUnusable
        The database is not empty.
    LedgerError
        It cannot be reached, or belongs to a newer version.
    """
    with (
        contextlib.closing(Database(url)) as target,
        contextlib.closing(Database(f"sqlite:///{source}")) as copy,
    ):
        target.migrate()
        with copy.read() as reading, target.write() as writing:
            _refuse_rows(writing)
            _copy_rows(reading, writing, progress)
            if not target.is_sqlite:
                _count_on(writing)


def refuse_unless_empty(url: str) -> None:
    """Look whether a ledger may be put at `url`; a database without our schema is left without.

    Raises
    ------
    BackupUnusable
        There is a ledger with rows in it, or an SQLite file, whatever it holds.
    LedgerError
        The database cannot be reached.
    """
    with contextlib.closing(Database(url)) as database:
        if database.is_sqlite:
            file = Path(database.url.database or "")
            if file.exists():
                raise BackupUnusable(f"{file} is there already: nothing is put over a ledger")
            return
        with _explained(database) as connection:
            if sa.inspect(connection).has_table(t.series.name):
                _refuse_rows(connection)


def _refuse_rows(connection: sa.Connection) -> None:
    for table in _FILLED_BY_USE:
        if sa.inspect(connection).has_table(table.name) and connection.scalar(
            sa.select(sa.exists(sa.select(sa.literal(1)).select_from(table)))
        ):
            raise BackupUnusable(
                f"the database holds a ledger already (rows in {table.name}): "
                "nothing is put over a ledger"
            )


@contextlib.contextmanager
def _explained(database: Database) -> Iterator[sa.Connection]:
    try:
        with database.read() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise LedgerError(f"the ledger cannot be opened: {error}") from error


@contextlib.contextmanager
def _one_moment(database: Database) -> Iterator[sa.Connection]:
    with database.read() as connection:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        yield connection


def _copy_pages(database: Database, target: Path) -> None:
    with database.read() as connection, contextlib.closing(sqlite3.connect(target)) as copy:
        source: Any = connection.connection.driver_connection
        # In one step: a copy in several begins anew whenever another process has written.
        source.backup(copy, pages=-1)


def _copy_rows(source: sa.Connection, target: sa.Connection, progress: Progress) -> None:
    present = [
        table for table in t.metadata.sorted_tables if sa.inspect(source).has_table(table.name)
    ]
    counts = {
        table.name: source.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in present
    }
    done, total = 0, sum(counts.values())
    for table in reversed(present):
        target.execute(table.delete())  # what migrations made of nothing
    for table in present:
        rows = source.execution_options(yield_per=_CHUNK).execute(sa.select(table)).mappings()
        for chunk in rows.partitions(_CHUNK):
            target.execute(table.insert(), [dict(row) for row in chunk])
            done += len(chunk)
            progress(done, total)


def _count_on(connection: sa.Connection) -> None:
    """Let PostgreSQL give the next id behind those that were copied."""
    for table in t.metadata.sorted_tables:
        if "id" in table.c and table.c.id.autoincrement is True:
            connection.execute(
                sa.select(
                    sa.func.setval(
                        sa.func.pg_get_serial_sequence(table.name, "id"),
                        sa.select(sa.func.coalesce(sa.func.max(table.c.id), 1)).scalar_subquery(),
                        sa.select(sa.func.count() > 0).select_from(table).scalar_subquery(),
                    )
                )
            )
