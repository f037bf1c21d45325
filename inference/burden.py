"""Lesion burden (paper, discussion): how much of the lung, and where in it.

An estimate from coarse location maps: their resolution is a sixteenth of the crop.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.domain import CtVolume, Distribution, LesionBurden, lesion_pixels

__all__ = ["MAP_SIZE", "lesion_areas", "measure"]

MAP_SIZE = 64

BoolMask = NDArray[np.bool_]


def lesion_areas(
    lesion_map: NDArray[np.float16], lung_mask: BoolMask, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of lung, and of lesion inside lung, per slice.

    Parameters
    ----------
    lesion_map : ndarray of float16, shape (slices, rows, columns)
    lung_mask : ndarray of bool, shape (slices, rows, columns)
    threshold : float
        A lung pixel is lesion where the map is above it.

    Returns
    -------
    lung, lesion : ndarray of int64, shape (slices,)
    """
    lung = np.count_nonzero(lung_mask, axis=(1, 2))
    lesion = np.array(
        [
            np.count_nonzero(lesion_pixels(plane, mask, threshold))
            for plane, mask in zip(lesion_map, lung_mask, strict=True)
        ],
        dtype=np.int64,
    )
    return lung, lesion


def measure(
    volume: CtVolume, lesion_map: NDArray[np.float16], lung_mask: BoolMask, threshold: float
) -> LesionBurden:
    """Percentage, volumes and distribution.

    Parameters
    ----------
    volume : CtVolume
    lesion_map, lung_mask, threshold
        As for :func:`lesion_areas`.

    Returns
    -------
    LesionBurden
        Percentage and volumes None without a regular slice spacing; distribution None
        without lesion.
    """
    lung, lesion = lesion_areas(lesion_map, lung_mask, threshold)
    distribution = None
    if lesion.sum() > 0:
        distribution = _distribution(volume, lesion_map, lung_mask, threshold, lung, lesion)
    voxel_ml = volume.voxel_ml
    if voxel_ml is None or lung.sum() == 0:
        return LesionBurden(None, None, None, distribution)
    return LesionBurden(
        percent_of_lung=100.0 * float(lesion.sum()) / float(lung.sum()),
        lung_ml=float(lung.sum()) * voxel_ml,
        lesion_ml=float(lesion.sum()) * voxel_ml,
        distribution=distribution,
    )


def _distribution(
    volume: CtVolume,
    lesion_map: NDArray[np.float16],
    lung_mask: BoolMask,
    threshold: float,
    lung: NDArray[np.int64],
    lesion: NDArray[np.int64],
) -> Distribution:
    columns = volume.hu.shape[2]
    lung_columns = np.count_nonzero(lung_mask, axis=1).astype(np.float32)  # (slices, columns)
    lesion_columns = np.zeros((len(volume), columns), dtype=np.float32)
    central = 0
    middle = _midline(lung_columns)
    for index in np.flatnonzero(lesion):
        here = lesion_pixels(lesion_map[index], lung_mask[index], threshold)
        lesion_columns[index] = np.count_nonzero(here, axis=0)
        central += int(np.count_nonzero(here & _central(lung_mask[index], middle)))
    # LPS: x grows to the patient's left, so low columns are right where x grows along a row.
    if volume.orientation[0] < 0:
        lung_columns, lesion_columns = lung_columns[:, ::-1], lesion_columns[:, ::-1]
        middle = columns - middle
    total = float(lesion.sum())
    right = float(lesion_columns[:, :middle].sum()) / total
    upper, mid, lower = _thirds(volume.z_mm, lung, lesion)
    profile = np.divide(lesion, lung, out=np.zeros(len(lung)), where=lung > 0)
    return Distribution(
        right_left=(right, 1.0 - right),
        craniocaudal=(upper, mid, lower),
        central_peripheral=(central / total, 1.0 - central / total),
        profile=profile.astype(np.float32),
        map=_coronal_map(lung_columns, lesion_columns),
    )


def _midline(lung_columns: NDArray[np.float32]) -> int:
    """Column between the lungs: the emptiest one of the middle third of the lungs' width."""
    total = lung_columns.sum(axis=0)
    occupied = np.flatnonzero(total)
    left, right = int(occupied[0]), int(occupied[-1]) + 1
    start, stop = left + (right - left) // 3, right - (right - left) // 3
    if stop <= start:
        return (left + right) // 2
    smooth = np.convolve(total, np.ones(9) / 9, mode="same")
    return start + int(np.argmin(smooth[start:stop]))


def _central(lung: BoolMask, middle: int) -> BoolMask:
    """Deeper than half of the greatest depth from the lung surface, each side by itself."""
    depth = cv2.distanceTransform(lung.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    result = np.zeros(lung.shape, dtype=np.bool_)
    for side in (slice(0, middle), slice(middle, lung.shape[1])):
        part = depth[:, side]
        if part.size:
            result[:, side] = part > part.max() / 2
    return result


def _thirds(
    z_mm: NDArray[np.float64], lung: NDArray[np.int64], lesion: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Shares of lesion in the upper, middle and lower third of the lungs' height."""
    occupied = z_mm[lung > 0]
    top, bottom = float(occupied.max()), float(occupied.min())
    depth = (top - z_mm) / max(top - bottom, 1e-6)
    third = np.clip((depth * 3).astype(int), 0, 2)
    shares = np.bincount(third, weights=lesion, minlength=3) / lesion.sum()
    return float(shares[0]), float(shares[1]), float(shares[2])


def _coronal_map(
    lung_columns: NDArray[np.float32], lesion_columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean lesion fraction on a 64 x 64 grid over the lungs' extent."""
    rows = np.flatnonzero(lung_columns.any(axis=1))
    columns = np.flatnonzero(lung_columns.any(axis=0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    size = (MAP_SIZE, MAP_SIZE)
    lung = cv2.resize(
        np.ascontiguousarray(lung_columns[window]), size, interpolation=cv2.INTER_AREA
    )
    lesion = cv2.resize(
        np.ascontiguousarray(lesion_columns[window]), size, interpolation=cv2.INTER_AREA
    )
    fraction = np.divide(lesion, lung, out=np.zeros_like(lung), where=lung > 0)
    return np.asarray(np.clip(fraction, 0.0, 1.0), dtype=np.float32)
