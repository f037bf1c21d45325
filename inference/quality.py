"""Quality statements about a reading; those about the input come with the volume."""

from __future__ import annotations

import numpy as np

from inference.domain import (
    NonparametricFindings,
    PatientFindings,
    QualityCode,
    QualityStatement,
    Training,
)
from inference.lung_crop import LungCrop

__all__ = ["MINIMUM_SLICES", "assess_quality"]

MINIMUM_SLICES = 20  # below, a patient reading makes no sense (the paper's cohort had 24 to 495)
CUT_FRACTION = 0.25  # of the largest lung area of the stack, on its first or last slice


def assess_quality(
    crop: LungCrop,
    training: Training,
    patient: PatientFindings | None,
    counted: NonparametricFindings | None,
    *,
    slice_level: bool,
) -> tuple[QualityStatement, ...]:
    """What a reader has to know about this reading.

    Parameters
    ----------
    crop : LungCrop
    training : Training
        Of the model.
    patient, counted
        The two patient readings, None for a slice-level reading.
    slice_level : bool
        A slice-level reading was asked for.

    Returns
    -------
    tuple of QualityStatement
        The gravest first.
    """
    found = []
    if training is Training.UNTRAINED:
        text = "The model is untrained: its weights are random, the reading means nothing."
        found.append(QualityStatement(QualityCode.UNTRAINED_MODEL, text))
    if patient is not None and counted is not None and patient.predicted != counted.predicted:
        text = (
            f"The patient network reads {patient.predicted.label}, "
            f"the count of slices {counted.predicted.label}."
        )
        found.append(QualityStatement(QualityCode.READERS_DISAGREE, text))
    total = len(crop.boxes)
    if slice_level:
        text = f"{total} slice(s) were read one by one; there is no reading of the patient."
        found.append(QualityStatement(QualityCode.SLICE_LEVEL_ONLY, text))
    elif total < MINIMUM_SLICES:
        text = (
            f"{total} slice(s) are too few for a reading of the patient, "
            f"which needs {MINIMUM_SLICES}; they were read one by one."
        )
        found.append(QualityStatement(QualityCode.FEW_SLICES, text))
    without = total - int(np.count_nonzero(crop.has_lung))
    if without:
        text = (
            f"{without} of {total} slices show no lung; "
            "they were not read and count as without lesion."
        )
        found.append(QualityStatement(QualityCode.NO_LUNG_SLICES, text))
    found.extend(_cut_lung(crop, total))
    return tuple(found)


def _cut_lung(crop: LungCrop, total: int) -> list[QualityStatement]:
    if total < MINIMUM_SLICES:
        return []
    areas = np.count_nonzero(crop.mask, axis=(1, 2))
    ends = [
        name
        for name, index in (("above the first", 0), ("below the last", -1))
        if areas[index] > CUT_FRACTION * areas.max()
    ]
    if not ends:
        return []
    text = f"The lungs go on {' and '.join(ends)} slice; that part is not in the images."
    return [QualityStatement(QualityCode.CLIPPED_LUNG, text)]
