"""How many images a series has, asked of PACSs that answer well, badly and not at all."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from dicom_node.settings import DeliverySettings, NodeSettings, Peer
from dicom_node.simulated_pacs import Behaviour, SimulatedPacs
from dicom_node.source_query import QueryFailed, count_instances
from support.delivery_objects import overlays
from support.orthanc import Orthanc
from support.ports import free_port

SETTINGS = NodeSettings(delivery=DeliverySettings(connect_timeout_s=2, response_timeout_s=2))
# Where an answer comes, however busy the machine.
PATIENT = NodeSettings(delivery=DeliverySettings(connect_timeout_s=10, response_timeout_s=30))


def peer(port: int, ae_title: str = "PACS") -> Peer:
    return Peer(name="pacs", ae_title=ae_title, port=port, query=True)


@pytest.fixture
def scripted(request: pytest.FixtureRequest) -> Iterator[int]:
    """A C-FIND SCP that answers by the handler given as parameter."""
    ae = AE("PACS")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server: Any = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, request.param)]
    )
    yield server.server_address[1]
    server.shutdown()


def answer(level: str, **attributes: Any) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = level
    found.StudyInstanceUID = "1.2"
    for keyword, value in attributes.items():
        setattr(found, keyword, value)
    return found


def counting(event: Any) -> Iterator[Any]:
    yield 0xFF00, answer("SERIES", SeriesInstanceUID="1.2.3", NumberOfSeriesRelatedInstances=148)


def whole_study(event: Any) -> Iterator[Any]:
    """Ignores the series UID."""
    yield 0xFF00, answer("SERIES", SeriesInstanceUID="1.2.9", NumberOfSeriesRelatedInstances=7)
    yield from counting(event)


def without_count(event: Any) -> Iterator[Any]:
    if event.identifier.QueryRetrieveLevel == "SERIES":
        yield 0xFF00, answer("SERIES", SeriesInstanceUID="1.2.3")
    else:
        for number in range(12):
            yield (
                0xFF00,
                answer("IMAGE", SeriesInstanceUID="1.2.3", SOPInstanceUID=f"1.2.3.{number}"),
            )


def without_images(event: Any) -> Iterator[Any]:
    if event.identifier.QueryRetrieveLevel == "SERIES":
        yield (
            0xFF00,
            answer("SERIES", SeriesInstanceUID="1.2.3", NumberOfSeriesRelatedInstances=None),
        )


def nothing(event: Any) -> Iterator[Any]:
    yield from ()


def refusing(event: Any) -> Iterator[Any]:
    yield 0xA900, None


@pytest.mark.parametrize(
    ("scripted", "count"),
    [
        (counting, 148),
        (whole_study, 148),
        (without_count, 12),
        (without_images, None),
        (nothing, 0),
        (refusing, None),
    ],
    indirect=["scripted"],
)
def test_the_count(scripted: int, count: int | None) -> None:
    assert count_instances(PATIENT, peer(scripted), "1.2", "1.2.3") == count


def slow(event: Any) -> Iterator[Any]:
    time.sleep(4)
    yield from counting(event)


def aborting(event: Any) -> Iterator[Any]:
    event.assoc.abort()
    yield 0xFF00, answer("SERIES", SeriesInstanceUID="1.2.3", NumberOfSeriesRelatedInstances=1)


@pytest.mark.parametrize("scripted", [slow, aborting], indirect=True)
def test_no_answer_is_a_failed_query_in_bounded_time(scripted: int) -> None:
    began = time.monotonic()
    with pytest.raises(QueryFailed):
        count_instances(SETTINGS, peer(scripted), "1.2", "1.2.3")
    assert time.monotonic() - began < 6


def test_unreachable_rejected_and_not_offered(tmp_path: Path) -> None:
    with pytest.raises(QueryFailed, match="cannot be reached"):
        count_instances(SETTINGS, peer(free_port()), "1.2", "1.2.3")
    nowhere = Peer(name="pacs", ae_title="PACS", host="pacs.invalid")
    with pytest.raises(QueryFailed, match="cannot be reached"):
        count_instances(SETTINGS, nowhere, "1.2", "1.2.3")
    strict = Behaviour(known_ae_titles=("X",))
    with (
        SimulatedPacs(tmp_path / "a", behaviour=strict) as pacs,
        pytest.raises(QueryFailed, match="rejected"),
    ):
        count_instances(PATIENT, peer(pacs.port), "1.2", "1.2.3")
    mute = Behaviour(queries=False)
    with (
        SimulatedPacs(tmp_path / "b", behaviour=mute) as pacs,
        pytest.raises(QueryFailed, match="does not offer"),
    ):
        count_instances(PATIENT, peer(pacs.port), "1.2", "1.2.3")


def test_a_peer_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(QueryFailed):
            count_instances(SETTINGS, peer(silent.getsockname()[1]), "1.2", "1.2.3")
        assert time.monotonic() - began < 6


@pytest.mark.peer("orthanc")
def test_orthanc_tells_the_count(orthanc: Orthanc, tmp_path: Path) -> None:
    from pydicom import dcmread

    shipment = overlays(tmp_path, 3)
    for delivery in shipment:
        orthanc.upload(delivery.candidates[0].path.read_bytes())
    header = dcmread(shipment[0].candidates[0].path, stop_before_pixels=True)
    archive = peer(orthanc.dicom_port, orthanc.ae_title)
    series = str(header.SeriesInstanceUID)
    assert count_instances(PATIENT, archive, str(header.StudyInstanceUID), series) == 3
    assert count_instances(PATIENT, archive, str(header.StudyInstanceUID), "2.25.1") == 0
