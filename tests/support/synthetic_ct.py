"""A small axial CT series with the anatomy a chest check looks for: for tests, not for training.

A soft-tissue ellipse with two lungs that taper towards apex and base, trachea, spine, a table
under the patient, noise, and optionally a ground-glass lesion. Same arguments, same bytes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

__all__ = ["SyntheticSeries", "chest_hu", "synthetic_series"]

Vendor = Literal["GE", "Siemens"]
_NAMESPACE = uuid.UUID("8a5f4d0e-70f6-5a0b-9d25-0d2f1f1a7c11")
_GE_PADDING = -2000


@dataclass(frozen=True)
class SyntheticSeries:
    """What :func:`synthetic_series` wrote, slices from superior to inferior.

    Attributes
    ----------
    hu : ndarray of int16, shape (slices, rows, columns)
        Hounsfield units of the body, before the vendor's rescaling and padding.
    """

    directory: Path
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    sop_instance_uids: tuple[str, ...]
    paths: tuple[Path, ...]
    hu: NDArray[np.int16]


def _uid(*parts: object) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def chest_hu(
    slices: int,
    *,
    matrix: int = 256,
    field_of_view_mm: float = 400.0,
    lesion: bool = False,
    seed: int = 0,
) -> NDArray[np.int16]:
    """Return a synthetic chest in HU, shape (slices, matrix, matrix), int16, superior first.

    The lungs' volume is about 4 L when the slices cover 240 mm.
    """
    random = np.random.default_rng(seed)
    axis = (np.arange(matrix) - (matrix - 1) / 2) * field_of_view_mm / matrix  # mm
    y, x = np.meshgrid(axis, axis, indexing="ij")  # posterior and left are positive (LPS)
    height = np.linspace(0.0, 1.0, slices)[:, None, None]  # 0 apex, 1 base

    def ellipse(
        cx: float, cy: float, rx: float | NDArray[np.float64], ry: float | NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1.0

    hu = np.full((slices, matrix, matrix), -1000.0)
    body = ellipse(0, 0, 165, 115)
    hu[:, body] = 40.0
    # Lungs: small at the apex, full in the middle, less at the base.
    size = 0.35 + 0.65 * np.sin(np.pi * np.clip(0.15 + 0.8 * height, 0, 1))
    for side in (-1, 1):
        hu[ellipse(side * 75, -5, 52 * size, 82 * size)] = -850.0
    hu[np.broadcast_to(ellipse(0, 5, 8, 8), hu.shape) & (height < 0.5)] = -990.0  # trachea
    hu[:, ellipse(0, 80, 18, 18)] = 350.0  # spine
    hu[:, (np.abs(y - 135) < 4) & (np.abs(x) < 190)] = 120.0  # table
    if lesion:
        ball = ellipse(-85, 20, 25, 25) & (np.abs(height - 0.6) < 0.15)
        hu[ball & (hu < -700)] = -450.0
    hu += random.normal(0.0, 18.0, hu.shape) * (hu > -995)
    stored: NDArray[np.int16] = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return stored


def synthetic_series(
    directory: Path,
    slices: int = 32,
    *,
    matrix: int = 256,
    coverage_mm: float = 240.0,
    vendor: Vendor = "Siemens",
    lesion: bool = True,
    seed: int = 0,
    patient_id: str = "SYNTHETIC-1",
    patient_name: str = "Synthetic^Chest",
    accession_number: str = "A1",
    study: str = "study-1",
    study_date: str = "20200401",
) -> SyntheticSeries:
    """Write a valid axial CT series into `directory` (``0001.dcm`` …), Explicit VR Little Endian.

    Parameters
    ----------
    coverage_mm : float
        From the first slice to the last; the spacing follows.
    vendor : {"GE", "Siemens"}
        GE: signed pixels, intercept -1024, corners outside the field of view padded with -2000.
        Siemens: unsigned 12-bit pixels, intercept -1024, no padding.
    seed : int
        Of the noise; also makes the UIDs of the series.
    study : str
        Series with the same `patient_id` and `study` belong to one study.
    """
    field_of_view_mm = 400.0
    hu = chest_hu(
        slices, matrix=matrix, field_of_view_mm=field_of_view_mm, lesion=lesion, seed=seed
    )
    study_uid = _uid(patient_id, study)
    series_uid = _uid(
        patient_id, study, "series", slices, matrix, coverage_mm, vendor, lesion, seed
    )
    frame_uid = _uid(patient_id, study, "frame of reference")
    spacing = coverage_mm / max(slices - 1, 1)
    pixel_mm = field_of_view_mm / matrix
    corner = -(matrix - 1) / 2 * pixel_mm
    directory.mkdir(parents=True, exist_ok=True)

    uids, paths = [], []
    for index in range(slices):
        z = -index * spacing
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = _uid(series_uid, index)
        ds.StudyInstanceUID = study_uid
        ds.SeriesInstanceUID = series_uid
        ds.FrameOfReferenceUID = frame_uid
        _describe(ds, patient_id, patient_name, accession_number, vendor, study_date)
        ds.InstanceNumber = index + 1
        ds.AcquisitionNumber = 1
        ds.SliceThickness = f"{max(spacing, 0.5):.4g}"
        ds.ImagePositionPatient = [f"{corner:.6g}", f"{corner:.6g}", f"{z:.6g}"]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [f"{pixel_mm:.6g}"] * 2
        ds.SliceLocation = f"{z:.6g}"
        _fill_pixels(ds, hu[index], vendor)
        path = directory / f"{index + 1:04d}.dcm"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = ds.SOPClassUID
        meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        FileDataset(path, ds, preamble=b"\0" * 128, file_meta=meta).save_as(
            path, enforce_file_format=True
        )
        uids.append(str(ds.SOPInstanceUID))
        paths.append(path)
    return SyntheticSeries(
        directory, study_uid, series_uid, frame_uid, tuple(uids), tuple(paths), hu
    )


def _describe(
    ds: Dataset,
    patient_id: str,
    patient_name: str,
    accession_number: str,
    vendor: Vendor,
    study_date: str,
) -> None:
    """Set what does not change from slice to slice."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = patient_name
    ds.PatientID = patient_id
    ds.PatientBirthDate = "19600101"
    ds.PatientSex = "O"
    ds.PatientAge = "060Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber = accession_number
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.StudyDescription = "CT THORAX"
    ds.SeriesNumber = 2
    ds.SeriesDescription = "THORAX 5.0 LUNG"
    ds.Modality = "CT"
    ds.BodyPartExamined = "CHEST"
    ds.PatientPosition = "HFS"
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "GE MEDICAL SYSTEMS" if vendor == "GE" else "SIEMENS"
    ds.ManufacturerModelName = "LightSpeed VCT" if vendor == "GE" else "SOMATOM Definition AS"
    ds.ConvolutionKernel = "LUNG" if vendor == "GE" else "B60f"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = "120"
    ds.WindowCenter = "-600"
    ds.WindowWidth = "1500"


def _fill_pixels(ds: Dataset, hu: NDArray[np.int16], vendor: Vendor) -> None:
    rows, columns = hu.shape
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated = 16
    ds.RescaleSlope = "1"
    ds.RescaleIntercept = "-1024"
    ds.RescaleType = "HU"
    stored = hu.astype(np.int32) + 1024
    if vendor == "GE":
        y, x = np.ogrid[:rows, :columns]
        outside = np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2) > rows / 2
        stored[outside] = _GE_PADDING
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
        ds.PixelPaddingValue = _GE_PADDING
        ds.PixelData = stored.astype("<i2").tobytes()
    else:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 0
        ds.PixelData = stored.astype("<u2").tobytes()
