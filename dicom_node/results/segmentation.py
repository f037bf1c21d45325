"""SEG BINARY of the lesion mask (PS3.3 A.51): what the percentage of lung counts.

A pixel belongs to the mask where the location map exceeds the model's threshold inside the lung
mask. Frames without lesion are left out; without any lesion there is no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage
from pydicom.valuerep import DSfloat

from dicom_node.domain import ObjectKind
from dicom_node.results.codes import Concept
from dicom_node.results.result_set import ResultSet
from inference.domain import CtVolume, Findings, ModelIdentity, SliceReference, lesion_pixels

__all__ = [
    "ContentLabel",
    "Segment",
    "build_segmentation",
    "lesion_mask",
    "lesion_segment",
    "new_segment",
    "segmentation_of",
]

# CIELab of a warm red (L 0..100, a and b −128..127, each scaled to 0..65535; PS3.3 C.10.7.1.1).
_DISPLAY_CIELAB = [34000, 49000, 44000]


def lesion_mask(findings: Findings, index: int | slice = slice(None)) -> NDArray[np.bool_]:
    """Return where the map exceeds the threshold inside the lung.

    Returns
    -------
    ndarray of bool
        Shape (slices, rows, columns), or (rows, columns) for one `index`.
    """
    return lesion_pixels(
        findings.lesion_map[index], findings.lung_mask[index], findings.model.lesion_threshold
    )


def build_segmentation(findings: Findings, volume: CtVolume, results: ResultSet) -> Dataset | None:
    """Return the segmentation of the lesions, None when no pixel is lesion."""
    mask = lesion_mask(findings)  # (slices, rows, columns)
    words = f"Location map above {findings.model.lesion_threshold:g}; {results.model_words}"
    segment = Segment(mask, lesion_segment(findings.model, words, results, "involvement"))
    label = ContentLabel("LESION", "Lesion by the location map inside the lung")
    return segmentation_of([segment], label, volume, results)


@dataclass(frozen=True, slots=True)
class Segment:
    """A mask, shape (slices, rows, columns), and its item of the Segment Sequence."""

    mask: NDArray[np.bool_]
    item: Dataset


class ContentLabel(NamedTuple):
    """Content Label and Description."""

    label: str
    description: str


def segmentation_of(
    segments: Sequence[Segment], label: ContentLabel, volume: CtVolume, results: ResultSet
) -> Dataset | None:
    """Return a segmentation of masks that do not overlap; None where all are empty.

    Segments without a pixel keep their number and description, and have no frame.
    """
    frames = [
        (number, int(index))
        for number, segment in enumerate(segments, start=1)
        for index in np.flatnonzero(segment.mask.any(axis=(1, 2)))
    ]
    if not frames:
        return None
    shown = sorted({index for _, index in frames})
    position = {index: rank for rank, index in enumerate(shown, start=1)}
    dataset = results.new_instance(ObjectKind.SEGMENTATION, str(SegmentationStorage), "SEG")
    pixels = np.stack([segments[number - 1].mask[index] for number, index in frames])
    _put_image(dataset, pixels, label, results)
    dataset.SegmentSequence = [segment.item for segment in segments]
    references = [volume.slices[index] for index in shown]
    _put_dimensions(dataset, results.identity.internal_uid("segmentation dimensions"))
    dataset.FrameOfReferenceUID = (
        results.source.frame_of_reference_uid
        or results.identity.internal_uid("frame of reference")  # type 1 here, whatever the source
    )
    dataset.PositionReferenceIndicator = results.source.position_reference
    dataset.ReferencedSeriesSequence = [_referenced_series(results, references)]
    dataset.SharedFunctionalGroupsSequence = [
        _shared(volume, results, is_single=len(segments) == 1)
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame(volume, index, position[index], None if len(segments) == 1 else number)
        for number, index in frames
    ]
    return dataset


def _put_image(
    dataset: Dataset, mask: NDArray[np.bool_], label: ContentLabel, results: ResultSet
) -> None:
    """Segmentation Image and Multi-frame modules (PS3.3 C.8.20.2, C.7.6.6)."""
    frames, rows, columns = mask.shape
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.ContentLabel, dataset.ContentDescription = label
    dataset.ContentCreatorName = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.SegmentationType = "BINARY"
    dataset.SegmentsOverlap = "NO"
    dataset.update(results.source.lossy)
    dataset.PixelData = pack_bits(mask.astype(np.uint8).ravel())


def lesion_segment(
    model: ModelIdentity, words: str, results: ResultSet, tracking: str, number: int = 1
) -> Dataset:
    """Return the item of a segment of lesions.

    Parameters
    ----------
    words : str
        How they were found.
    tracking : str
        Name of the finding, for its Tracking UID.
    """
    segment = new_segment(model, number, "Lesion", words)
    segment.SegmentedPropertyCategoryCodeSequence = [Concept.MORPHOLOGICALLY_ABNORMAL.item()]
    segment.SegmentedPropertyTypeCodeSequence = [Concept.OPACITY.item()]
    lung = Concept.LUNG.item()
    lung.AnatomicRegionModifierSequence = [Concept.BILATERAL.item()]
    segment.AnatomicRegionSequence = [lung]
    segment.RecommendedDisplayCIELabValue = _DISPLAY_CIELAB
    segment.TrackingID = "Lesion"
    segment.TrackingUID = results.identity.tracking_uid(tracking)
    return segment


def new_segment(model: ModelIdentity, number: int, label: str, words: str) -> Dataset:
    """Return an item of the Segment Sequence without what the segment is."""
    segment = Dataset()
    segment.SegmentNumber = number
    segment.SegmentLabel = label
    segment.SegmentDescription = words[:1024]
    segment.SegmentAlgorithmType = "AUTOMATIC"
    segment.SegmentAlgorithmName = model.name[:64]
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [Concept.ARTIFICIAL_INTELLIGENCE.item()]
    algorithm.AlgorithmName = model.name[:64]
    algorithm.AlgorithmVersion = model.version[:64]
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    return segment


def _put_dimensions(dataset: Dataset, organization_uid: str) -> None:
    """Multi-frame Dimension module: segment, then position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = organization_uid
    dataset.DimensionOrganizationSequence = [organization]
    items = []
    for pointer, group, label in (
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence", "Segment"),
        ("ImagePositionPatient", "PlanePositionSequence", "Position"),
    ):
        item = Dataset()
        item.DimensionOrganizationUID = organization_uid
        item.DimensionIndexPointer = Tag(pointer)
        item.FunctionalGroupPointer = Tag(group)
        item.DimensionDescriptionLabel = label
        items.append(item)
    dataset.DimensionIndexSequence = items


