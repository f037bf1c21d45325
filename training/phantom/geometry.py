"""Where things are: slices as planes of pixels, and fields on lattices in three dimensions.

Lengths are millimetres of a person lying on the back. x runs to the patient's left, y to the back
(LPS); depth runs down from the top of the lungs. With a tilted gantry the depth of a slice grows
along its rows, so that every formula takes depth as a column, shape (rows, 1).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Grid", "Lattice", "Mask", "Plane", "smooth_field", "smooth_step", "stream"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Mean of the squared cubic B-spline weights, to the power 3/2: white noise loses so much.
_SPLINE_LOSS = 0.479365**1.5


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one purpose: none disturbs another's."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def smooth_step(values: Array, softness: float) -> Array:
    """Return 0 below −`softness`, 1 above it, and a smooth rise in between, float32."""
    part = np.clip(values * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return np.asarray(part * part * (3 - 2 * part), dtype=np.float32)


@dataclass(frozen=True)
class Grid:
    """The pixels of the slices of a series.

    Attributes
    ----------
    rows, columns : int
    pixel_mm : float
        Distance of pixel centres.
    centre_mm : (float, float)
        x and y of the middle of the image.
    slope : float
        Depth gained per millimetre of y: the tangent of the gantry's tilt.
    """

    rows: int
    columns: int
    pixel_mm: float
    centre_mm: tuple[float, float] = (0.0, 0.0)
    slope: float = 0.0

    @cached_property
    def x(self) -> Array:
        """LPS x, float32, shape (1, columns)."""
        return self._axis(self.columns, self.centre_mm[0])[None, :]

    @cached_property
    def y(self) -> Array:
        """LPS y, float32, shape (rows, 1)."""
        return self._axis(self.rows, self.centre_mm[1])[:, None]

    def _axis(self, count: int, centre: float) -> Array:
        places = (np.arange(count) - (count - 1) / 2) * self.pixel_mm + centre
        return places.astype(np.float32)

    def at(self, depth_mm: float) -> Plane:
        """Return the slice whose middle lies `depth_mm` below the top of the lungs."""
        return Plane(self, depth_mm)


@dataclass(frozen=True)
class Plane:
    """One slice: its pixels and how deep they lie."""

    grid: Grid
    depth_mm: float

    @property
    def x(self) -> Array:
        """LPS x, float32, shape (1, columns)."""
        return self.grid.x

    @property
    def y(self) -> Array:
        """LPS y, float32, shape (rows, 1)."""
        return self.grid.y

    @cached_property
    def depth(self) -> Array:
        """Depth of each row, float32, shape (rows, 1)."""
        return self.grid.y * np.float32(self.grid.slope) + np.float32(self.depth_mm)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return (self.grid.rows, self.grid.columns)


class Lattice:
    """Values at points of a cubic lattice, read between them on any slice.

    Parameters
    ----------
    values : ndarray of float32, shape (depth, y, x)
    origin_mm : (float, float, float)
        x, y, depth of ``values[0, 0, 0]``.
    step_mm : float
        Distance of the points.
    smooth : bool
        Cubic B-spline weights, which blur, in place of linear interpolation.
    """

    def __init__(
        self,
        values: Array,
        origin_mm: tuple[float, float, float],
        step_mm: float,
        *,
        smooth: bool = False,
    ) -> None:
        self.values = values
        self.origin_mm = origin_mm
        self.step_mm = step_mm
        self._smooth = smooth
        self._weights: dict[Grid, tuple[Array, Array]] = {}

    def on(self, plane: Plane) -> Array:
        """Return the values on a slice, float32, shape (rows, columns)."""
        along_y, along_x = self._weights_of(plane.grid)
        return np.asarray(along_y @ (self._cut(plane) @ along_x), dtype=np.float32)

    def _cut(self, plane: Plane) -> Array:
        """Return the lattice's points on a slice, float32, shape (y, x)."""
        if plane.grid.slope == 0:
            place = (plane.depth_mm - self.origin_mm[2]) / self.step_mm
            taps, weights = _taps(np.asarray([place], np.float64), len(self.values), self._smooth)
            cut = self.values[taps[0][0]] * weights[0][0]
            for tap, weight in zip(taps[1:], weights[1:], strict=True):
                cut += self.values[tap[0]] * weight[0]
            return np.asarray(cut, dtype=np.float32)
        rows_mm = self.origin_mm[1] + self.step_mm * np.arange(
            self.values.shape[1], dtype=np.float64
        )
        places = (plane.depth_mm + plane.grid.slope * rows_mm - self.origin_mm[2]) / self.step_mm
        taps, weights = _taps(np.asarray(places, np.float64), len(self.values), self._smooth)
        every = np.arange(self.values.shape[1])
        cut = np.zeros(self.values.shape[1:], np.float32)
        for tap, weight in zip(taps, weights, strict=True):
            cut += self.values[tap, every] * weight[:, None]
        return np.asarray(cut, dtype=np.float32)

    def at(self, points: NDArray[np.float64]) -> Array:
        """Return the nearest values at `points` (n, 3) of x, y, depth, float32, shape (n,)."""
        places = np.rint((points - np.asarray(self.origin_mm)) / self.step_mm).astype(int)
        shape = np.asarray(self.values.shape[::-1])
        places = np.clip(places, 0, shape - 1)
        found: Array = self.values[places[:, 2], places[:, 1], places[:, 0]]
        return found

    def _weights_of(self, grid: Grid) -> tuple[Array, Array]:
        if grid not in self._weights:
            axes = []
            for axis_mm, origin, points in (
                (grid.y[:, 0], self.origin_mm[1], self.values.shape[1]),
                (grid.x[0], self.origin_mm[0], self.values.shape[2]),
            ):
                places = (axis_mm.astype(np.float64) - origin) / self.step_mm
                matrix = np.zeros((len(places), points), np.float32)
                taps, weights = _taps(places, points, self._smooth)
                for tap, weight in zip(taps, weights, strict=True):
                    np.add.at(matrix, (np.arange(len(places)), tap), weight)
                axes.append(matrix)
            self._weights[grid] = (axes[0], np.ascontiguousarray(axes[1].T))
        return self._weights[grid]


