"""Shipments through real associations to a PACS that answers as ordered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.delivery.scu import Outcome
from dicom_node.delivery.shipping import PendingDelivery, Shipped, ship
from dicom_node.delivery.upper_layer import Association, Sender
from dicom_node.errors import LeaseLost, TransientDelivery
from dicom_node.ledger.states import DeliveryEvent
from dicom_node.settings import Peer
from dicom_node.simulated_pacs import Behaviour, SimulatedPacs, StoreRequest
from support.delivery_objects import overlay, overlays, pending, report
from support.ports import free_port

# A busy machine may take seconds for an answer; a PACS that gives none is another story.
SENDER = Sender("M3LUNG", connect_timeout_s=10, response_timeout_s=30)


class Desk:
    """Ships and keeps what was recorded and chosen, as the ledger will."""

    def __init__(self) -> None:
        self.recorded: dict[int, tuple[int | None, Outcome]] = {}
        self.chosen: dict[int, int] = {}
        self.calls = 0

    def ship(self, shipment: list[PendingDelivery], peer: Peer, **options: Any) -> Shipped:
        self.recorded, self.calls = {}, 0
        shipped = ship(
            shipment,
            peer,
            options.get("sender", SENDER),
            choose=self.chosen.__setitem__,
            record=self._record,
        )
        assert self.calls == len(shipment), "record is called once for each delivery"
        return shipped

    def _record(self, delivery_id: int, object_id: int | None, outcome: Outcome) -> None:
        self.calls += 1
        self.recorded[delivery_id] = (object_id, outcome)

    def events(self) -> list[str]:
        return [self.recorded[number][1].event.value for number in sorted(self.recorded)]

    def outcome(self, delivery_id: int) -> Outcome:
        return self.recorded[delivery_id][1]


@pytest.fixture
def desk() -> Desk:
    return Desk()


Start = Callable[..., SimulatedPacs]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[Start]:
    """Start simulated PACSs: ``pacs(answers=…)``."""
    running = []

    def start(**behaviour: Any) -> SimulatedPacs:
        folder = tmp_path / f"pacs{len(running)}"
        running.append(SimulatedPacs(folder, behaviour=Behaviour(**behaviour)))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def peer_of(pacs: SimulatedPacs, **fields: Any) -> Peer:
    fields = {"compress": "none", **fields}
    return Peer(name="pacs", ae_title=pacs.ae_title, port=pacs.port, **fields)


def answering(*statuses: int) -> Callable[[StoreRequest], int]:
    """Answer the n-th request with the n-th status, the last one for ever."""
    return lambda request: statuses[min(request.number, len(statuses) - 1)]


# Success -------------------------------------------------------------------------------------


def test_all_arrive_byte_for_byte(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    shipment = [
        *overlays(tmp_path, 5, size=300),  # more than one PDU each
        pending(6, "report", report(tmp_path)),
    ]
    archive = pacs()
    shipped = desk.ship(shipment, peer_of(archive))
    assert shipped == Shipped({DeliveryEvent.ACCEPTED: 6})
    assert len(archive.holdings) == 6
    for delivery in shipment:
        candidate = delivery.candidates[0]
        held = archive.holdings[candidate.sop_instance_uid]
        assert _dataset_bytes(held.path) == _dataset_bytes(candidate.path)
    # exactly one of the report's three forms
    assert desk.chosen[6] == 60
    assert desk.outcome(1) == replace(desk.outcome(1), words="", status=0)


def _dataset_bytes(path: Path) -> bytes:
    from pynetdicom.dsutils import split_dataset

    return path.read_bytes()[split_dataset(path)[1] :]


def test_the_same_object_again_has_no_effect(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    shipment = overlays(tmp_path, 1)
    archive = pacs(answers=answering(0x0000, 0x0111))
    for _ in range(2):
        desk.ship(shipment, peer_of(archive))
        assert desk.events() == ["accepted"]
    assert "holds this SOP instance already" in desk.outcome(1).words
    assert (len(archive.holdings), archive.holdings.conflicts) == (1, [])


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_accepted_and_kept_in_words(
    tmp_path: Path, pacs: Start, desk: Desk, status: int
) -> None:
    desk.ship(overlays(tmp_path, 1), peer_of(pacs(answers=answering(status))))
    assert desk.events() == ["accepted"]
    assert f"0x{status:04X}" in desk.outcome(1).words


# Failures of one object ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (0xA700, "transient"),
        (0xA900, "permanent"),
        (0xC000, "permanent"),
        (0x0122, "permanent"),
        (0x0124, "permanent"),
    ],
)
def test_each_refusal_costs_only_its_object(
    tmp_path: Path, pacs: Start, desk: Desk, status: int, event: str
) -> None:
    archive = pacs(answers=answering(0x0000, status, 0x0000))
    shipped = desk.ship(overlays(tmp_path, 3), peer_of(archive))
    assert desk.events() == ["accepted", event, "accepted"]
    assert desk.outcome(2).status == status
    assert len(archive.holdings) == 2
    assert shipped.peer_failure == ""


def test_partial_failure_resends_only_the_failed(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    shipment = overlays(tmp_path, 6)
    archive = pacs(answers=lambda request: 0xA700 if request.number in {1, 4} else 0x0000)
    desk.ship(shipment, peer_of(archive))
    failed = [
        delivery
        for delivery in shipment
        if desk.outcome(delivery.delivery_id).event is DeliveryEvent.TRANSIENT
    ]
    assert [delivery.delivery_id for delivery in failed] == [2, 5]
    before = len(archive.requests)
    desk.ship(failed, peer_of(archive))
    assert len(archive.requests) == before + 2
    assert len(archive.holdings) == 6
    assert archive.holdings.repeats == []


def test_a_full_pacs_is_not_hammered(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(answers=answering(0xA700))
    shipped = desk.ship(overlays(tmp_path, 10), peer_of(archive))
    assert desk.events() == ["transient"] * 10
    assert len(archive.requests) == 3
    assert "out of resources" in shipped.peer_failure


def test_an_altered_file_is_quarantined_alone(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    shipment = overlays(tmp_path, 4)
    altered = shipment[1].candidates[0].path
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    shipment[2].candidates[0].path.unlink()
    archive = pacs()
    shipped = desk.ship(shipment, peer_of(archive))
    assert desk.events() == ["accepted", "bad_object", "bad_object", "accepted"]
    assert "sha256" in desk.outcome(2).words
    assert "missing" in desk.outcome(3).words
    assert len(archive.holdings) == 2
    assert shipped.peer_failure == ""


def test_a_file_that_holds_another_object_is_not_sent(
    tmp_path: Path, pacs: Start, desk: Desk
) -> None:
    one, two = overlays(tmp_path, 2)
    wrong = replace(one.candidates[0], path=two.candidates[0].path, sha256=two.candidates[0].sha256)
    archive = pacs()
    desk.ship([replace(one, candidates=(wrong,))], peer_of(archive))
    assert desk.events() == ["bad_object"]
    assert archive.requests == []


# Failures of the association -----------------------------------------------------------------


def test_refused_connection_is_transient_for_all(tmp_path: Path, desk: Desk) -> None:
    peer = Peer(name="gone", ae_title="GONE", port=free_port())
    shipped = desk.ship(overlays(tmp_path, 3), peer)
    assert desk.events() == ["transient"] * 3
    assert "Connection refused" in shipped.peer_failure


def test_a_name_without_address_is_transient(tmp_path: Path, desk: Desk) -> None:
    peer = Peer(name="gone", ae_title="GONE", host="pacs.invalid", port=104)
    shipped = desk.ship(overlays(tmp_path, 1), peer)
    assert desk.events() == ["transient"]
    assert "cannot be resolved" in shipped.peer_failure


def test_unknown_calling_ae_title_is_permanent(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(known_ae_titles=("SOMEBODY",))
    shipped = desk.ship(overlays(tmp_path, 2), peer_of(archive))
    assert desk.events() == ["permanent"] * 2
    assert "does not know our AE title M3LUNG" in desk.outcome(1).words
    assert shipped.peer_failure == ""  # it is there: no case for the breaker


def test_wrong_called_ae_title_is_permanent(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(check_called_ae_title=True)
    peer = Peer(name="pacs", ae_title="WRONG", port=archive.port)
    desk.ship(overlays(tmp_path, 1), peer)
    assert desk.events() == ["permanent"]
    assert "is not called WRONG" in desk.outcome(1).words


def test_no_accepted_context_is_permanent(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(sop_classes=(str(EnhancedSRStorage),), queries=False)
    shipment = [*overlays(tmp_path, 1), pending(2, "report", report(tmp_path))]
    desk.ship(shipment, peer_of(archive))
    assert desk.events() == ["permanent", "accepted"]
    assert "takes no overlay: SOP class not supported" in desk.outcome(1).words
    desk.ship(shipment[:1], peer_of(archive))
    assert desk.events() == ["permanent"]
    assert "none of our presentation contexts" in desk.outcome(1).words


def test_an_abort_costs_one_object_and_the_rest_goes_on(
    tmp_path: Path, pacs: Start, desk: Desk
) -> None:
    def answers(request: StoreRequest) -> int:
        if request.number == 1:
            request.abort()
        return 0x0000

    archive = pacs(answers=answers)
    desk.ship(overlays(tmp_path, 4), peer_of(archive))
    assert desk.events() == ["accepted", "transient", "accepted", "accepted"]
    assert "abort" in desk.outcome(2).words or "closed" in desk.outcome(2).words


def test_a_pacs_that_always_aborts_is_left_alone(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    def answers(request: StoreRequest) -> int:
        request.abort()
        return 0xC000

    archive = pacs(answers=answers)
    shipped = desk.ship(overlays(tmp_path, 8), peer_of(archive))
    assert desk.events() == ["transient"] * 8
    assert len(archive.requests) == 3
    assert "association was lost" in shipped.peer_failure


def test_a_silent_pacs_times_out(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    over = threading.Event()

    def answers(request: StoreRequest) -> int:
        if request.number == 0:
            over.wait(60)
        return 0x0000

    archive = pacs(answers=answers)
    began = time.monotonic()
    sender = replace(SENDER, response_timeout_s=4.0)
    desk.ship(overlays(tmp_path, 2), peer_of(archive), sender=sender)
    took_s = time.monotonic() - began
    over.set()
    assert desk.events() == ["transient", "accepted"], desk.recorded
    assert desk.outcome(1).words == "no answer in time"
    assert 4 <= took_s < 12


def _serve_once(reply: Callable[[socket.socket], None]) -> tuple[int, threading.Thread]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server:
            client, _ = server.accept()
            with client:
                reply(client)

    thread = threading.Thread(target=run)
    thread.start()
    return server.getsockname()[1], thread


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "announces a PDU"),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", "aborted"),
        (b"\x02\x00\xff\xff\xff\xff", "announces a PDU"),
        (b"\x02\x00\x00\x00\x00\x08garbage!", "answers none"),
        (b"\x09\x00\x00\x00\x00\x00", "by PDU 9"),
    ],
)
def test_a_peer_that_speaks_no_dicom_is_transient(reply: bytes, words: str) -> None:
    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(reply)

    port, thread = _serve_once(serve)
    context = ("1.2.840.10008.1.1", "1.2.840.10008.1.2")
    with pytest.raises(TransientDelivery, match=words):
        Association.request(SENDER, "127.0.0.1", port, "ANY", [context])
    thread.join()


# Alternatives of the report ------------------------------------------------------------------

REPORT_CLASSES = [
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(EnhancedSRStorage),
]


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_the_best_accepted_report_is_sent(
    tmp_path: Path, pacs: Start, desk: Desk, taken: int
) -> None:
    archive = pacs(sop_classes=tuple(REPORT_CLASSES[taken:]))
    desk.ship([pending(1, "report", report(tmp_path))], peer_of(archive))
    assert desk.events() == ["accepted"]
    assert desk.chosen == {1: 10 + taken}
    assert [held.sop_class_uid for held in archive.holdings] == [REPORT_CLASSES[taken]]


def test_the_choice_stays(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    """Once the Enhanced SR was sent, a PACS that learned more gets no second report."""
    paths = report(tmp_path)
    archive = pacs()
    desk.ship([pending(1, "report", paths, chosen=2)], peer_of(archive))
    assert desk.events() == ["accepted"]
    assert desk.chosen == {}  # it was chosen before
    assert [held.sop_class_uid for held in archive.holdings] == [str(EnhancedSRStorage)]
    only_best = pacs(sop_classes=(str(Comprehensive3DSRStorage),))
    desk.ship([pending(1, "report", paths, chosen=2)], peer_of(only_best))
    assert desk.events() == ["permanent"]
    assert only_best.requests == []


def test_the_choice_is_kept_before_anything_is_sent(tmp_path: Path, pacs: Start) -> None:
    archive = pacs()

    def choose(delivery_id: int, object_id: int) -> None:
        assert archive.requests == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ship(
            [pending(1, "report", report(tmp_path))],
            peer_of(archive),
            SENDER,
            choose=choose,
            record=lambda *_: pytest.fail("nothing was sent"),
        )
    assert archive.requests == []


# Compression ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compress", "offered", "sent"),
    [
        ("none", [], ExplicitVRLittleEndian),
        ("none", [ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ("lossless", [], JPEGLSLossless),
        ("lossless", [JPEG2000Lossless, ExplicitVRLittleEndian], JPEG2000Lossless),
        ("lossless", [RLELossless, ImplicitVRLittleEndian], RLELossless),
        ("lossless", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ExplicitVRLittleEndian),
        ("lossless", [JPEGBaseline8Bit, ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ("jpeg", [], JPEGBaseline8Bit),
        ("jpeg", [ImplicitVRLittleEndian], ImplicitVRLittleEndian),
    ],
)
def test_compression_by_what_the_peer_takes(
    tmp_path: Path, pacs: Start, desk: Desk, compress: str, offered: list[str], sent: str
) -> None:
    archive = pacs(transfer_syntaxes=tuple(str(uid) for uid in offered))
    path = overlay(tmp_path)
    shipment = [pending(1, "overlay", [path])]
    for _ in range(2):  # the second time has to give the same bytes
        desk.ship(shipment, peer_of(archive, compress=compress))
        assert desk.outcome(1).transfer_syntax_uid == sent
        assert desk.outcome(1).words == ""
    assert (len(archive.holdings.repeats), archive.holdings.conflicts) == (1, [])
    (held,) = archive.holdings
    assert held.transfer_syntax_uid == sent
    received, original = dcmread(held.path), dcmread(path)
    assert received.SOPInstanceUID == original.SOPInstanceUID
    difference = received.pixel_array.astype(int) - original.pixel_array
    if sent == JPEGBaseline8Bit:
        assert received.LossyImageCompression == "01"
        assert received.LossyImageCompressionMethod == "ISO_10918_1"
        assert float(received.LossyImageCompressionRatio) > 1
        assert received.PhotometricInterpretation == "YBR_FULL_422"
        # Noise at one pixel and a sharp red edge are the worst there is; the mean is what shows.
        assert np.abs(difference).mean() < 5
    else:
        assert "LossyImageCompression" not in received
        assert np.abs(difference).max() == 0


def test_reports_are_never_compressed(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs()
    desk.ship([pending(1, "report", report(tmp_path))], peer_of(archive, compress="jpeg"))
    assert desk.outcome(1).transfer_syntax_uid == ExplicitVRLittleEndian


# Killed in the middle ------------------------------------------------------------------------

CHILD = """
    import json, pathlib, sys
    from dicom_node.delivery.shipping import ship
    from dicom_node.delivery.upper_layer import Sender
    from dicom_node.settings import Peer
    from support.delivery_objects import pending

    folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    done = folder / "recorded"
    ledger = done.read_text().split() if done.exists() else []
    shipment = [
        pending(n, "overlay", [folder / f"overlay-{n}.dcm"])
        for n in range(1, 6) if str(n) not in ledger
    ]
    def record(delivery_id, object_id, outcome):
        with done.open("a") as file:
            file.write(f"{delivery_id}\\n")
    peer = Peer(name="pacs", ae_title="SIMPACS", port=port, compress="none")
    ship(shipment, peer, Sender("M3LUNG"), choose=lambda *_: None, record=record)
