"""Masks of a row: a phantom's truth, or what a hospital has drawn as DICOM SEG or NIfTI.

In a SEG a segment's property type says what it is: a lobe by its anatomic code and laterality,
anything whose category is "Morphologically Abnormal Structure" as lesion. Frames find their
slice by the image that they name, else by their position. For NIfTI see
:mod:`training.cohort.nifti_masks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from inference.domain import CtVolume, Lobe
from training.cohort.nifti_masks import is_nifti, names_lobes, read_nifti_labels
from training.cohort.table import CohortRow
from training.cohort.truth import file_digest, read_truth
from training.errors import CohortError

__all__ = ["DrawnMasks", "holds_masks", "masks_digest", "read_masks"]

_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_ABNORMAL = "49755003"
_RIGHT, _LEFT = "24028007", "7771000"
_LOBES = {
    ("45653009", _RIGHT): Lobe.RIGHT_UPPER,
    ("72481006", ""): Lobe.RIGHT_MIDDLE,
    ("72481006", _RIGHT): Lobe.RIGHT_MIDDLE,
    ("90572001", _RIGHT): Lobe.RIGHT_LOWER,
    ("45653009", _LEFT): Lobe.LEFT_UPPER,
    ("90572001", _LEFT): Lobe.LEFT_LOWER,
    # pre-coordinated codes of CID 4030 and of other segmenters
    ("42400003", ""): Lobe.RIGHT_UPPER,
    ("266005", ""): Lobe.RIGHT_LOWER,
    ("44714003", ""): Lobe.LEFT_UPPER,
    ("41224006", ""): Lobe.LEFT_LOWER,
}
_POSITION_MM = 0.1


@dataclass(frozen=True)
class DrawnMasks:
    """What is known of a row, in the order of a volume.

    Attributes
    ----------
    lesion : ndarray of bool, shape (slices, rows, columns), or None
    lobes : ndarray of uint8, shape (slices, rows, columns), or None
    severe : bool or None
    """

    lesion: NDArray[np.bool_] | None = None
    lobes: NDArray[np.uint8] | None = None
    severe: bool | None = None


def read_masks(row: CohortRow, volume: CtVolume) -> DrawnMasks:
    """Read the masks of a row, whatever they are in.

    Raises
    ------
    CohortError
        They cannot be read or do not fit the volume. Names the file.
    """
    path = row.truth_path
    if path is None:
        return DrawnMasks(severe=row.severe)
    if _is_case(path) or not _drawn_files(path):
        truth = read_truth(path, volume, row.label)
        severe = row.severe if row.severe is not None else truth.severe
        return DrawnMasks(truth.lesion, truth.lobes, severe)
    lesion, lobes = None, None
    for file in _drawn_files(path):
        if is_nifti(file):
            lesion, lobes = _add_nifti(file, row, volume, lesion, lobes)
        else:
            lesion, lobes = _add_seg(file, volume, lesion, lobes)
    if lesion is None and lobes is None:
        raise CohortError(path, None, "holds no segment of a lobe or of a lesion")
    return DrawnMasks(lesion, lobes, row.severe)


def holds_masks(path: Path) -> bool:
    """Whether there is something to read at a row's ``truth_path``."""
    return _is_case(path) or bool(_drawn_files(path))


def masks_digest(row: CohortRow) -> str:
    """Digest of what the masks are read from; empty without."""
    if row.truth_path is None:
        return "" if row.severe is None else f"severe={row.severe}"
    names = ("truth.npz", "truth.json")
    files = [row.truth_path / name for name in names] if _is_case(row.truth_path) else []
    return f"{file_digest(*(files or _drawn_files(row.truth_path)))}/lobes/{row.severe}"


def _is_case(path: Path) -> bool:
    return (path / "truth.npz").is_file()


def _drawn_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix == ".dcm" or is_nifti(file))


def _add_nifti(
    file: Path,
    row: CohortRow,
    volume: CtVolume,
    lesion: NDArray[np.bool_] | None,
    lobes: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.bool_] | None, NDArray[np.uint8] | None]:
    labels = read_nifti_labels(file, volume, row.number)
    if names_lobes(file):
        return lesion, labels if lobes is None else np.where(labels > 0, labels, lobes)
    drawn = labels > 0
    return drawn if lesion is None else lesion | drawn, lobes


