"""Storage commitment against a PACS in each of its moods, with the real listener where it calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.simulated_pacs import SimulatedPacs, behaviour_from
from support.shipments import DeliveringNode, killed

Start = Callable[..., SimulatedPacs]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DeliveringNode]:
    made = DeliveringNode(tmp_path / "node")
    yield made
    made.close()


@pytest.fixture
def pacs(tmp_path: Path, node: DeliveringNode) -> Iterator[Start]:
    """Start a PACS that misbehaves as ordered, and make it the node's destination."""
    running: list[SimulatedPacs] = []

    def start(orders: str = "", **peer: Any) -> SimulatedPacs:
        number = len(running)
        behaviour = behaviour_from(orders, peers={"M3LUNG": ("127.0.0.1", node.port)})
        title = f"SIMPACS{number or ''}"
        made = SimulatedPacs(tmp_path / f"pacs{number}", ae_title=title, behaviour=behaviour)
        running.append(made)
        fields = {"commitment": "request", "roles": ["destination"], "compress": "none", **peer}
        name = f"pacs{number or ''}"
        node.configure({"name": name, "ae_title": title, "port": made.port, **fields})
        return made

    yield start
    for one in running:
        one.stop()


def patient(node: DeliveringNode, **rules: Any) -> None:
    """Wait a second for a report, on the association that asks as well."""
    node.configure(commitment={"report_within_s": 1.0, "linger_s": 0.3, **rules})


def answered(pacs: SimulatedPacs, count: int) -> list[tuple[str, int]]:
    """Wait until the PACS knows how `count` reports were answered; return way and status."""
    deadline = time.monotonic() + 20
    while len(pacs.commitment.reports) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return [(one.via, one.status) for one in pacs.commitment.reports]


# A report that comes -------------------------------------------------------------------------


