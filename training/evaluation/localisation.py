"""Location maps against true lesion masks: pointing game, pixel AUC, Dice.

Maps and masks lie on the source grid. A map comes from 32 x 32 places of a crop, so a place is
about 11 source pixels wide: the pointing game allows for that, Dice and pixel AUC do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TOLERANCE_PX",
    "MapTally",
    "best_threshold",
    "dice",
    "histogram_auc",
    "points_at",
]

TOLERANCE_PX = 15
"""Pixels of a 512-column image, as in Zhang et al., "Top-down Neural Attention by Excitation
Backprop" (ECCV 2016), who introduced the pointing game."""

LEVELS = 1024  # of the map's histograms: AUC on values rounded to 1/1023

BoolMask = NDArray[np.bool_]
Map = NDArray[np.floating]


def points_at(location_map: Map, lesion: BoolMask, tolerance_px: float | None = None) -> bool:
    """Whether the largest value of the map lies in the lesion or near it.

    Parameters
    ----------
    location_map : ndarray of float, shape (rows, columns)
    lesion : ndarray of bool, shape (rows, columns)
        Not empty.
    tolerance_px : float or None
        Farthest distance from the lesion that still counts, in source pixels; None:
        :data:`TOLERANCE_PX` scaled to the matrix.

    Returns
    -------
    bool
        Where several pixels share the largest value, at least half of them have to hit: a map
        that is flat points at nothing.

    Raises
    ------
    ValueError
        The lesion is empty.
    """
    if not lesion.any():
        raise ValueError("there is no lesion to point at")
    if tolerance_px is None:
        tolerance_px = TOLERANCE_PX * location_map.shape[1] / 512
    peak = location_map == location_map.max()
    distance = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(np.mean(distance[peak] <= tolerance_px) >= 0.5)


def dice(predicted: int, true: int, both: int) -> float:
    """2·|A ∩ B| / (|A| + |B|) from pixel counts; NaN where both are empty."""
    return 2 * both / (predicted + true) if predicted + true else float("nan")


def histogram_auc(lesion: NDArray[np.integer], other: NDArray[np.integer]) -> float:
    """AUC from two histograms over the same rising values, ties counting half.

    Parameters
    ----------
    lesion, other : ndarray of int, shape (levels,)
        Pixels at each value.

    Returns
    -------
    float
        NaN where a histogram is empty.
    """
    positive, negative = lesion.astype(np.float64), other.astype(np.float64)
    if positive.sum() == 0 or negative.sum() == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    wins = np.sum(positive * (below + negative / 2))
    return float(wins / (positive.sum() * negative.sum()))


def best_threshold(lesion: NDArray[np.integer], other: NDArray[np.integer]) -> tuple[float, float]:
    """Threshold of the map at which lesion and what lies above it agree best.

    Parameters
    ----------
    lesion, other : ndarray of int, shape (levels,)
        Pixels of the lung at each value of the map, in lesion and outside it.

    Returns
    -------
    threshold : float
        In (0, 1): pixels at or above it count.
    dice : float
        Of all these pixels together; NaN where there is no lesion.
    """
    above_lesion = np.cumsum(lesion[::-1])[::-1][1:].astype(np.float64)
    above_other = np.cumsum(other[::-1])[::-1][1:].astype(np.float64)
    if not lesion.sum():
        return 0.5, float("nan")
    agreement = 2 * above_lesion / (above_lesion + above_other + lesion.sum())
    best = int(agreement.argmax())
    return (best + 1) / len(lesion), float(agreement[best])


@dataclass(slots=True)
class MapTally:
    """What is kept of one patient's maps: enough for every figure, a few kilobytes.

    Attributes
    ----------
    lesion_levels, other_levels : ndarray of int64, shape (1024,)
        Histograms of the map inside true lung, in lesion and outside it.
    predicted_px, true_px, both_px : int
        Pixels above the bundle's threshold, of true lesion, and of both.
    lesion_slices, hits : int
        Slices of the pointing game, and those in which the map points at the lesion.
    slice_dice : list of float
        Of each slice with lesion.
    patient_hit : bool or None
        Pointing game with the largest value of the whole volume; None without lesion.
    """

    lesion_levels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    other_levels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    predicted_px: int = 0
    true_px: int = 0
    both_px: int = 0
    lesion_slices: int = 0
    hits: int = 0
    slice_dice: list[float] = field(default_factory=list)
    patient_hit: bool | None = None
    _highest: float = -1.0

    def add(self, location_map: Map, lesion: BoolMask, lung: BoolMask, called: BoolMask) -> None:
        """Count one slice.

        Parameters
        ----------
        location_map : ndarray of float, shape (rows, columns)
            In [0, 1].
        lesion, lung : ndarray of bool, shape (rows, columns)
            The truth. Lung holds the lesions in it.
        called : ndarray of bool, shape (rows, columns)
            What the product calls lesion: above the threshold, in the lung it found.
        """
        level = np.rint(np.clip(location_map, 0, 1).astype(np.float32) * (LEVELS - 1)).astype(int)
        inside = lesion & lung
        self.lesion_levels += np.bincount(level[inside], minlength=LEVELS)
        self.other_levels += np.bincount(level[lung & ~lesion], minlength=LEVELS)
        predicted, true = int(called.sum()), int(lesion.sum())
        both = int(np.count_nonzero(called & lesion))
        self.predicted_px += predicted
        self.true_px += true
        self.both_px += both
        highest = float(location_map.max())
        hit = points_at(location_map, lesion) if true else False
        if highest > self._highest:
            self._highest, self.patient_hit = highest, hit
        if true:
            self.lesion_slices += 1
            self.hits += hit
            self.slice_dice.append(dice(predicted, true, both))

    def finish(self) -> MapTally:
        """Forget the patient's pointing game where there is no lesion at all."""
        if self.lesion_slices == 0:
            self.patient_hit = None
        return self

    @property
    def dice(self) -> float:
        """Of the whole volume."""
        return dice(self.predicted_px, self.true_px, self.both_px)

    @property
    def pixel_auc(self) -> float:
        """Inside true lung, over all slices with lung."""
        return histogram_auc(self.lesion_levels, self.other_levels)
