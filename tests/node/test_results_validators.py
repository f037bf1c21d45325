"""Two independent validators judge every kind of object."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.domain import ObjectKind
from dicom_node.results.context import Completeness, Predecessor, ResultContext, ResultOptions
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_not_analyzed, write_results
from support.made_findings import made_findings, made_volume
from support.synthetic_ct import synthetic_series

CONTEXT = ResultContext(
    "1" * 64,
    "2" * 64,
    datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
    Completeness("quiet for 60 s", 6),
    "0.1.0",
    "M3LUNG",
    predecessors=(Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "1.2.3.4", "1.2.3.5"),),
)
PIXELMED = Path("/usr/share/java/pixelmed.jar")
# Its XPath expressions exceed the limits of a current JDK.
JVM = [
    "-XX:+UseSerialGC",
    "-Xss64m",
    "-Djdk.xml.xpathTotalOpLimit=0",
    "-Djdk.xml.xpathExprOpLimit=0",
    "-Djdk.xml.xpathExprGrpLimit=0",
]
# Deliberate, and stated in the conformance statement: geometry makes the Secondary Captures
# Standard Extended, the private codes are identified in the dataset.
ACCEPTED = re.compile(
    "not present in standard DICOM IOD|Standard Extended SOP Class"
    "|Unrecognized defined term <99M3LUNG>"
    "|would be needed to build DICOMDIR"  # where the source names neither patient nor study
)
IODS = {
    "Comprehensive3DSR",
    "ComprehensiveSR",
    "EnhancedSR",
    "SCImage",
    "Segmentation",
    "KeyObjectSelectionDocument",
}


def dciodvfy(path: Path) -> list[str]:
    run = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]


def pixelmed(path: Path) -> list[str]:
    run = subprocess.run(
        ["java", *JVM, "-cp", PIXELMED, "com.pixelmed.validate.DicomSRValidator", path],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]


@pytest.fixture(scope="module", params=["whole", "bare", "no lesion", "slices only"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a series; "bare" lacks all that a source may lack."""
    name = request.param
    source_folder, out = tmp_path_factory.mktemp("ct"), tmp_path_factory.mktemp("out")
    series = synthetic_series(source_folder, slices=4, matrix=64)
    if name == "bare":
        for path in series.paths:
            dataset = dcmread(path)
            for keyword in (
                *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
                *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription"),
                *("Modality", "Manufacturer", "SeriesNumber", "SliceThickness"),
                *("PatientPosition", "FrameOfReferenceUID", "PositionReferenceIndicator"),
            ):
                dataset.pop(keyword, None)
            dataset.save_as(path)
    volume = made_volume(series.paths)
    if name == "slices only":
        volume = dataclasses.replace(volume, slice_spacing_mm=None)
    findings = made_findings(volume, lesions=name != "no lesion", patient=name != "slices only")
    source = SourceSeries.read(series.paths)
    options = ResultOptions(max_slice_groups=1)  # PixelMed takes a second per measurement group
    written = write_results(findings, volume, source, out, options, CONTEXT)
    expected = {ObjectKind.REPORT, ObjectKind.SUMMARY} if name == "no lesion" else set(ObjectKind)
    assert {item.kind for item in written} == expected
    write_not_analyzed("No chest.", source, out / "not", ResultOptions(), CONTEXT)
    return out


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(folder: Path) -> None:
    for path in sorted(folder.rglob("*.dcm")):
        lines = dciodvfy(path)
        unexpected = [line for line in lines if line not in IODS and not ACCEPTED.search(line)]
        assert len(IODS.intersection(lines)) == 1, lines
        assert unexpected == [], path.name


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_would_find_an_error(folder: Path, tmp_path: Path) -> None:
    dataset = dcmread(folder / "report-0.dcm")
    del dataset.VerificationFlag
    dataset.save_as(tmp_path / "broken.dcm")
    assert any("Error" in line for line in dciodvfy(tmp_path / "broken.dcm"))


@pytest.mark.slow
@pytest.mark.peer("pixelmed")
@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("whole", ["report-0.dcm", "key_objects.dcm"]),
        ("bare", ["report-1.dcm"]),
        ("slices only", ["report-2.dcm"]),
    ],
    indirect=["folder"],
)
def test_pixelmed_finds_no_error(folder: Path, names: list[str]) -> None:
    for name in names:
        lines = pixelmed(folder / name)
        assert "IOD validation complete" in lines
        assert "Root Template Validation Complete" in lines
        assert [line for line in lines if line.startswith("Error")] == [], name
        warnings = [line for line in lines if line.startswith("Warning")]
        # Qualitative items are private additions, which the template allows.
        assert all("Content Item not in template" in line for line in warnings), warnings


@pytest.mark.slow
@pytest.mark.peer("pixelmed")
@pytest.mark.parametrize("folder", ["slices only"], indirect=True)
def test_pixelmed_would_find_an_error(folder: Path, tmp_path: Path) -> None:
    dataset = dcmread(folder / "report-0.dcm")
    (procedure,) = (
        item
        for item in dataset.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Procedure reported"
    )
    procedure.ConceptCodeSequence[0].CodeValue = "24627-2"  # CT Chest: not in CID 100
    procedure.ConceptCodeSequence[0].CodeMeaning = "CT Chest"
    dataset.save_as(tmp_path / "broken.dcm")
    assert any(line.startswith("Error") for line in pixelmed(tmp_path / "broken.dcm"))