def test_a_report_on_the_same_association(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs()
    node.configure(commitment={"linger_s": 5.0})
    node.analysed(4)
    node.deliver()
    assert node.states() == {"committed": 4}
    assert not node.open_shipments()
    assert node.transactions() == ["reported"]
    [request] = archive.commitment.requests
    assert {uid for _, uid in request.references} == {
        one.sop_instance_uid for one in archive.holdings
    }
    assert answered(archive, 1) == [("same", 0)]


def test_a_report_on_a_new_association(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-new,commit-late:1")
    node.listener.start()
    node.analysed(4)
    node.deliver()
    assert node.states() == {"commit_requested": 4}
    assert node.open_shipments()  # a proof is due
    node.ended(committed=4)
    assert answered(archive, 1) == [("new", 0)]


def test_a_report_on_the_next_association_that_we_open(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-later")
    node.configure(commitment={"linger_s": 0.5})
    node.analysed(2)
    node.deliver()
    assert node.states() == {"commit_requested": 2}
    node.analysed(3)
    node.deliver()
    assert node.states() == {"committed": 2, "commit_requested": 3}
    assert answered(archive, 1) == [("later", 0)]


def test_a_report_that_comes_after_a_restart(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-new,commit-late:2")
    node.listener.start()
    node.analysed(3)
    node.deliver()
    node.listener.kill()
    time.sleep(2.5)  # the PACS calls and nobody is there; it calls again
    assert not archive.commitment.reports
    node.listener.start()
    node.ended(committed=3)


def test_a_report_after_its_request_was_repeated(node: DeliveringNode, pacs: Start) -> None:
    """Both transactions are answered; the first report settles it."""
    archive = pacs("commit-new,commit-late:2.5")
    patient(node, max_requests=5)
    node.listener.start()
    node.analysed(2)
    node.ended(committed=2)
    assert len(archive.commitment.requests) > 1
    uids = {one.transaction_uid for one in archive.commitment.requests}
    assert len(uids) == len(archive.commitment.requests)


def test_a_report_that_comes_twice(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-double")
    node.configure(commitment={"linger_s": 1.0})
    node.analysed(2)
    node.ended(committed=2)
    assert answered(archive, 2) == [("same", 0), ("same", 0)]


def test_a_report_on_an_unknown_transaction(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-unknown")
    node.configure(commitment={"linger_s": 1.0})
    node.analysed(2)
    node.ended(committed=2)
    assert answered(archive, 2) == [("same", 0x0115), ("same", 0)]


# A report that says no -----------------------------------------------------------------------


def test_what_was_lost_is_sent_again(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("lose:1")
    patient(node)
    node.analysed(4)
    node.ended(committed=4)
    assert len(archive.requests) == 5  # exactly the lost one went again
    assert (len(archive.holdings), archive.holdings.repeats) == (4, [])
    answered(archive, 2)
    assert [(one.committed, one.failed) for one in archive.commitment.reports] == [(3, 1), (1, 0)]


def test_a_pacs_that_keeps_nothing_is_given_up(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("lose-all")
    patient(node, max_resends=2)
    node.analysed(2)
    node.ended(commit_failed=2)
    assert len(archive.requests) == 3 * 2
    assert node.errors() == {
        "the peer does not commit it: no such object instance (0x0112), though it was sent 3 times"
    }


def test_half_a_failure_costs_the_failed_half(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-half:1")
    patient(node)
    node.analysed(4)
    node.ended(committed=4)
    assert len(archive.requests) == 6
    answered(archive, 2)
    assert [(one.committed, one.failed) for one in archive.commitment.reports] == [(2, 2), (2, 0)]
    assert archive.holdings.conflicts == []


def test_what_a_report_does_not_name_is_asked_again(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-partial:1")
    patient(node)
    node.analysed(4)
    node.deliver()
    assert node.states() == {"committed": 2, "commit_requested": 2}
    node.ended(committed=4)
    assert len(archive.requests) == 4  # asked again, not sent again
    assert [len(one.references) for one in archive.commitment.requests] == [4, 2]
    assert node.transactions() == ["asked", "reported"]


# No report -----------------------------------------------------------------------------------


def test_silence_is_asked_again(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-silent:1")
    patient(node)
    node.analysed(2)
    node.ended(committed=2)
    assert len(archive.commitment.requests) == 2
    assert node.transactions() == ["asked", "reported"]


def test_silence_for_ever_ends_with_a_reason(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs("commit-silent")
    patient(node, max_requests=2)
    node.analysed(2)
    node.ended(commit_failed=2)
    assert len(archive.commitment.requests) == 2
    assert node.errors() == {"no storage commitment report came to 2 requests"}


def test_silence_for_ever_is_verified_by_c_find(node: DeliveringNode, pacs: Start) -> None:
    pacs("commit-silent", verify="c-find")
    patient(node, max_requests=2)
    node.analysed(2)
    node.ended(verified=2)


def test_a_request_refused_for_now_is_repeated(node: DeliveringNode, pacs: Start) -> None:
    pacs("commit-refuse:1")
    patient(node)
    node.analysed(2)
    node.ended(committed=2)
    assert node.transactions() == ["refused", "reported"]


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ("commit-forbid", "the peer refused storage commitment: status 0x0124"),
        ("commit-none", "SOP class not supported"),
    ],
)
@pytest.mark.parametrize(("verify", "state"), [("none", "commit_failed"), ("c-find", "verified")])
def test_a_pacs_without_storage_commitment(
    node: DeliveringNode, pacs: Start, orders: str, words: str, verify: str, state: str
) -> None:
    pacs(orders, verify=verify)
    patient(node)
    node.analysed(2)
    node.ended(**{state: 2})
    if verify == "none":
        assert words in " ".join(node.errors())


def test_an_unreachable_pacs_is_asked_when_it_is_back(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs()
    patient(node, linger_s=1.0)
    node.analysed(2)
    folder, port = archive.holdings.folder, archive.port
    assert node.deliver_in_child("delivery.before_n_action") < 0
    archive.stop()
    for _ in range(5):
        node.deliver()
        time.sleep(0.2)
    assert node.states() == {"sent": 2}
    again = SimulatedPacs(folder, ae_title=archive.ae_title, port=port)
    try:
        node.ended(committed=2)
    finally:
        again.stop()


# By C-FIND alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("orders", ["", "no-image-level"])
def test_verified_by_c_find(node: DeliveringNode, pacs: Start, orders: str) -> None:
    archive = pacs(orders, commitment="none", verify="c-find")
    node.analysed(3)
    node.ended(verified=3)
    assert not archive.commitment.requests


@pytest.mark.parametrize("orders", ["lose:1", "lose:1,no-image-level"])
def test_what_is_not_listed_is_sent_again(node: DeliveringNode, pacs: Start, orders: str) -> None:
    archive = pacs(orders, commitment="none", verify="c-find")
    node.configure(commitment={"max_requests": 2})
    node.analysed(3)
    node.ended(verified=3)
    assert len(archive.holdings) == 3
    assert archive.holdings.conflicts == []
    if orders == "lose:1":
        assert len(archive.requests) == 4


def test_no_c_find_is_no_proof(node: DeliveringNode, pacs: Start) -> None:
    pacs("no-queries", commitment="none", verify="c-find")
    node.configure(delivery={"give_up_after_s": 1.0})
    node.analysed(1)
    node.ended(commit_failed=1)
    assert "does not offer Study Root C-FIND" in " ".join(node.errors())


def test_without_a_policy_sent_is_the_end(node: DeliveringNode, pacs: Start) -> None:
    archive = pacs(commitment="none")
    node.analysed(2)
    node.ended(sent=2)
    assert not archive.commitment.requests


# Killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_at", ["delivery.before_n_action", "delivery.after_n_action"])
@pytest.mark.parametrize("via", ["commit-new", "commit-later"])
def test_a_sender_killed_around_its_request(
    node: DeliveringNode, pacs: Start, crash_at: str, via: str
) -> None:
    archive = pacs(via)
    node.configure(commitment={"linger_s": 0.5, "report_within_s": 2.0})
    node.listener.start()
    node.analysed(4)
    assert killed(node.deliver_in_child(crash_at))
    node.ended(committed=4)
    assert len(archive.requests) == 4
    assert archive.holdings.repeats == []


@pytest.mark.parametrize("crash_at", ["listener.in_report", "listener.after_report"])
def test_a_listener_killed_inside_a_report(
    node: DeliveringNode, pacs: Start, crash_at: str
) -> None:
    archive = pacs("commit-new")
    node.configure(commitment={"report_within_s": 2.0})
    node.listener.environment = {"M3LUNG_CRASH_AT": crash_at}
    node.listener.start()
    node.analysed(4)
    node.deliver()
    assert killed(node.listener.wait_for_death())
    # What was durable before the answer stays; what was not is asked for again.
    assert node.states() == ({"committed": 4} if "after" in crash_at else {"commit_requested": 4})
    node.listener.kill()
    node.listener.environment = {}
    node.listener.start()
    node.ended(committed=4)
    assert len(archive.requests) == 4
    assert archive.holdings.repeats == []
