"""The simulated PACS, driven by DCMTK and pynetdicom as any PACS would be."""

from __future__ import annotations

import signal
import subprocess
import sys
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

from dicom_node.simulated_pacs import Behaviour, Holdings, SimulatedPacs
from support.delivery_objects import overlay, report
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
