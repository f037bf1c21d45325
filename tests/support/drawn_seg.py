"""A DICOM SEG as another program would draw it: made with highdicom, lobes and lesions."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import dcmread
from pydicom.sr.coding import Code

from inference.domain import CtVolume, Lobe

_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_LOBES = {
    Lobe.RIGHT_UPPER: ("45653009", "24028007"),
    Lobe.RIGHT_MIDDLE: ("72481006", ""),
    Lobe.RIGHT_LOWER: ("90572001", "24028007"),
    Lobe.LEFT_UPPER: ("45653009", "7771000"),
    Lobe.LEFT_LOWER: ("90572001", "7771000"),
}


def write_seg(
    path: Path, series: list[Path], volume: CtVolume, lesion: np.ndarray, lobes: np.ndarray
) -> None:
    sources = {str(image.SOPInstanceUID): image for image in map(dcmread, series)}
    images = [sources[reference.sop_instance_uid] for reference in volume.slices]
    segments, masks = [], []

    def add(category: Code, kind: Code, mask: np.ndarray) -> SegmentDescription:
        description = SegmentDescription(
            segment_number=len(segments) + 1,
            segment_label=kind.meaning,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        segments.append(description)
        masks.append(mask)
        return description

    for lobe, (value, side) in _LOBES.items():
        made = add(_ANATOMY, Code(value, "SCT", lobe.label), lobes == lobe)
        if side:
            modifier = hd.sr.CodedConcept(side, "SCT", "side")
            kind = made.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    add(_ABNORMAL, Code("112001", "DCM", "Opacity"), lesion)
    segmentation = Segmentation(
        source_images=images,
        pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="drawer",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)
