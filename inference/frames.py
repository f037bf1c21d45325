"""Frames: what one plane of a CT object says of itself, single-frame or multi-frame.

Enhanced and Legacy Converted Enhanced CT keep geometry and rescale in functional groups,
shared or per frame (PS3.3 C.7.6.16); classic CT keeps them in the dataset itself. Both end
as :class:`Frame`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from inference.domain import SliceReference
from inference.errors import (
    DiskFailed,
    InconsistentSeries,
    NotAChestCt,
    UndecodablePixels,
    UnusableGeometry,
)
from inference.pixel_file import Plane
from inference.pixels import DECODER_ERRORS, Padding, Rescale, disk_failed, padding_of

__all__ = ["Frame", "Patient", "read_frames"]

_LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
}
MAX_MATRIX = 2048


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom an image belongs to. Compared, never printed."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane: where its pixels are, where it lies, and what its values mean.

    Attributes
    ----------
    path : Path
    label : str
        File name, with the frame number where there are several; what errors call it.
    index : int
        0-based frame index in the file.
    position_mm : (float, float, float)
        ImagePositionPatient, LPS.
    orientation : 6 float
        ImageOrientationPatient: row cosines, then column cosines, each of unit length.
    pixel_spacing_mm : (float, float)
        Between rows, between columns.
    rescale : Rescale or None
        None where RescaleSlope and RescaleIntercept are absent.
    rescale_type : str
        RescaleType, upper case, empty where absent.
    """

    path: Path
    label: str
    index: int
    reference: SliceReference
    patient: Patient
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    rows: int
    columns: int
    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    pixel_spacing_mm: tuple[float, float]
    rescale: Rescale | None
    rescale_type: str
    padding: Padding | None
    lossy: bool

    @property
    def plane(self) -> Plane:
        """What is needed to read its pixels; without a rescale, stored values stand for HU."""
        return Plane(
            index=self.index,
            label=self.label,
            rows=self.rows,
            columns=self.columns,
            rescale=self.rescale or Rescale(),
            padding=self.padding,
        )


def read_frames(path: Path) -> list[Frame]:
    """Read the header of one CT file into its frames, without touching pixels.

    Parameters
    ----------
    path : Path
        A DICOM file (PS3.10) of class CT, Enhanced CT or Legacy Converted Enhanced CT.

    Returns
    -------
    list of Frame
        One for classic CT, NumberOfFrames for the multi-frame classes.

    Raises
    ------
    UndecodablePixels
        Not a DICOM file, unreadable, or without pixel data.
    NotAChestCt
        Another modality than CT.
    InconsistentSeries
        Without SOP Instance UID, or with a matrix out of all proportion.
    UnusableGeometry
        Position, orientation or pixel spacing is missing or senseless.
    """
    header = _read_header(path)
    label = path.name
    try:
        return list(_frames(header, path, label))
    except MemoryError:
        raise  # ours, not the file's: a header is small
    except DECODER_ERRORS as error:  # InferenceError is none of these
        raise InconsistentSeries(f"The header of the image {label} is damaged.") from error


