"""What everything is drawn from: a pixel grid in millimetres, ellipses, smooth random fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "SmoothField", "superellipse"]

_T = TypeVar("_T", float, NDArray[np.float64])


@dataclass(frozen=True)
class Grid:
    """The pixels of an axial slice, centred on the patient.

    Attributes
    ----------
    rows : int
        Rows and columns.
    field_of_view_mm : float
        Edge length of the slice.
    """

    rows: int
    field_of_view_mm: float = 400.0

    @property
    def pixel_mm(self) -> float:
        """Distance of pixel centres."""
        return self.field_of_view_mm / self.rows

    @cached_property
    def axis_mm(self) -> NDArray[np.float32]:
        """Pixel centres along either axis, float32, shape (rows,); 0 is the middle."""
        centred = np.arange(self.rows, dtype=np.float32) - np.float32((self.rows - 1) / 2)
        return centred * np.float32(self.pixel_mm)

    @property
    def x(self) -> NDArray[np.float32]:
        """LPS x (towards the patient's left), float32, shape (1, columns)."""
        return self.axis_mm[None, :]

    @property
    def y(self) -> NDArray[np.float32]:
        """LPS y (towards the patient's back), float32, shape (rows, 1)."""
        return self.axis_mm[:, None]


def superellipse(
    grid: Grid,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    power: float = 2.0,
    turned_deg: float = 0.0,
) -> NDArray[np.float32]:
    """Return |u/a|^p + |v/b|^p, float32, shape (rows, columns): below 1 inside.

    Parameters
    ----------
    centre, radii : (float, float)
        x and y in mm.
    power : float
        2 is an ellipse; more is squarer.
    turned_deg : float
        From +x towards +y.
    """
    dx, dy = grid.x - np.float32(centre[0]), grid.y - np.float32(centre[1])
    if turned_deg:
        angle = np.deg2rad(turned_deg)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    if power == 2.0:
        level = (dx / np.float32(radii[0])) ** 2 + (dy / np.float32(radii[1])) ** 2
    else:
        level = np.abs(dx / np.float32(radii[0])) ** np.float32(power) + np.abs(
            dy / np.float32(radii[1])
        ) ** np.float32(power)
    return np.asarray(level, dtype=np.float32)


class SmoothField:
    """Smooth noise in three dimensions: normal values on a coarse lattice, interpolated.

    Parameters
    ----------
    random : numpy Generator
    grid : Grid
    depth_mm : float
        How far slices reach.
    cell_mm : float
        Distance of lattice points: the size of its blobs.
    """

    def __init__(
        self, random: np.random.Generator, grid: Grid, depth_mm: float, cell_mm: float
    ) -> None:
        across = int(np.ceil(grid.field_of_view_mm / cell_mm)) + 2
        along = int(np.ceil(depth_mm / cell_mm)) + 2
        self._cell_mm = cell_mm
        self._lattice = random.standard_normal((along, across, across), dtype=np.float32)
        self._weights = _interpolation(grid.rows, across, grid.pixel_mm / cell_mm)

    def slice_at(self, depth_mm: float) -> NDArray[np.float32]:
        """Return the field `depth_mm` below the top, float32, shape (rows, columns)."""
        place = depth_mm / self._cell_mm
        below = int(place)
        part = np.float32(_ease(place - below))
        plane = self._lattice[below] * (1 - part) + self._lattice[below + 1] * part
        field: NDArray[np.float32] = self._weights @ plane @ self._weights.T
        return field


def _interpolation(pixels: int, points: int, step: float) -> NDArray[np.float32]:
    """Return interpolation weights of `pixels` places `step` apart on `points` lattice points."""
    places = np.arange(pixels) * step
    below = np.minimum(places.astype(int), points - 2)
    part = _ease(places - below)
    weights = np.zeros((pixels, points), np.float32)
    weights[np.arange(pixels), below] = 1 - part
    weights[np.arange(pixels), below + 1] = part
    return weights


def _ease(part: _T) -> _T:
    """Without kinks at lattice points."""
    return part * part * (3 - 2 * part)
