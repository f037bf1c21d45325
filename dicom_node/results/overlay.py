"""Overlay series: one single-frame RGB Secondary Capture per slice, on the source's geometry.

Stored uncompressed: delivery compresses for the destinations that take it. Measured on P001
(512 x 512, one core): RLE Lossless 9.6 ms and 747 kB of 768 kB, so it saves next to nothing;
JPEG-LS 16 ms and 394 kB, but not every destination can be served from it without decoding.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from dicom_node.domain import ObjectKind
from dicom_node.results.key_slices import lesion_slices
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.result_set import ResultSet, image_key
from dicom_node.results.secondary_capture import put_picture, source_image_item
from inference.domain import CtVolume, Findings

__all__ = ["build_overlay", "overlay_slices"]


def overlay_slices(findings: Findings, results: ResultSet) -> list[int]:
    """Indices of the slices that get a picture, superior first; none without any lesion."""
    lesions = lesion_slices(findings)
    if not lesions:
        return []
    if results.options.overlay_slices == "all":
        return list(range(len(findings.slices)))
    return lesions


def build_overlay(
    index: int, findings: Findings, volume: CtVolume, results: ResultSet, painter: OverlayPainter
) -> Dataset:
    """Return the Secondary Capture of one slice.

    Its Image Plane attributes make it a Standard Extended SOP class: viewers link its scrolling
    with the source's.
    """
    reference = volume.slices[index]
    dataset = results.new_instance(
        ObjectKind.OVERLAY,
        str(SecondaryCaptureImageStorage),
        results.options.secondary_capture_modality,
        of=image_key(reference),
        instance_number=index + 1,  # anatomical order, the most superior slice first
    )
    threshold = findings.model.lesion_threshold
    kind = "explanation (class activation)" if results.part else "lesion location"
    put_picture(
        dataset,
        painter.paint(index),
        results,
        f"Lung window with {kind} map above {threshold:g} (colours by log-odds, for every patient "
        f"the same). "
        f"{results.model_words}. {results.options.banner}. {results.training_words}".strip(),
    )
    dataset.SourceImageSequence = [source_image_item(reference)]
    if results.source.patient_position:
        dataset.PatientPosition = results.source.patient_position
    dataset.PatientOrientation = _patient_orientation(volume.orientation)
    if results.source.frame_of_reference_uid:
        dataset.FrameOfReferenceUID = results.source.frame_of_reference_uid
        dataset.PositionReferenceIndicator = results.source.position_reference
    dataset.ImagePositionPatient = _decimals(volume.positions_mm[index])
    dataset.ImageOrientationPatient = _decimals(volume.orientation)
    dataset.PixelSpacing = _decimals(volume.pixel_spacing_mm)
    thickness = results.source.slice_thickness_mm or volume.slice_spacing_mm
    if thickness:
        dataset.SliceThickness = DSfloat(thickness, auto_format=True)
    return dataset


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def _patient_orientation(orientation: tuple[float, ...]) -> list[str]:
    """Patient Orientation (PS3.3 C.7.6.1.1.1) of row and column direction, main axis only."""
    return [_direction(orientation[:3]), _direction(orientation[3:])]


def _direction(cosines: tuple[float, ...]) -> str:
    axis = max(range(3), key=lambda number: abs(cosines[number]))
    letters = ("LR", "PA", "HF")[axis]
    return letters[0] if cosines[axis] > 0 else letters[1]
