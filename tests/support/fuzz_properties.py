"""What has to hold for every series header and every stored pixel, whatever stands in them."""

from __future__ import annotations

import math
import re

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dicom_node.errors import SeriesRejected
from dicom_node.header import InstanceHeader
from dicom_node.selection import FrameGeometry, SelectedStack, select_stack
from dicom_node.settings import SelectionSettings
from inference.pixels import AIR_HU, MAX_HU, Padding, Rescale, to_hu

__all__ = ["select_property", "to_hu_property"]

# The same examples every time, and no folder of them; scripts/fuzz looks further.
thorough = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CT, ENHANCED = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

# A header holds finite numbers only (header_reader); the functional groups hold what pydicom read.
finite = st.floats(allow_nan=False, allow_infinity=False)
any_float = st.floats()
near = st.floats(-1000, 1000, allow_nan=False).map(lambda value: round(value, 2))
counts = st.none() | st.integers(-3, 40) | st.integers(-(10**12), 10**12)
words = st.sampled_from(["", "STANDARD", "B30f", "LUNG", "standard"]) | st.text(max_size=8)
image_types = st.sampled_from(
    [(), ("ORIGINAL", "PRIMARY", "AXIAL"), ("DERIVED", "PRIMARY", "MPR"), ("ORIGINAL",),
     ("ORIGINAL", "PRIMARY", "LOCALIZER"), ("ORIGINAL", "SECONDARY")]
) | st.lists(st.text(max_size=6), max_size=5).map(tuple)  # fmt: skip
orientations = st.sampled_from([AXIAL, AXIAL, AXIAL, None, (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)])


def vectors(number: st.SearchStrategy[float], length: int) -> st.SearchStrategy[object]:
    return st.none() | st.tuples(*[number] * length)


def geometry(number: st.SearchStrategy[float]) -> dict[str, st.SearchStrategy[object]]:
    return {
        "image_position": st.tuples(st.just(0.0), st.just(0.0), near) | vectors(number, 3),
        "image_orientation": orientations | vectors(number, 6),
        "pixel_spacing": st.just((0.7, 0.7)) | vectors(number, 2),
        "slice_thickness_mm": st.none() | number,
    }


wild_headers = st.builds(
    InstanceHeader,
    sop_instance_uid=st.integers(1, 60).map(
        lambda number: f"2.25.{number}" if number < 59 else ("", "../../x")[number % 2]
    ),
    sop_class_uid=st.sampled_from([CT] * 6 + [ENHANCED, "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4"]),
    transfer_syntax_uid=st.sampled_from(["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"]),
    study_instance_uid=st.sampled_from(["1.2"] * 9 + ["1.3", ""]),
    series_instance_uid=st.sampled_from(["1.2.3"] * 9 + ["1.2.4", "x"]),
    frame_of_reference_uid=st.sampled_from(["", "1.9"]),
    patient_id=st.sampled_from(["A"] * 9 + ["", "B"]),
    patient_name=st.sampled_from(["", "A^B", "A^B^", "a^b=Ä"]) | st.text(max_size=6),
    modality=st.sampled_from(["CT"] * 9 + ["", "MR"]),
    image_type=image_types,
    manufacturer=words,
    series_description=words,
    convolution_kernel=words,
    acquisition_number=counts,
    instance_number=counts,
    number_of_frames=counts,
    rows=st.none() | st.just(512) | st.integers(0, 65535),
    columns=st.none() | st.just(512) | st.integers(0, 65535),
    has_pixel_data=st.sampled_from([True] * 9 + [False]),
    from_this_node=st.sampled_from([False] * 19 + [True]),
    **geometry(finite),
)

# Identities agree: the way past them into the sorting of stacks.
headers = st.builds(
    InstanceHeader,
    sop_instance_uid=st.integers(1, 60).map(lambda number: f"2.25.{number}"),
    sop_class_uid=st.sampled_from([CT, CT, ENHANCED]),
    transfer_syntax_uid=st.just("1.2.840.10008.1.2.1"),
    study_instance_uid=st.just("1.2"),
    series_instance_uid=st.just("1.2.3"),
    convolution_kernel=st.sampled_from(["", "B30f", "b30F"]),
    acquisition_number=st.none() | st.integers(1, 3) | counts,
    instance_number=counts,
    number_of_frames=counts,
    rows=st.sampled_from([512, 512, 512, None, 256]),
    columns=st.just(512),
    has_pixel_data=st.just(True),
    **geometry(finite),
)

