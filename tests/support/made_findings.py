"""Findings about a series without a network: a smoothed density map inside a simple lung mask.

For what handles findings (reports, pictures, documents): the geometry is the series', the numbers
are consistent with each other, and nobody mistakes them for a reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from inference.domain import (
    BoundingBox,
    CtVolume,
    DiseaseClass,
    Distribution,
    Findings,
    LesionBurden,
    ModelIdentity,
    NonparametricFindings,
    PatientFindings,
    QualityCode,
    QualityStatement,
    SliceFindings,
    SliceReference,
    Training,
)

__all__ = ["MODEL", "made_findings", "made_volume"]

MODEL = ModelIdentity(
    "M3Lung-Sys", "0.1.0", "3f9c0a" + "ab12cd34" * 7 + "00", Training.UNTRAINED, 0.5
)


def made_volume(paths: Sequence[Path]) -> CtVolume:
    """Read single-frame CT files into a volume, most superior first."""
    read = sorted(
        (dcmread(path) for path in paths), key=lambda d: -float(d.ImagePositionPatient[2])
    )
    hu = np.stack([_hu(dataset) for dataset in read])
    positions = np.array([[float(v) for v in d.ImagePositionPatient] for d in read])
    z = positions[:, 2]
    return CtVolume(
        hu=hu,
        slices=tuple(SliceReference(str(d.SOPInstanceUID), str(d.SOPClassUID)) for d in read),
        z_mm=z,
        positions_mm=positions,
        orientation=tuple(float(v) for v in read[0].ImageOrientationPatient),
        pixel_spacing_mm=tuple(float(v) for v in read[0].PixelSpacing),
        slice_spacing_mm=float(np.median(-np.diff(z))) if len(z) > 1 else None,
    )


def made_findings(
    volume: CtVolume,
    *,
    model: ModelIdentity = MODEL,
    patient: bool = True,
    lesions: bool = True,
) -> Findings:
    """Return findings about `volume`; `lesions` False leaves the map empty."""
    lung = np.stack([_lung(plane) for plane in volume.hu])
    lesion_map = np.zeros(volume.hu.shape, np.float16)
    if lesions:
        for index, plane in enumerate(volume.hu):
            lesion_map[index] = _density(plane, lung[index])
    lesion = (lesion_map > np.float16(model.lesion_threshold)) & lung
    lung_px, lesion_px = (np.count_nonzero(mask, axis=(1, 2)) for mask in (lung, lesion))
    return Findings(
        model=model,
        slices=tuple(
            _slice(volume, index, lung[index], int(lung_px[index]), int(lesion_px[index]))
            for index in range(len(volume))
        ),
        patient=PatientFindings((0.08, 0.71, 0.06, 0.15)) if patient else None,
        nonparametric=NonparametricFindings((5, 3, 1, 1), 0.99, DiseaseClass.CAP)
        if patient
        else None,
        burden=_burden(volume, lung_px, lesion_px),
        lesion_map=lesion_map,
        lung_mask=lung,
        quality=(
            QualityStatement(QualityCode.UNTRAINED_MODEL, "The model is untrained."),
            QualityStatement(QualityCode.READERS_DISAGREE, "The two readings disagree."),
        ),
        timing_s={"slices": 1.5},
    )


def _hu(dataset: Dataset) -> NDArray[np.int16]:
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    return np.clip(dataset.pixel_array * slope + intercept, -1024, 3071).astype(np.int16)


def _lung(plane: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Air that does not touch the border, closed over vessels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((plane < -350).astype(np.uint8))
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    keep = stats[:, cv2.CC_STAT_AREA] > plane.size // 700
    keep[border] = False
    keep[0] = False
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    return cv2.morphologyEx(keep[labels].astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool)


def _density(plane: NDArray[np.int16], lung: NDArray[np.bool_]) -> NDArray[np.float32]:
    inner = cv2.erode(lung.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    hazy = ((plane > -700) & (plane < -200) & inner).astype(np.float32)
    return np.clip(cv2.GaussianBlur(hazy, (0, 0), plane.shape[0] / 85) * 1.6, 0, 1)


def _slice(
    volume: CtVolume, index: int, lung: NDArray[np.bool_], lung_px: int, lesion_px: int
) -> SliceFindings:
    rows, columns = np.nonzero(lung)
    box = BoundingBox(0, 0, *lung.shape)
    if lung_px:
        box = BoundingBox(
            int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
        )
    p = float(np.clip(4 * lesion_px / max(lung_px, 1), 0.02, 0.97))
    return SliceFindings(
        reference=volume.slices[index],
        z_mm=float(volume.z_mm[index]),
        lesion_probability=p,
        probabilities=(1 - p, 0.7 * p, 0.1 * p, 0.2 * p),
        lung_box=box,
        has_lung=lung_px > 0,
        lung_area_px=lung_px,
        lesion_area_px=lesion_px,
    )


def _burden(
    volume: CtVolume, lung_px: NDArray[np.int64], lesion_px: NDArray[np.int64]
) -> LesionBurden:
    voxel = volume.voxel_ml
    distribution = None
    if lesion_px.sum():
        profile = (lesion_px / np.maximum(lung_px, 1)).astype(np.float32)
        grid = np.zeros((64, 64), np.float32)
        grid[30:50, 8:24] = 0.4
        distribution = Distribution((0.7, 0.3), (0.1, 0.5, 0.4), (0.2, 0.8), profile, grid)
    if voxel is None or lung_px.sum() == 0:
        return LesionBurden(None, None, None, distribution)
    return LesionBurden(
        float(100 * lesion_px.sum() / lung_px.sum()),
        float(lung_px.sum() * voxel),
        float(lesion_px.sum() * voxel),
        distribution,
    )
