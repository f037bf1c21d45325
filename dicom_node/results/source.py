"""The source series as the results need it: patient, study, equipment and references.

Patient and Study modules go into every result as they came (PS3.3 C.7.1, C.7.2), decoded with the
source's character set so that they can be written in ISO_IR 192 (UTF-8).
"""

from __future__ import annotations

import copy
import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.dataset_scan import BROKEN_DATASET
from dicom_node.domain import comparable_name, is_legal_uid
from dicom_node.errors import SeriesRejected
from dicom_node.results.source_modules import PATIENT_AND_STUDY, TYPE_2

__all__ = ["SourceImage", "SourceSeries"]

_SAME = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID")
_SAME_WHERE_PRESENT = ("PatientName", "PatientBirthDate", "PatientSex")
_IN_WORDS = {
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series",
    "PatientID": "patient identifier",
    "IssuerOfPatientID": "issuer of the patient identifier",
    "PatientName": "patient name",
    "PatientBirthDate": "birth date",
    "PatientSex": "sex",
}
_PER_IMAGE = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "SpecificCharacterSet")
_EQUIPMENT = (
    "Manufacturer",
    "InstitutionName",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
_LOSSY = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_TIMEZONE = re.compile(r"[+-](0[0-9]|1[0-4])[0-5][0-9]")  # PS3.3 C.12.1.1.5: &ZZXX


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One source instance, as results refer to it."""

    sop_class_uid: str
    sop_instance_uid: str
    instance_number: int | None


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """Headers of the instances that were read.

    Attributes
    ----------
    study_instance_uid, series_instance_uid : str
    frame_of_reference_uid : str
        Empty where the source has none.
    position_reference : str
        Position Reference Indicator.
    series_number : int or None
    series_description, study_date : str
        Empty where absent.
    slice_thickness_mm : float or None
    patient_position : str
    timezone : str
        Timezone Offset From UTC as ``+0100``; empty where absent or illegal.
    lossy : Dataset
        The Lossy Image Compression attributes of a source compressed with loss, else "00".
    modules : Dataset
        Patient, General Study, Patient Study and Clinical Trial modules, decoded.
    request_attributes : tuple of Dataset
        Request Attributes Sequence, decoded.
    equipment : Dataset
        General Equipment of the scanner, decoded.
    images : tuple of SourceImage
        In the order of the paths.
    """

    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    position_reference: str
    series_number: int | None
    series_description: str
    study_date: str
    slice_thickness_mm: float | None
    patient_position: str
    timezone: str
    lossy: Dataset
    modules: Dataset
    request_attributes: tuple[Dataset, ...]
    equipment: Dataset
    images: tuple[SourceImage, ...]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> SourceSeries:
        """Read the headers of the analysed instances; pixels are not touched.

        Raises
        ------
        SeriesRejected
            There is no instance, one cannot be read, lacks a legal UID, or two disagree about
            patient, study or series.
        """
        try:
            return cls._read(paths)
        except BROKEN_DATASET as error:
            raise SeriesRejected("The header of an instance is damaged.") from error

    @classmethod
    def _read(cls, paths: Sequence[Path]) -> SourceSeries:
        if not paths:
            raise SeriesRejected("The series has no instances.")
        first = _read(paths[0], None)
        wanted = [*_SAME, *_SAME_WHERE_PRESENT, *_PER_IMAGE]
        headers = [first, *(_read(path, wanted) for path in paths[1:])]
        for header in headers:
            _require_uids(header)
        _require_agreement(headers)
        first.decode()
        modules = _decoded(first, PATIENT_AND_STUDY)
        for keyword in TYPE_2:
            if keyword not in modules:
                setattr(modules, keyword, "")
        frame_of_reference = _text(first, "FrameOfReferenceUID")
        timezone = _text(first, "TimezoneOffsetFromUTC")
        requests = _decoded(first, ("RequestAttributesSequence",))
        return cls(
            study_instance_uid=str(first.StudyInstanceUID),
            series_instance_uid=str(first.SeriesInstanceUID),
            frame_of_reference_uid=frame_of_reference if is_legal_uid(frame_of_reference) else "",
            position_reference=_text(first, "PositionReferenceIndicator"),
            series_number=_number(first, "SeriesNumber"),
            series_description=_text(first, "SeriesDescription"),
            study_date=_text(first, "StudyDate"),
            slice_thickness_mm=_decimal(first, "SliceThickness"),
            patient_position=_text(first, "PatientPosition"),
            timezone=timezone if _TIMEZONE.fullmatch(timezone) else "",
            lossy=_lossy(first),
            modules=modules,
            request_attributes=tuple(requests.get("RequestAttributesSequence", [])),
            equipment=_decoded(first, _EQUIPMENT),
            images=tuple(
                SourceImage(
                    str(header.SOPClassUID),
                    str(header.SOPInstanceUID),
                    _number(header, "InstanceNumber"),
                )
                for header in headers
            ),
        )

    def image(self, sop_instance_uid: str) -> SourceImage:
        """Return the source instance with this UID.

        Raises
        ------
        KeyError
            It is none of the instances that were read.
        """
        for image in self.images:
            if image.sop_instance_uid == sop_instance_uid:
                return image
        raise KeyError(sop_instance_uid)


def _read(path: Path, keywords: list[str] | None) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=keywords)
    except (OSError, *BROKEN_DATASET) as error:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise  # the disk's fault, not the instance's: tried again
        raise SeriesRejected("An instance of the series cannot be read.") from error


def _require_uids(header: Dataset) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not is_legal_uid(_text(header, keyword)):
            raise SeriesRejected(f"An instance of the series has no legal {keyword}.")


def _require_agreement(headers: Sequence[Dataset]) -> None:
    for keyword in _SAME:
        if len({_text(header, keyword) for header in headers}) > 1:
            raise _disagreement(keyword)
    for keyword in _SAME_WHERE_PRESENT:
        present = {comparable_name(_text(header, keyword)) for header in headers} - {""}
        if len(present) > 1:
            raise _disagreement(keyword)


def _disagreement(keyword: str) -> SeriesRejected:
    return SeriesRejected(
        f"The instances of the series disagree about the {_IN_WORDS[keyword]}: "
        "it may hold images of different patients."
    )


def _decoded(header: Dataset, keywords: Sequence[str]) -> Dataset:
    """Return a copy of these attributes of a decoded dataset, free of own character sets."""
    copied = Dataset()
    for keyword in keywords:
        if keyword in header:
            copied.add(copy.deepcopy(header[keyword]))
    _drop_character_sets(copied)
    return copied


def _drop_character_sets(dataset: Dataset) -> None:
    """Remove the character sets of items: the whole is written in UTF-8."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                item.pop("SpecificCharacterSet", None)
                _drop_character_sets(item)


def _lossy(header: Dataset) -> Dataset:
    """Lossy compression is told for ever (PS3.3 C.7.6.1.1.5)."""
    if _text(header, "LossyImageCompression") == "01":
        return _decoded(header, _LOSSY)
    lossless = Dataset()
    lossless.LossyImageCompression = "00"
    return lossless


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _number(header: Dataset, keyword: str) -> int | None:
    value = _decimal(header, keyword)
    return None if value is None else int(value)


def _decimal(header: Dataset, keyword: str) -> float | None:
    try:
        return float(_text(header, keyword))
    except ValueError:
        return None
