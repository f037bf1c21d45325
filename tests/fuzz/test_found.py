"""What fuzzing found, each as the least bytes that show it, and what happens with them now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.errors import SeriesRejected, SeriesSkipped
from dicom_node.header import InstanceHeader
from dicom_node.results.source import SourceSeries
from dicom_node.selection import FrameGeometry, select_stack
from dicom_node.selection import read_frames as read_geometry
from dicom_node.settings import SelectionSettings
from inference.errors import UndecodablePixels
from inference.frames import read_frames
from inference.pixel_file import Plane, read_planes
from inference.pixels import Rescale, decode_frame, to_hu
from support.fuzz_targets import run_connection
from support.listening import command, ct_dataset, encode, request_pdu, value_pdu

PREFIX = b"\0" * 128 + b"DICM"
META = (
    b"\x02\0\0\0UL\x04\0\x1c\0\0\0"
    b"\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"
)  # fmt: skip
PLANE = Plane(0, "x", 4, 4, Rescale(), None)


@pytest.fixture
def write(tmp_path: Path):
    def write(content: bytes) -> Path:
        path = tmp_path / "x.dcm"
        path.write_bytes(content)
        return path

    return write


def test_a_number_of_three_bytes(write) -> None:
    """pydicom's BytesLengthException is a plain Exception: it passed every reader's list."""
    path = write(PREFIX + b"\x02\0\0\0UL\x03\0abc")
    assert read_geometry(path) == ()
    with pytest.raises(UndecodablePixels, match="cannot be read"):
        read_frames(path)
    with pytest.raises(UndecodablePixels, match="cannot be read"):
        list(read_planes(path, [PLANE]))
    with pytest.raises(SeriesRejected, match="cannot be read"):
        SourceSeries.read([path])


def test_an_unknown_value_representation_in_the_source(write) -> None:
    """The series was read already: it must not fail three times when its results are written."""
    path = write(PREFIX + META + b"\x08\0\x16\0QI\x02\x001.")
    with pytest.raises(SeriesRejected, match="damaged"):
        SourceSeries.read([path])


def test_no_dicom_file_at_all(write) -> None:
    with pytest.raises(UndecodablePixels, match="not a DICOM file"):
        list(read_planes(write(b"text"), [PLANE]))


@pytest.mark.parametrize("uid", ["1.2\xff", "../../x", "1..2", "\x80"])
def test_an_echo_with_an_illegal_class_is_answered(uid: str) -> None:
    """It ended the association's thread: the answer could not be encoded."""
    association = request_pdu([("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])])
    echo = value_pdu(1, 3, command(0x30, 7, uid, None, False))
    release = b"\5\0\0\0\0\4\0\0\0\0"
    kinds = run_connection(association + echo + release)
    assert kinds == [2, 4, 6]  # accepted, answered, released


@pytest.mark.parametrize(
    ("stored", "intercept", "expected"),
    [(2**31 - 1, 2**30, 3071), (-(2**31), -(2**30), -1024), (2**31 - 1, -1024.0, 3071)],
)
def test_values_of_32_bits_do_not_wrap(stored: int, intercept: float, expected: int) -> None:
    """2147483647 with an intercept of 1073741824 became -1024 HU: air where there was metal."""
    values = np.full((1, 1), stored, dtype=np.int32)
    assert to_hu(values, Rescale(1.0, float(intercept)), None).item() == expected


AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def header(**more: object) -> InstanceHeader:
    return InstanceHeader(
        **{
            "sop_instance_uid": "1.2.9",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "study_instance_uid": "1.2",
            "series_instance_uid": "1.2.3",
            "image_position": (0.0, 0.0, 0.0),
            "image_orientation": AXIAL,
            "has_pixel_data": True,
            **more,
        }
    )


@pytest.mark.parametrize("z", [1e308, -1e6, float("inf"), float("nan")])
def test_a_position_beyond_every_scanner(z: float) -> None:
    """It made a stack that covered infinitely much, in a number that no database takes."""
    settings = SelectionSettings(min_slices=1, min_coverage_mm=0)
    far = header(image_position=(0.0, 0.0, z))
    with pytest.raises(SeriesRejected, match="impossible position"):
        select_stack([far], settings)
    with pytest.raises(SeriesRejected, match="impossible position"):
        select_stack(
            [header(sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1")],
            settings,
            lambda _: [FrameGeometry(1, (0.0, 0.0, z), AXIAL)],
        )


@pytest.mark.parametrize("thickness", [-4.8e15, 0.0, 1e300])
def test_a_thickness_that_no_slice_has(thickness: float) -> None:
    settings = SelectionSettings(min_slices=1, min_coverage_mm=0)
    stack = select_stack([header(slice_thickness_mm=thickness)], settings)
    assert (stack.coverage_mm, stack.slice_thickness_mm) == (0.0, None)


def test_fewer_frames_than_none() -> None:
    """The reason read "only -49 axial slices"."""
    minus = header(sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1", number_of_frames=-49)
    with pytest.raises(SeriesSkipped, match="only 1 axial slice;"):
        select_stack([minus], SelectionSettings())


def test_two_high_bits() -> None:
    dataset = ct_dataset(size=4)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encode(dataset)
    dataset.HighBit = [11, 12]
    with pytest.raises(UndecodablePixels, match="damaged"):
        decode_frame(dataset, 0, "x")
