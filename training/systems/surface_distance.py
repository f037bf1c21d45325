"""Distances between the surfaces of two masks, in millimetres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["hausdorff95"]

BoolMask = NDArray[np.bool_]


def hausdorff95(a: BoolMask, b: BoolMask, spacing_mm: tuple[float, float, float]) -> float:
    """95th percentile of the distances of either surface to the other; the larger one.

    Parameters
    ----------
    a, b : ndarray of bool, shape (slices, rows, columns)
    spacing_mm : (float, float, float)
        Between slices, rows, columns.

    Returns
    -------
    float
        NaN where a mask is empty.
    """
    if not a.any() or not b.any():
        return float("nan")
    box = _bounding_box(a | b)
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=spacing_mm)[surface_a]
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=spacing_mm)[surface_b]
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


def _surface(mask: BoolMask) -> BoolMask:
    """Voxels of a mask with a neighbour outside it, in the six directions."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=np.bool_)


def _bounding_box(mask: BoolMask) -> tuple[slice, ...]:
    # One voxel more where there is one, so that a mask at the box's edge has its surface there.
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(int(found[0]) - 1, 0), int(found[-1]) + 2))
    return tuple(box)