def _read_header(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except InvalidDicomError as error:
        raise UndecodablePixels(f"The file {path.name} is not a DICOM file.") from error
    except MemoryError:
        raise  # ours, not the file's: a header is small
    except DECODER_ERRORS as error:
        if disk_failed(error):
            raise DiskFailed(f"the disk does not give {path.name}") from error
        raise UndecodablePixels(f"The file {path.name} cannot be read.") from error


def _frames(header: Dataset, path: Path, label: str) -> Iterator[Frame]:
    _require_ct(header, label)
    uid = _text(header, "SOPInstanceUID")
    if not uid:
        raise InconsistentSeries(f"The image {label} has no SOP Instance UID.")
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not (0 < rows <= MAX_MATRIX and 0 < columns <= MAX_MATRIX):
        raise InconsistentSeries(
            f"The image {label} has an impossible matrix ({rows} x {columns})."
        )
    patient = Patient(
        _text(header, "PatientID"),
        _text(header, "IssuerOfPatientID"),
        _text(header, "PatientName").rstrip("^= "),
        _text(header, "PatientBirthDate"),
    )
    groups = _functional_groups(header, label)
    multi_frame = "PerFrameFunctionalGroupsSequence" in header
    for index, group in enumerate(groups):
        name = f"{label}, frame {index + 1}" if multi_frame else label
        yield Frame(
            path=path,
            label=name,
            index=index,
            reference=SliceReference(
                uid, _text(header, "SOPClassUID"), index + 1 if multi_frame else None
            ),
            patient=patient,
            study_uid=_text(header, "StudyInstanceUID"),
            series_uid=_text(header, "SeriesInstanceUID"),
            frame_of_reference_uid=_text(header, "FrameOfReferenceUID"),
            rows=rows,
            columns=columns,
            position_mm=_position(group, name),
            orientation=_orientation(group, name),
            pixel_spacing_mm=_spacing(group, name),
            rescale=_rescale(group, name),
            rescale_type=_text(group, "RescaleType").upper(),
            padding=padding_of(header),
            lossy=_is_lossy(header),
        )


def _require_ct(header: Dataset, label: str) -> None:
    modality = _text(header, "Modality").upper()
    # Absent is allowed: some exports drop it, and everything below would find another kind out.
    if modality not in ("", "CT"):
        raise NotAChestCt(f"The image {label} is of modality {modality[:16]}, not CT.")
    image_type = [str(value).strip().upper() for value in _values(header.get("ImageType"))]
    if "LOCALIZER" in image_type:
        raise UnusableGeometry(f"The image {label} is a localizer, not a slice.")


def _functional_groups(header: Dataset, label: str) -> list[Dataset]:
    """One flat dataset per frame: its own groups over the shared ones over the header."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise UnusableGeometry(
                f"The image {label} has several frames but does not say where each one lies."
            )
        return [header]
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    per_frame = header.PerFrameFunctionalGroupsSequence
    if len(per_frame) != int(header.get("NumberOfFrames") or 0):
        raise InconsistentSeries(
            f"The image {label} announces {header.get('NumberOfFrames')} frames "
            f"and describes {len(per_frame)}."
        )
    return [_flatten(shared[0], own) for own in per_frame]


_GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)


def _flatten(shared: Dataset, own: Dataset) -> Dataset:
    flat = Dataset()
    for source in (shared, own):
        for name in _GROUPS:
            for item in source.get(name) or ():
                flat.update(item)
    return flat


def _position(group: Dataset, label: str) -> tuple[float, float, float]:
    values = _numbers(group.get("ImagePositionPatient"))
    if len(values) != 3:
        raise UnusableGeometry(f"The image {label} does not say where it lies in the patient.")
    return (values[0], values[1], values[2])


def _orientation(group: Dataset, label: str) -> tuple[float, float, float, float, float, float]:
    values = _numbers(group.get("ImageOrientationPatient"))
    if len(values) != 6:
        raise UnusableGeometry(f"The image {label} does not say how it is oriented in the patient.")
    row, column = values[:3], values[3:]
    row_length, column_length = math.hypot(*row), math.hypot(*column)
    if abs(row_length - 1) > 0.01 or abs(column_length - 1) > 0.01:
        raise UnusableGeometry(f"The orientation of the image {label} is not a pair of directions.")
    if abs(sum(a * b for a, b in zip(row, column, strict=True))) > 0.01:
        raise UnusableGeometry(f"The rows and columns of the image {label} are not perpendicular.")
    r = [value / row_length for value in row]
    c = [value / column_length for value in column]
    return (r[0], r[1], r[2], c[0], c[1], c[2])


def _spacing(group: Dataset, label: str) -> tuple[float, float]:
    values = _numbers(group.get("PixelSpacing"))
    if len(values) != 2 or not all(0.05 <= value <= 5.0 for value in values):
        raise UnusableGeometry(f"The image {label} has no usable pixel spacing.")
    return (values[0], values[1])


def _rescale(group: Dataset, label: str) -> Rescale | None:
    slope = _numbers(group.get("RescaleSlope"))
    intercept = _numbers(group.get("RescaleIntercept"))
    if not slope and not intercept:
        return None
    rescale = Rescale(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)
    if rescale.slope <= 0:
        raise InconsistentSeries(f"The image {label} has a rescale slope of {rescale.slope:g}.")
    return rescale


def _is_lossy(header: Dataset) -> bool:
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    return _text(header, "LossyImageCompression") == "01" or syntax in _LOSSY_SYNTAXES


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _values(value: object) -> list[object]:
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return [value]
    return list(value)


def _numbers(value: object) -> list[float]:
    """Finite numbers of a DS or FD value; empty where any of them is not a number."""
    try:
        numbers = [float(str(item)) for item in _values(value)]
    except ValueError:
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []
