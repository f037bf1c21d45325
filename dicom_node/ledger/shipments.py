"""What a delivery worker reads and writes: one shipment is all objects of a reading to one PACS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.errors import LeaseLost
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, rows_changed
from dicom_node.ledger.leases import owner_is_gone
from dicom_node.ledger.quiet import NOWHERE, may_go
from dicom_node.ledger.shipment_claim import (
    Candidate,
    PendingDelivery,
    ShipmentClaim,
    read_claim,
)
from dicom_node.ledger.states import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState, step
from dicom_node.settings import QuietHours

__all__ = [
    "BreakerRow",
    "Candidate",
    "PendingDelivery",
    "ShipmentClaim",
    "Shipments",
    "hold",
    "work_left",
]


@dataclass(frozen=True, slots=True)
class BreakerRow:
    """State of the circuit breaker of one destination, shared by all delivery workers."""

    destination: str
    state: str
    failures: int
    probe_at: float
    last_error: str = ""


class Shipments:
    """Leases and outcomes of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(
        self,
        renudge_after_s: float,
        limit: int = 1000,
        *,
        quiet: Mapping[str, QuietHours] = NOWHERE,
    ) -> list[int]:
        """Return and stamp the shipments to nudge: open, ready, unleased, not nudged lately.

        What lies in the future was written before the clock was set back: it counts as past.

        Parameters
        ----------
        quiet : mapping of destination to QuietHours
            Where it is quiet now; what goes there waits.
        """
        now = self._database.now()
        s = t.shipments.c
        with self._database.read() as connection:
            ids = list(
                connection.scalars(
                    sa.select(s.id)
                    .where(
                        s.open.is_(True),
                        sa.or_(s.ready_at <= now, s.created_at > now),
                        s.lease_owner.is_(None),
                        *may_go(quiet),
                        sa.or_(
                            s.nudged_at.is_(None),
                            s.nudged_at <= now - renudge_after_s,
                            s.nudged_at > now,
                        ),
                    )
                    .order_by(s.id)
                    .limit(limit)
                )
            )
        if ids:  # most sweeps find nothing, and then need no writers' lock
            with self._database.write() as connection:
                connection.execute(t.shipments.update().where(s.id.in_(ids)).values(nudged_at=now))
        return ids

    def return_expired(self) -> list[int]:
        """Take back the leases of dead or silent delivery workers."""
        now = self._database.now()
        s = t.shipments.c
        with self._database.read() as connection:
            leased = connection.execute(
                sa.select(s.id, s.lease_token, s.lease_owner, s.lease_expires_at).where(
                    s.open.is_(True), s.lease_owner.is_not(None)
                )
            ).all()
        returned = []
        for row in leased:
            if row.lease_expires_at > now and not owner_is_gone(row.lease_owner):
                continue
            with self._database.write() as connection:
                changed = rows_changed(
                    connection.execute(
                        t.shipments.update()
                        .where(s.id == row.id, s.lease_token == row.lease_token)
                        .values(lease_owner=None, lease_expires_at=None, nudged_at=None)
                    )
                )
            if changed:
                returned.append(row.id)
        return returned

    def claim(
        self,
        shipment_id: int,
        owner: str,
        lease_s: float,
        *,
        quiet: Mapping[str, QuietHours] = NOWHERE,
    ) -> ShipmentClaim | None:
        """Lease a shipment that is open, ready and free; None if it is not.

        Parameters
        ----------
        quiet : mapping of destination to QuietHours
            Where it is quiet now: a nudge may be older than the hours.
        """
        now = self._database.now()
        s = t.shipments.c
        with self._database.write() as connection:
            changed = rows_changed(
                connection.execute(
                    t.shipments.update()
                    .where(
                        s.id == shipment_id,
                        s.open.is_(True),
                        sa.or_(s.ready_at <= now, s.created_at > now),
                        s.lease_owner.is_(None),
                        *may_go(quiet),
                    )
                    .values(
                        lease_token=s.lease_token + 1,
                        lease_owner=owner,
                        lease_expires_at=now + lease_s,
                    )
                )
            )
            return read_claim(connection, shipment_id) if changed else None

    def choose(
        self,
        claim: ShipmentClaim,
        delivery_id: int,
        object_id: int,
        instead_of: int | None = None,
    ) -> None:
        """Fix which alternative a destination gets, before it is sent.

        Parameters
        ----------
        instead_of : int, optional
            The object that was fixed before, and that the destination has refused for good.

        Raises
        ------
        LeaseLost
        """
        fixed = t.deliveries.c.object_id
        with self._database.write() as connection:
            hold(connection, claim)
            connection.execute(
                t.deliveries.update()
                .where(
                    t.deliveries.c.id == delivery_id,
                    fixed.is_(None) if instead_of is None else fixed == instead_of,
                )
                .values(object_id=object_id)
            )

    def record(
        self,
        claim: ShipmentClaim,
        delivery_id: int,
        event: DeliveryEvent,
        *,
        lease_s: float,
        status: int | None = None,
        error: str = "",
        proof_in_s: float | None = None,
    ) -> None:
        """Record the outcome of one object and renew the lease.

        Parameters
        ----------
        proof_in_s : float or None
            When the peer is to prove that it holds what it accepted; None: never.

        Raises
        ------
        LeaseLost
        """
        d = t.deliveries.c
        now = self._database.now()
        with self._database.write() as connection:
            hold(connection, claim, lease_expires_at=now + lease_s)
            present = str(connection.scalar(sa.select(d.state).where(d.id == delivery_id)))
            state = step(DELIVERY_TRANSITIONS, DeliveryState(present), event)
            connection.execute(
                t.deliveries.update()
                .where(d.id == delivery_id)
                .values(
                    state=state,
                    attempts=d.attempts + 1,
                    status=status,
                    error=error[:512],
                    sent_at=now if state == DeliveryState.SENT else None,
                    proofs=0,
                    proof_due_at=now + proof_in_s
                    if state == DeliveryState.SENT and proof_in_s is not None
                    else None,
                )
            )

    def release(self, claim: ShipmentClaim, *, retry_in_s: float, error: str = "") -> bool:
        """Give the lease back; return whether the shipment is now closed.

        It is closed when nothing waits to be sent and no proof is due any more.

        Raises
        ------
        LeaseLost
        """
        now = self._database.now()
        with self._database.write() as connection:
            # The lock first: a report may come in through the listener at this very moment.
            hold(connection, claim)
            waiting, proof_due_at = work_left(connection, claim.shipment_id)
            ready_at = now + retry_in_s
            if not waiting and proof_due_at is not None:
                ready_at = max(ready_at, proof_due_at)
            is_open = waiting > 0 or proof_due_at is not None
            hold(
                connection,
                claim,
                open=is_open,
                lease_owner=None,
                lease_expires_at=None,
                nudged_at=None,
                ready_at=ready_at,
                attempts=claim.attempts + 1 if error else 0,
                last_error=error[:512],
            )
            if not waiting and (claim.pending or not is_open):
                self._journal(connection, claim)
            return not is_open

    def subject(self, shipment_id: int) -> tuple[str, str]:
        """Return whose results a shipment holds: study instance UID and patient ID."""
        s = t.series.c
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(s.study_instance_uid, s.patient_id)
                .join(t.revisions, t.revisions.c.series_id == s.id)
                .join(t.analyses, t.analyses.c.revision_id == t.revisions.c.id)
                .join(t.shipments, t.shipments.c.analysis_id == t.analyses.c.id)
                .where(t.shipments.c.id == shipment_id)
            ).one()
        return str(row[0]), str(row[1])

    def breaker(self, destination: str) -> BreakerRow | None:
        """Read the breaker of a destination; None if it never failed."""
        b = t.breakers
        with self._database.read() as connection:
            row = connection.execute(sa.select(b).where(b.c.destination == destination)).first()
        return BreakerRow(**row._asdict()) if row else None

    def set_breaker(self, row: BreakerRow) -> None:
        """Write the breaker of a destination."""
        b = t.breakers
        values = {name: getattr(row, name) for name in BreakerRow.__slots__}
        values["last_error"] = row.last_error[:512]
        with self._database.write() as connection:
            self._database.insert_new(connection, b, [values])
            connection.execute(
                b.update().where(b.c.destination == row.destination).values(**values)
            )

    def _journal(self, connection: sa.Connection, claim: ShipmentClaim) -> None:
        series_id = connection.scalar(
            sa.select(t.revisions.c.series_id)
            .join(t.analyses, t.analyses.c.revision_id == t.revisions.c.id)
            .join(t.shipments, t.shipments.c.analysis_id == t.analyses.c.id)
            .where(t.shipments.c.id == claim.shipment_id)
        )
        counts = connection.execute(
            sa.select(t.deliveries.c.state, sa.func.count())
            .where(t.deliveries.c.shipment_id == claim.shipment_id)
            .group_by(t.deliveries.c.state)
        )
        detail: dict[str, object] = {str(state): count for state, count in counts}
        if claim.pending:  # else only proofs came in: it was sent before
            detail["seconds"] = round(max(0.0, self._database.now() - claim.created_at), 3)
        self._database.event(
            connection, "delivered", series_id, destination=claim.destination, **detail
        )


def hold(connection: sa.Connection, claim: ShipmentClaim, **values: object) -> None:
    """Assert, and lock for this transaction, that the claim still holds the lease.

    Raises
    ------
    LeaseLost
    """
    s = t.shipments.c
    changed = rows_changed(
        connection.execute(
            t.shipments.update()
            .where(
                s.id == claim.shipment_id,
                s.lease_token == claim.token,
                s.lease_owner.is_not(None),
            )
            .values(**(values or {"lease_token": claim.token}))
        )
    )
    if not changed:
        raise LeaseLost(f"shipment {claim.shipment_id} is no longer ours")


def work_left(connection: sa.Connection, shipment_id: int) -> tuple[int, float | None]:
    """Return how many objects wait to be sent, and when the next proof is due, if one is."""
    d = t.deliveries.c
    row = connection.execute(
        sa.select(
            sa.func.coalesce(
                sa.func.sum(sa.case((d.state == DeliveryState.WAITING, 1), else_=0)), 0
            ),
            sa.func.min(d.proof_due_at),
        ).where(d.shipment_id == shipment_id)
    ).one()
    return int(row[0]), row[1]
