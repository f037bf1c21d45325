"""A case as a valid CT series: one CT Image Storage instance per slice (PS3.3 A.3)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from training.phantom.person import Person
from training.phantom.scanner import Scanner

__all__ = ["SeriesIdentity", "instance_of"]

_NAMESPACE = uuid.UUID("52c7f2a4-5d3e-5b0c-9d35-6b1a3c7f90e1")  # fixed for ever
_IMPLEMENTATION = UID(f"2.25.{_NAMESPACE.int}")


@dataclass(frozen=True, slots=True)
class SeriesIdentity:
    """What names a series: the same key, the same UIDs.

    Attributes
    ----------
    key : str
        Everything the case was made from.
    patient_id : str
    seed : int
    """

    key: str
    patient_id: str
    seed: int

    def uid(self, *purpose: object) -> UID:
        """Return ``2.25.<uuid5>`` (PS3.5 §B.2) of this series and `purpose`."""
        words = "/".join(map(str, (self.key, *purpose)))
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, words).int}")


def instance_of(
    slice_hu: NDArray[np.int16],
    index: int,
    identity: SeriesIdentity,
    person: Person,
    scanner: Scanner,
    slice_mm: float,
    thickness_mm: float,
) -> FileDataset:
    """Return one slice as an instance that can be saved.

    Parameters
    ----------
    slice_hu : ndarray of int16, shape (rows, columns)
    index : int
        0 is the most superior slice.
    identity : SeriesIdentity
    person : Person
    scanner : Scanner
    slice_mm, thickness_mm : float
        Distance and thickness of slices.
    """
    dataset = _header(identity, person, thickness_mm)
    dataset.SliceThickness = f"{thickness_mm:g}"
    _put_equipment(dataset, scanner)
    _place(dataset, index, identity, scanner, slice_mm)
    _put_pixels(dataset, slice_hu, scanner)
    return _as_file(dataset)


def _header(identity: SeriesIdentity, person: Person, thickness_mm: float) -> Dataset:
    """Everything that does not change from slice to slice."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID = identity.uid("study")
    dataset.SeriesInstanceUID = identity.uid("series")
    dataset.FrameOfReferenceUID = identity.uid("frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.PatientName = f"PHANTOM^SEED {identity.seed}"
    dataset.PatientID = identity.patient_id
    dataset.PatientBirthDate = f"{2024 - person.age}0101"
    dataset.PatientSex = "F" if person.female else "M"
    dataset.PatientAge = f"{person.age:03d}Y"
    dataset.PatientPosition = "HFS"
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{name}Date", "20240115")
        setattr(dataset, f"{name}Time", "101500")
    dataset.AccessionNumber = f"PH{identity.seed % 10**12:06d}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.StudyDescription = "Synthetic chest CT"
    dataset.SeriesNumber = 2
    dataset.SeriesDescription = f"Thorax {thickness_mm:g} mm, synthetic phantom"
    dataset.AcquisitionNumber = 1
    dataset.Modality = "CT"
    dataset.BodyPartExamined = "CHEST"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return dataset


def _put_equipment(dataset: Dataset, scanner: Scanner) -> None:
    """Attributes of a scanner's protocol; the model's name says that there was no scanner."""
    dataset.Manufacturer = scanner.manufacturer
    dataset.ManufacturerModelName = "Synthetic chest phantom"
    dataset.SoftwareVersions = "2"
    dataset.KVP = str(scanner.kvp)
    dataset.XRayTubeCurrent = str(scanner.current_ma)
    dataset.ExposureTime = "500"
    dataset.ConvolutionKernel = scanner.kernel.name
    dataset.DataCollectionDiameter = "500"
    dataset.ReconstructionDiameter = f"{scanner.field_of_view_mm:.6g}"
    dataset.GantryDetectorTilt = f"{scanner.tilt_deg:.4g}"
    dataset.RotationDirection = "CW"
    dataset.WindowCenter = [str(centre) for centre, _, _ in scanner.windows]
    dataset.WindowWidth = [str(width) for _, width, _ in scanner.windows]
    dataset.WindowCenterWidthExplanation = [name for _, _, name in scanner.windows]


def _place(
    dataset: Dataset, index: int, identity: SeriesIdentity, scanner: Scanner, slice_mm: float
) -> None:
    """Put geometry (PS3.3 C.7.6.2).

    A tilted gantry shears the stack: rows are farther apart on the slice than their y says, and
    slices stay one above the other along the table.
    """
    tilt = np.deg2rad(scanner.tilt_deg)
    pixel = scanner.pixel_mm
    middle = (scanner.rows - 1) / 2
    # Depth grows with y by the tangent of the tilt; z points to the head.
    down = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    row_mm = pixel / np.cos(tilt)
    x, y = scanner.centre_mm[0] - middle * pixel, scanner.centre_mm[1] - middle * pixel
    table = -index * slice_mm
    z = table - y * np.tan(tilt)
    dataset.SOPInstanceUID = identity.uid("instance", index)
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [f"{value:.8g}" for value in (x, y, z)]
    dataset.ImageOrientationPatient = ["1", "0", "0", *(f"{value:.8g}" for value in down)]
    dataset.PixelSpacing = [f"{row_mm:.8g}", f"{pixel:.8g}"]
    dataset.SpacingBetweenSlices = f"{slice_mm * np.cos(tilt):.6g}"
    dataset.SliceLocation = f"{table:.6g}"


def _put_pixels(dataset: Dataset, slice_hu: NDArray[np.int16], scanner: Scanner) -> None:
    """Stored values as the scanner's maker stores them: unsigned 12 bits or signed 16."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = slice_hu.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16 if scanner.signed else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(scanner.signed)
    dataset.RescaleIntercept = str(scanner.intercept)
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    stored = slice_hu.astype(np.int32) - scanner.intercept
    if scanner.padding_hu is not None:
        dataset.PixelPaddingValue = scanner.padding_hu - scanner.intercept
    if scanner.signed:
        dataset.PixelData = stored.astype("<i2").tobytes()
    else:
        dataset.PixelData = np.clip(stored, 0, 4095).astype("<u2").tobytes()


def _as_file(dataset: Dataset) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "M3LUNG_PHANTOM"
    return FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta)
