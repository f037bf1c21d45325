"""Geometry of the frames of multi-frame CT, from the functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from dicom_node.dataset_scan import BROKEN_DATASET
from dicom_node.header import InstanceHeader
from dicom_node.slice_geometry import Orientation, Vector

__all__ = ["FrameGeometry", "FrameReader", "read_frames"]


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """One frame of a multi-frame instance; what cannot be read is None or empty.

    Attributes
    ----------
    number : int
        1-based.
    position : tuple of 3 float or None
        ImagePositionPatient, LPS, mm.
    orientation : tuple of 6 float or None
        ImageOrientationPatient.
    pixel_spacing : tuple of 2 float or None
        mm, (between rows, between columns).
    slice_thickness_mm : float or None
    image_type : tuple of str
        FrameType.
    convolution_kernel : str
    acquisition_number : int or None
        FrameAcquisitionNumber.
    """

    number: int
    position: Vector | None = None
    orientation: Orientation | None = None
    pixel_spacing: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    image_type: tuple[str, ...] = ()
    convolution_kernel: str = ""
    acquisition_number: int | None = None


FrameReader = Callable[[InstanceHeader], Sequence[FrameGeometry]]
"""Returns the frames of a multi-frame instance; empty where they cannot be read."""


def read_frames(path: Path) -> tuple[FrameGeometry, ...]:
    """Read the geometry of all frames of the multi-frame instance at `path`.

    Per-frame functional groups win over shared ones (PS3.3 C.7.6.16.1.1). Pixels are not read.
    Empty when the groups are missing or broken in any way.

    Raises
    ------
    OSError
        The file cannot be opened.
    """
    try:
        return _frames(path)
    except OSError as error:
        if error.errno is None:  # pydicom's own, for a file that ends too early
            return ()
        raise
    except BROKEN_DATASET:
        return ()


def _frames(path: Path) -> tuple[FrameGeometry, ...]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    return tuple(_frame(number, groups, shared) for number, groups in enumerate(per_frame, start=1))


def _frame(number: int, groups: Dataset, shared: Dataset) -> FrameGeometry:
    def macro(name: str) -> Dataset:
        return _first(groups, name) or _first(shared, name)

    measures = macro("PixelMeasuresSequence")
    content = _first(groups, "FrameContentSequence")
    kernel = macro("CTReconstructionSequence").get("ConvolutionKernel", "")
    thickness = _numbers(measures, "SliceThickness", 1)
    position = _numbers(macro("PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    acquisition = content.get("FrameAcquisitionNumber")
    return FrameGeometry(
        number=number,
        position=None if position is None else (position[0], position[1], position[2]),
        orientation=None if orientation is None else _orientation(orientation),
        pixel_spacing=None if spacing is None else (spacing[0], spacing[1]),
        slice_thickness_mm=None if thickness is None else thickness[0],
        image_type=_texts(macro("CTImageFrameTypeSequence").get("FrameType")),
        convolution_kernel="\\".join(_texts(kernel)),
        acquisition_number=None if acquisition is None else int(acquisition),
    )


def _orientation(n: tuple[float, ...]) -> Orientation:
    return (n[0], n[1], n[2], n[3], n[4], n[5])


def _first(dataset: Dataset, keyword: str) -> Dataset:
    sequence = dataset.get(keyword)
    return sequence[0] if sequence else Dataset()


def _numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value: Any = dataset.get(keyword)
    values = [] if value is None else [value] if count == 1 else list(value)
    numbers = tuple(float(item) for item in values)
    # FD holds infinities and what is no number; DS may be written so.
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _texts(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)
