"""Non-parametric assessment (paper, Appendix): a patient class by counting slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass, NonparametricFindings

__all__ = ["assess", "combine"]


def combine(
    lesion_probability: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Join the two heads: p0 = Pl0 + Pl1·Pm0, pk = Pl1·Pmk for k = 1..3.

    Parameters
    ----------
    lesion_probability : ndarray of float32, shape (slices,)
        Pl1 of the two-way head.
    probabilities : ndarray of float32, shape (slices, 4)
        Pm of the four-way head.

    Returns
    -------
    ndarray of float32, shape (slices, 4)
        Rows sum to 1.
    """
    joined = lesion_probability[:, None] * probabilities
    joined[:, DiseaseClass.HEALTHY] += 1.0 - lesion_probability
    return np.asarray(joined, dtype=np.float32)


def assess(
    lesion_probability: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    threshold: float = 0.99,
) -> NonparametricFindings:
    """Patient class from slice scores.

    Parameters
    ----------
    lesion_probability, probabilities
        As for :func:`combine`; the slices the network read.
    threshold : float
        T: Healthy if N_0 / N > T (paper: 0.99).

    Returns
    -------
    NonparametricFindings
        Else the class of max(N_1, N_2, N_3), the first of them at equal counts.
    """
    winners = np.argmax(combine(lesion_probability, probabilities), axis=1)
    counts = np.bincount(winners, minlength=len(DiseaseClass))
    if counts[DiseaseClass.HEALTHY] > threshold * len(winners):
        predicted = DiseaseClass.HEALTHY
    else:
        predicted = DiseaseClass(1 + int(np.argmax(counts[1:])))
    healthy, covid19, h1n1, cap = (int(count) for count in counts)
    return NonparametricFindings((healthy, covid19, h1n1, cap), threshold, predicted)