def _add_seg(
    file: Path,
    volume: CtVolume,
    lesion: NDArray[np.bool_] | None,
    lobes: NDArray[np.uint8] | None,
) -> tuple[NDArray[np.bool_] | None, NDArray[np.uint8] | None]:
    try:
        dataset = dcmread(file)
        frames = dataset.pixel_array
    except (OSError, InvalidDicomError, AttributeError, ValueError, NotImplementedError) as error:
        raise CohortError(file, None, f"is no SEG that can be read: {error}") from error
    if dataset.get("SOPClassUID") not in _SEG_CLASSES:
        raise CohortError(file, None, "is no DICOM segmentation")
    if dataset.get("SegmentationType") != "BINARY":
        raise CohortError(file, None, "is no binary segmentation")
    if frames.ndim == 2:
        frames = frames[None]
    if frames.shape[1:] != volume.hu.shape[1:]:
        text = f"has frames of {frames.shape[1:]}, the series of {volume.hu.shape[1:]}"
        raise CohortError(file, None, text)
    meaning = {int(item.SegmentNumber): _meaning(item) for item in dataset.SegmentSequence}
    if any(isinstance(what, Lobe) for what in meaning.values()) and lobes is None:
        lobes = np.zeros(volume.hu.shape, np.uint8)
    if "lesion" in meaning.values() and lesion is None:
        lesion = np.zeros(volume.hu.shape, np.bool_)
    shared = _shared_item(dataset)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        what = meaning.get(_segment_number(groups, shared))
        if what is None:
            continue
        index = _slice_of(groups, volume, file)
        if isinstance(what, Lobe):
            assert lobes is not None  # noqa: S101 - made above
            lobes[index][frame > 0] = what
        else:
            assert lesion is not None  # noqa: S101 - made above
            lesion[index] |= frame > 0
    return lesion, lobes


def _meaning(segment: Dataset) -> Lobe | str | None:
    kinds: Iterable[Dataset] = segment.get("SegmentedPropertyTypeCodeSequence", [])
    sites: Iterable[Dataset] = segment.get("AnatomicRegionSequence", [])
    for item in (*kinds, *sites):
        modifiers = [
            *item.get("SegmentedPropertyTypeModifierCodeSequence", []),
            *item.get("AnatomicRegionModifierSequence", []),
        ]
        side = str(modifiers[0].CodeValue) if modifiers else ""
        lobe = _LOBES.get((str(item.CodeValue), side))
        if lobe is not None and not _is_lesion(segment):
            return lobe
    return "lesion" if _is_lesion(segment) else None


def _is_lesion(segment: Dataset) -> bool:
    category = segment.get("SegmentedPropertyCategoryCodeSequence", [])
    return bool(category) and str(category[0].CodeValue) == _ABNORMAL


def _shared_item(dataset: Dataset) -> Dataset:
    shared = dataset.get("SharedFunctionalGroupsSequence", [])
    return shared[0] if shared else Dataset()


def _segment_number(groups: Dataset, shared: Dataset) -> int:
    for item in (groups, shared):
        found = item.get("SegmentIdentificationSequence", [])
        if found:
            return int(found[0].ReferencedSegmentNumber)
    return 0


def _slice_of(groups: Dataset, volume: CtVolume, file: Path) -> int:
    for derivation in groups.get("DerivationImageSequence", []):
        for source in derivation.get("SourceImageSequence", []):
            uid = str(source.get("ReferencedSOPInstanceUID", ""))
            frame = source.get("ReferencedFrameNumber")
            for index, reference in enumerate(volume.slices):
                if reference.sop_instance_uid == uid and (
                    reference.frame_number is None or reference.frame_number == frame
                ):
                    return index
    planes = groups.get("PlanePositionSequence", [])
    if planes:
        place = np.array([float(value) for value in planes[0].ImagePositionPatient])
        distance = np.abs(volume.positions_mm - place).max(axis=1)
        index = int(distance.argmin())
        if distance[index] <= _POSITION_MM:
            return index
    raise CohortError(file, None, "holds a frame of an image that is not in the series")
