"""Enhanced CT made of single slices, for tests."""

from __future__ import annotations

import copy
from collections.abc import Sequence as Several
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage

__all__ = ["enhanced"]

_MOVED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
    "RescaleIntercept",
)  # fmt: skip


def enhanced(
    paths: Several[Path],
    out: Path,
    *,
    shared_orientation: bool = True,
    acquisitions: Several[int] | None = None,
) -> Path:
    """Write an Enhanced CT (PS3.3 A.38) with one frame per file of `paths`, in their order.

    `acquisitions` gives each frame's FrameAcquisitionNumber.
    """
    frames = [dcmread(path) for path in paths]
    dataset = copy.deepcopy(frames[0])
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = b"".join(frame.PixelData for frame in frames)
    shared = Dataset()
    measures = (
        ("PixelSpacing", "SliceThickness") if "SliceThickness" in frames[0] else ("PixelSpacing",)
    )
    shared.PixelMeasuresSequence = Sequence([_item(frames[0], *measures)])
    orientation = Sequence([_item(frames[0], "ImageOrientationPatient")])
    if shared_orientation:
        shared.PlaneOrientationSequence = orientation
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index, frame in enumerate(frames):
        group = Dataset()
        group.PlanePositionSequence = Sequence([_item(frame, "ImagePositionPatient")])
        group.PixelValueTransformationSequence = Sequence(
            [_item(frame, "RescaleSlope", "RescaleIntercept")]
        )
        if not shared_orientation:
            group.PlaneOrientationSequence = orientation
        if acquisitions is not None:
            content = Dataset()
            content.FrameAcquisitionNumber = acquisitions[index]
            group.FrameContentSequence = Sequence([content])
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for keyword in _MOVED:
        delattr(dataset, keyword)
    dataset.save_as(out)
    return out


def _item(source: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, source[keyword].value)
    return item
