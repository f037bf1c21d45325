"""Small valid result objects on disk, and a shipment of them, for tests of the delivery."""

from __future__ import annotations

import hashlib
from pathlib import Path

import highdicom
import numpy as np
from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    EnhancedSR,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    TrackingIdentifier,
)
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_node.delivery.shipping import Candidate, PendingDelivery

__all__ = ["overlay", "overlays", "pending", "report"]


def ct_slice(seed: str = "series") -> Dataset:
    """Return a CT slice of 16 x 16, the source that results refer to."""
    ct = Dataset()
    ct.file_meta = FileMetaDataset()
    ct.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ct.SOPClassUID = CTImageStorage
    ct.SOPInstanceUID = generate_uid(entropy_srcs=[seed, "instance"])
    ct.StudyInstanceUID = generate_uid(entropy_srcs=[seed, "study"])
    ct.SeriesInstanceUID = generate_uid(entropy_srcs=[seed, "series"])
    ct.FrameOfReferenceUID = generate_uid(entropy_srcs=[seed, "frame"])
    ct.PatientID, ct.PatientName = "TEST-1", "Test^Delivery"
    ct.PatientBirthDate, ct.PatientSex = "19700101", "O"
    ct.StudyDate, ct.StudyTime, ct.StudyID = "20200101", "120000", "1"
    ct.AccessionNumber, ct.ReferringPhysicianName = "A1", ""
    ct.Modality, ct.SeriesNumber, ct.InstanceNumber = "CT", 1, 1
    ct.ImagePositionPatient, ct.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ct.PixelSpacing, ct.SliceThickness = [1, 1], 1
    ct.Rows = ct.Columns = 16
    return ct


def overlay(folder: Path, number: int = 1, *, size: int = 64) -> Path:
    """Write one RGB Secondary Capture, explicit VR little endian, `size` x `size`."""
    rows, columns = np.mgrid[:size, :size]
    rng = np.random.default_rng(number)
    grey = np.hypot(rows - size / 2, columns - size / 2) * 200 / size
    grey = grey + rng.integers(0, 20, (size, size))
    pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)  # rows, columns, RGB
    pixels[: size // 4, : size // 4, 0] = 230
    source = ct_slice()
    capture = highdicom.sc.SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=generate_uid(entropy_srcs=["overlays"]),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=number,
        manufacturer="m3lung-node tests",
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        patient_orientation=("L", "P"),
        study_id=source.StudyID,
        study_date=source.StudyDate,
        study_time=source.StudyTime,
        accession_number=source.AccessionNumber,
        anatomical_orientation_type="BIPED",
        pixel_spacing=(1.0, 1.0),
    )
    path = folder / f"overlay-{number}.dcm"
    capture.save_as(path, enforce_file_format=True)
    return path


def report(folder: Path) -> list[Path]:
    """Write the same report as Comprehensive 3D, Comprehensive and Enhanced SR, in this order."""
    source = ct_slice()
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                    uid=generate_uid(entropy_srcs=["device"])
                ),
            )
        ),
        procedure_reported=CodedConcept("25045-6", "LN", "CT unspecified body region"),
        imaging_measurements=[
            MeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(
                    uid=generate_uid(entropy_srcs=["tracking"]), identifier="lung"
                ),
                measurements=[
                    Measurement(
                        name=CodedConcept("122157", "DCM", "Probability"),
                        value=0.75,
                        unit=CodedConcept("1", "UCUM", "no units"),
                    )
                ],
            )
        ],
    )
    paths = []
    for kind in (Comprehensive3DSR, ComprehensiveSR, EnhancedSR):
        document = kind(
            evidence=[source],
            content=content[0],
            series_instance_uid=generate_uid(entropy_srcs=["report"]),
            series_number=101,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="m3lung-node tests",
        )
        path = folder / f"report-{kind.__name__}.dcm"
        document.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def pending(
    delivery_id: int, slot: str, paths: list[Path], *, chosen: int | None = None
) -> PendingDelivery:
    """Return a delivery of `paths`, best first; object ids are 10 x delivery id + rank."""
    candidates = []
    for rank, path in enumerate(paths):
        content = path.read_bytes()
        header = dcmread(path, stop_before_pixels=True)
        candidates.append(
            Candidate(
                object_id=10 * delivery_id + rank,
                sop_class_uid=str(header.SOPClassUID),
                sop_instance_uid=str(header.SOPInstanceUID),
                path=path,
                sha256=hashlib.sha256(content).hexdigest(),
                rank=rank,
                chosen=rank == chosen,
            )
        )
    return PendingDelivery(delivery_id, slot, tuple(candidates))


def overlays(folder: Path, count: int, *, size: int = 64) -> list[PendingDelivery]:
    """Return a shipment of `count` overlays, delivery ids from 1."""
    return [
        pending(number, "overlay", [overlay(folder, number, size=size)])
        for number in range(1, count + 1)
    ]
