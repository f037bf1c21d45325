"""The phantom as a valid CT series: one CT Image Storage instance per slice (PS3.3 A.3)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from training.phantom.chest import Chest

__all__ = ["PhantomSeries", "write_simple_series"]

_NAMESPACE = uuid.UUID("52c7f2a4-5d3e-5b0c-9d35-6b1a3c7f90e1")  # fixed for ever
_IMPLEMENTATION = UID(f"2.25.{_NAMESPACE.int}")
_INTERCEPT = -1024


@dataclass(frozen=True, slots=True)
class PhantomSeries:
    """What identifies a phantom series: the same arguments, the same UIDs and the same bytes.

    Attributes
    ----------
    seed, slices, rows : int
    slice_mm : float
        Slice thickness and distance.
    lesions : bool
        Whether there are ground-glass patches.
    """

    seed: int = 7
    slices: int = 60
    rows: int = 512
    slice_mm: float = 4.0
    lesions: bool = True

    def uid(self, *purpose: object) -> UID:
        """Return ``2.25.<uuid5>`` (PS3.5 §B.2) of this series and `purpose`."""
        parts = (self.seed, self.slices, self.rows, f"{self.slice_mm:g}", self.lesions, *purpose)
        return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")

    def instances(self) -> Iterator[FileDataset]:
        """Yield the instances, the most superior slice first."""
        chest = Chest(
            seed=self.seed,
            slices=self.slices,
            rows=self.rows,
            slice_mm=self.slice_mm,
            lesions=self.lesions,
        )
        for index, slice_hu in enumerate(chest.slices_hu()):
            dataset = self._header()
            self._place(dataset, index, chest.grid.pixel_mm)
            _put_pixels(dataset, slice_hu)
            yield _as_file(dataset)

    def _header(self) -> Dataset:
        """Everything that does not change from slice to slice."""
        dataset = Dataset()
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID = CTImageStorage
        dataset.StudyInstanceUID = self.uid("study")
        dataset.SeriesInstanceUID = self.uid("series")
        dataset.FrameOfReferenceUID = self.uid("frame of reference")
        dataset.PositionReferenceIndicator = ""
        dataset.PatientName = f"PHANTOM^SEED {self.seed}"
        dataset.PatientID = f"PHANTOM-{self.seed}"
        dataset.PatientBirthDate = "19700101"
        dataset.PatientSex = "O"
        dataset.PatientAge = "054Y"
        dataset.PatientPosition = "HFS"
        for name in ("Study", "Series", "Acquisition", "Content"):
            setattr(dataset, f"{name}Date", "20240115")
            setattr(dataset, f"{name}Time", "101500")
        dataset.AccessionNumber = f"PH{self.seed:06d}"
        dataset.ReferringPhysicianName = ""
        dataset.StudyID = "1"
        dataset.StudyDescription = "Synthetic chest CT"
        dataset.SeriesNumber = 2
        dataset.SeriesDescription = f"Thorax {self.slice_mm:g} mm, synthetic phantom"
        dataset.AcquisitionNumber = 1
        dataset.Modality = "CT"
        dataset.BodyPartExamined = "CHEST"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        _put_equipment(dataset)
        return dataset

    def _place(self, dataset: Dataset, index: int, pixel_mm: float) -> None:
        z = -index * self.slice_mm
        corner = -(self.rows - 1) / 2 * pixel_mm
        dataset.SOPInstanceUID = self.uid("instance", index)
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [f"{corner:.6g}", f"{corner:.6g}", f"{z:.6g}"]
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        dataset.PixelSpacing = [f"{pixel_mm:.6g}"] * 2
        dataset.SliceThickness = f"{self.slice_mm:g}"
        dataset.SpacingBetweenSlices = f"{self.slice_mm:g}"
        dataset.SliceLocation = f"{z:.6g}"


def write_simple_series(
    folder: Path,
    *,
    seed: int = 7,
    slices: int = 60,
    rows: int = 512,
    slice_mm: float = 4.0,
    lesions: bool = True,
) -> Path:
    """Write a synthetic chest CT series as ``0001.dcm`` … into `folder`, made if missing.

    The same arguments give the same bytes. The chest is stretched to the length of the scan.

    Parameters
    ----------
    folder : Path
    seed : int
        Of anatomy, lesions and noise.
    slices, rows : int
        Slices; rows and columns of each, over 400 mm.
    slice_mm : float
        Slice thickness and distance.
    lesions : bool
        Whether there are ground-glass patches.

    Returns
    -------
    Path
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = PhantomSeries(seed, slices, rows, slice_mm, lesions)
    for number, instance in enumerate(series.instances(), start=1):
        instance.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def _put_equipment(dataset: Dataset) -> None:
    """Attributes of a scanner's protocol; the maker says that there was no scanner."""
    dataset.Manufacturer = "m3lung-node project"
    dataset.ManufacturerModelName = "Synthetic chest phantom"
    dataset.SoftwareVersions = "1"
    dataset.KVP = "120"
    dataset.XRayTubeCurrent = "200"
    dataset.ExposureTime = "500"
    dataset.ConvolutionKernel = "LUNG"
    dataset.DataCollectionDiameter = "500"
    dataset.ReconstructionDiameter = "400"
    dataset.GantryDetectorTilt = "0"
    dataset.RotationDirection = "CW"
    dataset.WindowCenter = ["-600", "40"]
    dataset.WindowWidth = ["1500", "400"]
    dataset.WindowCenterWidthExplanation = ["LUNG", "SOFT TISSUE"]


def _put_pixels(dataset: Dataset, slice_hu: NDArray[np.int16]) -> None:
    """Unsigned 12 bits with intercept -1024, as scanners of several makers store them."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = slice_hu.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = str(_INTERCEPT)
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    stored = np.clip(slice_hu.astype(np.int32) - _INTERCEPT, 0, 4095)
    dataset.PixelData = stored.astype("<u2").tobytes()


def _as_file(dataset: Dataset) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "M3LUNG_PHANTOM"
    return FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta)
