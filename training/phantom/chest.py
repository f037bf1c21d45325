"""A chest of simple shapes, slice by slice, in Hounsfield units.

Lengths are millimetres of an adult lying on the back; x runs to the patient's left, y to the back
(LPS), depth from the topmost slice down. A scan of another length stretches the body along
its axis, so that apex and base are always in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.lesions import ground_glass, scatter_patches
from training.phantom.shapes import Grid, SmoothField, superellipse
from training.phantom.vessels import Vessels, grow_vessels

__all__ = ["Chest"]

# Hounsfield units of tissues, as textbooks have them.
_AIR, _LUNG, _FAT, _MUSCLE, _SKIN = -1000.0, -865.0, -105.0, 52.0, 20.0
_BLOOD, _LIVER, _SPLEEN = 42.0, 58.0, 48.0
_CORTEX, _MARROW, _DISC = 620.0, 210.0, 90.0

_RIB_DISTANCE_MM = 26.0
_RIB_DROP_MM = 95.0  # from spine to sternum
_CAVITY_POWER = 2.3

# Where the main vessels of a lung head: mm from the midline, mm to the back, height.
_REACH = (
    (70, -20, 0.12), (85, 40, 0.20), (60, 50, 0.35), (105, -45, 0.42), (120, 20, 0.45),
    (75, -62, 0.62), (112, 15, 0.72), (62, 66, 0.72), (90, 58, 0.84), (100, 40, 0.95),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Level:
    """The sizes of one height: `part` runs from 0 (above the apex) to 1 (below the base)."""

    part: float
    body: tuple[float, float]
    cavity: tuple[float, float]


class Chest:
    """A synthetic chest.

    Parameters
    ----------
    seed : int
        Of everything random: size, vessels, texture, lesions, noise.
    slices, rows : int
    slice_mm : float
    lesions : bool
        Whether there are ground-glass patches.
    """

    def __init__(
        self, *, seed: int, slices: int, rows: int, slice_mm: float, lesions: bool
    ) -> None:
        self.grid = Grid(rows)
        self.slices = slices
        self.slice_mm = slice_mm
        self._length_mm = slices * slice_mm
        self._random = np.random.default_rng(seed)
        self._stature = float(self._random.uniform(0.95, 1.05))
        self._fat_mm = float(self._random.uniform(9.0, 16.0))
        self._vessels = self._grow_vessels()
        fields = (60.0, 14.0, 4.5)
        self._coarse, self._texture, self._fine = (
            SmoothField(self._random, self.grid, self._length_mm, cell) for cell in fields
        )
        widest = self._level(0.6).cavity
        self._patches = scatter_patches(self._random, self._length_mm, *widest) if lesions else []

    def slices_hu(self) -> Iterator[NDArray[np.int16]]:
        """Yield the slices from the most superior one down, int16, shape (rows, rows), in HU."""
        for number in range(self.slices):
            yield self._slice((number + 0.5) * self.slice_mm)

    def _slice(self, depth_mm: float) -> NDArray[np.int16]:
        level = self._level(depth_mm / self._length_mm)
        hu = np.full((self.grid.rows, self.grid.rows), np.float32(_AIR))
        self._draw_table(hu)
        self._draw_wall(hu, level)
        cavity = superellipse(self.grid, (0, -4), level.cavity, power=_CAVITY_POWER)
        self._draw_ribs(hu, level, cavity, depth_mm)
        lungs = self._lungs(hu, level, cavity)
        self._fill_lungs(hu, lungs, depth_mm)
        self._draw_airways(hu, level)
        self._draw_spine(hu, level, depth_mm)
        return self._scanned(hu)

    # -- sizes ------------------------------------------------------------------------------------

    def _level(self, part: float) -> _Level:
        # Shoulders with raised arms are narrower than the chest; the belly is a little deeper.
        body_x = (158.0 + 18.0 * _ramp(part, 0.0, 0.3)) * self._stature
        body_y = (98.0 + 22.0 * _ramp(part, 0.0, 0.45)) * self._stature
        # The cavity is a dome: nothing at the very top, full from the middle on.
        dome = float(np.sqrt(np.clip(1 - ((0.62 - min(part, 0.62)) / 0.60) ** 2, 0.02, 1.0)))
        return _Level(part, (body_x, body_y), ((body_x - 40.0) * dome, (body_y - 30.0) * dome))

    def _z(self, part: float) -> float:
        return part * self._length_mm

    # -- around the lungs -------------------------------------------------------------------------

    def _draw_table(self, hu: NDArray[np.float32]) -> None:
        # A curved carbon shell over foam, under the patient.
        surface = self.grid.y - (138.0 * self._stature - self.grid.x**2 / 1500.0)
        on_table = np.abs(self.grid.x) < 185.0
        hu[(surface > 0) & (surface < 22.0) & on_table] = -930.0
        for top in (0.0, 20.0):
            hu[(surface > top) & (surface < top + 2.2) & on_table] = -150.0

    def _draw_wall(self, hu: NDArray[np.float32], level: _Level) -> None:
        """Skin, fat, muscle, scapulae, collar bones, sternum."""
        width, depth = level.body
        for inwards, tissue in ((0.0, _SKIN), (2.0, _FAT), (2.0 + self._fat_mm, _MUSCLE)):
            radii = (width - inwards, depth - inwards)
            hu[superellipse(self.grid, (0, 0), radii, power=2.2) < 1] = tissue
        # Fat between the muscles of back and chest.
        for side in (-1, 1):
            planes = superellipse(
                self.grid, (side * width * 0.62, depth * 0.42), (40, 2.2), turned_deg=-side * 48
            )
            hu[(planes < 1) & (hu == _MUSCLE)] = _FAT
            if 0.05 < level.part < 0.5:
                self._bone(hu, (side * width * 0.66, depth * 0.5), (30, 4.5), -side * 52)
            if 0.04 < level.part < 0.13:
                self._bone(hu, (side * 58, -depth * 0.55), (46, 6.5), side * 14)
        if 0.18 < level.part < 0.72:
            self._bone(hu, (0, -(level.cavity[1] + 14.0)), (19, 6.5), 0)

    def _bone(
        self,
        hu: NDArray[np.float32],
        centre: tuple[float, float],
        radii: tuple[float, float],
        turned_deg: float,
    ) -> None:
        hu[superellipse(self.grid, centre, radii, turned_deg=turned_deg) < 1] = _CORTEX
        inner = (radii[0] - 2.2, radii[1] - 2.2)
        if min(inner) > 0:
            marrow = superellipse(self.grid, centre, inner, turned_deg=turned_deg) < 1
            hu[marrow] = _MARROW

    def _draw_ribs(
        self,
        hu: NDArray[np.float32],
        level: _Level,
        cavity: NDArray[np.float32],
        depth_mm: float,
    ) -> None:
        """Rings around the cavity that sink from spine to sternum: each slice cuts several."""
        if not 0.03 < level.part < 0.97:
            return
        # 0 at the spine, 1 at the sternum, alike on both sides.
        turn = np.arctan2(np.abs(self.grid.x), self.grid.y) / np.float32(np.pi)
        height = (depth_mm - _RIB_DROP_MM * turn) % _RIB_DISTANCE_MM - _RIB_DISTANCE_MM / 2
        radius = cavity ** np.float32(1 / _CAVITY_POWER)
        outwards = (radius - 1.0) * float(np.mean(level.cavity)) - 6.5  # mm off the rib's middle
        rib = (outwards / 4.2) ** 2 + (height / 6.0) ** 2
        of_bone = (turn > 0.08) & (turn < 0.8)
        hu[(rib < 1) & of_bone] = _CORTEX
        hu[(rib < 0.42) & of_bone] = _MARROW
        # In front, ribs end in cartilage.
        hu[(rib < 1) & (turn >= 0.8) & (turn < 0.93)] = 110.0

    # -- lungs and what lies between them ---------------------------------------------------------

    def _lungs(
        self, hu: NDArray[np.float32], level: _Level, cavity: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Fill the cavity with mediastinum, heart and abdomen; return where lung is."""
        part = level.part
        inside = cavity < 1
        if not 0.03 < part < 0.985:
            hu[inside] = _MUSCLE if part < 0.5 else _LIVER
            return np.zeros_like(inside)
        hu[inside] = _LUNG
        hu[inside & self._mediastinum(level)] = _FAT + 60
        self._draw_vessel_trunks(hu, part, inside)
        self._draw_heart(hu, part, inside)
        self._draw_abdomen(hu, part, inside)
        return np.asarray(hu == np.float32(_LUNG), dtype=np.bool_)

    def _mediastinum(self, level: _Level) -> NDArray[np.bool_]:
        part = level.part
        half_width = 21.0 + 14.0 * _ramp(part, 0.2, 0.5)
        front, back = -level.cavity[1], 50.0
        # Narrow behind the sternum, wide at the hila, narrow again before the spine.
        middle = np.clip((self.grid.y - front) / (back - front), 0, 1)
        bulge = half_width * (0.22 + 0.9 * np.sin(np.pi * middle**0.85))
        spine = superellipse(self.grid, (0, 60), (24, 25)) < 1
        return np.asarray((np.abs(self.grid.x - 3.0) < bulge) | spine, dtype=np.bool_)

    def _draw_vessel_trunks(
        self, hu: NDArray[np.float32], part: float, inside: NDArray[np.bool_]
    ) -> None:
        circles = [((24.0, 38.0), 11.5, (0.36, 1.0))]  # descending aorta
        circles += [((-14.0, -22.0), 15.0, (0.36, 0.56)), ((-26.0, -14.0), 9.0, (0.2, 0.56))]
        circles += [((8.0, 27.0), 6.5, (0.05, 0.9))]  # oesophagus
        circles += [((-16.0, -16.0), 7.0, (0.04, 0.3)), ((14.0, -10.0), 6.0, (0.04, 0.3))]
        for centre, radius, (top, bottom) in circles:
            if top < part < bottom:
                hu[superellipse(self.grid, centre, (radius, radius)) < 1] = _BLOOD
        if 0.3 < part < 0.37:  # aortic arch, from front right to back left
            hu[superellipse(self.grid, (6, 8), (40, 13), turned_deg=58) < 1] = _BLOOD
        if 0.43 < part < 0.52:  # pulmonary trunk and its two branches
            hu[(superellipse(self.grid, (4, 2), (44, 11), turned_deg=-8) < 1) & inside] = _BLOOD
            hu[superellipse(self.grid, (18, -18), (15, 17)) < 1] = _BLOOD

    def _draw_heart(self, hu: NDArray[np.float32], part: float, inside: NDArray[np.bool_]) -> None:
        size = 1 - ((part - 0.69) / 0.21) ** 2
        if size <= 0:
            return
        scale = float(np.sqrt(size))
        centre = (20.0, -22.0)
        for extra, tissue in ((4.5, _FAT + 20), (0.0, _BLOOD)):
            radii = ((62 + extra) * scale, (44 + extra) * scale)
            hu[(superellipse(self.grid, centre, radii, turned_deg=28) < 1) & inside] = tissue

    def _draw_abdomen(
        self, hu: NDArray[np.float32], part: float, inside: NDArray[np.bool_]
    ) -> None:
        """Diaphragm domes with liver and spleen under them; lung stays in the recesses."""
        for side, top, tissue in ((-1, 0.70, _LIVER), (1, 0.75, _SPLEEN)):
            rise = (part - top) / (0.985 - top)
            if rise > 0:
                spread = float(np.sqrt(rise))
                dome = superellipse(
                    self.grid, (side * 62, -12), (92 * spread, 96 * spread), power=2.4
                )
                hu[(dome < 1) & inside & (self.grid.x * side > -8)] = tissue

    def _fill_lungs(
        self, hu: NDArray[np.float32], lungs: NDArray[np.bool_], depth_mm: float
    ) -> None:
        if not lungs.any():
            return
        texture = self._texture.slice_at(depth_mm)
        tissue = (
            np.float32(_LUNG)
            + 14.0 * self._coarse.slice_at(depth_mm)
            + 10.0 * texture
            + 13.0 * self._fine.slice_at(depth_mm)
            + 0.28 * self.grid.y  # dependent lung is denser
        )
        if self._patches:
            tissue += ground_glass(self._patches, self.grid, depth_mm, texture)
        hu[lungs] = tissue[lungs]
        self._vessels.draw(hu, lungs, self.grid, depth_mm, _BLOOD)

    def _draw_airways(self, hu: NDArray[np.float32], level: _Level) -> None:
        part = level.part
        if part < 0.42:
            tubes = [((0.0, 8.0 + 22.0 * part), 9.0)]
        elif part < 0.56:  # main bronchi leave the carina
            apart = 8.0 + (part - 0.42) * 200.0
            tubes = [((-apart, 17.0), 6.5), ((apart + 2.0, 18.0), 6.0)]
        else:
            return
        for centre, radius in tubes:
            hu[superellipse(self.grid, centre, (radius + 1.6, radius + 1.6)) < 1] = 30.0
            hu[superellipse(self.grid, centre, (radius, radius)) < 1] = _AIR + 12

    def _draw_spine(self, hu: NDArray[np.float32], level: _Level, depth_mm: float) -> None:
        middle = 58.0
        in_disc = depth_mm % 28.0 < 5.0
        process = min(16.0, (level.body[1] - self._fat_mm - 4.0 - middle - 22.0) / 2)
        self._bone(hu, (0, middle + 22 + process), (4.5, process), 0)
        for side in (-1, 1):
            self._bone(hu, (side * 27, middle + 25), (17, 5.5), -side * 24)
        if in_disc:
            hu[superellipse(self.grid, (0, middle), (18, 15)) < 1] = _DISC
        else:
            self._bone(hu, (0, middle), (18.5, 15.5), 0)
        hu[superellipse(self.grid, (0, middle + 22), (12, 10)) < 1] = _CORTEX
        hu[superellipse(self.grid, (0, middle + 22), (9.5, 7.5)) < 1] = 28.0

    # -- vessels and scanner ----------------------------------------------------------------------

    def _grow_vessels(self) -> Vessels:
        hila, reach = [], []
        for side in (-1, 1):
            for x, y, part in _REACH:
                hila.append((side * 38.0, 14.0, self._z(0.49)))
                reach.append((side * x, y, self._z(part)))
        return grow_vessels(self._random, hila, reach)

    def _scanned(self, hu: NDArray[np.float32]) -> NDArray[np.int16]:
        """Blur a little, as a scanner does, and add its noise."""
        blurred = _blurred(hu)
        shape = hu.shape
        noise = _blurred(self._random.standard_normal(shape, dtype=np.float32)) * 30.0
        # Photons are rare behind bone and thick tissue, plenty in air.
        strength = np.where(blurred < -940, 0.35, np.where(blurred < -300, 0.75, 1.0))
        scanned = blurred + noise * strength.astype(np.float32)
        return np.clip(np.rint(scanned), -1024, 3071).astype(np.int16)


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth by a quarter, a half, a quarter along both axes."""
    padded = np.pad(image, 1, mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    both: NDArray[np.float32] = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    return both


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, smooth in between."""
    part = float(np.clip((value - low) / (high - low), 0.0, 1.0))
    return part * part * (3 - 2 * part)
