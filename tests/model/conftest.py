"""What the model tests share: the writer of small CT series, and real series read once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from inference.domain import CtVolume
from inference.volume import load_volume

WriteSlice = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> WriteSlice:
    """Write one CT slice: ``write_slice(name, stored, z_mm, **attributes)``; None deletes one."""
    series = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}

    def write(
        name: str, stored: NDArray[np.generic], z_mm: float = 0.0, **attributes: object
    ) -> Path:
        dataset = _ct_slice(stored, z_mm)
        for keyword, value in {**series, **attributes}.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        path = tmp_path / name
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID") or "1.2.3"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(path, dataset, file_meta=meta, preamble=b"\0" * 128)
        file.save_as(path, enforce_file_format=True)
        return path

    return write


def _ct_slice(stored: NDArray[np.generic], z_mm: float) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientID, dataset.PatientName = "SECRET-ID", "SECRET^NAME"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [-10.0, -20.0, z_mm]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.7, 0.7]
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = stored.tobytes()
    return dataset


@pytest.fixture(scope="session")
def series(real_data: Path) -> Callable[[str], list[Path]]:
    """Files of a folder of the real data."""

    def files(folder: str) -> list[Path]:
        return sorted((real_data / folder).glob("*.dcm"))

    return files


@pytest.fixture(scope="session")
def p001(series: Callable[[str], list[Path]]) -> CtVolume:
    """The COVID-19 series of 148 slices."""
    return load_volume(series("covid-ct-md/covid/P001"))


@pytest.fixture(scope="session")
def cap001(series: Callable[[str], list[Path]]) -> CtVolume:
    """The pneumonia series of 168 slices: a lean patient, a thin chest wall."""
    return load_volume(series("covid-ct-md/cap/cap001"))
