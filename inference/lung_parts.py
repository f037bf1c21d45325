"""Parts of air inside the body, followed through the stack, and which of them are lung.

A part is one 8-connected region of air in one slice; parts that overlap in neighbouring slices
belong to one connected body. Following regions costs a fraction of labelling the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["SliceParts", "is_lung_part", "link_parts"]

# Air-filled lung holds tissue: even emphysema has a good share of voxels above -930 HU. Gas in
# bowel or windpipe lies near -985 and has such voxels only at its wall, which is left out.
WALL_PX = 2
GAS_HU = -930
LUNG_TISSUE_FRACTION = 0.30
SMALL_PART = 0.02  # of the largest connected body's volume: noise, not lung
MINIMUM_PART_MM2 = 20.0
_COUNTED_PAIRS = 1 << 20


@dataclass(frozen=True, slots=True)
class SliceParts:
    """The air regions of one slice.

    Attributes
    ----------
    labels : ndarray of uint16, shape (rows, columns)
        0 outside, 1..count the parts.
    area_px : ndarray of int64, shape (count + 1,)
    core_px, tissue_px : ndarray of int64, shape (count + 1,)
        Pixels two or more away from the part's wall, and those of them above -930 HU. A part
        too thin to have any counts whole.
    """

    labels: NDArray[np.uint16]
    area_px: NDArray[np.int64]
    core_px: NDArray[np.int64]
    tissue_px: NDArray[np.int64]

    @staticmethod
    def of(air: NDArray[np.bool_], hu: NDArray[np.int16]) -> SliceParts:
        """Parts of the mask `air` of one slice."""
        count, labels = cv2.connectedComponents(
            air.view(np.uint8), connectivity=8, ltype=cv2.CV_16U
        )
        inside, values = labels[air], hu[air]
        area = np.bincount(inside, minlength=count)
        core = cv2.erode(air.view(np.uint8), np.ones((3, 3), np.uint8), iterations=WALL_PX)
        deep = core[air] != 0
        core_px = np.bincount(inside[deep], minlength=count)
        tissue = np.bincount(inside[deep & (values > GAS_HU)], minlength=count)
        thin = core_px == 0
        all_tissue = np.bincount(inside[values > GAS_HU], minlength=count)
        return SliceParts(
            np.asarray(labels, dtype=np.uint16),
            area,
            np.where(thin, area, core_px),
            np.where(thin, all_tissue, tissue),
        )


def link_parts(parts: Sequence[SliceParts]) -> list[NDArray[np.int64]]:
    """Connected bodies of the stack.

    Returns
    -------
    list of ndarray of int64, one per slice, shape (count + 1,)
        Number of the connected body of each part; entry 0 of each is unused.
    """
    starts = np.cumsum([0, *(len(part.area_px) for part in parts)])
    parent = np.arange(starts[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for upper, lower in zip(range(len(parts) - 1), range(1, len(parts)), strict=True):
        for first, second in _touching(parts[upper], parts[lower]):
            parent[root(int(starts[upper]) + first)] = root(int(starts[lower]) + second)
    return [
        np.array([root(node) for node in range(int(start), int(stop))], dtype=np.int64)
        for start, stop in pairwise(starts)
    ]


def _touching(upper: SliceParts, lower: SliceParts) -> list[tuple[int, int]]:
    """Which part of the one slice overlaps which of the other."""
    both = cv2.min(upper.labels, lower.labels) > 0
    a, b = upper.labels[both], lower.labels[both]
    rows, columns = len(upper.area_px), len(lower.area_px)
    if rows * columns > _COUNTED_PAIRS:  # noise all over: sorting is cheaper than counting
        codes = np.unique(a.astype(np.int64) * columns + b)
    else:
        codes = np.flatnonzero(np.bincount(a.astype(np.int32) * columns + b))
    return [divmod(int(code), columns) for code in codes]


def is_lung_part(
    parts: Sequence[SliceParts], bodies: Sequence[NDArray[np.int64]], pixel_mm2: float
) -> list[NDArray[np.bool_]]:
    """Which part of which slice is lung.

    Parameters
    ----------
    parts, bodies
        As from :meth:`SliceParts.of` and :func:`link_parts`.
    pixel_mm2 : float
        Area of a pixel.

    Returns
    -------
    list of ndarray of bool, one per slice, shape (count + 1,)
        True for parts that hold lung tissue, of connected bodies that do so and are no specks.
    """
    body = np.concatenate(bodies)
    area = np.concatenate([part.area_px for part in parts]).astype(np.float64)
    core = np.concatenate([part.core_px for part in parts]).astype(np.float64)
    tissue = np.concatenate([part.tissue_px for part in parts]).astype(np.float64)
    size = len(body)
    volume = np.bincount(body, weights=area, minlength=size)
    body_core = np.bincount(body, weights=core, minlength=size)
    body_tissue = np.bincount(body, weights=tissue, minlength=size)
    lung_body = body_tissue >= LUNG_TISSUE_FRACTION * np.maximum(body_core, 1)
    largest = volume[lung_body].max(initial=0.0)
    lung_body &= volume >= SMALL_PART * largest
    # A loop of bowel can touch the lung across the diaphragm: each part must hold tissue too.
    lung_part = tissue >= LUNG_TISSUE_FRACTION * np.maximum(core, 1)
    keep = lung_body[body] & lung_part & (area * pixel_mm2 >= MINIMUM_PART_MM2)
    sizes = np.cumsum([len(part.area_px) for part in parts])[:-1]
    split = np.split(keep, sizes)
    for part in split:
        part[0] = False
    return split
