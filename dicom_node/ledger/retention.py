"""Which received instances may go, and which files nobody knows.

An input goes only when its series ended and every object of its results is proven to be held by
its destination, or by an explicit policy so long after it was sent. What failed to be proven, is
parked, quarantined or under way keeps its input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState

__all__ = ["PurgeableInstance", "Retention"]

_UNFINISHED_ANALYSIS = [AnalysisState.WAITING, AnalysisState.RUNNING, AnalysisState.QUARANTINED]
_CHUNK = 500  # bound values per statement
_REMOVED_AT_ONCE = 100  # files, while a series and on SQLite every writer waits

_Row = tuple[int, str, str, int, int, str]


@dataclass(frozen=True, slots=True)
class PurgeableInstance:
    """A received instance that nothing needs any more."""

    instance_id: int
    digest: str
    path: str
    size_bytes: int
    study_instance_uid: str


class Retention:
    """For whoever tidies up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def purgeable(
        self, older_than_s: float, *, without_proof_s: float | None = None, limit: int = 10_000
    ) -> list[PurgeableInstance]:
        """Return instances that may go, those of the oldest series first.

        Parameters
        ----------
        older_than_s : float
            Since the last instance of the series arrived.
        without_proof_s : float or None
            Since results were sent that no destination has proven to hold; None: they have to be.
        """
        with self._database.read() as connection:
            query = self._query(older_than_s, without_proof_s).limit(limit)
            return [_instance(row) for row in connection.execute(query)]

    def purge(
        self, older_than_s: float, *, without_proof_s: float | None = None, limit: int = 1000
    ) -> list[PurgeableInstance]:
        """Note that such instances go, and return them: their files are to be removed now.

        The rows stay: who they were is known, and a second sending finds its place. A crash before
        the files are removed leaves files that :meth:`unknown` tells.
        """
        with self._database.read() as connection:  # most sweeps find nothing: no writers' lock
            found = connection.execute(
                self._query(older_than_s, without_proof_s).limit(limit)
            ).all()
        if not found:
            return []
        with self._database.write() as connection:
            # Late slices of a series take this lock, too: judged again once it is held.
            locked = connection.scalars(
                sa.select(t.series.c.id)
                .where(t.series.c.id.in_({row.series_id for row in found}))
                .order_by(t.series.c.id)
                .with_for_update(skip_locked=True)
            ).all()
            query = self._query(older_than_s, without_proof_s).where(t.series.c.id.in_(locked))
            purged = [_instance(row) for row in connection.execute(query.limit(limit))]
            ids = [item.instance_id for item in purged]
            for start in range(0, len(ids), _CHUNK):
                connection.execute(
                    t.instances.update()
                    .where(t.instances.c.id.in_(ids[start : start + _CHUNK]))
                    .values(purged_at=self._database.now())
                )
            self._note_removed(connection, locked)
            return purged

    def _note_removed(self, connection: sa.Connection, series_ids: Sequence[int]) -> None:
        """Mark the series that hold nothing more: the next sweep does not look at them."""
        i, s = t.instances.c, t.series.c
        held = sa.exists().where(i.series_id == s.id, i.purged_at.is_(None))
        for start in range(0, len(series_ids), _CHUNK):
            connection.execute(
                t.series.update()
                .where(s.id.in_(series_ids[start : start + _CHUNK]), ~held)
                .values(removed_at=self._database.now())
            )

    def unknown(self, digests: Collection[str]) -> set[str]:
        """Return those of `digests` that no instance or conflict refers to, or only purged ones."""
        with self._database.read() as connection:
            return _unknown(connection, digests)

    def remove(self, digests: Collection[str], remove: Callable[[str], object]) -> None:
        """Call `remove` for each digest that still nobody refers to.

        An instance that is received again at this moment waits for the lock on its series, and
        finds its file either kept or gone: what was acknowledged is never taken away.
        """
        listed = sorted(digests)
        i, s = t.instances.c, t.series.c
        for start in range(0, len(listed), _REMOVED_AT_ONCE):
            chunk = listed[start : start + _REMOVED_AT_ONCE]
            with self._database.write() as connection:
                connection.execute(
                    sa.select(s.id)
                    .where(s.id.in_(sa.select(i.series_id).where(i.digest.in_(chunk))))
                    .order_by(s.id)
                    .with_for_update()
                ).all()
                for digest in sorted(_unknown(connection, chunk)):
                    remove(digest)

    def _query(self, older_than_s: float, without_proof_s: float | None) -> sa.Select[_Row]:
        s, i, r, a, p, d = (
            t.series.c, t.instances.c, t.revisions.c, t.analyses.c, t.shipments.c, t.deliveries.c,
        )  # fmt: skip
        now = self._database.now()
        proven = [DeliveryState.COMMITTED, DeliveryState.VERIFIED]
        unproven: sa.ColumnElement[bool] = d.state.not_in(proven)
        if without_proof_s is not None:
            sent_long_ago = sa.and_(
                d.state == DeliveryState.SENT,
                d.proof_due_at.is_(None),
                d.sent_at <= now - without_proof_s,
            )
            unproven = sa.and_(unproven, sa.not_(sent_long_ago))
        # Correlated: judged series by series, along the index of the oldest ones.
        unfinished_revision = sa.exists().where(
            r.series_id == s.id, r.state.in_([RevisionState.RECEIVING, RevisionState.COMPLETE])
        )
        unfinished_analysis = sa.exists().where(
            r.series_id == s.id, a.revision_id == r.id, a.state.in_(_UNFINISHED_ANALYSIS)
        )
        undelivered = sa.exists().where(
            r.series_id == s.id,
            a.revision_id == r.id,
            p.analysis_id == a.id,
            d.shipment_id == p.id,
            unproven,
        )
        return (
            sa.select(i.id, i.digest, i.path, i.size_bytes, i.series_id, s.study_instance_uid)
            .join(t.series, s.id == i.series_id)
            .where(
                i.purged_at.is_(None),
                s.removed_at.is_(None),
                s.last_arrival_at <= now - older_than_s,
                ~unfinished_revision,
                ~unfinished_analysis,
                ~undelivered,
            )
            .order_by(s.last_arrival_at, i.id)
        )


def _unknown(connection: sa.Connection, digests: Collection[str]) -> set[str]:
    listed = sorted(digests)
    known: set[str] = set()
    i, c = t.instances.c, t.conflicts.c
    for start in range(0, len(listed), _CHUNK):
        chunk = listed[start : start + _CHUNK]
        held = sa.select(i.digest).where(i.digest.in_(chunk), i.purged_at.is_(None))
        known.update(connection.scalars(held))
        known.update(connection.scalars(sa.select(c.digest).where(c.digest.in_(chunk))))
    return set(listed) - known


def _instance(row: sa.Row[_Row]) -> PurgeableInstance:
    return PurgeableInstance(row.id, row.digest, row.path, row.size_bytes, row.study_instance_uid)
