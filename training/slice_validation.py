"""Validation of the slice network: lesion AUC and four-way accuracy on the validation slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.cohort.cache import CachedPatient
from training.cohort.slice_labels import UNKNOWN
from training.slice_reading import SliceScores
from training.weak_labels import TOP_SHARE

__all__ = ["area_under_curve", "balanced_accuracy", "slice_metrics"]


def slice_metrics(
    patients: Sequence[CachedPatient],
    chosen: Sequence[NDArray[np.int64]],
    scores: Sequence[SliceScores],
) -> dict[str, float]:
    """Metrics of one validation.

    Parameters
    ----------
    patients, chosen, scores : sequences of the same length
        The patients, the slices of each that were read, and their scores.

    Returns
    -------
    dict
        ``slice_auc``: of the lesion head, over slices with and without lesion; where a patient's
        slices have no label, the top tenth by lesion probability count as with lesion.
        ``accuracy``: mean over the classes of the share of slices called right, over the slices
        that training would use. ``accuracy_plain``: share of all of them.
    """
    lesions, truths, labels, calls = [], [], [], []
    for patient, index, score in zip(patients, chosen, scores, strict=True):
        known = patient.slice_lesion[index].astype(np.int64)
        if patient.label != DiseaseClass.HEALTHY and (known == UNKNOWN).any():
            unknown = np.flatnonzero(known == UNKNOWN)
            least = int(np.ceil(TOP_SHARE * len(unknown)))
            known[unknown[np.argsort(-score.lesion[unknown], kind="stable")[:least]]] = 1
        lesions.append(score.lesion[known >= 0])
        truths.append(known[known >= 0])
        used = known == (0 if patient.label == DiseaseClass.HEALTHY else 1)
        labels.append(np.full(int(used.sum()), int(patient.label)))
        calls.append(score.probabilities[used].argmax(axis=1))
    truth, label, call = (np.concatenate(column) for column in (truths, labels, calls))
    return {
        "slice_auc": area_under_curve(truth, np.concatenate(lesions)),
        "accuracy": balanced_accuracy(label, call),
        "accuracy_plain": float((label == call).mean()) if len(label) else 0.0,
    }


def area_under_curve(truth: NDArray[np.int64], score: NDArray[np.float32]) -> float:
    """Area under the ROC curve, ties counting half; 0.5 where one side is empty."""
    positive, negative = score[truth == 1], np.sort(score[truth == 0])
    if not len(positive) or not len(negative):
        return 0.5
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float((below + not_above).mean() / 2 / len(negative))


def balanced_accuracy(truth: NDArray[np.integer], call: NDArray[np.integer]) -> float:
    """Mean over the classes present of the share called right; 0 without any."""
    shares = [float((call[truth == name] == name).mean()) for name in np.unique(truth)]
    return float(np.mean(shares)) if shares else 0.0
