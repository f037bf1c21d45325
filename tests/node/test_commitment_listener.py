"""Reports as they come in by the real listener: whose they may be, and how each is answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_role
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from dicom_node.audit import records
from dicom_node.errors import CannotUnderstand
from dicom_node.simulated_pacs import SimulatedPacs, behaviour_from
from dicom_node.storage_commitment import (
    MAX_REPORT_BYTES,
    ObjectReference,
    decode_report,
    encode_request,
)
from support.shipments import DeliveringNode

OVERLAY = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[DeliveringNode]:
    """A node with two objects that a silent PACS was asked for, and a listener."""
    made = DeliveringNode(tmp_path / "node")
    with SimulatedPacs(tmp_path / "pacs", behaviour=behaviour_from("commit-silent")) as pacs:
        destination = {"roles": ["destination"], "commitment": "request", "compress": "none"}
        made.configure(
            {"name": "pacs", "ae_title": "SIMPACS", "port": pacs.port, **destination},
            {"name": "other", "ae_title": "OTHER", "port": 104, **destination},
            {"name": "plain", "ae_title": "PLAIN", "port": 104, "roles": ["destination"]},
            {"name": "scanner", "ae_title": "SCANNER", "port": 104, "roles": ["source"]},
        )
        made.analysed(2)
        made.deliver()
        assert made.states() == {"commit_requested": 2}
        [request] = pacs.commitment.requests
        made.transaction_uid = request.transaction_uid  # type: ignore[attr-defined]
        made.uids = [uid for _, uid in request.references]  # type: ignore[attr-defined]
    made.listener.start()
    yield made
    made.close()


def associate(node: DeliveringNode, title: str, *, role: bool = True, **contexts: str) -> Any:
    ae = AE(title)
    ae.add_requested_context(StorageCommitmentPushModel)
    for uid in contexts.values():
        ae.add_requested_context(uid)
    roles = [build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)]
    return ae.associate("127.0.0.1", node.port, ae_title="M3LUNG", ext_neg=roles if role else None)


def report_on(transaction_uid: str, committed: list[str], failed: tuple[str, ...] = ()) -> Dataset:
    report = Dataset()
    report.TransactionUID = transaction_uid
    report.ReferencedSOPSequence = [_reference(uid) for uid in committed]
    if failed:
        report.FailedSOPSequence = [_reference(uid) for uid in failed]
        for item in report.FailedSOPSequence:
            item.FailureReason = 0x0112
    return report


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = OVERLAY, uid
    return item


def send(association: Any, report: Dataset | None, event_type: int = 1, **instance: str) -> int:
    answer, _ = association.send_n_event_report(
        report,
        event_type,
        StorageCommitmentPushModel,
        instance.get("uid", StorageCommitmentPushModelInstance),
    )
    return int(answer.Status)


@pytest.mark.parametrize("role", [True, False])
def test_the_peer_that_was_asked_is_heard(node: Any, role: bool) -> None:
    """With the role selection that the standard wants, and without, as some peers do."""
    association = associate(node, "SIMPACS", role=role)
    assert association.is_established
    if role:
        [context] = association.accepted_contexts
        assert (context.as_scu, context.as_scp) == (False, True)
    assert send(association, report_on(node.transaction_uid, node.uids[:1])) == 0
    assert node.states() == {"committed": 1, "commit_requested": 1}
    assert send(association, report_on(node.transaction_uid, node.uids)) == 0
    assert node.states() == {"committed": 2}
    assert send(association, report_on(node.transaction_uid, [], tuple(node.uids)), 2) == 0
    assert node.states() == {"committed": 2}  # the first word counts
    association.release()
    assert not node.open_shipments()


def test_reports_stand_in_the_audit_trail(node: Any) -> None:
    association = associate(node, "SIMPACS")
    assert send(association, report_on(node.transaction_uid, node.uids[:1])) == 0
    assert send(association, report_on(node.transaction_uid, [], tuple(node.uids[1:])), 2) == 0
    for _ in range(20):  # a peer that repeats itself does not fill the trail
        assert send(association, report_on(node.transaction_uid, node.uids)) == 0
        assert send(association, report_on(generate_uid(), node.uids)) == 0x0115
    association.release()
    node.listener.stop()
    told = [
        record
        for record in records(node.source().root / "audit")
        if record["EventIdentification"]["EventID"]["originalText"] == "Storage Commitment Reported"
    ]
    events = [record["EventIdentification"] for record in told]
    assert [(e["EventOutcomeDescription"], e["EventOutcomeIndicator"]) for e in events] == [
        ("1 objects committed, 0 failed", "0"),
        ("0 objects committed, 1 failed", "4"),
        ("0 objects committed, 0 failed", "0"),
        ("a report on a transaction that it was not asked for", "4"),
    ]
    peer = told[0]["ActiveParticipant"][0]
    assert peer["AlternativeUserID"] == "AETITLES=SIMPACS"
    assert (peer["NetworkAccessPointID"], peer["UserIsRequestor"]) == ("127.0.0.1", True)
    assert len(told[0]["ParticipantObjectIdentification"]) >= 1
    assert node.transaction_uid not in str(told)


def test_what_stands_in_both_lists_is_not_proven(node: Any) -> None:
    association = associate(node, "SIMPACS")
    report = report_on(node.transaction_uid, node.uids, (node.uids[0],))
    assert send(association, report, 2) == 0
    association.release()
    assert node.states() == {"waiting": 1, "committed": 1}


def test_objects_that_were_not_asked_for_have_no_effect(node: Any) -> None:
    association = associate(node, "SIMPACS")
    assert send(association, report_on(node.transaction_uid, ["1.2.3", "1.2.4"])) == 0
    wrong_class = report_on(node.transaction_uid, node.uids)
    for item in wrong_class.ReferencedSOPSequence:
        item.ReferencedSOPClassUID = CTImageStorage
    assert send(association, wrong_class) == 0
    association.release()
    assert node.states() == {"commit_requested": 2}


def test_another_peers_transaction_is_unknown_to_it(node: Any) -> None:
    association = associate(node, "OTHER")
    assert send(association, report_on(node.transaction_uid, node.uids)) == 0x0115
    association.release()
    assert node.states() == {"commit_requested": 2}


@pytest.mark.parametrize("title", ["STRANGER", "PLAIN"])
def test_who_owes_no_report_is_rejected(node: Any, title: str) -> None:
    association = associate(node, title)
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == 0x03  # calling AE title not recognised


def test_a_source_may_not_report(node: Any) -> None:
    association = associate(node, "SCANNER", verification=Verification)
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    association.release()


def test_who_may_report_may_not_store(node: Any) -> None:
    association = associate(node, "SIMPACS", ct=CTImageStorage, verification=Verification)
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    assert accepted == {StorageCommitmentPushModel, Verification}
    association.release()


def test_a_full_disk_keeps_no_report_out(node: Any) -> None:
    node.configure(listener={"min_free_bytes": 1 << 60})
    association = associate(node, "SIMPACS")
    assert association.is_established
    assert send(association, report_on(node.transaction_uid, node.uids)) == 0
    association.release()
    assert node.states() == {"committed": 2}


def test_reports_that_make_no_sense(node: Any) -> None:
    good = report_on(node.transaction_uid, node.uids)
    association = associate(node, "SIMPACS")
    assert send(association, good, 3) == 0x0113
    assert send(association, good, uid="1.2.3") == 0x0117
    assert send(association, report_on(generate_uid(), node.uids)) == 0x0115
    assert send(association, None) == 0x0115
    without = report_on("1.2", node.uids)
    del without.TransactionUID
    assert send(association, without) == 0x0212
    # … and the association still stands.
    assert send(association, good) == 0
    association.release()


def test_the_reader_believes_nothing() -> None:
    data = encode_request("2.25.1", [ObjectReference("1.2", "1.3")] * 3, implicit_vr=True)
    assert len(decode_report(data, implicit_vr=True).committed) == 3
    for cut in range(len(data)):
        if cut in (0, 20):  # where an element ends
            continue
        try:
            decode_report(data[:cut], implicit_vr=True)
        except CannotUnderstand:
            continue
        assert cut == 14, cut  # the Transaction UID alone is a report on nothing
    deep = b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    with pytest.raises(CannotUnderstand, match="too deeply"):
        decode_report(deep, implicit_vr=False)
    with pytest.raises(CannotUnderstand, match="larger"):
        decode_report(bytes(MAX_REPORT_BYTES + 1), implicit_vr=False)
