"""Branching vessels of both lungs: straight tapering segments from the hila outwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.shapes import Grid

__all__ = ["Vessels", "grow_vessels"]

_Array = NDArray[np.float64]

_FIRST_RADIUS_MM = 4.2
_THINNEST_MM = 0.45
_SHORTEST_MM = 3.0
_BRANCH_DEG = (14.0, 40.0)


@dataclass(frozen=True)
class Vessels:
    """Straight pieces of vessel.

    Attributes
    ----------
    start, end : ndarray of float64, shape (segments, 3)
        x, y in mm (LPS), and mm below the top.
    radius_mm : ndarray of float64, shape (segments,)
    """

    start: _Array
    end: _Array
    radius_mm: _Array

    def draw(
        self,
        slice_hu: NDArray[np.float32],
        inside: NDArray[np.bool_],
        grid: Grid,
        depth_mm: float,
        blood_hu: float,
    ) -> None:
        """Draw what the plane `depth_mm` below the top cuts, where `inside` is true.

        Parameters
        ----------
        slice_hu : ndarray of float32, shape (rows, columns)
            Changed in place.
        inside : ndarray of bool, shape (rows, columns)
        """
        top = np.minimum(self.start[:, 2], self.end[:, 2]) - self.radius_mm
        bottom = np.maximum(self.start[:, 2], self.end[:, 2]) + self.radius_mm
        for index in np.flatnonzero((top <= depth_mm) & (depth_mm <= bottom)):
            _draw(
                slice_hu,
                inside,
                grid,
                depth_mm,
                (self.start[index], self.end[index], float(self.radius_mm[index])),
                blood_hu,
            )


def grow_vessels(
    random: np.random.Generator, hila: Sequence[Sequence[float]], reach: Sequence[Sequence[float]]
) -> Vessels:
    """Grow a tree from each point of `hila` towards the point of `reach` at the same place.

    Every segment splits in two until it is too thin to see (Murray's law: r³ = r₁³ + r₂³).

    Parameters
    ----------
    hila, reach : sequence of (x, y, depth) in mm
        Where a main branch begins, and where it heads.
    """
    start = np.asarray(hila, float)
    way = np.asarray(reach, float) - start
    distance = np.linalg.norm(way, axis=1)
    direction = way / distance[:, None]
    length, radius = distance * 0.34, np.full(len(way), _FIRST_RADIUS_MM)
    starts, ends, radii = [], [], []
    while len(start):
        end = start + direction * length[:, None]
        starts.append(start)
        ends.append(end)
        radii.append(radius)
        # Both branches of every segment, the thinner of the two turning more.
        share = random.uniform(0.35, 0.65, len(start))
        share = np.concatenate([share, 1 - share])
        start, direction = np.tile(end, (2, 1)), np.tile(direction, (2, 1))
        direction = _turned(random, direction, share)
        radius = np.tile(radius, 2) * share ** (1 / 3) * 0.95
        length = np.tile(length, 2)
        grows = (radius >= _THINNEST_MM) & (length > _SHORTEST_MM)
        length = length * random.uniform(0.76, 0.97, len(length))
        start, direction = start[grows], direction[grows]
        radius, length = radius[grows], length[grows]
    return Vessels(np.concatenate(starts), np.concatenate(ends), np.concatenate(radii))


def _turned(random: np.random.Generator, direction: _Array, share: _Array) -> _Array:
    """Turn each of `direction` at random."""
    angle = np.deg2rad(random.uniform(*_BRANCH_DEG, len(direction)) * (1.3 - share))[:, None]
    across = np.cross(direction, random.standard_normal(direction.shape))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    turned: _Array = direction * np.cos(angle) + across * np.sin(angle)
    return turned


def _draw(
    slice_hu: NDArray[np.float32],
    inside: NDArray[np.bool_],
    grid: Grid,
    depth_mm: float,
    segment: tuple[_Array, _Array, float],
    blood_hu: float,
) -> None:
    start, end, radius_mm = segment
    margin = radius_mm + grid.pixel_mm
    boxes = []
    for axis in (1, 0):  # rows run along y, columns along x
        low, high = sorted((start[axis], end[axis]))
        first, last = np.searchsorted(grid.axis_mm, (low - margin, high + margin))
        boxes.append(slice(int(first), int(last)))
    rows, columns = boxes
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    dx = grid.axis_mm[None, columns] - start[0]
    dy = grid.axis_mm[rows, None] - start[1]
    dz = depth_mm - start[2]
    along = end - start
    # Distance of each pixel centre from the segment.
    part = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / float(along @ along), 0, 1)
    distance = np.sqrt(
        (dx - part * along[0]) ** 2 + (dy - part * along[1]) ** 2 + (dz - part * along[2]) ** 2
    )
    cover = np.clip((radius_mm - distance) / grid.pixel_mm + 0.5, 0.0, 1.0)
    cover *= inside[rows, columns]
    target = slice_hu[rows, columns]
    np.maximum(target, target + cover * (blood_hu - target), out=target)
