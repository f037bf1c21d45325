"""Asking a destination to prove that it holds what it accepted: storage commitment and C-FIND.

Everything here is done by a delivery worker that holds the shipment's lease. Reports are taken by
:class:`dicom_node.ledger.commitment_reports.CommitmentReports`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, inserted_id
from dicom_node.ledger.shipments import ShipmentClaim, hold
from dicom_node.ledger.states import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState, step
from dicom_node.storage_commitment import ObjectReference, new_transaction_uid

__all__ = ["CommitmentState", "Commitments", "Transaction", "Unproven"]


class CommitmentState(enum.StrEnum):
    """How far a transaction is; a report is taken in each of them."""

    ASKING = "asking"  # kept, perhaps sent: a crash leaves it so
    ASKED = "asked"  # the peer accepted the N-ACTION
    REFUSED = "refused"  # … or refused it, or broke off
    UNSENT = "unsent"  # our process ended meanwhile
    REPORTED = "reported"  # every object has its outcome


@dataclass(frozen=True, slots=True)
class Unproven:
    """An object that a destination accepted and has not proven to hold.

    Attributes
    ----------
    proofs : int
        How often proof was asked for since it was sent.
    resends : int
        How often it was sent again for want of proof.
    error : str
        Why the last request came to nothing, if that was said.
    """

    delivery_id: int
    sending: int
    proofs: int
    resends: int
    error: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """A storage commitment transaction that is about to be sent."""

    commitment_id: int
    transaction_uid: str
    references: tuple[ObjectReference, ...]


class Commitments:
    """Requests and what came of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- for the delivery worker ---------------------------------------------------------------

    def unproven(self, claim: ShipmentClaim) -> tuple[Unproven, ...]:
        """Return the objects whose proof is due now; requests without report in time are over.

        Raises
        ------
        LeaseLost
        """
        now = self._database.now()
        d, o, c = t.deliveries.c, t.objects.c, t.commitments.c
        lapsed = step(
            DELIVERY_TRANSITIONS, DeliveryState.COMMIT_REQUESTED, DeliveryEvent.COMMIT_UNANSWERED
        )
        with self._database.write() as connection:
            hold(connection, claim)
            # Whoever held the lease before us died while it asked: it is asked anew, and a report
            # to the former transaction counts all the same.
            connection.execute(
                t.commitments.update()
                .where(c.shipment_id == claim.shipment_id, c.state == CommitmentState.ASKING)
                .values(state=CommitmentState.UNSENT, error="the sender ended while it asked")
            )
            connection.execute(
                t.deliveries.update()
                .where(
                    d.shipment_id == claim.shipment_id,
                    d.state == DeliveryState.COMMIT_REQUESTED,
                    d.proof_due_at <= now,
                )
                .values(state=lapsed)
            )
            rows = connection.execute(
                sa.select(
                    d.id.label("delivery_id"),
                    d.attempts.label("sending"),
                    d.proofs,
                    d.resends,
                    d.error,
                    o.sop_class_uid,
                    o.sop_instance_uid,
                    o.series_instance_uid,
                )
                .join(t.objects, o.id == d.object_id)
                .where(
                    d.shipment_id == claim.shipment_id,
                    d.state == DeliveryState.SENT,
                    d.proof_due_at <= now,
                )
                .order_by(d.id)
            )
            return tuple(Unproven(**row._asdict()) for row in rows)

    def begin(
        self, claim: ShipmentClaim, objects: Sequence[Unproven], lease_s: float
    ) -> Transaction:
        """Make a transaction that asks for `objects`; durable before anything is sent.

        Raises
        ------
        LeaseLost
        """
        now = self._database.now()
        uid = new_transaction_uid()
        state = step(DELIVERY_TRANSITIONS, DeliveryState.SENT, DeliveryEvent.COMMIT_ASKED)
        with self._database.write() as connection:
            hold(connection, claim, lease_expires_at=now + lease_s)
            commitment_id = inserted_id(
                connection.execute(
                    t.commitments.insert().values(
                        shipment_id=claim.shipment_id,
                        transaction_uid=uid,
                        destination=claim.destination,
                        state=CommitmentState.ASKING,
                        requested_at=now,
                    )
                )
            )
            connection.execute(
                t.commitment_items.insert(),
                [
                    {
                        "commitment_id": commitment_id,
                        "delivery_id": one.delivery_id,
                        "sop_class_uid": one.sop_class_uid,
                        "sop_instance_uid": one.sop_instance_uid,
                        "sending": one.sending,
                    }
                    for one in objects
                ],
            )
            d = t.deliveries.c
            connection.execute(
                t.deliveries.update()
                .where(
                    d.id.in_([one.delivery_id for one in objects]), d.state == DeliveryState.SENT
                )
                .values(state=state)  # due at once until the peer accepts the request
            )
        references = tuple(ObjectReference(o.sop_class_uid, o.sop_instance_uid) for o in objects)
        return Transaction(commitment_id, uid, references)

    def asked(
        self, claim: ShipmentClaim, transaction: Transaction, *, report_within_s: float
    ) -> None:
        """Note that the peer accepted the request and now owes a report.

        Raises
        ------
        LeaseLost
        """
        due = {"proof_due_at": self._database.now() + report_within_s}
        self._note(claim, transaction, CommitmentState.ASKED, 0x0000, "", due)

    def refused(
        self,
        claim: ShipmentClaim,
        transaction: Transaction,
        error: str,
        *,
        status: int | None,
        ask_in_s: float,
        proofs: int | None,
    ) -> None:
        """Note that the peer refused the request, or broke off in place of an answer.

        Parameters
        ----------
        ask_in_s : float
            When to look again.
        proofs : int or None
            How many attempts this counts as: all there are where asking again is useless, None
            for one.

        Raises
        ------
        LeaseLost
        """
        values: dict[str, Any] = {"proof_due_at": self._database.now() + ask_in_s}
        values |= {"error": error[:512]} | ({} if proofs is None else {"proofs": proofs})
        self._note(claim, transaction, CommitmentState.REFUSED, status, error, values)

    def _note(
        self,
        claim: ShipmentClaim,
        transaction: Transaction,
        state: CommitmentState,
        status: int | None,
        error: str,
        values: dict[str, Any],
    ) -> None:
        c, d, i = t.commitments.c, t.deliveries.c, t.commitment_items.c
        asked = state is CommitmentState.ASKED
        after = (
            DeliveryState.COMMIT_REQUESTED
            if asked
            else step(
                DELIVERY_TRANSITIONS,
                DeliveryState.COMMIT_REQUESTED,
                DeliveryEvent.COMMIT_UNANSWERED,
            )
        )
        with self._database.write() as connection:
            hold(connection, claim)
            # The report may have been faster than the answer to the request.
            connection.execute(
                t.commitments.update()
                .where(c.id == transaction.commitment_id, c.state == CommitmentState.ASKING)
                .values(state=state, status=status, error=error[:512])
            )
            mine = sa.select(i.delivery_id).where(
                i.commitment_id == transaction.commitment_id, i.outcome.is_(None)
            )
            counted = {"proofs": d.proofs + 1, **values}
            connection.execute(
                t.deliveries.update()
                .where(d.id.in_(mine), d.state == DeliveryState.COMMIT_REQUESTED)
                .values(state=after, **counted)
            )

    def look_again(self, claim: ShipmentClaim, delivery_ids: Collection[int], in_s: float) -> None:
        """Note that C-FIND did not list these objects yet.

        Raises
        ------
        LeaseLost
        """
        d = t.deliveries.c
        with self._database.write() as connection:
            hold(connection, claim)
            connection.execute(
                t.deliveries.update()
                .where(d.id.in_(delivery_ids))
                .values(proofs=d.proofs + 1, proof_due_at=self._database.now() + in_s)
            )

    def conclude(
        self, claim: ShipmentClaim, delivery_ids: Collection[int], event: DeliveryEvent, error: str
    ) -> None:
        """End the search for proof: FOUND, COMMIT_FAILURE (send again) or COMMIT_EXHAUSTED.

        Raises
        ------
        LeaseLost
        """
        state = step(DELIVERY_TRANSITIONS, DeliveryState.SENT, event)
        d = t.deliveries.c
        again = {"resends": d.resends + 1} if event is DeliveryEvent.COMMIT_FAILURE else {}
        with self._database.write() as connection:
            hold(connection, claim)
            # Still unproven: a report may have come meanwhile.
            connection.execute(
                t.deliveries.update()
                .where(d.id.in_(delivery_ids), d.state == DeliveryState.SENT)
                .values(state=state, error=error[:512], proofs=0, proof_due_at=None, **again)
            )

    def waive(self, claim: ShipmentClaim) -> None:
        """Note that nobody asks for proof any more: the destination's settings changed.

        Raises
        ------
        LeaseLost
        """
        d = t.deliveries.c
        with self._database.write() as connection:
            hold(connection, claim)
            connection.execute(
                t.deliveries.update()
                .where(d.shipment_id == claim.shipment_id, d.state == DeliveryState.SENT)
                .values(proof_due_at=None)
            )

    def objects_in_series(self, claim: ShipmentClaim) -> dict[str, int]:
        """Return how many objects of this shipment the destination accepted, by series."""
        d, o = t.deliveries.c, t.objects.c
        accepted = [
            DeliveryState.SENT,
            DeliveryState.COMMIT_REQUESTED,
            DeliveryState.COMMITTED,
            DeliveryState.VERIFIED,
        ]
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(o.series_instance_uid, sa.func.count())
                .join(t.deliveries, d.object_id == o.id)
                .where(d.shipment_id == claim.shipment_id, d.state.in_(accepted))
                .group_by(o.series_instance_uid)
            )
            return {str(uid): int(count) for uid, count in rows}

    def study_instance_uid(self, claim: ShipmentClaim) -> str:
        """Return the study that the objects of this shipment belong to."""
        a, r, s = t.analyses.c, t.revisions.c, t.shipments.c
        with self._database.read() as connection:
            return str(
                connection.scalar(
                    sa.select(t.series.c.study_instance_uid)
                    .join(t.revisions, r.series_id == t.series.c.id)
                    .join(t.analyses, a.revision_id == r.id)
                    .join(t.shipments, s.analysis_id == a.id)
                    .where(s.id == claim.shipment_id)
                )
            )
