"""Which series are analysed, which of their slices, and which series of a study."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_node.errors import SeriesRejected, SeriesSkipped
from dicom_node.header import InstanceHeader
from dicom_node.selection import (
    Candidate,
    KernelClass,
    SelectedStack,
    choose_series,
    kernel_class,
    read_frames,
    select_stack,
)
from dicom_node.settings import SelectionSettings

RULES = SelectionSettings()
CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def ct(index: int, z: float | None = None, **other: Any) -> InstanceHeader:
    """Slice `index` of a plain series: 5 mm apart, the first the most inferior."""
    values: dict[str, Any] = {
        "sop_instance_uid": f"1.2.3.{index + 1}",
        "sop_class_uid": CT,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.0",
        "frame_of_reference_uid": "1.2.9",
        "patient_id": "P1",
        "patient_name": "Doe^Jane",
        "modality": "CT",
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "manufacturer": "SIEMENS",
        "convolution_kernel": "B40f",
        "acquisition_number": 1,
        "instance_number": index + 1,
        "rows": 512,
        "columns": 512,
        "slice_thickness_mm": 5.0,
        "image_position": (-200.0, -200.0, 5.0 * index if z is None else z),
        "image_orientation": AXIAL,
        "pixel_spacing": (0.8, 0.8),
        "has_pixel_data": True,
    }
    return InstanceHeader(**(values | other))


def chest(count: int = 60, first: int = 0, **other: Any) -> list[InstanceHeader]:
    return [ct(first + index, z=5.0 * index, **other) for index in range(count)]


def reason(headers: list[InstanceHeader], kind: type[SeriesRejected], **how: Any) -> str:
    with pytest.raises(SeriesRejected) as caught:
        select_stack(headers, RULES, **how)
    assert type(caught.value) is kind, caught.value
    return caught.value.reason


# -- the plain case -------------------------------------------------------------------------------


def test_a_plain_series_is_taken_whole_from_the_head_down() -> None:
    stack = select_stack(chest(), RULES)
    assert stack.sop_instance_uids == tuple(f"1.2.3.{n}" for n in range(60, 0, -1))
    assert (stack.slice_count, stack.coverage_mm, stack.spacing_mm) == (60, 300.0, 5.0)
    assert stack.statements == ()
    assert stack.left_out == ()
    assert stack.frames == {}


def test_order_is_by_position_also_where_rows_run_upside_down() -> None:
    prone = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the cross product points to the feet
    stack = select_stack(chest(image_orientation=prone), RULES)
    assert stack.sop_instance_uids[0] == "1.2.3.60"


# -- series that are not meant --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"from_this_node": True}, "made by this node"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.67"}, "a dose report"),
        (
            {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "series_description": "Rapport dose."},
            "screen captures, a dose report",
        ),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}, "screen captures, not CT slices"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, "not CT images but MR Image Storage"),
        ({"sop_class_uid": "1.2.3.4"}, "objects of the class 1.2.3.4"),
        ({"modality": "PT"}, "modality PT"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "a localizer"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "a reformat or projection"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL")}, "are secondary images"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "are derived images"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "MIP")}, "a reformat or projection"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM7 MONO_70")}, "spectral"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "IODINE_MAP")}, "spectral"),
        ({"series_description": "Thorax MonoE 70 keV"}, "spectral"),
        ({"series_description": "Iodine no water"}, "spectral"),
        ({"series_description": "VNC chest"}, "spectral"),
        ({"series_description": "Thorax MIP 10mm"}, "projection"),
        ({"image_orientation": CORONAL}, "coronal"),
        ({"image_orientation": SAGITTAL}, "sagittal"),
        ({"image_orientation": (1.0, 0.0, 0.0, 0.0, 0.8, -0.6)}, "oblique"),
    ],
)
def test_a_series_that_is_not_meant_is_skipped(change: dict[str, Any], said: str) -> None:
    assert said in reason(chest(**change), SeriesSkipped)


@pytest.mark.parametrize(
    "change",
    [
        {"modality": ""},
        {"image_type": ()},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI")},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "HELIX")},
        {
            "image_type": ("DERIVED", "PRIMARY", "AXIAL"),
            "transfer_syntax_uid": "1.2.840.10008.1.2.4.91",
        },
        {"series_description": "Thorax mono-phase 2.0"},
        {"series_description": "CHEST W/O DIMINISHED DOSE"},
        {"image_orientation": (1.0, 0.0, 0.0, 0.0, 0.95, -0.3122)},  # 18 degrees of tilt
        {"acquisition_number": None, "instance_number": None},
        {"convolution_kernel": "", "slice_thickness_mm": None, "frame_of_reference_uid": ""},
    ],
)
def test_a_series_that_only_looks_odd_is_taken(change: dict[str, Any]) -> None:
    assert select_stack(chest(**change), RULES).slice_count == 60


def test_too_few_slices_are_told_with_numbers() -> None:
    said = reason(chest(8), SeriesSkipped)
    assert said == ("only 8 axial slices covering 40 mm; at least 20 slices and 150 mm are needed")


def test_too_short_a_stack_is_told_with_numbers() -> None:
    thin = [ct(index, z=0.5 * index) for index in range(100)]
    assert reason(thin, SeriesSkipped).startswith("100 axial slices covering 50 mm;")


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_few_slices_can_be_read_one_by_one(count: int) -> None:
    assert select_stack(chest(count), RULES, slice_level=True).slice_count == count


def test_reading_one_by_one_keeps_the_other_rules() -> None:
    assert "coronal" in reason(chest(1, image_orientation=CORONAL), SeriesSkipped, slice_level=True)


# -- damaged series -------------------------------------------------------------------------------


def test_nothing_at_all_is_rejected() -> None:
    assert reason([], SeriesRejected) == "the series holds no images"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patient_id": "P2"}, "several patients"),
        ({"patient_name": "Roe^Jane"}, "several patients"),
        ({"issuer_of_patient_id": "B"}, "several patients"),
        ({"study_instance_uid": "1.2.4"}, "several studies"),
        ({"series_instance_uid": "1.2.4"}, "several series"),
        ({"sop_instance_uid": ""}, "images without a legal SOP Instance UID: 1 of 61"),
        ({"sop_instance_uid": "1.02.3"}, "without a legal SOP Instance UID"),
        ({"sop_instance_uid": "1.2.3.1"}, "stand for several images"),
    ],
)
def test_one_stranger_rejects_the_series(change: dict[str, Any], said: str) -> None:
    headers = [*chest(issuer_of_patient_id="A"), ct(99, **({"issuer_of_patient_id": "A"} | change))]
    assert said in reason(headers, SeriesRejected)


def test_writings_of_one_name_are_one_patient() -> None:
    names = ["Doe^Jane", "DOE^JANE", "Doe^Jane^^", " Doe ^Jane", "Doe^Jane=ドウ^ジェーン", ""]
    headers = [ct(index, patient_name=names[index % len(names)]) for index in range(60)]
    assert select_stack(headers, RULES).slice_count == 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_position": None}, "no position"),
        ({"image_orientation": None}, "no position or orientation"),
        ({"image_orientation": (0.0,) * 6}, "not a plane"),
        ({"image_orientation": (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)}, "not a plane"),
        ({"has_pixel_data": False}, "no pixel data"),
    ],
)
def test_broken_images_reject_the_series(change: dict[str, Any], said: str) -> None:
    assert said in reason(chest(**change), SeriesRejected)


def test_one_image_without_a_position_is_left_out_and_said() -> None:
    stack = select_stack([*chest(), ct(99, image_position=None)], RULES)
    assert stack.slice_count == 60
    assert stack.statements == (
        "Images left out because they have no position or orientation in the patient: 1.",
    )
    assert [item.sop_instance_uid for item in stack.left_out] == ["1.2.3.100"]


def test_gaps_are_said() -> None:
    stack = select_stack([*chest(30), *(ct(40 + n, z=200.0 + 5 * n) for n in range(20))], RULES)
    assert stack.slice_count == 50
    assert "more than 10 %: 1." in stack.statements[0]


# -- several stacks in one series -----------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"convolution_kernel": "B70f"},
        {"rows": 768, "columns": 768},
        {"pixel_spacing": (0.7, 0.7)},
        {"image_orientation": (1.0, 0.0, 0.0, 0.0, 0.998, -0.0632)},
        {"frame_of_reference_uid": "1.2.10"},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "OTHER")},
        {"acquisition_number": 2},
    ],
)
def test_the_longer_of_two_stacks_is_read(change: dict[str, Any]) -> None:
    stack = select_stack([*chest(60), *chest(40, first=60, **change)], RULES)
    assert stack.sop_instance_uids == tuple(f"1.2.3.{n}" for n in range(60, 0, -1))
    assert stack.statements == (
        "Images left out because they belong to another stack of the series: 40.",
    )


def test_localizers_in_the_series_are_left_out() -> None:
    localizer = ct(99, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), image_orientation=CORONAL)
    stack = select_stack([*chest(), localizer], RULES)
    assert stack.left_out[0].reason == "are a localizer (scout view)"


def test_rounding_of_orientation_and_spacing_splits_nothing() -> None:
    headers = [
        ct(
            index,
            image_orientation=(1.0, 0.0, 0.0005 * (index % 3), 0.0, 1.0, 0.0),
            pixel_spacing=(0.8 + 0.0004 * (index % 3), 0.8),
        )
        for index in range(60)
    ]
    assert select_stack(headers, RULES).slice_count == 60


def test_sequential_scanning_counts_an_acquisition_per_slice() -> None:
    headers = [ct(index, acquisition_number=index + 1) for index in range(60)]
    assert select_stack(headers, RULES).slice_count == 60


def test_slabs_that_touch_in_one_position_stay_one_stack() -> None:
    upper = [ct(index, acquisition_number=1) for index in range(30)]
    lower = [ct(30 + n, z=5.0 * (29 + n), acquisition_number=2) for n in range(30)]
    stack = select_stack([*upper, *lower], RULES)
    assert stack.slice_count == 59
    assert len(stack.left_out) == 1


def test_offset_acquisitions_are_not_interleaved() -> None:
    inspiration = chest(60)
    expiration = [ct(60 + n, z=2.4 + 5.0 * n, acquisition_number=2) for n in range(50)]
    stack = select_stack([*expiration, *inspiration], RULES)
    assert stack.sop_instance_uids == tuple(f"1.2.3.{n}" for n in range(60, 0, -1))


@pytest.mark.parametrize("interleaved", [False, True])
def test_phases_without_acquisition_numbers_are_told_apart(interleaved: bool) -> None:
    def number(position: int, phase: int) -> int:
        return 2 * position + phase if interleaved else 60 * phase + position

    headers = [
        ct(
            number(position, phase),
            z=5.0 * position,
            acquisition_number=None,
            instance_number=number(position, phase) + 1,
        )
        for position in range(60)
        for phase in range(2)
    ]
    stack = select_stack(headers, RULES)
    first_phase = {f"1.2.3.{number(position, 0) + 1}" for position in range(60)}
    second_phase = {f"1.2.3.{number(position, 1) + 1}" for position in range(60)}
    assert set(stack.sop_instance_uids) in (first_phase, second_phase)


# -- order never matters --------------------------------------------------------------------------


def _mixture() -> list[InstanceHeader]:
    return [
        *chest(30),
        *chest(30, first=30, acquisition_number=2),
        *chest(25, first=60, acquisition_number=None, instance_number=None),
        *chest(28, first=90, convolution_kernel="B70f"),
        ct(200, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
        ct(201, image_position=None),
        ct(202, z=2.5, image_orientation=(1.0, 0.0, 0.0009, 0.0, 1.0, 0.0)),
        ct(203, z=7.5, image_orientation=(1.0, 0.0, 0.0018, 0.0, 1.0, 0.0)),
    ]


def _outcome(headers: list[InstanceHeader]) -> SelectedStack | str:
    try:
        return select_stack(headers, RULES)
    except SeriesRejected as error:
        return f"{type(error).__name__}: {error.reason}"


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_order_of_input_changes_nothing(chance: random.Random) -> None:
    shuffled = _mixture()
    chance.shuffle(shuffled)
    assert _outcome(shuffled) == _outcome(_mixture())


_ODD_HEADER = st.builds(
    ct,
    st.integers(0, 400),
    z=st.one_of(st.floats(-1e3, 1e3), st.integers(0, 40).map(lambda n: 5.0 * n)),
    acquisition_number=st.sampled_from([None, 1, 2]),
    instance_number=st.sampled_from([None, 1, 2, 3]),
    convolution_kernel=st.sampled_from(["", "B40f", "B70f"]),
    image_orientation=st.sampled_from([AXIAL, CORONAL, None, (1.0, 0.0, 0.0, 0.0, 0.9995, -0.03)]),
    image_type=st.sampled_from([(), ("ORIGINAL", "PRIMARY", "AXIAL"), ("DERIVED",), ("X",)]),
    pixel_spacing=st.sampled_from([None, (0.8, 0.8), (0.8005, 0.8)]),
    slice_thickness_mm=st.sampled_from([None, 1.0, 5.0]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(_ODD_HEADER, max_size=60, unique_by=lambda header: header.sop_instance_uid),
    st.randoms(use_true_random=False),
)
def test_any_series_ends_with_a_stack_or_a_reason(
    headers: list[InstanceHeader], chance: random.Random
) -> None:
    outcome = _outcome(headers)
    shuffled = list(headers)
    chance.shuffle(shuffled)
    assert _outcome(shuffled) == outcome
    if isinstance(outcome, SelectedStack):
        chosen, left = (
            set(outcome.sop_instance_uids),
            {i.sop_instance_uid for i in outcome.left_out},
        )
        assert chosen | left == {header.sop_instance_uid for header in headers}
        assert not chosen & left
        height = {header.sop_instance_uid: header.image_position[2] for header in headers}  # type: ignore[index]
        assert len({header.image_orientation for header in headers}) > 1 or all(
            height[a] > height[b]
            for a, b in zip(outcome.sop_instance_uids, outcome.sop_instance_uids[1:], strict=False)
        )


# -- multi-frame ----------------------------------------------------------------------------------


def enhanced(path: Path, frames: int, phases: int = 1, frame_type: str = "ORIGINAL") -> None:
    """Write an Enhanced CT with functional groups (PS3.3 A.38) and no pixels worth mentioning."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = frames * phases
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.8], 2.5
    orientation.ImageOrientationPatient = list(AXIAL)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    per_frame = []
    for number in range(frames * phases):
        groups, plane, content, kind = Dataset(), Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = [-200, -200, 2.5 * (number % frames)]
        content.FrameAcquisitionNumber = number // frames + 1
        kind.FrameType = [frame_type, "PRIMARY", "VOLUME", "NONE"]
        groups.PlanePositionSequence, groups.FrameContentSequence = [plane], [content]
        groups.CTImageFrameTypeSequence = [kind]
        per_frame.append(groups)
    dataset.PerFrameFunctionalGroupsSequence = per_frame
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def enhanced_header(frames: int | None) -> InstanceHeader:
    return ct(
        0,
        sop_class_uid=EnhancedCTImageStorage,
        image_position=None,
        image_orientation=None,
        pixel_spacing=None,
        slice_thickness_mm=None,
        number_of_frames=frames,
        image_type=("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    )


def test_a_multi_frame_instance_is_passed_whole(tmp_path: Path) -> None:
    enhanced(tmp_path / "ct.dcm", 100)
    header = enhanced_header(100)
    stack = select_stack([header], RULES, lambda _: read_frames(tmp_path / "ct.dcm"))
    assert stack.sop_instance_uids == (header.sop_instance_uid,)
    assert stack.frames == {}
    assert (stack.slice_count, stack.coverage_mm, stack.slice_thickness_mm) == (100, 250.0, 2.5)


def test_of_two_phases_in_a_multi_frame_instance_one_is_named(tmp_path: Path) -> None:
    enhanced(tmp_path / "ct.dcm", 100, phases=2)
    header = enhanced_header(200)
    stack = select_stack([header], RULES, lambda _: read_frames(tmp_path / "ct.dcm"))
    numbers = stack.frames[header.sop_instance_uid]
    assert sorted(numbers) in (list(range(1, 101)), list(range(101, 201)))
    assert list(numbers) == sorted(numbers, reverse=True)  # the last frame is nearest the head
    assert "Only 100 frames" in stack.statements[0]


def test_short_and_derived_multi_frame_instances_are_skipped(tmp_path: Path) -> None:
    enhanced(tmp_path / "short.dcm", 30)
    enhanced(tmp_path / "derived.dcm", 100, frame_type="DERIVED")
    short = reason(
        [enhanced_header(30)],
        SeriesSkipped,
        frame_reader=lambda _: read_frames(tmp_path / "short.dcm"),
    )
    assert short.startswith("30 axial slices covering 75 mm;")
    assert "derived" in reason(
        [enhanced_header(100)],
        SeriesSkipped,
        frame_reader=lambda _: read_frames(tmp_path / "derived.dcm"),
    )


def test_without_a_frame_reader_frames_count_as_slices() -> None:
    stack = select_stack([enhanced_header(100)], RULES)
    assert (stack.slice_count, stack.coverage_mm) == (100, None)
    assert "not checked" in stack.statements[0]
    assert reason([enhanced_header(5)], SeriesSkipped).startswith("only 5 axial slices;")


def test_a_multi_frame_instance_without_functional_groups_is_rejected() -> None:
    assert "functional groups" in reason(
        [enhanced_header(100)], SeriesRejected, frame_reader=lambda _: ()
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda bytes_: b"",
        lambda bytes_: b"no DICOM at all" * 20,
        lambda bytes_: bytes_[: len(bytes_) // 2],
        lambda bytes_: bytes_.replace(b"-200.0\\-200.0", b"-2x0.0\\-200.0"),
        lambda bytes_: bytes_.replace(b"-200.0\\-200.0", b"-200.0,-200.0"),
    ],
    ids=["empty", "text", "cut", "letters in a number", "wrong separator"],
)
def test_broken_functional_groups_are_an_answer_not_an_accident(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "ct.dcm"
    enhanced(path, 100)
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    assert path.read_bytes() != whole
    assert reason([enhanced_header(100)], SeriesRejected, frame_reader=lambda _: read_frames(path))


def test_a_file_that_is_gone_is_no_broken_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frames(tmp_path / "gone.dcm")


@pytest.mark.real_data
def test_no_malformed_file_stops_the_frame_reader(real_data: Path) -> None:
    files = [path for path in (real_data / "malformed").rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        assert isinstance(read_frames(path), tuple)


# -- which series of a study ----------------------------------------------------------------------


def candidate(uid: str, count: int = 60, spacing: float = 5.0, **other: Any) -> Candidate:
    headers = [
        ct(index, z=spacing * index, **({"slice_thickness_mm": spacing} | other))
        for index in range(count)
    ]
    return Candidate(uid, select_stack(headers, RULES))


def test_coverage_of_the_lungs_comes_first_then_kernel_thickness_count() -> None:
    series = {
        "1.1": candidate("1.1", count=40),  # 200 mm
        "1.2": candidate("1.2", count=150, spacing=2.0, convolution_kernel="B70f"),
        "1.3": candidate("1.3", count=60),  # 5 mm
        "1.4": candidate("1.4", count=290, spacing=1.0),
        "1.5": candidate("1.5", count=150, spacing=2.0),
        "1.6": candidate("1.6", count=290, spacing=1.0),
    }
    best, losers = choose_series(list(series.values()))
    assert best == "1.4"
    assert "covers" in losers["1.1"]
    assert "B70f" in losers["1.2"]
    assert "5 mm" in losers["1.3"]
    assert "290 slices, this one 150" in losers["1.5"]
    assert "equally suitable" in losers["1.6"]
    assert set(losers) == set(series) - {best}


def test_more_than_the_lungs_is_no_advantage() -> None:
    body = candidate("1.1", count=120, convolution_kernel="B70f")  # 600 mm
    assert choose_series([body, candidate("1.2")])[0] == "1.2"


@functools.cache
def _sisters() -> list[Candidate]:
    return [
        candidate("1.1"),
        candidate("1.2", count=57),
        candidate("1.3", convolution_kernel="B70f"),
        candidate("1.4", convolution_kernel=""),
        candidate("1.5"),
    ]


@given(st.permutations(range(5)))
def test_the_order_of_series_changes_nothing(order: list[int]) -> None:
    series = _sisters()
    assert choose_series([series[index] for index in order]) == choose_series(series)


def test_one_candidate_wins_and_none_is_an_error() -> None:
    assert choose_series([candidate("1.1")]) == ("1.1", {})
    with pytest.raises(ValueError, match="no series"):
        choose_series([])


M, U, S = KernelClass.MEDIUM, KernelClass.UNKNOWN, KernelClass.SHARP


@pytest.mark.parametrize(
    ("manufacturer", "kernel", "expected"),
    [
        ("SIEMENS", "B30f", M), ("SIEMENS", "D40s", M), ("SIEMENS", "B49s", M),
        ("SIEMENS", "B70f", S), ("SIEMENS", "I50f\\3", S), ("Siemens Healthineers", "Br40d", M),
        ("Siemens Healthineers", "Bl57d", S), ("SIEMENS", "", U),
        ("GE MEDICAL SYSTEMS", "STANDARD", M), ("GE MEDICAL SYSTEMS", "SOFT", M),
        ("GE MEDICAL SYSTEMS", "STD+", M), ("GE MEDICAL SYSTEMS", "LUNG", S),
        ("GE MEDICAL SYSTEMS", "BONEPLUS", S), ("GE MEDICAL SYSTEMS", "EDGE", S),
        ("TOSHIBA", "FC07", M), ("TOSHIBA", "FC17", M), ("TOSHIBA", "FC52", S),
        ("Canon Medical Systems", "FC86", S), ("TOSHIBA", "FC26", U),
        ("Philips", "B", M), ("Philips", "C", M), ("Philips", "L", S), ("Philips", "YC", S),
        ("", "", U), ("UIH", "B_SHARP_C", S), ("", "SMOOTH", M),
    ],
)  # fmt: skip
def test_kernels_of_each_maker(manufacturer: str, kernel: str, expected: KernelClass) -> None:
    assert kernel_class(manufacturer, kernel) is expected


# -- real series ----------------------------------------------------------------------------------


def real_header(path: Path) -> InstanceHeader:
    """Fill a header from any file with pydicom, also where the node's own reader refuses."""
    dataset = pydicom.dcmread(path, defer_size=1024)  # pixels stay on disk

    def text(keyword: str) -> str:
        return str(dataset.get(keyword) or "")

    def number(keyword: str) -> int | None:
        value = dataset.get(keyword)
        return None if value in (None, "") else int(value)

    def numbers(keyword: str) -> tuple[float, ...] | None:
        value = dataset.get(keyword)
        return tuple(float(item) for item in value) if value else None

    return InstanceHeader(
        sop_instance_uid=text("SOPInstanceUID"),
        sop_class_uid=text("SOPClassUID"),
        transfer_syntax_uid=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        study_instance_uid=text("StudyInstanceUID"),
        series_instance_uid=text("SeriesInstanceUID"),
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        patient_id=text("PatientID"),
        patient_name=text("PatientName"),
        modality=text("Modality"),
        image_type=tuple(dataset.get("ImageType") or ()),
        manufacturer=text("Manufacturer"),
        series_description=text("SeriesDescription"),
        convolution_kernel=text("ConvolutionKernel"),
        acquisition_number=number("AcquisitionNumber"),
        instance_number=number("InstanceNumber"),
        rows=number("Rows"),
        columns=number("Columns"),
        slice_thickness_mm=dataset.get("SliceThickness"),
        image_position=numbers("ImagePositionPatient"),
        image_orientation=numbers("ImageOrientationPatient"),
        pixel_spacing=numbers("PixelSpacing"),
        has_pixel_data="PixelData" in dataset,
    )


def real_headers(pattern: str, folder: Path) -> list[InstanceHeader]:
    headers = [real_header(path) for path in sorted(folder.glob(pattern))]
    assert headers, pattern
    return headers


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("pattern", "slices"),
    [
        ("covid-ct-md/covid/P001/*.dcm", 148),
        ("covid-ct-md/cap/cap001/*.dcm", 168),
        ("covid-ct-md/normal/normal001/*.dcm", 154),
    ],
)
def test_real_chest_series_are_taken_whole(real_data: Path, pattern: str, slices: int) -> None:
    headers = real_headers(pattern, real_data)
    stack = select_stack(headers, RULES)
    height = {header.sop_instance_uid: header.image_position[2] for header in headers}  # type: ignore[index]
    assert stack.slice_count == slices
    assert stack.coverage_mm == pytest.approx(2.0 * slices)
    assert stack.spacing_mm == pytest.approx(2.0)
    assert stack.statements == ()
    assert list(stack.sop_instance_uids) == sorted(height, key=height.__getitem__, reverse=True)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("pattern", "kind", "said"),
    [
        (
            "covid-ct-md/duplicate_sop_uid/P002/*.dcm",
            SeriesRejected,
            "images without a legal SOP Instance UID: 6 of 6",
        ),
        ("covid-19-ny-sbu/*coronal*.dcm", SeriesSkipped, "reformat"),
        ("non-chest-negatives/*localizer.dcm", SeriesSkipped, "localizer"),
        ("non-chest-negatives/*dose*.dcm", SeriesSkipped, "dose report"),
    ],
)
@pytest.mark.parametrize("slice_level", [False, True])
def test_real_series_that_are_never_read(
    real_data: Path, pattern: str, kind: type[SeriesRejected], said: str, slice_level: bool
) -> None:
    assert said in reason(real_headers(pattern, real_data), kind, slice_level=slice_level)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("pattern", "slices", "covered"),
    [
        ("lung-pet-ct-dx/philips_A0001_5mm_part/*.dcm", 6, 30),
        ("lung-pet-ct-dx/siemens_A0002_B40f/*.dcm", 8, 64),
        ("lungmask-testdata/*.dcm", 2, 2),  # without Modality
        ("non-chest-negatives/dcm_qa_ct_ge_head_a.dcm", 1, 4),  # the anatomy check is elsewhere
        ("covid-19-ny-sbu/A056642_axial*.dcm", 1, 1),
        ("covid-19-ny-sbu/A046441_axial*.dcm", 1, 5),
        ("cornerstone-transfer-syntaxes/CTImage.dcm", 1, None),
        ("cornerstone-transfer-syntaxes/*JPEG2000Transfer*.dcm", 1, None),  # DERIVED by compression
    ],
)
def test_real_slices_are_too_few_for_a_volume_but_can_be_read_one_by_one(
    real_data: Path, pattern: str, slices: int, covered: int | None
) -> None:
    headers = real_headers(pattern, real_data)
    said = reason(headers, SeriesSkipped)
    assert said.startswith(f"only {slices} axial slice")
    assert covered is None or f"covering {covered} mm;" in said
    assert select_stack(headers, RULES, slice_level=True).slice_count == slices
