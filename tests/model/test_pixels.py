"""Stored values to Hounsfield units, against arithmetic written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from inference.errors import UndecodablePixels
from inference.pixels import Padding, Rescale, decode_frame, decode_hu, padding_of, to_hu


def by_hand(value: int, slope: float, intercept: float, padding: Padding | None) -> int:
    if padding is not None and padding.low <= value <= padding.high:
        return -1024
    return max(-1024, min(3071, round(value * slope + intercept)))


@given(
    stored=arrays.arrays(np.int32, (4, 3), elements=st.integers(-32768, 65535)),
    slope=st.sampled_from([1.0, 0.5, 2.0002442, 32.1216]),
    intercept=st.sampled_from([0.0, -1024.0, -4047.0, -0.25, 1e12, -1e12]),
    padding=st.none() | st.just(Padding(-2000, -2000)) | st.just(Padding(0, 63)),
)
def test_hu_is_slope_intercept_padding_and_clip(stored, slope, intercept, padding):
    hu = to_hu(stored, Rescale(slope, intercept), padding)
    assert hu.dtype == np.int16
    expected = [[by_hand(int(v), slope, intercept, padding) for v in row] for row in stored]
    assert hu.tolist() == expected


def native(stored: np.ndarray, **attributes: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.PixelData = stored.astype("<u2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def test_bits_above_bits_stored_are_no_part_of_the_value():
    # PS3.5 8.1.1: overlay bits of old scanners live there
    cells = np.array([[0xF123, 0x0123], [0x1FFF, 0x8000]])
    dataset = native(cells, BitsStored=12, HighBit=11, PixelRepresentation=0)
    assert decode_frame(dataset, 0, "x").tolist() == [[0x123, 0x123], [0xFFF, 0]]


def test_sign_is_extended_from_the_high_bit():
    cells = np.array([[0x0FFF, 0x0800], [0x07FF, 0x0001]])
    dataset = native(cells, BitsStored=12, HighBit=11, PixelRepresentation=1)
    assert decode_frame(dataset, 0, "x").tolist() == [[-1, -2048], [2047, 1]]


def test_values_may_be_left_aligned():
    cells = np.array([[0xFFF0, 0x8000], [0x7FF0, 0x0010]])
    dataset = native(cells, BitsStored=12, HighBit=15, PixelRepresentation=1)
    assert decode_frame(dataset, 0, "x").tolist() == [[-1, -2048], [2047, 1]]


def test_high_bit_may_be_absent():
    dataset = native(np.array([[1, 65535]]), BitsStored=16, PixelRepresentation=1)
    assert decode_frame(dataset, 0, "x").tolist() == [[1, -1]]


@pytest.mark.parametrize(
    ("written", "signed", "expected"),
    [(63536, 1, -2000), (-2000, 1, -2000), (-2000, 0, 63536), (0, 0, 0), (32768, 1, -32768)],
)
def test_padding_written_with_the_wrong_sign_is_understood(written, signed, expected):
    dataset = Dataset()
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, signed
    dataset.add_new("PixelPaddingValue", "SL", written)
    assert padding_of(dataset) == Padding(expected, expected)


def test_padding_may_be_a_range_given_either_way_round():
    dataset = Dataset()
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, 1
    dataset.add_new("PixelPaddingValue", "SS", -1000)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -2000)
    assert padding_of(dataset) == Padding(-2000, -1000)


def test_no_padding_value_no_padding():
    assert padding_of(Dataset()) is None


def test_short_pixel_data_name_the_image():
    dataset = native(np.zeros((4, 4)), BitsStored=16, HighBit=15, PixelRepresentation=0)
    dataset.PixelData = dataset.PixelData[:20]
    with pytest.raises(UndecodablePixels, match=r"The pixel data of the image 7\.dcm are damaged"):
        decode_frame(dataset, 0, "7.dcm")


def test_a_colour_image_is_refused():
    dataset = native(np.zeros((2, 2)), BitsStored=16, HighBit=15, PixelRepresentation=0)
    dataset.SamplesPerPixel = 3
    with pytest.raises(UndecodablePixels, match="colour"):
        decode_frame(dataset, 0, "7.dcm")


@given(
    stored=arrays.arrays(np.uint16, (3, 4)),
    bits_stored=st.integers(1, 16),
    left_aligned=st.booleans(),
    signed=st.booleans(),
    slope=st.sampled_from([1.0, 2.0, 0.5]),
    intercept=st.sampled_from([0.0, -1024.0, -1023.5, 1e12]),
    padding=st.sampled_from([None, Padding(-2000, -2000), Padding(0, 40)]),
)
def test_the_table_of_hu_says_what_the_steps_say(
    stored, bits_stored, left_aligned, signed, slope, intercept, padding
):
    dataset = native(
        stored.astype(np.int16) if signed else stored,
        BitsStored=bits_stored,
        HighBit=15 if left_aligned else bits_stored - 1,
        PixelRepresentation=int(signed),
    )
    rescale = Rescale(slope, intercept)
    by_steps = to_hu(decode_frame(dataset, 0, "x"), rescale, padding)
    assert np.array_equal(decode_hu(dataset, 0, "x", rescale, padding), by_steps)