frame_values = geometry(any_float)
frames = st.builds(
    FrameGeometry,
    number=st.just(1),
    position=frame_values["image_position"],
    orientation=frame_values["image_orientation"],
    pixel_spacing=frame_values["pixel_spacing"],
    slice_thickness_mm=frame_values["slice_thickness_mm"],
    image_type=image_types,
    convolution_kernel=words,
    acquisition_number=counts,
)


def unique_lists(
    one: st.SearchStrategy[InstanceHeader],
) -> st.SearchStrategy[list[InstanceHeader]]:
    return st.lists(one, min_size=1, max_size=16, unique_by=lambda made: made.sop_instance_uid)


@thorough
@given(
    found=st.one_of([unique_lists(headers)] * 3 + [st.lists(wild_headers, max_size=8)]),
    inside=st.none() | st.lists(frames, max_size=12),
    least=st.sampled_from([1, 2, 20]),
    slice_level=st.booleans(),
    random=st.randoms(use_true_random=False),
)
def select_property(found, inside, least, slice_level, random) -> None:  # type: ignore[no-untyped-def]
    """A stack or a reason, nothing else; and the order in which headers come changes neither."""
    settings = SelectionSettings(min_slices=least, min_coverage_mm=0)
    numbered = [
        FrameGeometry(number, *(getattr(frame, name) for name in FrameGeometry.__slots__[1:]))
        for number, frame in enumerate(inside or (), start=1)
    ]

    def judge(order: list[InstanceHeader]) -> SelectedStack | tuple[type, str]:
        reader = None if inside is None else (lambda _: numbered)
        try:
            return select_stack(order, settings, reader, slice_level=slice_level)
        except SeriesRejected as refusal:  # SeriesSkipped is one
            refused = type(refusal), refusal.reason
        assert re.search(r"-\d|inf|nan", refused[1]) is None, refused
        return refused

    first = judge(found)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert repr(judge(shuffled)) == repr(first)
    if isinstance(first, SelectedStack):
        check_stack(first, found)


def check_stack(stack: SelectedStack, found: list[InstanceHeader]) -> None:
    uids = set(stack.sop_instance_uids)
    assert uids
    assert len(uids) == len(stack.sop_instance_uids)
    assert uids | {one.sop_instance_uid for one in stack.left_out} == {
        header.sop_instance_uid for header in found
    }
    for value in (stack.coverage_mm, stack.spacing_mm, stack.slice_thickness_mm):
        assert value is None or 0 <= value < 1e6, "a length, in a number that JSON can hold"
    assert stack.slice_count >= 1
    assert all(statement.isprintable() for statement in stack.statements)


@thorough
@given(
    stored=arrays(
        np.int32, st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements=st.integers(-(2**31), 2**31 - 1) | st.integers(-3000, 5000),
    ),
    slope=st.floats(allow_nan=False, allow_infinity=False) | st.just(1.0),
    intercept=st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**40), 2**40).map(float),
    padding=st.none()
    | st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1)),
)  # fmt: skip
def to_hu_property(stored, slope, intercept, padding) -> None:  # type: ignore[no-untyped-def]
    """int16 within the range of CT, and what arithmetic without limits says."""
    outside = None if padding is None else Padding(min(padding), max(padding))
    hu = to_hu(stored, Rescale(slope, intercept), outside)
    assert hu.dtype == np.int16
    assert hu.shape == stored.shape
    for value, got in zip(stored.ravel().tolist(), hu.ravel().tolist(), strict=True):
        if outside is not None and outside.low <= value <= outside.high:
            assert got == AIR_HU
        else:
            exact = value * slope + intercept  # of doubles: the same rounding as numpy's
            expected = AIR_HU if math.isnan(exact) else min(max(exact, AIR_HU), MAX_HU)
            assert got == round(expected), (value, slope, intercept)
