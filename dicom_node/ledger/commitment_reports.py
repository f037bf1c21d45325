"""Storage commitment reports: at any time, by any process, after any restart.

A report is matched by Transaction UID, peer and SOP Instance UID, and counts only for the sending
that was asked about. The first word on an object counts; whatever comes after has no effect.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.commitments import CommitmentState
from dicom_node.ledger.database import Database
from dicom_node.ledger.shipments import work_left
from dicom_node.ledger.states import DELIVERY_TRANSITIONS, DeliveryEvent, DeliveryState
from dicom_node.storage_commitment import CommitmentReport

__all__ = ["CommitmentReports", "ProofStep", "TakenReport"]


class ProofStep(enum.StrEnum):
    """What a failure means for the object."""

    SEND_AGAIN = "send_again"
    ASK_AGAIN = "ask_again"
    FAIL = "fail"


# Failure Reason (0008,1197), PS3.3 C.14.1.1.
_FAILURES: Mapping[int, tuple[ProofStep, str]] = {
    0x0110: (ProofStep.SEND_AGAIN, "processing failure"),
    0x0112: (ProofStep.SEND_AGAIN, "no such object instance"),
    0x0119: (ProofStep.FAIL, "it holds another class under this UID"),
    0x0122: (ProofStep.FAIL, "it does not commit this SOP class"),
    0x0131: (ProofStep.ASK_AGAIN, "duplicate Transaction UID"),
    0x0213: (ProofStep.SEND_AGAIN, "resource limitation"),
}


@dataclass(frozen=True, slots=True)
class TakenReport:
    """What a report changed, and whose results it was about.

    Attributes
    ----------
    committed, failed : int
        Objects of which it was the first word.
    """

    study_instance_uid: str
    patient_id: str
    committed: int
    failed: int


class CommitmentReports:
    """For the listener and for whoever else gets a report."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(
        self, report: CommitmentReport, peers: Collection[str], *, max_resends: int
    ) -> TakenReport | None:
        """Record what a peer reports, in one durable transaction; the second time has no effect.

        Parameters
        ----------
        peers : collection of str
            Names of the destinations that the report may come from.
        max_resends : int
            How often an object is sent again that a peer does not hold.

        Returns
        -------
        TakenReport or None
            None: none of these peers was ever asked by this Transaction UID.
        """
        c = t.commitments.c
        with self._database.write() as connection:
            found = connection.execute(
                sa.select(c.id, c.shipment_id, c.destination).where(
                    c.transaction_uid == report.transaction_uid
                )
            ).first()
            if found is None or found.destination not in peers:
                return None
            _lock(connection, found.shipment_id)
            counts = _Settlement(self._database, connection, found.id, max_resends).settle(report)
            series = _series_of(connection, found.shipment_id)
            if counts["committed"] or counts["failed"]:
                _reopen(connection, found.shipment_id, self._database.now())
                self._database.event(
                    connection,
                    "commitment_reported",
                    series.id,
                    destination=found.destination,
                    **counts,
                )
            return TakenReport(
                series.study_instance_uid, series.patient_id, counts["committed"], counts["failed"]
            )


