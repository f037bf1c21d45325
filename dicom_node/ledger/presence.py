"""Which processes of the node run, by their own word, and whether their loops turn."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node import __version__
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, rows_changed
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.tallies import Counts, add_counts

__all__ = ["SILENT_AFTER_S", "Presence", "RunningProcess"]

SILENT_AFTER_S = 45.0
"""A process that was not heard of for so long does not run."""

_FORGOTTEN_AFTER_S = 86400.0


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A process that was heard of.

    Attributes
    ----------
    part : str
        ``listen``, ``reconcile``, ``work``, ``deliver`` …
    beat_at : float
        When it was last heard of.
    turned_at : float or None
        When its loop last came round; None: it waits for a broker and has no loop to show.
    """

    owner: str
    part: str
    host: str
    version: str
    started_at: float
    beat_at: float
    turned_at: float | None


class Presence:
    """For every process: here I am. For whoever watches: who is there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(
        self, part: str, *, started_at: float, turned_at: float | None, counts: Counts
    ) -> None:
        """Say that this process runs, and hand over what it counted, in one transaction."""
        p, now = t.processes.c, self._database.now()
        owner = this_owner()
        values = {"beat_at": now, "turned_at": turned_at}
        with self._database.write() as connection:
            known = connection.execute(
                t.processes.update().where(p.owner == owner).values(**values)
            )
            if not rows_changed(known):
                row = {
                    "owner": owner,
                    "part": part,
                    "host": socket.gethostname()[:64],
                    "version": __version__[:32],
                    "started_at": started_at,
                    **values,
                }
                self._database.insert_new(connection, t.processes, [row])
                forgotten = now - _FORGOTTEN_AFTER_S
                connection.execute(t.processes.delete().where(p.beat_at < forgotten))
            add_counts(self._database, connection, counts)

    def leave(self) -> None:
        """Say that this process ends in order."""
        with self._database.write() as connection:
            connection.execute(t.processes.delete().where(t.processes.c.owner == this_owner()))

    def heard_of(self, connection: sa.Connection, within_s: float) -> list[RunningProcess]:
        """Return the processes that were heard of during the last `within_s` seconds."""
        p, now = t.processes.c, self._database.now()
        rows = connection.execute(
            sa.select(t.processes).where(p.beat_at >= now - within_s).order_by(p.part, p.started_at)
        )
        return [RunningProcess(**row._asdict()) for row in rows]

    def running(self) -> list[RunningProcess]:
        """Return the processes that run, by their own word."""
        with self._database.read() as connection:
            return self.heard_of(connection, SILENT_AFTER_S)

    def listeners(self, within_s: float) -> list[RunningProcess]:
        """Return the listeners that were heard of during the last `within_s` seconds."""
        with self._database.read() as connection:
            running = self.heard_of(connection, within_s)
        return [process for process in running if process.part == "listen"]
