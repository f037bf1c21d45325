"""The objects, written and read back from their bytes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.domain import ObjectKind, is_legal_uid
from dicom_node.header_reader import read_instance_header
from dicom_node.results import dicom_file
from dicom_node.results.context import Completeness, Predecessor, ResultContext, ResultOptions
from dicom_node.results.dicom_file import WrittenObject
from dicom_node.results.key_slices import key_slices, lesion_slices
from dicom_node.results.report import REPORT_SOP_CLASSES
from dicom_node.results.segmentation import lesion_mask
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_not_analyzed, write_results
from inference.domain import CtVolume, Findings, LesionBurden, Training
from support.made_findings import MODEL, made_findings, made_volume
from support.synthetic_ct import SyntheticSeries, synthetic_series

STARTED = datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC)
CONTEXT = ResultContext(
    instance_set_digest="1" * 64,
    configuration_digest="2" * 64,
    analysis_started_at=STARTED,
    completeness=Completeness("the source PACS reports as many images", 12, 12),
    software_version="0.1.0",
    ae_title="M3LUNG",
    statements=("Selection left out one localizer.",),
)
OPTIONS = ResultOptions()


@dataclasses.dataclass
class Case:
    series: SyntheticSeries
    volume: CtVolume
    findings: Findings
    source: SourceSeries

    def write(
        self,
        out: Path,
        *,
        findings: Findings | None = None,
        options: ResultOptions = OPTIONS,
        context: ResultContext = CONTEXT,
        source: SourceSeries | None = None,
    ) -> list[WrittenObject]:
        return list(
            write_results(
                findings or self.findings,
                self.volume,
                source or self.source,
                out,
                options,
                context,
            )
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    series = synthetic_series(tmp_path_factory.mktemp("ct"), slices=12, matrix=128)
    volume = made_volume(series.paths)
    return Case(series, volume, made_findings(volume), SourceSeries.read(series.paths))


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    case.write(out)
    return out


def read(out: Path, written: list[WrittenObject], kind: ObjectKind) -> list[Dataset]:
    return [dcmread(out / item.path) for item in written if item.kind == kind]


def items(dataset: Dataset) -> Iterator[Dataset]:
    """Every content item of a report, depth first."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def named(dataset: Dataset, meaning: str) -> list[Dataset]:
    return [
        item
        for item in items(dataset)
        if "ConceptNameCodeSequence" in item
        and item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def texts(dataset: Dataset) -> str:
    return "\n".join(str(item.TextValue) for item in items(dataset) if item.ValueType == "TEXT")


# -- every object ------------------------------------------------------------------------------


def test_writes_what_it_says(case: Case, tmp_path: Path) -> None:
    written = case.write(tmp_path)
    lesions = len(lesion_slices(case.findings))
    assert lesions > 0
    assert Counter(item.kind for item in written) == {
        ObjectKind.REPORT: 3,
        ObjectKind.SUMMARY: 1,
        ObjectKind.SEGMENTATION: 1,
        ObjectKind.KEY_OBJECTS: 1,
        ObjectKind.OVERLAY: lesions,
    }
    for item in written:
        content = (tmp_path / item.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == item.sha256
        assert len(content) == item.size_bytes
        dataset = dcmread(tmp_path / item.path)
        assert dataset.SOPInstanceUID == item.sop_instance_uid
        assert dataset.SOPClassUID == item.sop_class_uid
        assert dataset.SeriesInstanceUID == item.series_instance_uid
        assert dataset.file_meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    on_disk = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert on_disk == {item.path for item in written}
    uids = [item.sop_instance_uid for item in written]
    assert len(set(uids)) == len(uids)
    assert all(map(is_legal_uid, uids))


def test_reports_are_alternatives_of_one_slot(case: Case, tmp_path: Path) -> None:
    written = case.write(tmp_path)
    reports = [item for item in written if item.kind == ObjectKind.REPORT]
    assert [(item.slot, item.rank, item.sop_class_uid) for item in reports] == [
        ("report", rank, sop_class) for rank, sop_class in enumerate(REPORT_SOP_CLASSES)
    ]
    others = [item for item in written if item.kind != ObjectKind.REPORT]
    assert {item.rank for item in others} == {0}
    assert len({item.slot for item in others}) == len(others)


def test_same_reading_same_bytes(case: Case, tmp_path: Path) -> None:
    one, two = case.write(tmp_path / "one"), case.write(tmp_path / "two")
    assert one == two  # UIDs, paths and digests of the files
    later = dataclasses.replace(CONTEXT, analysis_started_at=STARTED + timedelta(hours=1))
    three = case.write(tmp_path / "three", context=later)
    assert [item.sop_instance_uid for item in one] == [item.sop_instance_uid for item in three]
    assert all(a.sha256 != b.sha256 for a, b in zip(one, three, strict=True))


def test_another_instance_set_is_another_result(case: Case, tmp_path: Path) -> None:
    one = case.write(tmp_path / "one")
    grown = dataclasses.replace(CONTEXT, instance_set_digest="9" * 64)
    two = case.write(tmp_path / "two", context=grown)
    assert not {item.sop_instance_uid for item in one} & {item.sop_instance_uid for item in two}
    assert not {i.series_instance_uid for i in one} & {i.series_instance_uid for i in two}
    first, second = (
        [
            str(i.UID)
            for i in named(dcmread(tmp_path / n / "report-0.dcm"), "Tracking Unique Identifier")
        ]
        for n in ("one", "two")
    )
    assert first == second
    assert len(set(first)) == len(first)


def test_every_object_repeats_patient_and_study(case: Case, folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        dataset = dcmread(path)
        for element in case.source.modules:
            assert dataset[element.tag].value == element.value, element.keyword
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert dataset.ContentDate == "20260305"
        assert dataset.ContentTime == "145607"
        assert "TimezoneOffsetFromUTC" not in dataset  # absent stays absent


def test_every_object_bears_the_mark_of_the_loop_guard(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        assert read_instance_header(path).from_this_node
        equipment = dcmread(path).ContributingEquipmentSequence
        assert [item.ManufacturerModelName for item in equipment] == [
            "SOMATOM Definition AS",
            "m3lung-node",
            "M3Lung-Sys",
        ]
        assert [i.PurposeOfReferenceCodeSequence[0].CodeValue for i in equipment] == [
            "109101",
            "109102",
            "109102",
        ]
        assert MODEL.sha256 in equipment[2].ContributionDescription
        assert is_legal_uid(equipment[2].DeviceUID)


def test_series_are_told_apart(folder: Path) -> None:
    found = {}
    for path in folder.rglob("*.dcm"):
        dataset = dcmread(path, stop_before_pixels=True)
        key = (str(dataset.SeriesInstanceUID), int(dataset.SeriesNumber))
        found.setdefault(key, set()).add(str(dataset.SeriesDescription))
    assert len(found) == len(ObjectKind)
    assert len({number for _, number in found}) == len(ObjectKind)
    assert all(len(descriptions) == 1 for descriptions in found.values())


@pytest.mark.parametrize(
    ("training", "short", "words"),
    [
        (Training.UNTRAINED, "UNTRAINED", "UNTRAINED MODEL"),
        (Training.DEMONSTRATION, "DEMO", "DEMONSTRATION MODEL"),
        (Training.SITE, "", ""),
    ],
)
def test_the_state_of_the_model_stands_wherever_a_reader_looks(
    case: Case, tmp_path: Path, training: Training, short: str, words: str
) -> None:
    model = dataclasses.replace(MODEL, training=training)
    written = case.write(tmp_path, findings=dataclasses.replace(case.findings, model=model))
    banner = "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"
    for item in written:
        dataset = dcmread(tmp_path / item.path)
        assert dataset.SeriesDescription.endswith(banner)
        assert len(dataset.SeriesDescription) <= 64
        assert (short in dataset.SeriesDescription) if short else True
        if item.kind in (ObjectKind.REPORT, ObjectKind.KEY_OBJECTS):
            assert banner in texts(dataset)
            assert words in texts(dataset)
            assert words or "MODEL -" not in texts(dataset)
        elif item.kind != ObjectKind.SEGMENTATION:
            assert banner in dataset.DerivationDescription
            assert words in dataset.DerivationDescription
            assert "M3Lung-Sys 0.1.0" in dataset.DerivationDescription
        else:
            assert training.value in dataset.SegmentSequence[0].SegmentDescription


def test_the_banner_is_the_sites(case: Case, tmp_path: Path) -> None:
    options = ResultOptions(banner="B" * 64)
    for item in case.write(tmp_path, options=options):
        dataset = dcmread(tmp_path / item.path)
        assert dataset.SeriesDescription.rstrip("B").endswith(": ")
        assert len(dataset.SeriesDescription) == 64


def test_times_are_in_the_sources_time_zone(case: Case, tmp_path: Path) -> None:
    source = dataclasses.replace(case.source, timezone="-0330")
    for item in case.write(tmp_path, source=source):
        dataset = dcmread(tmp_path / item.path, stop_before_pixels=True)
        assert dataset.TimezoneOffsetFromUTC == "-0330"
        assert dataset.ContentTime == dataset.SeriesTime == "112607"
    paris = STARTED.astimezone(timezone(timedelta(hours=1)))
    context = dataclasses.replace(CONTEXT, analysis_started_at=paris)
    (summary,) = read(
        tmp_path / "b",
        case.write(tmp_path / "b", source=source, context=context),
        ObjectKind.SUMMARY,
    )
    assert summary.ContentTime == "112607"


def test_refuses_findings_about_other_images(case: Case, tmp_path: Path) -> None:
    fewer = dataclasses.replace(case.findings, slices=case.findings.slices[1:])
    with pytest.raises(ValueError, match="same images"):
        case.write(tmp_path, findings=fewer)


def test_leaves_no_partial_file(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        case.write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# -- report ------------------------------------------------------------------------------------


def test_report_says_the_numbers(case: Case, folder: Path) -> None:
    report = highdicom.sr.srread(folder / "report-0.dcm")
    groups = report.content.get_image_measurement_groups()
    lesions = lesion_slices(case.findings)
    assert len(groups) == 4 + 1 + 2 + len(lesions)
    assert case.findings.patient is not None
    for group, code, probability in zip(
        groups,
        ("17621005", "840539006", "442696006", "385093006"),
        case.findings.patient.probabilities,
        strict=False,
    ):
        assert group.finding_type.value == code
        (measured,) = group.get_measurements()
        assert measured.name.meaning == "Probability"
        assert float(measured.value) == pytest.approx(probability)
        site = group.finding_sites[0]
        assert site.value.meaning == "Lung"
        assert site.laterality.meaning == "Bilateral"
    percent, volume = groups[4].get_measurements()
    burden = case.findings.burden
    assert float(percent.value) == pytest.approx(burden.percent_of_lung, rel=1e-5)
    assert float(volume.value) == pytest.approx(burden.lesion_ml, rel=1e-5)
    for group, index in zip(groups[7:], lesions, strict=True):
        found = case.findings.slices[index]
        (source,) = group.source_images
        assert source.referenced_sop_instance_uid == found.reference.sop_instance_uid
        values = [float(measured.value) for measured in group.get_measurements()]
        assert values == pytest.approx([found.lesion_probability, *found.probabilities], abs=1e-6)


def test_report_tells_classes_of_a_slice_apart(folder: Path) -> None:
    report = dcmread(folder / "report-0.dcm")
    group = named(report, "Measurement Group")[-1]
    findings = [
        item.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    ]
    assert findings == [
        "Opacity",
        "Normal",
        "COVID-19",
        "Influenza caused by Influenza A virus subtype H1N1",
        "Community acquired pneumonia",
    ]


def test_report_is_the_same_tree_in_three_classes(folder: Path) -> None:
    trees = []
    for rank, sop_class in enumerate(REPORT_SOP_CLASSES):
        report = dcmread(folder / f"report-{rank}.dcm")
        assert report.SOPClassUID == sop_class
        assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
            "COMPLETE",
            "UNVERIFIED",
            "PRELIMINARY",
        )
        trees.append(report.ContentSequence)
    assert trees[0] == trees[1] == trees[2]


def test_report_names_all_it_refers_to_as_evidence(case: Case, folder: Path) -> None:
    report = dcmread(folder / "report-0.dcm")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    evidence = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert study.StudyInstanceUID == case.series.study_instance_uid
    assert series.SeriesInstanceUID == case.series.series_instance_uid
    assert evidence == set(case.series.sop_instance_uids)
    referred = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in items(report)
        if item.ValueType == "IMAGE"
    }
    assert referred == evidence


def test_report_gives_quality_completeness_and_second_opinion(folder: Path) -> None:
    report = dcmread(folder / "report-0.dcm")
    words = texts(report)
    assert "The two readings disagree." in words
    assert "12 images received; closed because: the source PACS reports as many images" in words
    assert "Selection left out one localizer." in words
    assert "DISAGREES: CAP, where the patient network says COVID-19" in words
    (own,) = named(report, "Class of the patient")
    assert own.ConceptCodeSequence[0].CodeMeaning == "COVID-19"


def test_report_limits_slice_groups_to_the_largest_lesions(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path, options=ResultOptions(max_slice_groups=2))
    labels = [
        str(item.TextValue)
        for item in named(dcmread(tmp_path / "report-0.dcm"), "Tracking Identifier")
        if str(item.TextValue).startswith("Slice")
    ]
    largest = sorted(
        range(len(case.findings.slices)),
        key=lambda index: -case.findings.slices[index].lesion_area_px,
    )[:2]
    assert labels == [f"Slice {index + 1} of 12" for index in sorted(largest)]


def test_report_takes_the_place_of_its_predecessor(case: Case, tmp_path: Path) -> None:
    former = tuple(
        Predecessor(sop_class, f"1.2.3.{rank}", "1.2.3.99")
        for rank, sop_class in enumerate(REPORT_SOP_CLASSES)
    )
    context = dataclasses.replace(CONTEXT, predecessors=former)
    for rank, report in enumerate(
        read(tmp_path, case.write(tmp_path, context=context), ObjectKind.REPORT)
    ):
        (study,) = report.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == "1.2.3.99"
        (instance,) = series.ReferencedSOPSequence
        assert instance.ReferencedSOPInstanceUID == f"1.2.3.{rank}"
        assert instance.ReferencedSOPClassUID == REPORT_SOP_CLASSES[rank]


def test_report_without_percentage_when_spacing_is_irregular(case: Case, tmp_path: Path) -> None:
    burden = LesionBurden(None, None, None, case.findings.burden.distribution)
    case.write(tmp_path, findings=dataclasses.replace(case.findings, burden=burden))
    report = dcmread(tmp_path / "report-0.dcm")
    assert named(report, "Percentage of lung involved") == []
    assert len(named(report, "Share of lesion volume")) == 2


# -- overlays ----------------------------------------------------------------------------------


def test_overlay_lies_on_its_source_slice(case: Case, folder: Path) -> None:
    for index in lesion_slices(case.findings):
        overlay = dcmread(folder / f"overlay/{index + 1:04d}.dcm")
        source = dcmread(case.series.paths[index])
        for keyword in (
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "FrameOfReferenceUID",
            "Rows",
            "Columns",
            "SliceThickness",
        ):
            assert overlay[keyword].value == source[keyword].value, keyword
        (reference,) = overlay.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert overlay.InstanceNumber == index + 1
        assert overlay.PatientOrientation == ["L", "P"]
        assert (overlay.Modality, overlay.ConversionType) == ("OT", "WSD")
        assert list(overlay.ImageType) == ["DERIVED", "SECONDARY"]
        assert overlay.BurnedInAnnotation == "YES"
        assert overlay.PhotometricInterpretation == "RGB"
        assert overlay.pixel_array.shape == (128, 128, 3)
        assert "WindowCenter" not in overlay
        assert overlay.ICCProfile[36:40] == b"acsp"


def test_overlay_of_all_slices_and_modality_by_setting(case: Case, tmp_path: Path) -> None:
    options = ResultOptions(overlay_slices="all", secondary_capture_modality="CT")
    overlays = read(tmp_path, case.write(tmp_path, options=options), ObjectKind.OVERLAY)
    assert [int(overlay.InstanceNumber) for overlay in overlays] == list(range(1, 13))
    z = [float(overlay.ImagePositionPatient[2]) for overlay in overlays]
    assert z == sorted(z, reverse=True)  # anatomical order, from the top
    assert {overlay.Modality for overlay in overlays} == {"CT"}


def test_without_lesion_only_report_and_summary(case: Case, tmp_path: Path) -> None:
    clean = made_findings(case.volume, lesions=False)
    for choice in ("lesion", "all"):
        written = case.write(
            tmp_path / choice, findings=clean, options=ResultOptions(overlay_slices=choice)
        )
        assert {item.kind for item in written} == {ObjectKind.REPORT, ObjectKind.SUMMARY}
        assert "No slice has lesion" in texts(dcmread(tmp_path / choice / "report-0.dcm"))
        assert not (tmp_path / choice / "overlay").exists()


def test_slice_level_reading_says_so(case: Case, tmp_path: Path) -> None:
    one = dataclasses.replace(
        case.volume,
        hu=case.volume.hu[:1],
        slices=case.volume.slices[:1],
        z_mm=case.volume.z_mm[:1],
        positions_mm=case.volume.positions_mm[:1],
        slice_spacing_mm=None,
    )
    for lesions in (True, False):
        findings = made_findings(one, patient=False, lesions=lesions)
        out = tmp_path / str(lesions)
        write_results(findings, one, case.source, out, OPTIONS, CONTEXT)
        report = dcmread(out / "report-0.dcm")
        assert "Slice-level reading" in texts(report)
        assert named(report, "Class of the patient") == []
        assert len(named(report, "Class of the slice")) == 1


# -- segmentation ------------------------------------------------------------------------------


def test_segmentation_is_the_lesion_mask(case: Case, folder: Path) -> None:
    segmentation = highdicom.seg.segread(folder / "segmentation.dcm")
    indices = lesion_slices(case.findings)
    assert segmentation.number_of_segments == 1
    assert segmentation.NumberOfFrames == len(indices)  # empty frames are left out
    pixels = segmentation.get_pixels_by_source_instance(
        [case.series.sop_instance_uids[index] for index in range(12)],
        ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )
    assert (pixels[..., 0].astype(bool) == lesion_mask(case.findings)).all()
    positions = [
        frame.PlanePositionSequence[0].ImagePositionPatient
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    assert np.allclose(positions, case.volume.positions_mm[indices])
    assert segmentation.FrameOfReferenceUID == case.series.frame_of_reference_uid
    description = segmentation.get_segment_description(1)
    assert description.segmented_property_category.value == "49755003"
    assert description.segmented_property_type.meaning == "Opacity"


def test_mask_counts_what_the_findings_count(case: Case) -> None:
    areas = lesion_mask(case.findings).sum(axis=(1, 2))
    assert areas.tolist() == [found.lesion_area_px for found in case.findings.slices]


# -- key objects -------------------------------------------------------------------------------


def test_key_objects_are_the_slices_with_the_largest_lesions(case: Case, folder: Path) -> None:
    document = dcmread(folder / "key_objects.dcm")
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    images = [item for item in document.ContentSequence if item.ValueType == "IMAGE"]
    expected = key_slices(case.findings, 5)
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images] == [
        case.series.sop_instance_uids[index] for index in expected
    ]
    assert all("ConceptNameCodeSequence" not in image for image in images)
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    evidence = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert len(evidence) == len(images)


def test_key_slices_lie_apart(case: Case) -> None:
    areas = [0] * 10 + [50, 90, 100, 95, 60] + [0] * 30 + [40, 45, 30] + [0] * 52
    slices = tuple(
        dataclasses.replace(case.findings.slices[0], lesion_area_px=area) for area in areas
    )
    findings = dataclasses.replace(case.findings, slices=slices)
    assert key_slices(findings, 2) == [12, 46]
    assert key_slices(findings, 5) == [12, 46]  # neighbours closer than five slices do not count
    assert key_slices(made_findings(case.volume, lesions=False), 5) == []


# -- awkward sources ---------------------------------------------------------------------------

Edit = Callable[[Dataset], None]


@pytest.mark.parametrize(
    "gone",
    [
        ["PatientName", "PatientID", "PatientBirthDate", "PatientSex"],
        ["StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"],
        ["Modality", "Manufacturer", "SeriesNumber", "SliceThickness", "PatientPosition"],
        ["FrameOfReferenceUID", "PositionReferenceIndicator"],
    ],
    ids=["patient", "study", "series", "frame of reference"],
)
def test_a_source_that_lacks_attributes_gives_whole_objects(
    tmp_path: Path, gone: list[str]
) -> None:
    series = synthetic_series(tmp_path / "ct", slices=4, matrix=64)
    for path in series.paths:
        dataset = dcmread(path)
        for keyword in gone:
            dataset.pop(keyword, None)
        dataset.save_as(path)
    volume = made_volume(series.paths)
    findings = made_findings(volume)
    out = tmp_path / "out"
    written = write_results(
        findings, volume, SourceSeries.read(series.paths), out, OPTIONS, CONTEXT
    )
    assert {item.kind for item in written} == set(ObjectKind)
    for item in written:
        dataset = dcmread(out / item.path)
        for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber"):
            assert keyword in dataset
        if item.kind == ObjectKind.SEGMENTATION:
            assert is_legal_uid(dataset.FrameOfReferenceUID)
        elif "FrameOfReferenceUID" in gone:
            assert "FrameOfReferenceUID" not in dataset


def test_names_in_any_script_arrive(case: Case, tmp_path: Path) -> None:
    source = SourceSeries.read(case.series.paths)
    source.modules.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    source.modules.StudyDescription = "Грудная клетка"
    for item in case.write(tmp_path, source=source):
        dataset = dcmread(tmp_path / item.path)
        assert str(dataset.PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
        assert dataset.StudyDescription == "Грудная клетка"


def test_requests_and_lossy_compression_are_told(case: Case, tmp_path: Path) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.RequestedProcedureDescription = "CT thorax"
    lossy = Dataset()
    lossy.LossyImageCompression = "01"
    lossy.LossyImageCompressionRatio = "12.5"
    lossy.LossyImageCompressionMethod = "ISO_15444_1"
    source = dataclasses.replace(case.source, request_attributes=(request,), lossy=lossy)
    for item in case.write(tmp_path, source=source):
        dataset = dcmread(tmp_path / item.path)
        if item.kind in (ObjectKind.REPORT, ObjectKind.KEY_OBJECTS):
            (found,) = dataset.ReferencedRequestSequence
            assert found.StudyInstanceUID == case.series.study_instance_uid
            assert found.AccessionNumber == "A1"
        else:
            (found,) = dataset.RequestAttributesSequence
            assert dataset.LossyImageCompression == "01"
            assert dataset.LossyImageCompressionRatio == "12.5"
        assert found.RequestedProcedureID == "RP1"


def test_frames_of_an_enhanced_source_are_referred_to_by_number(case: Case, tmp_path: Path) -> None:
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    references = tuple(
        dataclasses.replace(case.volume.slices[0], sop_class_uid=enhanced, frame_number=12 - index)
        for index in range(12)
    )
    volume = dataclasses.replace(case.volume, slices=references)
    slices = tuple(
        dataclasses.replace(found, reference=reference)
        for found, reference in zip(case.findings.slices, references, strict=True)
    )
    findings = dataclasses.replace(case.findings, slices=slices)
    written = write_results(findings, volume, case.source, tmp_path, OPTIONS, CONTEXT)
    assert len({item.sop_instance_uid for item in written}) == len(written)
    report = dcmread(tmp_path / "report-0.dcm")
    (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 1  # one instance, whatever its frames
    frames = [
        int(item.ReferencedSOPSequence[0].ReferencedFrameNumber) for item in named(report, "Source")
    ]
    assert frames == list(range(12, 0, -1))
    for index in lesion_slices(findings):
        overlay = dcmread(tmp_path / f"overlay/{index + 1:04d}.dcm")
        assert overlay.SourceImageSequence[0].ReferencedFrameNumber == 12 - index


# -- not analysed ------------------------------------------------------------------------------


def test_a_series_that_was_not_analysed_gets_a_page(case: Case, tmp_path: Path) -> None:
    reason = "The series shows no two air-filled lungs."
    (item,) = write_not_analyzed(reason, case.source, tmp_path, OPTIONS, CONTEXT)
    page = dcmread(tmp_path / item.path)
    assert item.kind == ObjectKind.SUMMARY
    assert page.SeriesDescription.startswith("Not analysed: ")
    assert reason in page.DerivationDescription
    assert page.pixel_array.shape == (576, 1080, 3)
    assert len(page.ContributingEquipmentSequence) == 2  # no model read it
    assert read_instance_header(tmp_path / item.path).from_this_node
