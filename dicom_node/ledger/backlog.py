"""What still waits for a destination, before somebody takes it away."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database

__all__ = ["open_shipments"]


def open_shipments(database: Database, destination: str) -> int:
    """Return of how many readings something still is to be sent to `destination`, or proven."""
    p = t.shipments.c
    with database.read() as connection:
        found = connection.scalar(
            sa.select(sa.func.count())
            .select_from(t.shipments)
            .where(p.open.is_(True), p.destination == destination)
        )
    return int(found or 0)
