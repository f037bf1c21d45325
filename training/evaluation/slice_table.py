"""All slices of a cohort in one table: those with lung and a known label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.evaluation.predictions import Prediction

__all__ = ["SliceTable", "slice_table"]


@dataclass(frozen=True)
class SliceTable:
    """One entry per slice.

    Attributes
    ----------
    patients : int
        In the cohort, with or without entries.
    patient : ndarray of int, shape (n,)
        Place of the slice's patient in the cohort.
    label : ndarray of int64, shape (n,)
        Class of the slice's patient.
    truth : ndarray of int8, shape (n,)
        1 lesion, 0 none.
    lesion : ndarray of float32, shape (n,)
        Of the two-way head.
    probabilities : ndarray of float32, shape (n, 4)
        Of the four-way head.
    """

    patients: int
    patient: NDArray[np.intp]
    label: NDArray[np.int64]
    truth: NDArray[np.int8]
    lesion: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    @property
    def disease(self) -> NDArray[np.int64]:
        """Class of each slice: the patient's where it shows lesion, else healthy."""
        return np.where(self.truth == 1, self.label, int(DiseaseClass.HEALTHY))

    def as_trained(self) -> NDArray[np.bool_]:
        """Which slices training would take: patients' slices without lesion are left out."""
        return np.asarray((self.truth == 1) | (self.label == DiseaseClass.HEALTHY))

    def two_way(self) -> NDArray[np.float32]:
        """Probabilities without and with lesion, shape (n, 2)."""
        return np.stack([1 - self.lesion, self.lesion], axis=1)


def slice_table(predictions: Sequence[Prediction], *, read_only: bool = False) -> SliceTable:
    """Collect the slices with lung whose label is known.

    Parameters
    ----------
    predictions : sequence of Prediction
    read_only : bool
        Only slices that the network read. Otherwise a slice with lesion in which the product
        found no lung counts too, with the probability it got: 0.
    """
    kept = []
    for p in predictions:
        seen = p.has_lung if read_only else p.has_lung | (p.slice_truth == 1)
        kept.append(seen & (p.slice_truth >= 0))
    counts = [int(keep.sum()) for keep in kept]
    chosen = list(zip(predictions, kept, strict=True))
    return SliceTable(
        patients=len(predictions),
        patient=np.repeat(np.arange(len(predictions)), counts),
        label=np.repeat(np.array([int(p.label) for p in predictions], np.int64), counts),
        truth=np.concatenate([p.slice_truth[keep] for p, keep in chosen]),
        lesion=np.concatenate([p.slice_lesion[keep] for p, keep in chosen]),
        probabilities=np.concatenate([p.slice_probabilities[keep] for p, keep in chosen]),
    )
