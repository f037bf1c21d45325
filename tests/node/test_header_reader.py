"""The header reader: agreement with pydicom on real files, a stated refusal for everything else."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_node.errors import CannotUnderstand, DatasetMismatch, ReceiveError
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_dataset_header, read_instance_header
from support.listening import ct_dataset, encode

UIDS = b"".join(
    struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(value)) + value
    for tag, value in (
        (0x00080016, b"1.2.840.10008.5.1.4.1.1.2\0"),
        (0x00080018, b"1.2.3\0"),
        (0x0020000D, b"1.2.4\0"),
        (0x0020000E, b"1.2.5\0"),
    )
)


def read(encoded: bytes, syntax: str = ExplicitVRLittleEndian) -> InstanceHeader:
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(encoded)
        return read_dataset_header(
            file.fileno(), start=0, end=len(encoded), transfer_syntax_uid=syntax
        )


def text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):
        return "\\".join(str(part) for part in value)
    return str(value or "").strip()


def numbers_of(dataset: pydicom.Dataset, keyword: str) -> tuple[float, ...] | None:
    value = dataset.get(keyword)
    return tuple(float(part) for part in value) if value else None


def number_of(dataset: pydicom.Dataset, keyword: str) -> float | None:
    try:
        return float(dataset[keyword].value)
    except (KeyError, TypeError, ValueError):
        return None  # absent, empty, or text such as "1A"


def assert_agrees(header: InstanceHeader, path: Path) -> None:
    ds = pydicom.dcmread(path)
    for name, keyword in {
        "sop_instance_uid": "SOPInstanceUID",
        "sop_class_uid": "SOPClassUID",
        "study_instance_uid": "StudyInstanceUID",
        "series_instance_uid": "SeriesInstanceUID",
        "frame_of_reference_uid": "FrameOfReferenceUID",
        "patient_name": "PatientName",
        "patient_id": "PatientID",
        "accession_number": "AccessionNumber",
        "study_date": "StudyDate",
        "modality": "Modality",
        "manufacturer": "Manufacturer",
        "model_name": "ManufacturerModelName",
        "series_description": "SeriesDescription",
        "body_part_examined": "BodyPartExamined",
        "convolution_kernel": "ConvolutionKernel",
    }.items():
        assert getattr(header, name) == text_of(ds, keyword)[:256], (path, name)
    for name, keyword in {
        "rows": "Rows",
        "columns": "Columns",
        "series_number": "SeriesNumber",
        "acquisition_number": "AcquisitionNumber",
        "instance_number": "InstanceNumber",
        "number_of_frames": "NumberOfFrames",
        "slice_thickness_mm": "SliceThickness",
    }.items():
        assert getattr(header, name) == number_of(ds, keyword), (path, name)
    for name, keyword in {
        "image_position": "ImagePositionPatient",
        "image_orientation": "ImageOrientationPatient",
        "pixel_spacing": "PixelSpacing",
    }.items():
        assert getattr(header, name) == numbers_of(ds, keyword), (path, name)
    image_type = text_of(ds, "ImageType")
    assert header.image_type == tuple(part.strip() for part in image_type.split("\\") if image_type)
    pixels = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    assert header.has_pixel_data == any(keyword in ds for keyword in pixels), path
    assert header.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID


def dicom_files(root: Path) -> list[Path]:
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.read_bytes()[128:132] == b"DICM"
    ]


# Refusals by name of the file: everything else in the corpus has to agree with pydicom.
REFUSED_MALFORMED = {
    "truncated": CannotUnderstand,
    "too_short": CannotUnderstand,
    "_dfl": CannotUnderstand,
    "_Deflated": CannotUnderstand,
    "no_meta_group_length": CannotUnderstand,
    "meta_missing_tsyntax": CannotUnderstand,
    "DICOMDIR": DatasetMismatch,
    "chrSQEncoding": DatasetMismatch,
    "JPEGLSNearLossless": DatasetMismatch,
    "SC_rgb_jls_lossy": DatasetMismatch,
    "UN_sequence": DatasetMismatch,
    "empty_charset": DatasetMismatch,
    "priv_SQ": DatasetMismatch,
    "HTJ2K": DatasetMismatch,
    "JLSL_": DatasetMismatch,
    "bad_sequence": DatasetMismatch,
}


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_agrees_with_pydicom_on_every_malformed_file(real_data: Path) -> None:
    agreed = 0
    for path in dicom_files(real_data / "malformed"):
        refusal = next(
            (error for part, error in REFUSED_MALFORMED.items() if part in path.name), None
        )
        if refusal is None:
            assert_agrees(read_instance_header(path), path)
            agreed += 1
        else:
            with pytest.raises(refusal):
                read_instance_header(path)
    assert agreed > 130


@pytest.mark.real_data
def test_agrees_with_pydicom_on_real_series(real_data: Path) -> None:
    folders = ["lung-pet-ct-dx", "covid-19-ny-sbu", "lungmask-testdata", "non-chest-negatives"]
    paths = [path for folder in folders for path in dicom_files(real_data / folder)]
    paths += dicom_files(real_data / "covid-ct-md")[::20]
    paths += [
        path
        for path in dicom_files(real_data / "cornerstone-transfer-syntaxes")
        if "Deflated" not in path.name
    ]
    for path in paths:
        if "duplicate_sop_uid" in str(path):
            with pytest.raises(DatasetMismatch, match="SOP Instance UID is empty"):
                read_instance_header(path)
        else:
            assert_agrees(read_instance_header(path), path)


@pytest.mark.real_data
def test_costs_less_than_a_millisecond(real_data: Path) -> None:
    paths = dicom_files(real_data / "covid-ct-md/covid/P001")
    times = []
    for path in paths:
        started = time.process_time()
        read_instance_header(path)
        times.append(time.process_time() - started)
    assert sorted(times)[len(times) // 2] < 1e-3


@pytest.mark.parametrize(
    ("syntax", "implicit", "little"),
    [
        (ExplicitVRLittleEndian, False, True),
        (ImplicitVRLittleEndian, True, True),
        (ExplicitVRBigEndian, False, False),
    ],
)
def test_reads_all_three_encodings(syntax: UID, implicit: bool, little: bool) -> None:
    dataset = ct_dataset(7)
    header = read(encode(dataset, implicit=implicit, little=little), syntax)
    assert header.image_position == (-200.0, -200.0, 7.0)
    assert (header.rows, header.instance_number) == (64, 7)
    assert header.patient_name == "Canary^Yellow"
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert header.has_pixel_data
    assert not header.from_this_node


def test_recognises_what_this_node_made() -> None:
    assert read(encode(ct_dataset(ManufacturerModelName="m3lung-node"))).from_this_node


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, "", "../../x", "1.02.3", "1" * 65, "1..2", "1.2.3\\1.2.4"])
def test_missing_empty_and_illegal_uids(keyword: str, value: str | None) -> None:
    dataset = ct_dataset()
    encoded = encode(dataset)
    element = encode(_only(dataset, keyword))
    tag = struct.unpack("<HH", element[:4])
    replaced = b""
    if value is not None:
        raw = value.encode() + b"\0" * (len(value) % 2)
        replaced = struct.pack("<HH2sH", *tag, b"UI", len(raw)) + raw
    with pytest.raises(DatasetMismatch, match=r"UID is (missing|empty|illegal)"):
        read(encoded.replace(element, replaced))


def _only(dataset: pydicom.Dataset, keyword: str) -> pydicom.Dataset:
    one = pydicom.Dataset()
    one.add(dataset[keyword])
    return one


def test_numbers_that_cannot_be_read_are_none() -> None:
    def ds_element(tag: int, text: bytes) -> bytes:
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"DS", len(text)) + text

    header = read(
        UIDS
        + ds_element(0x00180050, b"nan ")
        + ds_element(0x00200032, b"1\\2 ")
        + ds_element(0x00200037, b"1\\0\\0\\0\\1\\1e999 ")
        + ds_element(0x00200013, b"1_0 ")
        + ds_element(0x00280030, b"0.5\\0x5 ")
    )
    assert header.slice_thickness_mm is None
    assert header.image_position is None
    assert header.image_orientation is None
    assert header.instance_number is None
    assert header.pixel_spacing is None


def test_text_is_cut_and_free_of_control_characters() -> None:
    value = b"A\x00B\x07" + b"C" * 1000
    header = read(UIDS + struct.pack("<HH2sH", 0x0010, 0x0020, b"LO", len(value)) + value)
    assert header.patient_id == "AB" + "C" * 254


def test_a_character_set_cannot_name_any_codec_of_python() -> None:
    for name in (b"unicode_escape", b"zlib_codec", b"idna", b"utf_16", b"\xff\xfe"):
        charset = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", len(name)) + name
        patient = b"\\xd8\x00caf\xe9 "
        header = read(
            UIDS + charset + struct.pack("<HH2sH", 0x0010, 0x0010, b"PN", len(patient)) + patient
        )
        assert header.patient_name == "\\xd8café"


# -- hostile datasets ------------------------------------------------------------------------------


def sequences(depth: int) -> bytes:
    """Undefined-length sequences within each other."""
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return opened * depth + closed * depth


def test_deep_nesting_does_not_recurse() -> None:
    header = read(UIDS + sequences(50_000))
    assert header.sop_instance_uid == "1.2.3"
    with pytest.raises(CannotUnderstand, match="inside a sequence"):
        read(UIDS + sequences(50_000)[:-8])


def test_endless_elements_are_refused_in_bounded_time() -> None:
    started = time.process_time()
    with pytest.raises(CannotUnderstand, match="more elements"):
        read(UIDS + b"\x09\x00\x01\x00LO\0\0" * 600_000)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "tail",
    [
        b"\xe0\x7f\x10\x00OW\0\0\xfe\xff\xff\xff",  # 4 GiB of pixels announced
        b"\x10\x00\x10\x00PN\xff\xff",
        b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff",  # opened, never closed
        b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\x08\x00\x16\x00UI\0\0",  # not an item
        b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff",  # fragment
        b"\xfe\xff\x0d\xe0\0\0\0\0",  # delimiter of nothing
        b"\x08\x00\x40\x11SQ\0\0\xff",  # inside the length
        b"\x08\x00\x40",  # inside the tag
    ],
)
def test_truncated_and_broken_datasets(tail: bytes) -> None:
    with pytest.raises(CannotUnderstand):
        read(UIDS + tail)


def test_every_truncation_is_refused_or_read() -> None:
    encoded = encode(ct_dataset(size=4))
    refused = 0
    for length in range(len(encoded)):
        try:
            header = read(encoded[:length])
        except ReceiveError:
            refused += 1
        else:
            # Cut exactly between two elements: a whole dataset, only without pixels.
            assert not header.has_pixel_data
    assert refused > len(encoded) * 0.9


@given(st.binary(max_size=400), st.sampled_from([b"", UIDS]))
@example(b"\0" * 7, UIDS)
@settings(max_examples=400, deadline=2000)
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes) -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                header = read(head + data, syntax)
            except ReceiveError:
                continue
        assert header.sop_instance_uid


@given(st.data())
@settings(max_examples=300, deadline=2000)
def test_a_damaged_dataset_is_read_or_refused(data: st.DataObject) -> None:
    dataset = ct_dataset(size=2, SOPInstanceUID="2.25.8")
    encoded = bytearray(encode(dataset) + sequences(3))
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ReceiveError):
        read(bytes(encoded))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=2000)
def test_any_file_is_read_or_refused(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        prefix = os.urandom(128) + b"DICM\x02\x00\x00\x00UL\x04\x00"
        file.write(prefix + data)
        file.flush()
        with pytest.raises(ReceiveError):
            read_instance_header(Path(file.name))
