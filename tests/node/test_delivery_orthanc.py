"""Shipments to a real Orthanc."""

from __future__ import annotations

import io
import statistics
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless

from dicom_node.delivery.connection_test import check_peer, is_healthy
from dicom_node.delivery.scu import Outcome
from dicom_node.delivery.shipping import PendingDelivery, ship
from dicom_node.delivery.upper_layer import Sender
from dicom_node.settings import NodeSettings, Peer
from support.delivery_objects import overlays, pending, report
from support.orthanc import Orthanc

pytestmark = pytest.mark.peer("orthanc")

SENDER = Sender("M3LUNG", connect_timeout_s=5, response_timeout_s=20)


def send(shipment: list[PendingDelivery], peer: Peer) -> dict[int, Outcome]:
    recorded: dict[int, Outcome] = {}
    ship(
        shipment,
        peer,
        SENDER,
        choose=lambda _delivery, _object: None,
        record=lambda delivery, _object, outcome: recorded.__setitem__(delivery, outcome),
    )
    return recorded


def peer_of(orthanc: Orthanc, compress: str) -> Peer:
    return Peer(
        name="pacs",
        ae_title=orthanc.ae_title,
        port=orthanc.dicom_port,
        compress=compress,  # type: ignore[arg-type]
        query=True,
    )


@pytest.mark.parametrize(
    ("compress", "syntax"),
    [
        ("none", ExplicitVRLittleEndian),
        ("lossless", JPEGLSLossless),
        ("jpeg", JPEGBaseline8Bit),
    ],
)
def test_results_arrive_once_whatever_is_repeated(
    orthanc: Orthanc, tmp_path: Path, compress: str, syntax: str
) -> None:
    shipment = [*overlays(tmp_path, 3, size=256), pending(4, "report", report(tmp_path))]
    for _ in range(2):
        recorded = send(shipment, peer_of(orthanc, compress))
        assert {outcome.event.value for outcome in recorded.values()} == {"accepted"}
        assert recorded[1].transfer_syntax_uid == syntax
        assert orthanc.instance_count() == 4
    uid = shipment[0].candidates[0].sop_instance_uid
    (instance,) = orthanc.lookup(uid)
    held = dcmread(io.BytesIO(orthanc.download(instance)))
    original = dcmread(shipment[0].candidates[0].path)
    assert held.file_meta.TransferSyntaxUID == syntax
    difference = np.abs(held.pixel_array.astype(int) - original.pixel_array)
    assert difference.max() == 0 if compress != "jpeg" else difference.mean() < 5
    if compress == "none":
        del held.file_meta, original.file_meta
        assert held == original


def test_a_killed_pacs_comes_back_and_holds_each_once(orthanc: Orthanc, tmp_path: Path) -> None:
    shipment = overlays(tmp_path, 4)
    peer = peer_of(orthanc, "none")
    send(shipment[:2], peer)
    orthanc.kill()
    assert {outcome.event.value for outcome in send(shipment, peer).values()} == {"transient"}
    orthanc.start()
    assert {outcome.event.value for outcome in send(shipment, peer).values()} == {"accepted"}
    assert orthanc.sop_instance_uids() == {one.candidates[0].sop_instance_uid for one in shipment}


def test_the_called_ae_title_is_checked(orthanc: Orthanc, tmp_path: Path) -> None:
    peer = Peer(name="pacs", ae_title="SOMETHING", port=orthanc.dicom_port)
    (outcome,) = send(overlays(tmp_path, 1), peer).values()
    assert outcome.event.value == "permanent"
    assert "the peer is not called SOMETHING" in outcome.words


def test_an_unknown_sender_is_parked_with_words(tmp_path: Path) -> None:
    """Orthanc that serves known modalities only rejects; our title is what has to be added."""
    services = ("Store", "Echo", "Find", "Get")
    options = {f"DicomAlwaysAllow{service}": False for service in services}
    orthanc = Orthanc(tmp_path / "strict", options=options)
    orthanc.start()
    try:
        (outcome,) = send(overlays(tmp_path, 1), peer_of(orthanc, "none")).values()
        assert outcome.event.value == "permanent", outcome
        steps = check_peer(NodeSettings(), peer_of(orthanc, "none"))
        assert not is_healthy(steps)
        words = {step.name: step.words for step in steps}
        assert "does not know our AE title M3LUNG: add it" in words["association"]
        orthanc.set_modality("node", "M3LUNG", 11112)
        (outcome,) = send(overlays(tmp_path, 1), peer_of(orthanc, "none")).values()
        assert outcome.event.value == "accepted"
    finally:
        orthanc.stop()


def test_a_sender_that_may_only_echo_is_aborted(tmp_path: Path) -> None:
    """What Orthanc does with echo for all and store for known modalities only."""
    orthanc = Orthanc(tmp_path / "echo", options={"DicomAlwaysAllowStore": False})
    orthanc.start()
    try:
        recorded: list[Outcome] = []
        shipped = ship(
            overlays(tmp_path, 1),
            peer_of(orthanc, "none"),
            SENDER,
            choose=lambda _delivery, _object: None,
            record=lambda _delivery, _object, outcome: recorded.append(outcome),
        )
    finally:
        orthanc.stop()
    assert [outcome.event.value for outcome in recorded] == ["transient"]
    assert "perhaps it does not let M3LUNG store" in recorded[0].words
    assert "each association was lost" in shipped.peer_failure  # the breaker hears of it


def test_the_connection_test_finds_a_good_pacs(orthanc: Orthanc) -> None:
    steps = check_peer(NodeSettings(), peer_of(orthanc, "lossless"))
    assert is_healthy(steps), steps
    words = {step.name: step.words for step in steps}
    assert words["report"].startswith("Comprehensive 3D SR will be sent")
    assert words["C-FIND"] == "answered at series level"
    assert orthanc.instance_count() == 0


def test_no_delayed_acknowledgement_per_object(orthanc: Orthanc, tmp_path: Path) -> None:
    """Without TCP_QUICKACK every answer of a default Orthanc comes 40 ms late."""
    recorded = send(overlays(tmp_path, 30), peer_of(orthanc, "none"))
    assert statistics.median(outcome.seconds for outcome in recorded.values()) < 0.035
