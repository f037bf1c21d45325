"""Objects of the two other systems: lobes and lesions as SEG, the explanation as overlays.

Each is a series of its own, with its own model in it. Without these systems there is none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.domain import ObjectKind
from dicom_node.results.codes import LOBE, Concept
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import (
    ContentLabel,
    Segment,
    lesion_segment,
    new_segment,
    segmentation_of,
)
from inference.domain import CtVolume, Findings, LobeSegmentation

__all__ = [
    "explained",
    "explained_slices",
    "system_of_slot",
    "system_results",
    "system_segmentations",
]

# CIELab of five hues that can be told apart (each scaled to 0..65535; PS3.3 C.10.7.1.1).
_COLOURS = (
    [45000, 39000, 12000],  # blue
    [52000, 16000, 46000],  # green
    [48000, 47000, 52000],  # orange
    [40000, 48000, 18000],  # violet
    [58000, 30000, 56000],  # yellow
)


def system_results(findings: Findings, results: ResultSet, part: str) -> ResultSet:
    """Return the circumstances of one system's own series."""
    found = findings.lobes if part == "lobes" else findings.segmented
    if found is None:
        raise ValueError(f"there is no system that gives {part}")
    return replace(results, model=found.model, others=(), part=part, progress=None)


def system_segmentations(
    findings: Findings, volume: CtVolume, results: ResultSet
) -> Iterator[tuple[str, Dataset]]:
    """Yield (name, dataset) of what there is: "lobes", "lesions"."""
    if findings.lobes is not None:
        lobes = _lobes(findings.lobes, volume, system_results(findings, results, "lobes"))
        if lobes is not None:
            yield "lobes", lobes
    found = findings.segmented
    if found is not None and found.mask.any():
        own = system_results(findings, results, "lesions")
        words = f"Lesion above {found.model.lesion_threshold:g}; {own.model_words}"
        item = lesion_segment(found.model, words, own, "segmented lesions")
        label = ContentLabel("LESION", "Lesion by the joint system, positive slices only")
        dataset = segmentation_of([Segment(found.mask, item)], label, volume, own)
        if dataset is not None:
            yield "lesions", dataset


def system_of_slot(slot: str) -> Literal["m3lung", "m2unet", "jcs"]:
    """Which system an object is of; report, page and key objects are the main model's."""
    if slot == f"{ObjectKind.SEGMENTATION}/lobes":
        return "m2unet"
    if slot == f"{ObjectKind.SEGMENTATION}/lesions" or slot.startswith("explanation/"):
        return "jcs"
    return "m3lung"


def _lobes(found: LobeSegmentation, volume: CtVolume, results: ResultSet) -> Dataset | None:
    segments: list[Segment] = []
    for lobe in (item.lobe for item in found.lobes if item.is_told):
        number = len(segments) + 1
        item = new_segment(found.model, number, lobe.label, f"{lobe.label}; {results.model_words}")
        concept, side = LOBE[lobe]
        kind = concept.item()
        if side is not None:
            kind.SegmentedPropertyTypeModifierCodeSequence = [side.item()]
        item.SegmentedPropertyCategoryCodeSequence = [Concept.ANATOMICAL_STRUCTURE.item()]
        item.SegmentedPropertyTypeCodeSequence = [kind]
        item.RecommendedDisplayCIELabValue = _COLOURS[lobe - 1]
        item.TrackingID = lobe.label
        item.TrackingUID = results.identity.tracking_uid(f"lobe/{lobe.key}")
        segments.append(Segment(np.asarray(found.labels == lobe), item))
    label = ContentLabel("LOBES", "Lobes of the lungs")
    return segmentation_of(segments, label, volume, results) if segments else None


def explained(findings: Findings) -> Findings:
    """The findings with JCS's explanation in the place of the location map, for its overlays."""
    found = findings.segmented
    if found is None:
        raise ValueError("there is no explanation")
    return replace(findings, model=found.model, lesion_map=found.explanation, patient=None)


def explained_slices(findings: Findings) -> list[int]:
    """Slices that JCS calls positive: those get an explanation."""
    found = findings.segmented
    if found is None:
        return []
    return [int(i) for i in np.flatnonzero(found.slice_probability > found.slice_threshold)]