"""


def test_killed_between_answer_and_record_ends_with_one_of_each(
    tmp_path: Path, pacs: Start
) -> None:
    archive = pacs()
    overlays(tmp_path, 5)
    root = Path(__file__).resolve().parents[2]
    child = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), str(archive.port)]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    armed = {**environment, "M3LUNG_CRASH_AT": "delivery.after_c_store:2"}
    killed = subprocess.run(child, env=armed, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(archive.requests) == 3
    subprocess.run(child, env=environment, check=True)
    assert len(archive.holdings) == 5
    assert len(archive.requests) == 6  # only the one whose answer was not recorded went twice
    assert len(archive.holdings.repeats) == 1
    assert archive.holdings.conflicts == []


# Several associations at once ------------------------------------------------------------------


def at_once(least: int) -> tuple[Callable[[StoreRequest], int], threading.Barrier]:
    """Answer the first objects when `least` of them are under way at the same time."""
    together = threading.Barrier(least)

    def answers(request: StoreRequest) -> int:
        if request.number < least:
            together.wait(timeout=30)
        return 0x0000

    return answers, together


def test_several_associations_share_what_waits(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    answers, together = at_once(4)
    archive = pacs(answers=answers)
    shipment = overlays(tmp_path, 17)
    shipped = desk.ship(shipment, peer_of(archive, associations=4))
    assert not together.broken
    assert shipped == Shipped({DeliveryEvent.ACCEPTED: 17})
    assert archive.holdings.repeats == []
    assert {request.sop_instance_uid for request in archive.requests} == {
        delivery.candidates[0].sop_instance_uid for delivery in shipment
    }


def test_a_few_objects_are_worth_one_association(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    said: list[str] = []
    with SimulatedPacs(tmp_path / "watched", watch=said.append) as archive:
        desk.ship(overlays(tmp_path, 7), peer_of(archive, associations=4))
    assert len(archive.holdings) == 7
    assert sum("association" in line and "M3LUNG" in line for line in said) <= 2, said


def test_where_fewer_are_granted_fewer_are_used(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(rejection=(2, 3, 2), reject_first=3)  # local limit exceeded
    shipped = desk.ship(overlays(tmp_path, 17), peer_of(archive, associations=4))
    assert shipped == Shipped({DeliveryEvent.ACCEPTED: 17})
    assert archive.holdings.repeats == []


def test_where_none_is_granted_all_wait(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(rejection=(2, 3, 2))
    shipped = desk.ship(overlays(tmp_path, 17), peer_of(archive, associations=4))
    assert shipped.counts == {DeliveryEvent.TRANSIENT: 17}
    assert "limit" in shipped.peer_failure


def test_a_full_pacs_is_hammered_by_none_of_them(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    archive = pacs(answers=answering(0xA700))
    shipped = desk.ship(overlays(tmp_path, 40), peer_of(archive, associations=4))
    assert desk.events() == ["transient"] * 40
    assert len(archive.requests) <= 3 + 3  # those under way
    assert "out of resources" in shipped.peer_failure


def test_an_abort_of_one_costs_one_object(tmp_path: Path, pacs: Start, desk: Desk) -> None:
    def answers(request: StoreRequest) -> int:
        if request.number == 5:
            request.abort()
        return 0x0000

    archive = pacs(answers=answers)
    shipped = desk.ship(overlays(tmp_path, 20), peer_of(archive, associations=4))
    assert shipped.counts == {DeliveryEvent.ACCEPTED: 19, DeliveryEvent.TRANSIENT: 1}


def test_a_lost_lease_stops_them_all(tmp_path: Path, pacs: Start) -> None:
    recorded: list[int] = []

    def record(delivery_id: int, _object_id: int | None, _outcome: Outcome) -> None:
        if len(recorded) == 5:
            raise LeaseLost("another took it")
        recorded.append(delivery_id)

    archive = pacs()
    with pytest.raises(LeaseLost):
        ship(
            overlays(tmp_path, 40),
            peer_of(archive, associations=4),
            SENDER,
            choose=lambda *_: None,
            record=record,
        )
    assert len(recorded) == len(set(recorded)) == 5
    assert len(archive.requests) <= 5 + 4
