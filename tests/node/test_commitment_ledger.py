"""Commitment in the ledger, on SQLite and PostgreSQL: what each report does to each state."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.errors import LeaseLost
from dicom_node.ledger import Ledger, ShipmentClaim, Transaction, Unproven, tables
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.storage_commitment import CommitmentReport, ObjectFailure, ObjectReference
from support.shipments import DeliveringNode

LEASE = 60.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeliveringNode]:
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else ""
    made = DeliveringNode(tmp_path / "node", ledger_url=str(url))
    yield made
    made.close()


@pytest.fixture
def ledger(node: DeliveringNode) -> Ledger:
    return node.ledger


def claimed(ledger: Ledger) -> ShipmentClaim:
    [shipment_id] = ledger.shipments.due(0.0)
    claim = ledger.shipments.claim(shipment_id, "me", LEASE)
    assert claim is not None
    return claim


def sent(ledger: Ledger, node: DeliveringNode, count: int = 3) -> ShipmentClaim:
    """Return a claim on a shipment of `count` objects that the peer accepted."""
    node.analysed(count)
    claim = claimed(ledger)
    for item in claim.pending:
        ledger.shipments.choose(claim, item.delivery_id, item.candidates[0].object_id)
        ledger.shipments.record(
            claim, item.delivery_id, DeliveryEvent.ACCEPTED, lease_s=LEASE, proof_in_s=0.0
        )
    return claim


def asked(ledger: Ledger, claim: ShipmentClaim) -> tuple[Transaction, tuple[Unproven, ...]]:
    objects = ledger.commitments.unproven(claim)
    transaction = ledger.commitments.begin(claim, objects, LEASE)
    ledger.commitments.asked(claim, transaction, report_within_s=1000.0)
    return transaction, objects


def report(
    transaction: Transaction,
    committed: list[int],
    failed: tuple[int, ...] = (),
    reason: int = 0x0112,
) -> CommitmentReport:
    references = transaction.references
    return CommitmentReport(
        transaction.transaction_uid,
        tuple(references[index] for index in committed),
        tuple(ObjectFailure(references[index].sop_instance_uid, reason) for index in failed),
    )


def take(ledger: Ledger, found: CommitmentReport, *, peer: str = "pacs", resends: int = 2) -> bool:
    return ledger.commitment_reports.take(found, {peer}, max_resends=resends) is not None


def test_a_shipment_is_open_until_its_proof(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node)
    transaction, _ = asked(ledger, claim)
    assert not ledger.shipments.release(claim, retry_in_s=0.0)
    assert ledger.shipments.due(0.0) == []  # a report is due in 1000 s
    assert ledger.worklist.counts().oldest_open_shipment_s is None  # nothing waits to be sent
    assert take(ledger, report(transaction, [0, 1]))
    assert node.states() == {"committed": 2, "commit_requested": 1}
    assert node.open_shipments() == 1
    assert take(ledger, report(transaction, [2]))
    assert node.open_shipments() == 0
    assert node.transactions() == ["reported"]


def test_a_report_while_the_lease_is_held(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node)
    transaction, _ = asked(ledger, claim)
    assert take(ledger, report(transaction, [0, 1], (2,)))
    assert not ledger.shipments.release(claim, retry_in_s=0.0)
    assert len(claimed(ledger).pending) == 1  # at once, not when the report is due


def test_a_report_faster_than_the_answer_to_its_request(
    node: DeliveringNode, ledger: Ledger
) -> None:
    claim = sent(ledger, node)
    objects = ledger.commitments.unproven(claim)
    transaction = ledger.commitments.begin(claim, objects, LEASE)
    assert take(ledger, report(transaction, [0, 1, 2]))
    ledger.commitments.asked(claim, transaction, report_within_s=1000.0)
    assert ledger.shipments.release(claim, retry_in_s=0.0)
    assert node.states() == {"committed": 3}
    assert node.transactions() == ["reported"]


def test_an_old_report_says_nothing_of_a_new_sending(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node, 1)
    first, _ = asked(ledger, claim)
    d = tables.deliveries
    with ledger.database.write() as connection:  # no report in time
        connection.execute(d.update().values(proof_due_at=0.0))
    second, _ = asked(ledger, claim)
    assert take(ledger, report(second, [], (0,)))
    ledger.shipments.release(claim, retry_in_s=0.0)
    again = claimed(ledger)
    [item] = again.pending
    # Before it is sent again, the first request's good news is news of what was lost since.
    ledger.shipments.record(
        again, item.delivery_id, DeliveryEvent.ACCEPTED, lease_s=LEASE, proof_in_s=0.0
    )
    assert take(ledger, report(first, [0]))
    assert node.states() == {"sent": 1}
    third, _ = asked(ledger, again)
    assert take(ledger, report(third, [0]))
    assert node.states() == {"committed": 1}


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        (0x0110, "waiting", "processing failure"),
        (0x0112, "waiting", "no such object instance"),
        (0x0213, "waiting", "resource limitation"),
        (0xABCD, "waiting", "unnamed reason (0xABCD)"),
        (0x0131, "sent", "duplicate Transaction UID"),
        (0x0119, "commit_failed", "another class under this UID"),
        (0x0122, "commit_failed", "does not commit this SOP class"),
    ],
)
def test_each_failure_reason(
    node: DeliveringNode, ledger: Ledger, reason: int, state: str, words: str
) -> None:
    claim = sent(ledger, node, 1)
    transaction, _ = asked(ledger, claim)
    assert take(ledger, report(transaction, [], (0,), reason))
    assert node.states() == {state: 1}
    assert words in " ".join(node.errors())


def test_late_good_news_is_heard(node: DeliveringNode, ledger: Ledger) -> None:
    """After the node gave up, and after it helped itself by C-FIND."""
    claim = sent(ledger, node, 2)
    transaction, objects = asked(ledger, claim)
    with ledger.database.write() as connection:
        connection.execute(tables.deliveries.update().values(proof_due_at=0.0))
    assert len(ledger.commitments.unproven(claim)) == 2
    one, two = (item.delivery_id for item in objects)
    ledger.commitments.conclude(claim, [one], DeliveryEvent.FOUND, "")
    ledger.commitments.conclude(claim, [two], DeliveryEvent.COMMIT_EXHAUSTED, "no report")
    assert ledger.shipments.release(claim, retry_in_s=0.0)
    assert node.states() == {"verified": 1, "commit_failed": 1}
    assert take(ledger, report(transaction, [0, 1]))
    assert node.states() == {"committed": 2}
    assert not node.errors()


def test_an_administrator_may_try_again(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node, 1)
    transaction, _ = asked(ledger, claim)
    assert take(ledger, report(transaction, [], (0,)), resends=0)
    assert node.states() == {"commit_failed": 1}
    ledger.shipments.release(claim, retry_in_s=0.0)
    [series] = ledger.worklist.find()
    assert ledger.worklist.retry(series.series_id) == ["delivery to pacs is tried again now"]
    assert node.states() == {"waiting": 1}


def test_reports_only_of_the_peer_that_was_asked(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node, 1)
    transaction, _ = asked(ledger, claim)
    assert not take(ledger, report(transaction, [0]), peer="other")
    unknown = CommitmentReport("2.25.1", transaction.references, ())
    assert not take(ledger, unknown)
    stranger = CommitmentReport(transaction.transaction_uid, (ObjectReference("1.2", "1.2.3"),), ())
    assert take(ledger, stranger)
    assert node.states() == {"commit_requested": 1}


def test_who_lost_the_lease_asks_nothing(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node, 1)
    objects = ledger.commitments.unproven(claim)
    with ledger.database.write() as connection:
        connection.execute(tables.shipments.update().values(lease_owner=None))
    with pytest.raises(LeaseLost):
        ledger.commitments.begin(claim, objects, LEASE)
    assert node.transactions() == []


def test_the_same_report_by_many_at_once(node: DeliveringNode, ledger: Ledger) -> None:
    claim = sent(ledger, node, 20)
    transaction, _ = asked(ledger, claim)
    ledger.shipments.release(claim, retry_in_s=0.0)
    found = report(transaction, list(range(10)), tuple(range(10, 20)))
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(take(ledger, found))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 8
    assert node.states() == {"committed": 10, "waiting": 10}
    resends = node.rows(sa.select(sa.func.sum(tables.deliveries.c.resends)))
    assert resends == [(10,)]  # once each
