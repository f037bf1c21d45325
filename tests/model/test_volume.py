"""Series to volume on small series written here: order, geometry, and every refusal."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import EnhancedCTImageStorage, JPEGLSLossless, RLELossless, generate_uid

from inference.domain import CtVolume, QualityCode
from inference.errors import (
    InconsistentSeries,
    NotAChestCt,
    SeriesError,
    UndecodablePixels,
    UnusableGeometry,
)
from inference.volume import load_volume
from support.enhanced_ct import enhanced


def plane(value: int, shape: tuple[int, int] = (6, 5)) -> np.ndarray:
    """A slice that is recognised by its first pixel."""
    stored = np.full(shape, 24, dtype=np.int16)
    stored[0, 0] = value
    return stored


@pytest.fixture
def stack(write_slice):
    """Five slices, 2 mm apart; the most superior holds 100 in its corner, the next 101 ..."""

    def write(count: int = 5, **attributes: object) -> list[Path]:
        return [
            write_slice(f"{i}.dcm", plane(100 + i), z_mm=50.0 - 2.0 * i, **attributes)
            for i in range(count)
        ]

    return write


def codes(volume: CtVolume) -> set[QualityCode]:
    return {statement.code for statement in volume.quality}


def change(path: Path, **attributes: object) -> None:
    dataset = dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)


# --- order and geometry


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_files_does_not_matter(stack, seed):
    paths = stack()
    shuffled = paths.copy()
    random.Random(seed).shuffle(shuffled)
    volume, reference = load_volume(shuffled), load_volume(paths)
    assert np.array_equal(volume.hu, reference.hu)
    assert volume.slices == reference.slices
    assert np.array_equal(volume.positions_mm, reference.positions_mm)


def test_index_0_is_the_most_superior_slice(stack):
    volume = load_volume(stack()[::-1])
    assert (volume.hu[:, 0, 0] + 1024).tolist() == [100, 101, 102, 103, 104]
    assert volume.z_mm.tolist() == [50, 48, 46, 44, 42]
    assert volume.slice_spacing_mm == 2.0
    assert volume.pixel_spacing_mm == (0.7, 0.7)
    assert volume.voxel_ml == pytest.approx(0.7 * 0.7 * 2 / 1000)
    assert volume.quality == ()


def test_instance_numbers_are_not_asked(stack):
    paths = stack()
    for number, path in enumerate(paths):
        change(path, InstanceNumber=50 - number)
    assert (load_volume(paths).hu[:, 0, 0] + 1024).tolist() == [100, 101, 102, 103, 104]


def test_a_normal_to_the_feet_changes_nothing(stack):
    # columns run from back to front: row x column points down
    volume = load_volume(stack(ImageOrientationPatient=[1, 0, 0, 0, -1, 0]))
    assert volume.z_mm.tolist() == [50, 48, 46, 44, 42]


def test_a_tilted_stack_is_ordered_along_its_normal_and_says_so(write_slice):
    angle = np.radians(20)
    orientation = [1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))]
    paths = [
        write_slice(
            f"{i}.dcm", plane(i), ImageOrientationPatient=orientation,
            ImagePositionPatient=[0, 0, 100 - 5 * i],
        )
        for i in range(4)
    ]  # fmt: skip
    volume = load_volume(paths)
    assert codes(volume) == {QualityCode.GANTRY_TILT}
    assert volume.slice_spacing_mm == pytest.approx(5 * np.cos(angle), rel=1e-6)
    assert "20 degrees" in volume.quality[0].text


def test_a_gap_costs_the_spacing(stack):
    paths = stack(8)
    volume = load_volume(paths[:3] + paths[4:])
    assert volume.slice_spacing_mm is None
    assert volume.voxel_ml is None
    assert codes(volume) == {QualityCode.IRREGULAR_SPACING}


def test_a_jitter_under_a_tenth_is_no_gap(write_slice):
    heights = [10.0, 8.0, 6.1, 4.0]
    paths = [write_slice(f"{i}.dcm", plane(i), z) for i, z in enumerate(heights)]
    assert load_volume(paths).slice_spacing_mm == pytest.approx(2.0, abs=0.11)


def test_thick_slices_are_said(write_slice):
    paths = [write_slice(f"{i}.dcm", plane(i), -8.0 * i) for i in range(4)]
    assert codes(load_volume(paths)) == {QualityCode.THICK_SLICES}


def test_one_slice_is_a_volume_without_spacing(stack):
    volume = load_volume(stack(1))
    assert volume.slice_spacing_mm is None
    assert volume.quality == ()


# --- refusals


def refused(paths: list[Path], kind: type[SeriesError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        load_volume(paths)
    assert "SECRET" not in caught.value.reason
    assert caught.value.reason.endswith(".")
    assert re.fullmatch(r"[^\n]+", caught.value.reason)


def test_nothing_to_load():
    refused([], UnusableGeometry, "no images")


def test_a_position_occupied_twice(stack, write_slice):
    again = write_slice("again.dcm", plane(7), z_mm=46.0)
    refused([*stack(), again], UnusableGeometry, "occupied twice")


def test_two_patients_in_one_series(stack):
    paths = stack()
    change(paths[2], PatientID="SECRET-OTHER")
    refused(paths, InconsistentSeries, "different patients")


def test_the_same_name_with_empty_components_is_the_same_patient(stack):
    paths = stack()
    change(paths[2], PatientName="SECRET^NAME^^^")
    assert len(load_volume(paths)) == 5


@pytest.mark.parametrize(
    ("attributes", "kind", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, InconsistentSeries, "oriented"),
        ({"ImageOrientationPatient": [1, 0.01, 0, -0.01, 1, 0]}, InconsistentSeries, "oriented"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, UnusableGeometry, "perpendicular"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, UnusableGeometry, "directions"),
        ({"ImageOrientationPatient": None}, UnusableGeometry, "oriented in the patient"),
        ({"ImagePositionPatient": None}, UnusableGeometry, "where it lies"),
        ({"PixelSpacing": None}, UnusableGeometry, "pixel spacing"),
        ({"PixelSpacing": [0, 0]}, UnusableGeometry, "pixel spacing"),
        ({"PixelSpacing": [0.8, 0.8]}, InconsistentSeries, "pixel spacing"),
        ({"SeriesInstanceUID": generate_uid()}, InconsistentSeries, "different series"),
        ({"SOPInstanceUID": ""}, InconsistentSeries, "no SOP Instance UID"),
        ({"Modality": "MR"}, NotAChestCt, "modality MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, UnusableGeometry, "localizer"),
        ({"RescaleSlope": None, "RescaleIntercept": None}, InconsistentSeries, "1 of 5 images"),
        ({"RescaleSlope": 0}, InconsistentSeries, "slope"),
        ({"RescaleType": "Z_EFF"}, InconsistentSeries, "not Hounsfield"),
        ({"NumberOfFrames": 3}, UnusableGeometry, "several frames"),
        ({"Rows": 30000}, InconsistentSeries, "impossible matrix"),
        ({"PixelData": None}, UndecodablePixels, "no pixel data"),
        ({"PixelData": b"\0" * 10}, UndecodablePixels, "damaged or incomplete"),
    ],
)  # fmt: skip
def test_one_odd_slice_of_five(stack, attributes, kind, words):
    paths = stack()
    change(paths[2], **attributes)
    refused(paths, kind, words)


def test_another_matrix(stack, write_slice):
    odd = write_slice("odd.dcm", plane(1, (8, 8)), z_mm=0.0)
    refused([*stack(), odd], InconsistentSeries, "6 x 5 pixels|8 x 8 pixels")


def test_a_series_beyond_all_memory(stack, monkeypatch):
    monkeypatch.setattr("inference.volume.MAX_VOXELS", 5 * 6 * 5 - 1)
    refused(stack(), InconsistentSeries, "too large")


def test_the_same_instance_under_two_positions(stack):
    paths = stack()
    change(paths[1], SOPInstanceUID=dcmread(paths[0]).SOPInstanceUID)
    refused(paths, InconsistentSeries, "same SOP Instance UID")


def test_coronal_slices(stack):
    refused(stack(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), UnusableGeometry, "not axial")


def test_a_file_that_is_not_dicom(stack, tmp_path):
    (tmp_path / "notes.dcm").write_text("hello")
    refused([*stack(), tmp_path / "notes.dcm"], UndecodablePixels, "notes.dcm is not a DICOM file")


def test_a_file_that_is_not_there(stack, tmp_path):
    refused([*stack(), tmp_path / "gone.dcm"], UndecodablePixels, "gone.dcm cannot be read")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(stack, share):
    paths = stack()
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SeriesError):
        load_volume(paths)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_truncated_compressed_frame(write_slice, syntax):
    noise = np.random.default_rng(0).integers(0, 2000, (64, 64)).astype(np.int16)
    paths = [write_slice(f"{i}.dcm", noise, -2.0 * i) for i in range(3)]
    dataset = dcmread(paths[1])
    dataset.compress(syntax)
    dataset.PixelData = dataset.PixelData[:200] + b"\0" * 40
    dataset.save_as(paths[1])
    refused(paths, UndecodablePixels, "1.dcm are damaged")


# --- values


def test_padding_becomes_air_by_stored_value(write_slice):
    stored = np.array([[-2000, 0], [1024, -1999]], dtype=np.int16)
    path = write_slice("0.dcm", stored, PixelPaddingValue=-2000, RescaleIntercept=500)
    assert load_volume([path]).hu[0].tolist() == [[-1024, 500], [1524, -1024]]


def test_each_slice_has_its_own_rescale(stack):
    paths = stack(3)
    change(paths[1], RescaleSlope=2, RescaleIntercept=-1000)
    assert load_volume(paths).hu[:, 1, 1].tolist() == [-1000, -952, -1000]


def test_missing_rescale_is_taken_on_trust_where_values_look_like_hu(write_slice):
    hu = np.full((32, 32), -1000, dtype=np.int16)
    hu[8:24, 8:24] = 40
    paths = [
        write_slice(f"{i}.dcm", hu, -2.0 * i, RescaleSlope=None, RescaleIntercept=None)
        for i in range(3)
    ]
    volume = load_volume(paths)
    assert codes(volume) == {QualityCode.MISSING_RESCALE}
    assert np.array_equal(volume.hu[0], hu)


def test_missing_rescale_is_refused_where_values_are_none(write_slice):
    stored = np.full((32, 32), 24, dtype=np.int16)  # air as scanners store it
    stored[8:24, 8:24] = 1064
    paths = [
        write_slice(f"{i}.dcm", stored, -2.0 * i, RescaleSlope=None, RescaleIntercept=None)
        for i in range(3)
    ]
    refused(paths, InconsistentSeries, "lack the rescale")


def test_lossy_compression_is_said(stack):
    paths = stack()
    change(paths[0], LossyImageCompression="01")
    volume = load_volume(paths)
    assert codes(volume) == {QualityCode.LOSSY_COMPRESSION}
    assert "1 of 5" in volume.quality[0].text


def test_progress_counts_slices(stack):
    calls = []
    load_volume(stack(), progress=lambda *call: calls.append(call))
    assert calls[-1] == ("load", 5, 5)
    assert [done for _, done, _ in calls] == [1, 2, 3, 4, 5]


# --- multi-frame


@pytest.mark.parametrize("shared_orientation", [True, False])
def test_enhanced_ct_reads_like_its_slices(stack, tmp_path, shared_orientation):
    paths = stack()
    change(paths[1], RescaleIntercept=-1000)
    order = [paths[i] for i in (3, 0, 4, 1, 2)]
    path = enhanced(order, tmp_path / "enhanced.dcm", shared_orientation=shared_orientation)
    volume, reference = load_volume([path]), load_volume(paths)
    assert np.array_equal(volume.hu, reference.hu)
    assert np.array_equal(volume.z_mm, reference.z_mm)
    assert [s.frame_number for s in volume.slices] == [2, 4, 5, 1, 3]
    assert {s.sop_class_uid for s in volume.slices} == {EnhancedCTImageStorage}


def test_only_the_frames_of_the_stack_are_read(stack, tmp_path):
    paths = stack()
    path = enhanced(paths + paths, tmp_path / "enhanced.dcm")  # two phases, position by position
    refused([path], UnusableGeometry, "occupied twice")
    volume = load_volume([path], frames={path: (6, 7, 8, 9, 10)})
    assert np.array_equal(volume.hu, load_volume(paths).hu)
    assert {s.frame_number for s in volume.slices} == {6, 7, 8, 9, 10}


def test_compressed_enhanced_ct_reads_the_same(stack, tmp_path):
    path = enhanced(stack(), tmp_path / "enhanced.dcm")
    before = load_volume([path]).hu
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)
    assert np.array_equal(load_volume([path]).hu, before)


def test_enhanced_ct_with_frames_missing(stack, tmp_path):
    path = enhanced(stack(), tmp_path / "enhanced.dcm")
    dataset = dcmread(path)
    dataset.PixelData = dataset.PixelData[:-40]
    dataset.save_as(path)
    refused([path], UndecodablePixels, "enhanced.dcm, frame")
    dataset.NumberOfFrames = 7
    dataset.save_as(path)
    refused([path], InconsistentSeries, "announces 7 frames and describes 5")


def test_enhanced_ct_without_positions(stack, tmp_path):
    path = enhanced(stack(), tmp_path / "enhanced.dcm")
    dataset = dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    dataset.save_as(path)
    refused([path], UnusableGeometry, "enhanced.dcm, frame 3 does not say where it lies")