class _Settlement:
    """One report, applied to the objects of its transaction."""

    def __init__(
        self, database: Database, connection: sa.Connection, commitment_id: int, max_resends: int
    ) -> None:
        self._now = database.now()
        self._connection = connection
        self._commitment_id = commitment_id
        self._max_resends = max_resends

    def settle(self, report: CommitmentReport) -> Counter[str]:
        """Return how many objects were committed, failed, settled before, or never asked for."""
        i = t.commitment_items.c
        items = {
            item.sop_instance_uid: item
            for item in self._connection.execute(
                sa.select(t.commitment_items).where(i.commitment_id == self._commitment_id)
            )
        }
        counts: Counter[str] = Counter()
        settled = {uid for uid, item in items.items() if item.outcome is not None}
        # Failures first: of an object that stands in both lists, nothing is proven.
        named: list[tuple[str, int | None]] = [
            (failure.sop_instance_uid, failure.reason) for failure in report.failed
        ]
        named += [
            (one.sop_instance_uid, None)
            for one in report.committed
            if one.sop_instance_uid in items
            and items[one.sop_instance_uid].sop_class_uid == one.sop_class_uid
        ]
        counts["strangers"] = (
            len(report.committed)
            + len(report.failed)
            - len([uid for uid, _ in named if uid in items])
        )
        for uid, reason in named:
            if uid not in items:
                continue
            if uid in settled:
                counts["repeated"] += 1
                continue
            settled.add(uid)
            counts["committed" if reason is None else "failed"] += 1
            self._settle_one(items[uid], reason)
        if settled == set(items):
            self._connection.execute(
                t.commitments.update()
                .where(t.commitments.c.id == self._commitment_id)
                .values(state=CommitmentState.REPORTED, reported_at=self._now)
            )
        return counts

    def _settle_one(self, item: Any, reason: int | None) -> None:
        self._connection.execute(
            t.commitment_items.update()
            .where(t.commitment_items.c.id == item.id)
            .values(outcome="committed" if reason is None else "failed", failure_reason=reason)
        )
        d = t.deliveries.c
        delivery = self._connection.execute(
            sa.select(d.state, d.attempts, d.resends).where(d.id == item.delivery_id)
        ).one()
        if delivery.attempts != item.sending:
            return  # sent again since: this report is about the former sending
        if reason is None:
            event, values = DeliveryEvent.COMMIT_SUCCESS, {"error": ""}
        else:
            event, values = self._failure(reason, int(delivery.resends))
        state = DELIVERY_TRANSITIONS.get((DeliveryState(delivery.state), event))
        if state is not None:  # else it came to its end in another way
            self._connection.execute(
                t.deliveries.update()
                .where(d.id == item.delivery_id)
                .values(state=state, **{"proof_due_at": None, **values})
            )

    def _failure(self, reason: int, resends: int) -> tuple[DeliveryEvent, dict[str, Any]]:
        proof_step, meaning = _FAILURES.get(reason, (ProofStep.SEND_AGAIN, "unnamed reason"))
        words = f"the peer does not commit it: {meaning} (0x{reason:04X})"
        if proof_step is ProofStep.ASK_AGAIN:
            values = {"proof_due_at": self._now, "error": words}
            return DeliveryEvent.COMMIT_UNANSWERED, values
        if proof_step is ProofStep.SEND_AGAIN and resends < self._max_resends:
            return DeliveryEvent.COMMIT_FAILURE, {"resends": resends + 1, "error": words}
        if resends:
            words += f", though it was sent {resends + 1} times"
        return DeliveryEvent.COMMIT_EXHAUSTED, {"error": words}


def _lock(connection: sa.Connection, shipment_id: int) -> None:
    """Lock the shipment's row, as every writer of its deliveries does first."""
    s = t.shipments.c
    connection.execute(
        t.shipments.update().where(s.id == shipment_id).values(lease_token=s.lease_token)
    )


def _reopen(connection: sa.Connection, shipment_id: int, now: float) -> None:
    """Open or close a shipment by what is left to do; who holds its lease decides at the end."""
    s = t.shipments.c
    waiting, proof_due_at = work_left(connection, shipment_id)
    values: dict[str, Any] = {"open": waiting > 0 or proof_due_at is not None}
    if waiting:
        values |= {"ready_at": now, "nudged_at": None}
    elif proof_due_at is not None:
        values |= {"ready_at": proof_due_at}
    connection.execute(
        t.shipments.update().where(s.id == shipment_id, s.lease_owner.is_(None)).values(**values)
    )


def _series_of(connection: sa.Connection, shipment_id: int) -> sa.Row[int, str, str]:
    s = t.series.c
    return connection.execute(
        sa.select(s.id, s.study_instance_uid, s.patient_id)
        .join(t.revisions, t.revisions.c.series_id == s.id)
        .join(t.analyses, t.analyses.c.revision_id == t.revisions.c.id)
        .join(t.shipments, t.shipments.c.analysis_id == t.analyses.c.id)
        .where(t.shipments.c.id == shipment_id)
    ).one()
