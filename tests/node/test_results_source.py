"""The source series: verbatim modules, character sets, disagreement, missing attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from highdicom._standard_utils import get_module_attribute_map
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.errors import SeriesRejected
from dicom_node.results.source import SourceSeries
from dicom_node.results.source_modules import PATIENT_AND_STUDY, TYPE_2
from support.synthetic_ct import synthetic_series

Edit = Callable[[Dataset], None]


def edited(path: Path, edit: Edit) -> None:
    dataset = dcmread(path)
    edit(dataset)
    dataset.save_as(path)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return list(synthetic_series(tmp_path, slices=3, matrix=32).paths)


def test_reads_what_results_repeat(paths: list[Path]) -> None:
    source = SourceSeries.read(paths)
    assert source.modules.PatientName == "Synthetic^Chest"
    assert source.modules.StudyDescription == "CT THORAX"
    assert source.modules.PatientAge == "060Y"
    assert source.equipment.ManufacturerModelName == "SOMATOM Definition AS"
    assert [image.instance_number for image in source.images] == [1, 2, 3]
    assert source.image(source.images[1].sop_instance_uid) is source.images[1]
    assert source.timezone == ""
    with pytest.raises(KeyError):
        source.image("1.2.3")


@pytest.mark.parametrize(
    ("charset", "encoded", "name"),
    [
        ("ISO_IR 100", "Bäcker^Jürgen".encode("latin-1"), "Bäcker^Jürgen"),
        ("ISO_IR 144", "Иванов^Пётр".encode("iso8859-5"), "Иванов^Пётр"),
        ("ISO_IR 192", "Müller^Zoë".encode(), "Müller^Zoë"),
        (
            "\\ISO 2022 IR 87",  # PS3.5 H.3.1, example 1
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
    ],
)
def test_decodes_names_with_the_sources_character_set(
    paths: list[Path], charset: str, encoded: bytes, name: str
) -> None:
    for path in paths:
        raw = dcmread(path)
        raw.SpecificCharacterSet = charset.split("\\")
        raw.PatientName = "X" * len(encoded)
        raw.save_as(path)
        content = path.read_bytes()
        assert content.count(b"X" * len(encoded)) == 1
        path.write_bytes(content.replace(b"X" * len(encoded), encoded))
    source = SourceSeries.read(paths)
    assert str(source.modules.PatientName) == name


def test_keeps_issuers_and_request_attributes(paths: list[Path]) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.IssuerOfPatientID = "HOSPITAL"
        item = Dataset()
        item.SpecificCharacterSet = "ISO_IR 100"
        item.RequestedProcedureDescription = "Thorax nativ, für Übersicht"
        item.RequestedProcedureID = "RP1"
        dataset.RequestAttributesSequence = [item]

    for path in paths:
        edited(path, edit)
    source = SourceSeries.read(paths)
    assert source.modules.IssuerOfPatientID == "HOSPITAL"
    request = source.request_attributes[0]
    assert request.RequestedProcedureDescription == "Thorax nativ, für Übersicht"
    assert "SpecificCharacterSet" not in request  # the whole is written in UTF-8


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PatientID", "SOMEBODY-ELSE", "patient identifier"),
        ("PatientID", "", "patient identifier"),
        ("IssuerOfPatientID", "OTHER", "issuer"),
        ("PatientName", "Other^Person", "patient name"),
        ("PatientBirthDate", "19700101", "birth date"),
        ("PatientSex", "F", "sex"),
        ("StudyInstanceUID", "1.2.3", "study"),
        ("SeriesInstanceUID", "1.2.3", "series"),
    ],
)
def test_rejects_instances_of_different_patients(
    paths: list[Path], keyword: str, value: str, words: str
) -> None:
    edited(paths[2], lambda dataset: setattr(dataset, keyword, value))
    with pytest.raises(SeriesRejected, match=words) as caught:
        SourceSeries.read(paths)
    assert value == "" or value not in caught.value.reason  # no identifier in the reason


def test_spelling_of_a_name_is_no_disagreement(paths: list[Path]) -> None:
    edited(paths[1], lambda dataset: setattr(dataset, "PatientName", "SYNTHETIC^CHEST^^"))
    edited(paths[2], lambda dataset: setattr(dataset, "PatientName", ""))
    assert len(SourceSeries.read(paths).images) == 3


@pytest.mark.parametrize(
    ("timezone", "read"), [("+0100", "+0100"), ("-0330", "-0330"), ("0100", ""), ("+9900", "")]
)
def test_reads_legal_time_zones_only(paths: list[Path], timezone: str, read: str) -> None:
    edited(paths[0], lambda dataset: setattr(dataset, "TimezoneOffsetFromUTC", timezone))
    assert SourceSeries.read(paths).timezone == read


def test_missing_attributes_are_no_obstacle(paths: list[Path]) -> None:
    gone = [*TYPE_2, "Modality", "PatientAge", "SeriesNumber", "Manufacturer", "SliceThickness"]

    def edit(dataset: Dataset) -> None:
        for keyword in gone:
            dataset.pop(keyword, None)
        dataset.FrameOfReferenceUID = ""

    for path in paths:
        edited(path, edit)
    source = SourceSeries.read(paths)
    assert source.frame_of_reference_uid == ""
    assert source.series_number is None
    assert source.slice_thickness_mm is None
    assert all(keyword in source.modules for keyword in TYPE_2)


def test_rejects_what_cannot_be_read_or_named(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SeriesRejected, match="no instances"):
        SourceSeries.read([])
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"not DICOM")
    with pytest.raises(SeriesRejected, match="cannot be read"):
        SourceSeries.read([*paths, broken])
    edited(paths[1], lambda dataset: setattr(dataset, "SOPInstanceUID", ""))
    with pytest.raises(SeriesRejected, match="SOPInstanceUID"):
        SourceSeries.read(paths)


@pytest.mark.real_data
def test_rejects_the_real_series_with_illegal_uids(real_data: Path) -> None:
    folder = real_data / "covid-ct-md/duplicate_sop_uid/P002"
    with pytest.raises(SeriesRejected, match="no legal"):
        SourceSeries.read(sorted(path for path in folder.iterdir() if path.suffix == ".dcm"))


@pytest.mark.parametrize(
    "module",
    [
        "patient",
        "general-study",
        "patient-study",
        "clinical-trial-subject",
        "clinical-trial-study",
    ],
)
def test_every_attribute_of_the_modules_is_copied(module: str) -> None:
    attributes = get_module_attribute_map()[module]
    top = {item["keyword"] for item in attributes if not item["path"]}
    assert top <= set(PATIENT_AND_STUDY)