def _referenced_series(results: ResultSet, references: list[SliceReference]) -> Dataset:
    """Common Instance Reference module (PS3.3 C.12.2)."""
    series = Dataset()
    series.SeriesInstanceUID = results.source.series_instance_uid
    instances = []
    for sop_class_uid, sop_instance_uid in dict.fromkeys(
        (item.sop_class_uid, item.sop_instance_uid) for item in references
    ):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        instances.append(item)
    series.ReferencedInstanceSequence = instances
    return series


def _shared(volume: CtVolume, results: ResultSet, *, is_single: bool) -> Dataset:
    """Pixel measures, orientation and the only segment: the same for every frame."""
    measures = Dataset()
    measures.PixelSpacing = [_ds(value) for value in volume.pixel_spacing_mm]
    thickness = results.source.slice_thickness_mm or volume.slice_spacing_mm
    if thickness:
        measures.SliceThickness = _ds(thickness)
    if volume.slice_spacing_mm:
        measures.SpacingBetweenSlices = _ds(volume.slice_spacing_mm)
    orientation = Dataset()
    orientation.ImageOrientationPatient = [_ds(value) for value in volume.orientation]
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    if is_single:
        shared.SegmentIdentificationSequence = [_identification(1)]
    return shared


def _identification(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSegmentNumber = number
    return item


def _frame(volume: CtVolume, index: int, position: int, segment: int | None) -> Dataset:
    """Frame content, plane position, derivation and, among several, the segment of one frame."""
    content = Dataset()
    content.DimensionIndexValues = [segment or 1, position]
    plane = Dataset()
    plane.ImagePositionPatient = [_ds(value) for value in volume.positions_mm[index]]
    reference = volume.slices[index]
    source = Dataset()
    source.ReferencedSOPClassUID = reference.sop_class_uid
    source.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reference.frame_number is not None:
        source.ReferencedFrameNumber = reference.frame_number
    source.PurposeOfReferenceCodeSequence = [Concept.SOURCE_IMAGE.item()]
    source.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.DerivationCodeSequence = [Concept.SEGMENTATION.item()]
    derivation.SourceImageSequence = [source]
    frame = Dataset()
    frame.FrameContentSequence = [content]
    frame.PlanePositionSequence = [plane]
    frame.DerivationImageSequence = [derivation]
    if segment is not None:
        frame.SegmentIdentificationSequence = [_identification(segment)]
    return frame


def _ds(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)