def _taps(
    places: NDArray[np.float64], points: int, smooth: bool
) -> tuple[list[NDArray[np.int64]], list[Array]]:
    """Return lattice indices around `places` and their weights; the ends are repeated."""
    places = np.clip(places, 0, points - 1)
    below = np.floor(places).astype(np.int64)
    part: Array = np.asarray(places - below, dtype=np.float32)
    if not smooth:
        taps = [below, below + 1]
        weights: list[Array] = [1 - part, part]
    else:
        taps = [below - 1, below, below + 1, below + 2]
        weights = [
            np.asarray((1 - part) ** 3 / 6, np.float32),
            np.asarray((3 * part**3 - 6 * part**2 + 4) / 6, np.float32),
            np.asarray((-3 * part**3 + 3 * part**2 + 3 * part + 1) / 6, np.float32),
            np.asarray(part**3 / 6, np.float32),
        ]
    return [np.clip(tap, 0, points - 1) for tap in taps], weights


def smooth_field(
    random: np.random.Generator,
    cell_mm: float,
    depths_mm: tuple[float, float],
    reach_mm: tuple[float, float] = (192.0, 150.0),
) -> Lattice:
    """Return smooth normal noise of unit variance over the lungs, blobs of about `cell_mm` wide.

    Parameters
    ----------
    random : numpy Generator
    cell_mm : float
    depths_mm : (float, float)
        The range of depth that will be asked for.
    reach_mm : (float, float)
        Half of its width and of its height; beyond, the values at the edge are repeated.
    """
    half_x, half_y = reach_mm
    low, high = depths_mm
    shape = [int(np.ceil(length / cell_mm)) + 4 for length in (high - low, 2 * half_y, 2 * half_x)]
    values = random.standard_normal(shape, dtype=np.float32) / np.float32(_SPLINE_LOSS)
    return Lattice(values, (-half_x, -half_y, low), cell_mm, smooth=True)
