"""What lies around the patient: table, mattress, blankets."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array, Plane, stream
from training.phantom.lungs import Lungs

__all__ = ["Surroundings"]

_F64 = NDArray[np.float64]

# Table tops as (bend in 1/mm, thickness mm, shell mm, shell HU, core HU, half width mm).
_TABLES = (
    (1 / 1500, 24.0, 2.4, -150.0, -940.0, 205.0),
    (1 / 900, 40.0, 2.0, -80.0, -985.0, 215.0),
    (1 / 2600, 30.0, 3.0, -250.0, -900.0, 200.0),
    (1 / 650, 18.0, 1.6, 60.0, -960.0, 190.0),
)


class Surroundings:
    """Table and cloth of one scan.

    Parameters
    ----------
    seed : int
    lungs : Lungs
    table : int
        Index of the table top.
    """

    def __init__(self, seed: int, lungs: Lungs, table: int) -> None:
        person = lungs.person
        self._table = _TABLES[table % len(_TABLES)]
        self._top_y = 99 * person.depth + 0.75 * person.fat_mm + 1.1 * person.muscle_mm + 24
        random = stream(seed, "surroundings")
        self._threads = []
        for _ in range(int(random.integers(0, 5))):
            turn = np.linspace(-2.9, -0.25, 60)
            wave = random.normal(0, 1, (4, 2))
            self._threads.append((turn, wave, float(random.uniform(1.03, 1.22))))
        self._pad = float(random.uniform(4, 16))
        self._size = (
            150 * person.width + person.fat_mm + 34,
            118 * person.depth + person.fat_mm + 14,
        )

    def draw(self, image: Array, plane: Plane) -> None:
        """Draw into an empty slice, in place."""
        bend, thick, shell, shell_hu, core_hu, half = self._table
        surface = plane.y - (np.float32(self._top_y) - plane.x**2 * np.float32(bend))
        width = np.float32(half) - np.abs(plane.x)
        pixel_mm = np.float32(plane.grid.pixel_mm)
        for top, bottom, hu in (
            (-self._pad, 0.0, -955.0), (0.0, thick, shell_hu), (shell, thick - shell, core_hu),
        ):  # fmt: skip
            inside = np.minimum(np.minimum(surface - top, bottom - surface), width)
            cover = np.clip(inside / pixel_mm + 0.5, 0, 1)
            image += cover * (np.float32(hu) - image)
        for turn, wave, away in self._threads:
            self._thread(image, plane, turn, wave, away)

    def _thread(self, image: Array, plane: Plane, turn: _F64, wave: _F64, away: float) -> None:
        """A fold of cloth over the chest."""
        phase = plane.depth_mm / 40
        radius = np.full_like(turn, away)
        for number, (first, second) in enumerate(wave, start=2):
            radius += 0.02 * (
                first * np.sin(number * 2 * turn + phase) + second * np.cos(number * turn)
            )
        x = self._size[0] * radius * np.cos(turn)
        y = self._size[1] * radius * np.sin(turn)
        places = np.stack([x - plane.x[0, 0], y - plane.y[0, 0]], axis=1) / plane.grid.pixel_mm
        canvas = np.zeros(plane.shape, np.uint8)
        course = np.rint(places * 16).astype(np.int32)
        cv2.polylines(canvas, [course], False, 110, 1, cv2.LINE_AA, 4)
        np.maximum(image, canvas.astype(np.float32) - 1000, out=image)
