"""Which received instances may go, and which files nobody knows.

An input goes only when its series ended and every object of its results is proven to be held by
its destination, or by an explicit policy so long after it was sent. What failed to be proven, is
parked, quarantined or under way keeps its input.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState

__all__ = ["PurgeableInstance", "Retention"]

_UNFINISHED_ANALYSIS = [AnalysisState.WAITING, AnalysisState.RUNNING, AnalysisState.QUARANTINED]
_CHUNK = 500  # bound values per statement


@dataclass(frozen=True, slots=True)
class PurgeableInstance:
    """A received instance that nothing needs any more."""

    instance_id: int
    digest: str
    path: str
    size_bytes: int


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

        The rows stay, so that a second sending has no effect. A crash before the files are removed
        leaves files that :meth:`unknown` tells.
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
            return purged

    def unknown(self, digests: Collection[str]) -> set[str]:
        """Return those of `digests` that no instance or conflict refers to, or only purged ones."""
        listed = sorted(digests)
        known: set[str] = set()
        i, c = t.instances.c, t.conflicts.c
        with self._database.read() as connection:
            for start in range(0, len(listed), _CHUNK):
                chunk = listed[start : start + _CHUNK]
                known.update(
                    connection.scalars(
                        sa.select(i.digest).where(i.digest.in_(chunk), i.purged_at.is_(None))
                    )
                )
                known.update(connection.scalars(sa.select(c.digest).where(c.digest.in_(chunk))))
        return set(listed) - known

    def _query(
        self, older_than_s: float, without_proof_s: float | None
    ) -> sa.Select[tuple[int, str, str, int, int]]:
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
            sa.select(i.id, i.digest, i.path, i.size_bytes, i.series_id)
            .join(t.series, s.id == i.series_id)
            .where(
                i.purged_at.is_(None),
                s.last_arrival_at <= now - older_than_s,
                ~unfinished_revision,
                ~unfinished_analysis,
                ~undelivered,
            )
            .order_by(s.last_arrival_at, i.id)
        )


def _instance(row: sa.Row[tuple[int, str, str, int, int]]) -> PurgeableInstance:
    return PurgeableInstance(row.id, row.digest, row.path, row.size_bytes)
