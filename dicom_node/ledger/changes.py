"""What changed since the last look: one small look for all who watch, however many they are."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState, RevisionState

__all__ = ["Changes", "Look"]

_MOST_EVENTS = 500  # of one look; more in a second, and the rest comes with the next


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found.

    Attributes
    ----------
    changed : frozenset of int
        Ids of series.
    arrived : bool
        Series are among them that were not there before.
    """

    changed: frozenset[int]
    arrived: bool


class Changes:
    """Compares what is under way with the look before; not for use by two threads at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_event: int | None = None
        self._under_way: dict[Hashable, int] = {}

    def look(self) -> Look:
        """Look; the first look finds nothing."""
        e = t.events.c
        with self._database.read() as connection:
            under_way = _under_way(connection)
            if self._last_event is None:
                self._last_event = connection.scalar(sa.select(sa.func.max(e.id))) or 0
                self._under_way = under_way
                return Look(frozenset(), arrived=False)
            events = connection.execute(
                sa.select(e.id, e.series_id, e.kind)
                .where(e.id > self._last_event)
                .order_by(e.id)
                .limit(_MOST_EVENTS)
            ).all()
        if events:
            self._last_event = events[-1].id
        changed = {row.series_id for row in events if row.series_id is not None}
        # An entry holds all that may change: what is in one look only, has changed.
        for entry in under_way.keys() ^ self._under_way.keys():
            changed.add(under_way.get(entry, self._under_way.get(entry, 0)))
        self._under_way = under_way
        return Look(
            frozenset(changed), arrived=any(row.kind == "revision_opened" for row in events)
        )


def _under_way(connection: sa.Connection) -> dict[Hashable, int]:
    """Return series by (what it is, everything of it that may change)."""
    r, a, p = t.revisions.c, t.analyses.c, t.shipments.c
    receiving = connection.execute(
        sa.select(r.series_id, r.instance_count, r.expected_count, r.waiting_for).where(
            r.state == RevisionState.RECEIVING
        )
    )
    running = connection.execute(
        sa.select(r.series_id, a.id, a.stage, a.done, a.total)
        .join(t.analyses, a.revision_id == r.id)
        .where(a.state == AnalysisState.RUNNING)
    )
    # Whoever sends renews the lease after each object.
    sending = connection.execute(
        sa.select(r.series_id, p.id, p.lease_token, p.lease_expires_at)
        .join(t.analyses, a.revision_id == r.id)
        .join(t.shipments, p.analysis_id == a.id)
        .where(p.open.is_(True), p.lease_owner.is_not(None))
    )
    return {
        (kind, *row): row[0]
        for kind, rows in (("receiving", receiving), ("running", running), ("sending", sending))
        for row in rows
    }
