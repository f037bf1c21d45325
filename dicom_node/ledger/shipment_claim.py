"""What is handed to a worker that claims a shipment."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.states import DeliveryState

__all__ = ["Candidate", "PendingDelivery", "ShipmentClaim", "read_claim"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that can fill a slot; `path` is relative to the results directory."""

    object_id: int
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    rank: int


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """One slot of a shipment that the destination does not hold yet.

    Attributes
    ----------
    chosen : bool
        A choice was made. It stays, so that no destination ever gets two alternatives of one
        report.
    candidates : tuple of Candidate
        By rank; only the chosen one once there is a choice.
    """

    delivery_id: int
    slot: str
    chosen: bool
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class ShipmentClaim:
    """A leased shipment."""

    shipment_id: int
    token: int
    destination: str
    attempts: int
    created_at: float
    pending: tuple[PendingDelivery, ...]


def read_claim(connection: sa.Connection, shipment_id: int) -> ShipmentClaim:
    """Read a leased shipment with what of it waits."""
    s, d, o = t.shipments.c, t.deliveries.c, t.objects.c
    row = connection.execute(sa.select(t.shipments).where(s.id == shipment_id)).one()
    waiting = connection.execute(
        sa.select(d.id, d.slot, d.object_id)
        .where(d.shipment_id == shipment_id, d.state == DeliveryState.WAITING)
        .order_by(d.slot)
    ).all()
    by_slot: dict[str, list[Candidate]] = {}
    for item in connection.execute(
        sa.select(t.objects).where(o.analysis_id == row.analysis_id).order_by(o.slot, o.rank)
    ):
        by_slot.setdefault(item.slot, []).append(
            Candidate(
                item.id,
                item.kind,
                item.sop_class_uid,
                item.sop_instance_uid,
                item.path,
                item.sha256,
                item.rank,
            )
        )
    return ShipmentClaim(
        shipment_id=shipment_id,
        token=row.lease_token,
        destination=row.destination,
        attempts=row.attempts,
        created_at=row.created_at,
        pending=tuple(
            PendingDelivery(
                delivery.id,
                delivery.slot,
                delivery.object_id is not None,
                tuple(
                    candidate
                    for candidate in by_slot[delivery.slot]
                    if delivery.object_id in (None, candidate.object_id)
                ),
            )
            for delivery in waiting
        ),
    )
