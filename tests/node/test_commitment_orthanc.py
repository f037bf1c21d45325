"""Storage commitment with a real Orthanc, which reports on an association of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.orthanc import Orthanc
from support.shipments import DeliveringNode

pytestmark = pytest.mark.peer("orthanc")


@pytest.fixture
def node(tmp_path: Path, orthanc: Orthanc) -> Iterator[DeliveringNode]:
    made = DeliveringNode(tmp_path / "node")
    made.configure(
        {
            "name": "pacs",
            "ae_title": orthanc.ae_title,
            "port": orthanc.dicom_port,
            "roles": ["destination"],
            "commitment": "request",
        }
    )
    orthanc.set_modality("node", "M3LUNG", made.port)
    made.listener.start()
    yield made
    made.close()


def test_orthanc_commits(node: DeliveringNode, orthanc: Orthanc) -> None:
    uids = node.analysed(4)
    node.ended(committed=4)
    assert orthanc.sop_instance_uids() == set(uids)
    assert node.transactions() == ["reported"]


def test_what_orthanc_lost_is_sent_again(node: DeliveringNode, orthanc: Orthanc) -> None:
    """An object that vanishes between the C-STORE and the request."""
    uids = node.analysed(3)
    assert node.deliver_in_child("delivery.before_n_action") < 0
    [lost] = orthanc.lookup(uids[0])
    orthanc.delete(lost)
    node.ended(committed=3)
    assert orthanc.sop_instance_uids() == set(uids)


def test_orthanc_that_does_not_know_us_is_asked_by_c_find(
    node: DeliveringNode, orthanc: Orthanc
) -> None:
    """It accepts the request and cannot report: nothing says where to."""
    orthanc.set_modality("node", "SOMEBODY", node.port)
    node.configure(commitment={"report_within_s": 1.0, "max_requests": 1})
    node.change_peer("pacs", verify="c-find")
    node.analysed(2)
    node.ended(verified=2)
