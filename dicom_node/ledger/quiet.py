"""Shipments that wait because their destination wants to be left alone at this hour.

Asked anew whenever something is to be sent, by the present alone: no row says until when it waits,
so that a clock that is set changes no more than when something is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.settings import Priority, QuietHours

__all__ = ["NOWHERE", "may_go", "note_held"]

NOWHERE: Mapping[str, QuietHours] = MappingProxyType({})
"""It is quiet at no destination."""
_AGAIN_S = 60.0  # between two marks of the same shipment


def may_go(quiet: Mapping[str, QuietHours]) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of shipments that no quiet hours hold back now.

    Parameters
    ----------
    quiet : mapping of destination to QuietHours
        Where it is quiet now.
    """
    if not quiet:
        return []
    s, a = t.shipments.c, t.analyses.c
    let_urgent = [name for name, hours in quiet.items() if hours.let_urgent]
    is_urgent = sa.exists().where(a.id == s.analysis_id, a.priority == Priority.URGENT)
    elsewhere = s.destination.not_in(sorted(quiet))
    return [sa.or_(elsewhere, sa.and_(s.destination.in_(let_urgent), is_urgent))]


def note_held(database: Database, quiet: Mapping[str, QuietHours]) -> None:
    """Mark what waits for the end of quiet hours, for those who watch how long work waits.

    Nothing is sent or held by the mark; at the end of the hours its age says how long ago that was.
    """
    if not quiet:
        return
    s, now = t.shipments.c, database.now()
    stale = sa.or_(s.held_at.is_(None), s.held_at < now - _AGAIN_S, s.held_at > now)
    query = sa.select(s.id).where(s.open.is_(True), ~sa.and_(*may_go(quiet)), stale).limit(1000)
    with database.read() as connection:
        held = list(connection.scalars(query))
    if held:  # once a minute: no writers' lock in most sweeps
        with database.write() as connection:
            connection.execute(t.shipments.update().where(s.id.in_(held)).values(held_at=now))
