"""Findings of M²UNet and JCS made up over :func:`support.made_findings.made_findings`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dicom_node.results.segmentation import lesion_mask
from inference.domain import (
    CtVolume,
    Findings,
    LesionSegmentation,
    Lobe,
    LobeFinding,
    LobeInvolvement,
    LobeSegmentation,
    ModelIdentity,
    Training,
)

M2UNET = ModelIdentity("lobes", "1.0", "a" * 64, Training.DEMONSTRATION, 0.5)
JCS = ModelIdentity("outlines", "2.0", "b" * 64, Training.DEMONSTRATION, 0.5)


def with_other_systems(
    findings: Findings, volume: CtVolume, *, doubtful: Lobe | None = None
) -> Findings:
    """All three systems: lobes by thirds and halves, the lesions of the main one outlined."""
    rows, columns = np.mgrid[0 : volume.hu.shape[1], 0 : volume.hu.shape[2]]
    lung = findings.lung_mask
    middle = lung.any(axis=0)
    across = np.flatnonzero(middle.any(axis=0))
    down = np.flatnonzero(middle.any(axis=1))
    share = (rows - down[0]) / max(down[-1] - down[0], 1)
    right = np.digitize(share, (0.4, 0.6)) + 1
    left = np.digitize(share, (0.5,)) + 4
    plane = np.where(columns < across.mean(), right, left)
    labels = np.where(lung, plane[None], 0).astype(np.uint8)
    if doubtful is not None:
        labels[labels == doubtful] = 0
    counts = np.bincount(labels.ravel(), minlength=6)
    lobes = tuple(
        LobeFinding(lobe, None, "hardly any of it is to be seen")
        if lobe is doubtful
        else LobeFinding(lobe, float(counts[lobe]) * (volume.voxel_ml or 0.0))
        for lobe in Lobe
    )
    mask = lesion_mask(findings)
    probability = np.where(mask.any(axis=(1, 2)), 0.9, 0.1).astype(np.float32)
    percent = tuple(
        None if lobe is doubtful else 100 * float((mask & (labels == lobe)).sum() / counts[lobe])
        for lobe in Lobe
    )
    segmented = LesionSegmentation(
        model=JCS,
        positive_words="COVID-19",
        negative_words="Healthy",
        slice_probability=probability,
        positive_slices=int((probability > 0.5).sum()),
        allowed_slices=1,
        probability=0.9,
        slice_threshold=0.5,
        explanation=findings.lesion_map,
        mask=mask,
        percent_of_lung=100 * float(mask.sum() / lung.sum()),
        lesion_ml=float(mask.sum()) * (volume.voxel_ml or 0.0),
    )
    return replace(
        findings,
        lobes=LobeSegmentation(M2UNET, labels, lobes, 0.8, 0.5, 25.0),
        segmented=segmented,
        involvement=(
            LobeInvolvement(findings.model, M2UNET, percent),
            LobeInvolvement(JCS, M2UNET, percent),
        ),
    )
