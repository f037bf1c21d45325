"""The simulated PACS, driven by DCMTK and pynetdicom as any PACS would be."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.delivery.shipping import ship
from dicom_node.delivery.upper_layer import Sender
from dicom_node.errors import ConfigurationError
from dicom_node.settings import Peer
from dicom_node.simulated_pacs import (
    MISBEHAVIOURS,
    Behaviour,
    Holdings,
    SimulatedPacs,
    behaviour_from,
)
from support.delivery_objects import overlay, overlays, report
from support.peers import program


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SimulatedPacs]:
    with SimulatedPacs(tmp_path / "pacs") as pacs:
        yield pacs


def storescu(pacs: SimulatedPacs, *paths: Path) -> None:
    subprocess.run(
        [program("storescu") or "", "-R", "127.0.0.1", str(pacs.port), *map(str, paths)],
        check=True,
        capture_output=True,
    )


@pytest.mark.peer("dcmtk")
def test_dcmtk_stores_and_verifies(pacs: SimulatedPacs, tmp_path: Path) -> None:
    paths = [overlay(tmp_path, 1), *report(tmp_path)]
    storescu(pacs, *paths)
    echoscu = [program("echoscu") or "", "127.0.0.1", str(pacs.port)]
    subprocess.run(echoscu, check=True)
    assert len(pacs.holdings) == 4
    for path in paths:
        sent = dcmread(path)
        assert dcmread(pacs.holdings[sent.SOPInstanceUID].path) == sent


@pytest.mark.peer("dcmtk")
def test_repeats_and_conflicts(pacs: SimulatedPacs, tmp_path: Path) -> None:
    path = overlay(tmp_path, 1)
    storescu(pacs, path)
    storescu(pacs, path)
    changed = dcmread(path)
    uid = changed.SOPInstanceUID
    changed.InstanceNumber = 99
    changed.save_as(path)
    storescu(pacs, path)
    assert (len(pacs.holdings), pacs.holdings.repeats) == (1, [uid])
    assert pacs.holdings.conflicts == [uid]
    assert pacs.holdings[uid].header.InstanceNumber == 1


def test_a_folder_is_read_again(tmp_path: Path) -> None:
    content = overlay(tmp_path, 1).read_bytes()
    holdings = Holdings(tmp_path / "pacs")
    uid = str(dcmread(tmp_path / "overlay-1.dcm").SOPInstanceUID)
    assert holdings.keep(uid, content)
    assert not Holdings(tmp_path / "pacs").keep(uid, content)
    with pytest.raises(ValueError, match="different SOP instances"):
        holdings.keep("1.2.3", content)
    assert len(list((tmp_path / "pacs").iterdir())) == 1


def find(pacs: SimulatedPacs, **keys: Any) -> list[Dataset]:
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    ae = AE()
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", pacs.port)
    assert association.is_established
    found = [
        answer
        for _, answer in association.send_c_find(
            identifier, StudyRootQueryRetrieveInformationModelFind
        )
        if answer is not None
    ]
    association.release()
    return found


@pytest.fixture
def filled(pacs: SimulatedPacs, tmp_path: Path) -> SimulatedPacs:
    """Three overlays and a report of one study."""
    for path in [*(overlay(tmp_path, number) for number in (1, 2, 3)), report(tmp_path)[0]]:
        pacs.holdings.keep(str(dcmread(path).SOPInstanceUID), path.read_bytes())
    return pacs


def test_find_at_each_level(filled: SimulatedPacs) -> None:
    (study,) = find(
        filled,
        QueryRetrieveLevel="STUDY",
        PatientName="Test*",
        StudyInstanceUID="",
        ModalitiesInStudy="",
        NumberOfStudyRelatedSeries=None,
        NumberOfStudyRelatedInstances=None,
    )
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (2, 4)
    assert list(study.ModalitiesInStudy) == ["OT", "SR"]
    series = find(
        filled,
        QueryRetrieveLevel="SERIES",
        StudyInstanceUID=study.StudyInstanceUID,
        SeriesInstanceUID="",
        Modality="OT",
        NumberOfSeriesRelatedInstances=None,
    )
    assert [one.NumberOfSeriesRelatedInstances for one in series] == [3]
    images = find(
        filled,
        QueryRetrieveLevel="IMAGE",
        StudyInstanceUID=study.StudyInstanceUID,
        SeriesInstanceUID=series[0].SeriesInstanceUID,
        SOPInstanceUID="",
        InstanceNumber=None,
    )
    assert sorted(int(image.InstanceNumber) for image in images) == [1, 2, 3]
    assert find(filled, QueryRetrieveLevel="STUDY", PatientID="NOBODY") == []
    assert len(find(filled, QueryRetrieveLevel="STUDY", StudyDate="20191231-20200102")) == 1
    assert find(filled, QueryRetrieveLevel="STUDY", StudyDate="20200102-") == []


def retrieved(event: Any, held: list[Dataset]) -> int:
    dataset = event.dataset
    dataset.file_meta = event.file_meta
    held.append(dataset)
    return 0x0000


def test_get_returns_what_was_stored(filled: SimulatedPacs, tmp_path: Path) -> None:
    ae = AE()
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    held: list[Dataset] = []
    association = ae.associate(
        "127.0.0.1",
        filled.port,
        ext_neg=[build_role(SecondaryCaptureImageStorage, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, retrieved, [held])],
    )
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    first = dcmread(tmp_path / "overlay-1.dcm")
    identifier.StudyInstanceUID = first.StudyInstanceUID
    identifier.SeriesInstanceUID = first.SeriesInstanceUID
    *_, (status, _) = association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet)
    association.release()
    assert status.Status == 0x0000
    assert status.NumberOfCompletedSuboperations == 3
    assert min(held, key=lambda one: int(one.InstanceNumber)) == first


def test_move_to_a_known_destination(tmp_path: Path) -> None:
    with SimulatedPacs(tmp_path / "to", ae_title="TO") as target:
        behaviour = Behaviour(move_destinations={"TO": (target.host, target.port)})
        with SimulatedPacs(tmp_path / "from", behaviour=behaviour) as source:
            path = overlay(tmp_path, 1)
            header = dcmread(path)
            source.holdings.keep(str(header.SOPInstanceUID), path.read_bytes())
            ae = AE()
            ae.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
            association = ae.associate("127.0.0.1", source.port)
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "STUDY"
            identifier.StudyInstanceUID = header.StudyInstanceUID
            statuses = {}
            for destination in ("TO", "ELSEWHERE"):
                *_, (status, _) = association.send_c_move(
                    identifier, destination, StudyRootQueryRetrieveInformationModelMove
                )
                statuses[destination] = status.Status
            association.release()
        assert statuses == {"TO": 0x0000, "ELSEWHERE": 0xA801}
        assert header.SOPInstanceUID in target.holdings


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    folder = tmp_path / "pacs"
    root = Path(__file__).resolve().parents[2]
    arguments = ["--port", "0", "--folder", str(folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "dicom_node.simulated_pacs", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.rsplit(":", 1)[1])
        ae = AE()
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port)
        assert association.send_c_echo().Status == 0x0000
        association.release()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


# Misbehaviour ----------------------------------------------------------------------------------


@pytest.fixture
def misbehaving(tmp_path: Path) -> Iterator[Any]:
    """Start a PACS by orders; ship overlays to it: what was answered, in words."""
    running: list[SimulatedPacs] = []

    def start(orders: str, count: int = 4, timeout_s: float = 5.0) -> tuple[SimulatedPacs, Any]:
        folder = tmp_path / f"badly{len(running)}"
        pacs = SimulatedPacs(folder, behaviour=behaviour_from(orders))
        running.append(pacs)
        recorded: dict[int, Any] = {}
        ship(
            overlays(tmp_path, count),
            Peer(name="pacs", ae_title="SIMPACS", port=pacs.port, compress="none"),
            Sender("M3LUNG", 2.0, timeout_s),
            choose=lambda *_: None,
            record=lambda delivery, _object, outcome: recorded.__setitem__(delivery, outcome),
        )
        return pacs, [recorded[number] for number in sorted(recorded)]

    yield start
    for one in running:
        one.stop()


@pytest.mark.parametrize(
    ("order", "event", "reason"),
    [
        ("reject-no-reason", "permanent", "(result 1, source 1, reason 1)"),
        ("reject-context", "permanent", "(result 1, source 1, reason 2)"),
        ("reject-calling", "permanent", "(result 1, source 1, reason 3)"),
        ("reject-called", "permanent", "(result 1, source 1, reason 7)"),
        ("reject-acse", "permanent", "(result 1, source 2, reason 1)"),
        ("reject-protocol", "permanent", "(result 1, source 2, reason 2)"),
        ("reject-congestion", "transient", "(result 2, source 3, reason 1)"),
        ("reject-limit", "transient", "(result 2, source 3, reason 2)"),
    ],
)
def test_each_rejection(misbehaving: Any, order: str, event: str, reason: str) -> None:
    _, [outcome] = misbehaving(order, 1)
    assert outcome.event == event
    assert reason in outcome.words


def test_a_rejection_that_ends(misbehaving: Any, tmp_path: Path) -> None:
    pacs, [outcome] = misbehaving("reject-congestion:1", 1)
    assert outcome.event == "transient"
    storescu(pacs, tmp_path / "overlay-1.dcm")
    assert len(pacs.holdings) == 1


@pytest.mark.parametrize(
    ("orders", "statuses", "kept"),
    [
        ("a700:2", [0xA700, 0xA700, 0, 0], 2),
        ("half-a700", [0, 0xA700, 0, 0xA700], 2),
        ("half-c000", [0, 0xC000, 0, 0xC000], 2),
        ("half-a700,half-b000", [0, 0xA700, 0, 0xB000], 3),
        ("b000", [0xB000] * 4, 4),
        ("lose:3", [0] * 4, 1),
        ("lose-all", [0] * 4, 0),
        ("slow:0.1", [0] * 4, 4),
    ],
)
def test_each_status(misbehaving: Any, orders: str, statuses: list[int], kept: int) -> None:
    began = time.monotonic()
    pacs, outcomes = misbehaving(orders)
    assert [outcome.status for outcome in outcomes] == statuses
    assert len(pacs.holdings) == kept
    assert time.monotonic() - began > (0.4 if "slow" in orders else 0.0)


@pytest.mark.parametrize("orders", ["abort:2", "abort-in-object:2"])
def test_it_hangs_up_once(misbehaving: Any, orders: str) -> None:
    pacs, outcomes = misbehaving(orders)
    assert [outcome.event for outcome in outcomes] == [
        "accepted",
        "transient",
        "accepted",
        "accepted",
    ]
    # In place of the answer: the object is kept all the same, and nobody was told.
    assert len(pacs.holdings) == (4 if orders == "abort:2" else 3)
    assert len(pacs.requests) == (4 if orders == "abort:2" else 3)


def test_every_name_of_the_table_is_understood() -> None:
    for row in MISBEHAVIOURS:
        order = f"{row.name}:1" if row.argument else row.name
        behaviour_from(order, peers={"M3LUNG": ("127.0.0.1", 1)})
    assert len({row.name for row in MISBEHAVIOURS}) == len(MISBEHAVIOURS)


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ("late", "no such misbehaviour"),
        ("slow", "say slow:SECONDS"),
        ("slow:fast", "no such misbehaviour"),
        ("lose-all:3", "takes no argument"),
        ("commit-new", "--peer"),
    ],
)
def test_wrong_orders_are_named(orders: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        behaviour_from(orders)


def m3lung(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dicom_node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.peer("dcmtk")
def test_the_command(tmp_path: Path) -> None:
    """As an administrator would run it, with what it prints meanwhile."""
    command = [sys.executable, "-u", "-m", "dicom_node", "simulate-pacs", "--port", "0"]
    command += ["--ae-title", "TRIAL", "--folder", str(tmp_path / "pacs"), "-m", "half-a700"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        port = first.split("127.0.0.1:")[1].split(",")[0]
        config = tmp_path / "node.toml"
        peer = ("--ae-title", "TRIAL", "--host", "127.0.0.1", "--port", port)
        proof = ("--role", "destination", "--commitment", "request", "--verify", "c-find")
        added = m3lung("peers", "add", "trial", *peer, *proof, "--config", config)
        assert added.returncode == 0, added.stderr
        tested = m3lung("peers", "test", "trial", "--json", "--config", config)
        assert '"storage commitment"' in tested.stdout
        assert tested.returncode == 0, tested.stdout
        sending = [program("storescu") or "", "-R", "127.0.0.1", port]
        subprocess.run([*sending, str(overlay(tmp_path, 1))], check=True, capture_output=True)
        process.send_signal(signal.SIGTERM)
        printed = first + process.stdout.read()
        assert process.wait(timeout=20) == 0
    for line in (
        "TRIAL listens on",
        "misbehaves: half-a700",
        "C-ECHO M3LUNG",
        "C-FIND M3LUNG",
        "association accepted: STORESCU",
        "-> 0x0000",
        "ends with 1 instances",
    ):
        assert line in printed, printed


def test_the_command_teaches() -> None:
    told = " ".join(m3lung("simulate-pacs", "--help").stdout.split())
    assert "--misbehave" in told
    assert "m3lung peers add" in told
    listed = m3lung("simulate-pacs", "--list").stdout
    assert all(row.name in listed for row in MISBEHAVIOURS)
    wrong = m3lung("simulate-pacs", "--misbehave", "nonsense")
    assert (wrong.returncode, "no such misbehaviour" in wrong.stderr) == (2, True)


def test_peers_test_says_what_is_missing(tmp_path: Path) -> None:
    with SimulatedPacs(tmp_path / "pacs", behaviour=behaviour_from("commit-none")) as pacs:
        config = tmp_path / "node.toml"
        peer = ("--ae-title", "SIMPACS", "--host", "127.0.0.1", "--port", pacs.port)
        m3lung("peers", "add", "sim", *peer, "--commitment", "request", "--config", config)
        told = m3lung("peers", "test", "sim", "--json", "--config", config)
        listed = m3lung("peers", "list", "--json", "--config", config)
    assert told.returncode == 3
    assert "enable it at the peer" in told.stdout
    assert '"commitment": "request"' in listed.stdout
