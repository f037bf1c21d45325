"""The room of the lungs: chest wall, mediastinum, diaphragm and fissures as distances.

Each surface is a formula that gives, for every pixel of a slice, roughly how many millimetres
it lies inside. The shape is an average adult's, as section anatomy shows it, varied by `Person`
and by smooth noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array, Plane, smooth_field, stream
from training.phantom.person import Person

__all__ = ["LOBES", "Lungs", "Section"]

LOBES = ("none", "RUL", "RML", "RLL", "LUL", "LLL")

# Heights are parts of the lungs' height: 0 the apex, 1 the deepest recess.
_HEIGHTS = (-0.15, -0.04, 0.0, 0.05, 0.10, 0.20, 0.35, 0.50, 0.70, 0.90, 1.15)
_HALF_WIDTH = (72, 78, 80, 88, 97, 113, 127, 135, 140, 139, 134)
_HALF_DEPTH = (40, 46, 50, 58, 65, 78, 89, 96, 100, 99, 97)
_MIDDLE = (26, 24, 22, 18, 15, 8, 3, 0, -1, -1, 0)

# Half width of the mediastinum, heart left out, by height (rows) and from sternum to back
# (columns: -1 is the cavity's front, 1 its back).
_MEDIASTINUM_HEIGHTS = (0.0, 0.08, 0.18, 0.30, 0.42, 0.55, 0.75, 1.0)
_MEDIASTINUM_PLACES = (-1.0, -0.72, -0.40, 0.0, 0.28, 0.50, 0.75, 1.0)
_RIGHT = (
    (48, 46, 40, 30, 25, 24, 28, 34),
    (36, 40, 38, 29, 24, 22, 27, 34),
    (10, 24, 34, 27, 17, 20, 27, 36),
    (3, 17, 37, 30, 13, 19, 27, 38),
    (2, 11, 38, 37, 18, 18, 27, 39),
    (2, 15, 40, 40, 17, 18, 27, 40),
    (4, 26, 44, 40, 16, 18, 28, 41),
    (9, 36, 46, 36, 20, 20, 29, 42),
)
_LEFT = (
    (48, 46, 40, 31, 26, 25, 28, 34),
    (36, 40, 38, 32, 27, 24, 27, 34),
    (10, 22, 32, 34, 30, 25, 27, 36),
    (3, 14, 36, 42, 38, 32, 28, 38),
    (2, 9, 33, 38, 32, 32, 29, 39),
    (2, 14, 36, 38, 30, 31, 29, 40),
    (5, 26, 44, 40, 30, 30, 29, 41),
    (10, 36, 46, 38, 30, 29, 30, 42),
)


@dataclass(frozen=True)
class Section:
    """What one slice cuts of the lungs' room: millimetres inside, float32, (rows, columns).

    Attributes
    ----------
    cavity : ndarray
        Inside the ribs, above and below the diaphragm.
    right, left : ndarray
        Inside each lung.
    diaphragm : ndarray
        Above the diaphragm.
    """

    cavity: Array
    right: Array
    left: Array
    diaphragm: Array

    @property
    def lung(self) -> Array:
        """Inside either lung."""
        return np.maximum(self.right, self.left)


class Lungs:
    """The lungs' room of one person.

    Parameters
    ----------
    person : Person
    seed : int
    """

    def __init__(self, person: Person, seed: int) -> None:
        self.person = person
        random = stream(seed, "lungs")
        depths = (-0.3 * person.lung_mm, 1.3 * person.lung_mm)
        self._broad = smooth_field(random, 45.0, depths)
        self._near = smooth_field(random, 16.0, depths)
        self._medial = smooth_field(random, 34.0, depths)
        self._fold = smooth_field(random, 55.0, depths)
        self._table_noise = random.normal(0, 2.2, (2, 8, 8))
        self._fissure = np.array([0.20, 0.18, 0.47]) + random.normal(0, 0.025, 3)
        self._fissure_end = np.array([0.86, 0.86, 0.06]) + random.normal(0, 0.03, 3)
        self._apex_mm = random.normal(0, 5.0, 2)

    def part(self, plane: Plane) -> NDArray[np.float64]:
        """Height of each row as part of the lungs' height, shape (rows,)."""
        return plane.depth[:, 0].astype(np.float64) / self.person.lung_mm

    def sizes(self, plane: Plane) -> tuple[Array, Array, Array]:
        """Half width, half depth and middle y of the cavity for each row, each (rows, 1), mm."""
        part = self.part(plane)
        across = np.interp(part, _HEIGHTS, _HALF_WIDTH) * self.person.width
        back = np.interp(part, _HEIGHTS, _HALF_DEPTH) * self.person.depth
        middle = np.interp(part, _HEIGHTS, _MIDDLE)
        columns = [values.astype(np.float32)[:, None] for values in (across, back, middle)]
        return columns[0], columns[1], columns[2]

    def section(self, plane: Plane) -> Section:
        """Return the room of the lungs on a slice."""
        across, back, middle = self.sizes(plane)
        u, v = plane.x / across, (plane.y - middle) / back
        cavity = self._cavity(plane, u, v, across, back)
        dome = self._diaphragm(plane, u, v)
        right_width, left_width = self._mediastinum(plane, v)
        noise = self._medial.on(plane) * np.float32(2.0)
        heart = self.heart(plane)
        # Lungs are pointed towards the breastbone, round beside the spine.
        round_mm = 4 + 10 * np.clip(2 * v, 0, 1)
        sides = []
        for side, medial in ((-1, -plane.x - right_width), (1, plane.x - left_width)):
            room = _soft_min(cavity, medial + noise, round_mm)
            room = _soft_min(room, self._apex(plane, side), 4.0)
            room = _soft_min(room, -heart - 3.0, 4.0)
            sides.append(_soft_min(room, dome[0 if side < 0 else 1], 3.0))
        return Section(cavity, sides[0], sides[1], np.where(plane.x < 0, dome[0], dome[1]))

    def _cavity(self, plane: Plane, u: Array, v: Array, across: Array, back: Array) -> Array:
        u, v = np.abs(u), np.abs(v)
        mix = np.float32(0.10 + 0.45 * self.person.power_mix)
        square = u * u * (1 + mix * (u - 1)) + v * v * (1 + mix * (v - 1))
        inside = (1 - square) * (across + back) * np.float32(0.5 / (2 + mix))
        waves = self._broad.on(plane) * np.float32(2.6) + self._near.on(plane) * np.float32(0.7)
        return np.asarray(inside + waves, dtype=np.float32)

    def _apex(self, plane: Plane, side: int) -> Array:
        """Each lung begins as a dome of its own."""
        person = self.person
        rise = (plane.depth - np.float32(self._apex_mm[0 if side < 0 else 1])) / np.float32(
            0.30 * person.lung_mm
        )
        u = (plane.x - np.float32(side * 56 * person.width)) / np.float32(82 * person.width)
        v = (plane.y - 16) / np.float32(100 * person.depth)
        radius = np.sqrt(np.clip(rise * 1.55 - 0.35 * rise * rise, 0, None)) - 0.02
        distance = radius - np.sqrt(u * u + v * v)
        distance = np.where(rise > 1.2, np.float32(1.0), distance)
        return np.asarray(distance * np.float32(85), dtype=np.float32)

    def _mediastinum(self, plane: Plane, v: Array) -> tuple[Array, Array]:
        part, place = self.part(plane), v[:, 0].astype(np.float64)
        widths = []
        for side, table in enumerate((_RIGHT, _LEFT)):
            values = np.asarray(table) + self._table_noise[side] * (
                np.asarray(_MEDIASTINUM_PLACES) > -0.9
            )
            width = _bilinear(values, _MEDIASTINUM_HEIGHTS, _MEDIASTINUM_PLACES, part, place)
            widths.append(width.astype(np.float32)[:, None])
        return widths[0], widths[1]

    def heart(self, plane: Plane) -> Array:
        """Millimetres inside the pericardium, float32, shape (rows, columns)."""
        person = self.person
        depth = plane.depth / np.float32(person.lung_mm)
        scale = person.heart
        dx, dy = plane.x - np.float32(20 * scale), plane.y - np.float32(-26 * person.depth)
        cos, sin = np.float32(np.cos(0.52)), np.float32(np.sin(0.52))
        along, across = dx * cos - dy * sin, dx * sin + dy * cos
        # The apex points down and to the left.
        down = (depth - 0.70) / 0.235
        along = along - 14 * down
        level = (along / np.float32(60 * scale)) ** 2 + (across / np.float32(45 * scale)) ** 2
        radius = np.sqrt(level + down * down * np.float32(1.0))
        return np.asarray((1 - radius) * np.float32(50 * scale), dtype=np.float32)

    def _diaphragm(self, plane: Plane, u: Array, v: Array) -> tuple[Array, Array]:
        person = self.person
        waves = self._fold.on(plane) * np.float32(3.0)
        domes = []
        for side, top in ((-1, person.domes[0]), (1, person.domes[1])):
            du, dv = (u - np.float32(side * 0.50)) / np.float32(0.52), v + np.float32(0.10)
            radius = np.clip(du * du + dv * dv, 0, 1.35)
            # The recess behind reaches deeper than the one in front.
            steep = 0.84 + 0.18 * np.clip(dv * (1.5 - 0.5 * dv * dv), -1, 1)
            fall = (0.35 * radius + 0.65 * radius * radius) * steep
            depth = np.float32(person.lung_mm) * (top + (1.0 - top) * np.minimum(fall, 1.04))
            domes.append((depth + waves - plane.depth) * np.float32(0.6))
        return domes[0], domes[1]

    # -- lobes ------------------------------------------------------------------------------------

    def fissures(self, plane: Plane) -> tuple[Array, Array, Array]:
        """Return mm below the right oblique, the left oblique and the minor fissure."""
        length = self.person.lung_mm
        across, back, middle = self.sizes(plane)
        v = (plane.y - middle) / back
        waves = self._fold.on(plane)
        bow = np.abs(plane.x) / across - np.float32(0.5)
        surfaces = []
        for side in (0, 1):
            start, end = self._fissure[side], self._fissure_end[side]
            depth = length * (start + (end - start) * (0.88 - v) / 1.6 - 0.06 * bow)
            surfaces.append((plane.depth - depth - 4 * waves) * np.float32(0.72))
        minor = length * (self._fissure[2] + self._fissure_end[2] * (v + 0.3) + 0.05 * bow)
        minor_distance = (plane.depth - minor + 6 * waves) * np.float32(0.95)
        return surfaces[0], surfaces[1], np.asarray(minor_distance, dtype=np.float32)

    def lobes(self, plane: Plane, section: Section) -> NDArray[np.uint8]:
        """Return the lobe that each pixel is nearest to, uint8: index into `LOBES`, never 0.

        Outside the lungs too: what fills a lobe fills its edge pixels whole.
        """
        right, left, minor = self.fissures(plane)
        in_right = np.where(right > 0, np.uint8(3), np.where(minor > 0, np.uint8(2), np.uint8(1)))
        in_left = np.where(left > 0, np.uint8(5), np.uint8(4))
        return np.asarray(np.where(section.right > section.left, in_right, in_left), np.uint8)


def _soft_min(first: Array, second: Array, round_mm: float | Array) -> Array:
    """Return the smaller distance, corners rounded."""
    gap = first - second
    return np.asarray(
        (first + second - np.sqrt(gap * gap + np.float32(round_mm) ** 2)) * np.float32(0.5)
        + np.float32(0.15) * np.float32(round_mm),
        dtype=np.float32,
    )


def _bilinear(
    table: NDArray[np.float64],
    heights: tuple[float, ...],
    places: tuple[float, ...],
    part: NDArray[np.float64],
    place: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Read a table between its rows and columns, smoothly, for pairs of (part, place)."""
    row = np.interp(part, heights, np.arange(len(heights)))
    column = np.interp(place, places, np.arange(len(places)))
    top = np.minimum(row.astype(int), len(heights) - 2)
    first = np.minimum(column.astype(int), len(places) - 2)
    down, right = row - top, column - first
    right = right * right * (3 - 2 * right)
    upper = table[top, first] * (1 - right) + table[top, first + 1] * right
    lower = table[top + 1, first] * (1 - right) + table[top + 1, first + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float64)
