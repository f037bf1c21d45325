"""The lungs on a coarse lattice: where lobes and pleura are, for whatever grows inside."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array, Grid, Lattice
from training.phantom.lungs import Lungs

__all__ = ["STEP_MM", "Interior", "look_inside"]

STEP_MM = 3.0
_HALF_X, _HALF_Y = 186.0, 138.0


@dataclass(frozen=True)
class Interior:
    """The lungs sampled every 3 mm.

    Attributes
    ----------
    grid : Grid
    depths_mm : ndarray of float64, shape (planes,)
    lobes : ndarray of uint8, shape (planes, rows, columns)
    pleura_mm : ndarray of float32, same shape
        Distance from the edge of the lung within the plane.
    fissure_mm : ndarray of float32, same shape
        Distance from the nearest fissure.
    """

    grid: Grid
    depths_mm: NDArray[np.float64]
    lobes: NDArray[np.uint8]
    pleura_mm: Array
    fissure_mm: Array

    def lattice(self, values: Array) -> Lattice:
        """Return values at the lattice's points as a field."""
        x, y = float(self.grid.x[0, 0]), float(self.grid.y[0, 0])
        return Lattice(np.ascontiguousarray(values, np.float32), (x, y, float(self.depths_mm[0])),
                       STEP_MM)  # fmt: skip

    def places(self, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the points where `chosen` is true, (n, 3) of x, y, depth in mm."""
        planes, rows, columns = np.nonzero(chosen)
        return np.stack(
            [self.grid.x[0, columns], self.grid.y[rows, 0], self.depths_mm[planes]], axis=1
        ).astype(np.float64)

    def index(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Return the lattice index (plane, row, column) nearest to each point."""
        origin = (self.depths_mm[0], float(self.grid.y[0, 0]), float(self.grid.x[0, 0]))
        found = []
        for axis, size in enumerate(self.lobes.shape):
            place = np.rint((points[:, 2 - axis] - origin[axis]) / STEP_MM).astype(np.int64)
            found.append(np.clip(place, 0, size - 1))
        return tuple(found)


def look_inside(lungs: Lungs) -> Interior:
    """Sample the lungs of a person."""
    grid = Grid(round(2 * _HALF_Y / STEP_MM) + 1, round(2 * _HALF_X / STEP_MM) + 1, STEP_MM)
    length = lungs.person.lung_mm
    depths = np.arange(-0.06 * length, 1.09 * length, STEP_MM)
    shape = (len(depths), grid.rows, grid.columns)
    lobes = np.zeros(shape, np.uint8)
    pleura, fissure = np.zeros(shape, np.float32), np.full(shape, 99, np.float32)
    for index, depth in enumerate(depths):
        plane = grid.at(float(depth))
        section = lungs.section(plane)
        lobes[index] = lungs.lobes(plane, section) * (section.lung > 0)
        inside = (lobes[index] > 0).astype(np.uint8)
        pleura[index] = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * STEP_MM
        right, left, minor = lungs.fissures(plane)
        oblique = np.abs(np.where(plane.x < 0, right, left))
        horizontal = np.where((plane.x < 0) & (right < 0), np.abs(minor), np.float32(99))
        fissure[index] = np.minimum(oblique, horizontal)
    return Interior(grid, depths, lobes, pleura, fissure)
