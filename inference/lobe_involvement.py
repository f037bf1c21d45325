"""How much of each lobe is lesion (numpy only)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.domain import Lobe, LobeInvolvement, LobeSegmentation, ModelIdentity

__all__ = ["involvement"]


def involvement(
    lobes: LobeSegmentation, lesion: NDArray[np.bool_], lesions_by: ModelIdentity
) -> LobeInvolvement:
    """Share of each lobe that is lesion.

    Parameters
    ----------
    lobes : LobeSegmentation
    lesion : ndarray of bool, shape (slices, rows, columns)
    lesions_by : ModelIdentity
        Who drew them.

    Returns
    -------
    LobeInvolvement
        None for lobes that cannot be told or have no volume (irregular slice spacing).
    """
    everything = np.bincount(lobes.labels.ravel(), minlength=len(Lobe) + 1)
    diseased = np.bincount(lobes.labels[lesion], minlength=len(Lobe) + 1)
    percent = tuple(
        100.0 * float(diseased[found.lobe]) / float(everything[found.lobe])
        if found.volume_ml is not None and everything[found.lobe]
        else None
        for found in lobes.lobes
    )
    return LobeInvolvement(lesions_by, lobes.model, percent)
