"""The main job through real processes: storescu → listener → Redis, Celery → worker → Orthanc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from support.enhanced_ct import enhanced
from support.held import assert_exactly_one_result_set, our_objects
from support.node import Node
from support.orthanc import Orthanc
from support.redis_server import RedisServer

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("dcmtk"),
    pytest.mark.peer("redis"),
    pytest.mark.slow,
]

OVERLAYS = "Secondary Capture Image Storage"
REPORT = "Comprehensive 3D SR Storage"
SEG = "Segmentation Storage"
KOS = "Key Object Selection Document Storage"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def node(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    orthanc: Orthanc,
    redis_server: RedisServer,
    small_bundle: Path,
) -> Iterator[Node]:
    url = ""
    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgresql_url"))
    with Node(
        tmp_path / "node",
        small_bundle,
        pacs=[orthanc],
        ledger_url=url,
        broker_url=redis_server.url,
        query=True,
    ) as built:
        yield built


def test_a_series_comes_back_as_report_overlays_seg_and_key_objects(
    node: Node, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    for path in chest_series:  # the PACS holds the CT, so C-FIND can tell how many images there are
        orthanc.upload(path.read_bytes())
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    node.start()

    sent = node.send(chest_series)
    assert sent.returncode == 0, sent.stderr
    status = node.wait_until_delivered(uid)

    counts = assert_exactly_one_result_set(orthanc, node.ledger_url, uid)
    assert counts[REPORT] == 1
    assert counts[KOS] == 1
    assert counts[SEG] == 1
    assert counts[OVERLAYS] >= 2  # overlay slices and the summary page
    assert status.received == len(chest_series)
    source = dcmread(chest_series[0], stop_before_pixels=True)
    for item in our_objects(orthanc):
        assert item.StudyInstanceUID == source.StudyInstanceUID
        assert item.PatientID == source.PatientID
    overlays = [
        item for item in our_objects(orthanc) if "FrameOfReferenceUID" in item and "Rows" in item
        and item.SOPClassUID.name == OVERLAYS
    ]  # fmt: skip
    positions = {
        tuple(map(float, dcmread(path, stop_before_pixels=True).ImagePositionPatient))
        for path in chest_series
    }
    assert overlays
    for item in overlays:
        assert item.FrameOfReferenceUID == source.FrameOfReferenceUID
        assert tuple(map(float, item.ImagePositionPatient)) in positions

    # The same series again: acknowledged, and nothing else happens.
    assert node.send(chest_series).returncode == 0
    again = node.series(uid)
    assert again is not None
    assert (again.revision, again.analysis_state) == (status.revision, "done")

    # The PACS routes our own results back to us: acknowledged, never analysed.
    orthanc.set_modality("m3lung", node.ae_title, node.port)
    study = orthanc.lookup(str(source.StudyInstanceUID))
    orthanc.send("m3lung", study)
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid)


def test_late_slices_make_a_second_reading_that_names_the_first(
    node: Node, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    node.start()
    early, late = chest_series[:-2], chest_series[-2:]
    assert node.send(early).returncode == 0
    node.wait_until_delivered(uid)
    first = {str(item.SOPInstanceUID) for item in our_objects(orthanc)}
    assert node.send(late).returncode == 0
    status = node.wait_for_state(
        uid, lambda found: found.revision == 2 and found.analysis_state == "done", "second reading"
    )
    assert status.received == len(chest_series)
    node.wait_until_delivered(uid)
    reports = [item for item in our_objects(orthanc) if item.SOPClassUID.name == REPORT]
    [new] = [item for item in reports if str(item.SOPInstanceUID) not in first]
    [predecessor] = new.PredecessorDocumentsSequence
    named = {
        str(reference.ReferencedSOPInstanceUID)
        for series in predecessor.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    assert named & first


def test_of_two_phases_in_one_enhanced_ct_one_is_read(
    node: Node, orthanc: Orthanc, chest_series: list[Path], tmp_path: Path
) -> None:
    path = enhanced(
        chest_series + chest_series, tmp_path / "ct.dcm", acquisitions=[1] * 24 + [2] * 24
    )
    source = dcmread(path, stop_before_pixels=True)
    uid = str(source.SeriesInstanceUID)
    node.start()
    sent = node.send([path])
    assert sent.returncode == 0, sent.stderr
    assert node.wait_until_delivered(uid).received == 1
    counts = assert_exactly_one_result_set(orthanc, node.ledger_url, uid)
    assert counts[REPORT] == counts[KOS] == counts[SEG] == 1
    [segmentation] = [item for item in our_objects(orthanc) if item.SOPClassUID.name == SEG]
    frames = {
        int(number)
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for image in derivation.SourceImageSequence
        for number in [image.ReferencedFrameNumber]
    }
    assert frames <= set(range(1, 25)) or frames <= set(range(25, 49))


@pytest.mark.real_data
def test_a_real_series_of_148_slices(node: Node, orthanc: Orthanc, real_data: Path) -> None:
    if "postgresql" in node.ledger_url:
        pytest.skip("once is enough for the long one: the short series runs on both databases")
    files = sorted((real_data / "covid-ct-md/covid/P001").glob("*.dcm"))
    uid = str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
    node.start()
    sent = node.send(files, "-xs")  # propose JPEG Lossless SV1, as the files are
    assert sent.returncode == 0, sent.stderr
    status = node.wait_until_delivered(uid, 240)
    assert status.received == 148
    counts = assert_exactly_one_result_set(orthanc, node.ledger_url, uid)
    assert counts[REPORT] == counts[KOS] == counts[SEG] == 1


def test_a_pacs_that_forwards_is_asked_how_many_images_there_are(
    node: Node, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    """The PACS routes the study to us and answers C-FIND: the count closes the series."""
    for path in chest_series:
        orthanc.upload(path.read_bytes())
    source = dcmread(chest_series[0], stop_before_pixels=True)
    # Without gaps it would be complete after a second: on a busy machine sooner than C-FIND tells.
    config = node.config.read_text()
    node.config.write_text(
        config.replace("\nsettle_s = 1.0", "\nsettle_s = 60.0").replace(
            "quiet_period_s = 6.0", "quiet_period_s = 60.0"
        )
    )
    node.start()
    orthanc.set_modality("m3lung", node.ae_title, node.port)
    orthanc.send("m3lung", orthanc.lookup(str(source.SeriesInstanceUID)))
    status = node.wait_until_delivered(str(source.SeriesInstanceUID))
    assert (status.closing_reason, status.expected) == ("count_matches_source", len(chest_series))
    counts = assert_exactly_one_result_set(orthanc, node.ledger_url, status.series_instance_uid)
    assert counts[REPORT] == 1
