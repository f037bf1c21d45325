"""Multi-instance self-labelling of slices whose label is not known.

A cohort often has one label per patient only. Of a patient with disease some slices show it, but
which? The network itself answers, again and again: those above 0.5, and the top tenth of each
patient in any case, since a patient without any abnormal slice would be no patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.cohort.cache import CachedPatient
from training.cohort.slice_labels import UNKNOWN

__all__ = ["first_labels", "has_unknown", "label_anew"]

POSITIVE = 0.5
TOP_SHARE = 0.1


def has_unknown(patient: CachedPatient) -> bool:
    """Whether some of a patient's slices have no label."""
    return patient.label != DiseaseClass.HEALTHY and bool((patient.slice_lesion == UNKNOWN).any())


def first_labels(patients: Sequence[CachedPatient]) -> list[NDArray[np.int8]]:
    """Labels of the warm-up: what is not known counts as lesion."""
    return [
        np.where(p.slice_lesion == UNKNOWN, 1, p.slice_lesion).astype(np.int8) for p in patients
    ]


def label_anew(patient: CachedPatient, lesion: NDArray[np.float32]) -> NDArray[np.int8]:
    """Label a patient's unknown slices by the network's lesion probability.

    Parameters
    ----------
    patient : CachedPatient
    lesion : ndarray of float32, shape (n,)

    Returns
    -------
    ndarray of int8, shape (n,)
        1 where known or believed, 0 where known, -1 (left out) else.
    """
    labels = patient.slice_lesion.copy()
    unknown = np.flatnonzero(labels == UNKNOWN)
    if len(unknown):
        least = int(np.ceil(TOP_SHARE * len(unknown)))
        top = unknown[np.argsort(-lesion[unknown], kind="stable")[:least]]
        labels[top] = 1
        labels[unknown[lesion[unknown] > POSITIVE]] = 1
    return labels
