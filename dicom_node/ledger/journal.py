"""The ledger without patients: counts and the latest events, for whoever supports the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database

__all__ = ["JournalEvent", "deliveries_by_status", "patient_words", "recent_events", "row_counts"]


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """One line of the journal; `series_instance_uid` is empty where it is of no series."""

    at: float
    kind: str
    series_instance_uid: str
    detail: dict[str, Any]


def recent_events(database: Database, limit: int) -> list[JournalEvent]:
    """Return the latest events, the newest first."""
    e, s = t.events.c, t.series.c
    query = (
        sa.select(e.at, e.kind, s.series_instance_uid, e.detail)
        .select_from(t.events.outerjoin(t.series, s.id == e.series_id))
        .order_by(e.id.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [
            JournalEvent(row[0], row[1], row[2] or "", row[3] or {})
            for row in connection.execute(query)
        ]


def row_counts(database: Database) -> dict[str, int]:
    """Return how many rows each table has."""
    with database.read() as connection:
        return {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in t.metadata.sorted_tables
        }


def deliveries_by_status(database: Database) -> list[dict[str, Any]]:
    """Return deliveries counted by destination, state and the peer's last DIMSE status.

    The peer's words are left out: a PACS may quote a patient in its error comment.
    """
    d, p = t.deliveries.c, t.shipments.c
    query = (
        sa.select(p.destination, d.state, d.status, sa.func.count())
        .select_from(t.deliveries.join(t.shipments, p.id == d.shipment_id))
        .group_by(p.destination, d.state, d.status)
        .order_by(p.destination, d.state, d.status)
    )
    with database.read() as connection:
        return [
            {
                "destination": row[0],
                "state": str(row[1]),
                "status": None if row[2] is None else f"0x{row[2]:04X}",
                "count": row[3],
            }
            for row in connection.execute(query)
        ]


def patient_words(database: Database) -> set[str]:
    """Return the patient IDs and accession numbers of the ledger: what must not leave the node."""
    s = t.series.c
    with database.read() as connection:
        rows = connection.execute(sa.select(s.patient_id, s.accession_number).distinct())
        return {value for row in rows for value in row if value}
