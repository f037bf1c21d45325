"""What lies between and below the lungs: heart, great vessels, gullet, liver, spleen, stomach."""

from __future__ import annotations

import numpy as np

from training.phantom.geometry import Array, Plane, smooth_field, stream
from training.phantom.lungs import Lungs, Section
from training.phantom.paint import ellipse, paint, paint_ellipse

__all__ = ["Organs"]

_LIVER, _SPLEEN, _GUT, _GAS = 58.0, 48.0, 28.0, -980.0

# Great vessels as ((part, x, y, radius mm), …) from the top down; between entries, straight.
_TUBES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "ascending aorta": ((0.27, -4, -18, 10), (0.31, -15, -22, 15), (0.56, -8, -22, 16)),
    "descending aorta": ((0.27, 22, 22, 10), (0.32, 25, 30, 12.5), (1.2, 10, 26, 10.5)),
    "superior vena cava": ((-0.1, -22, -12, 7), (0.2, -24, -16, 8.5), (0.56, -28, -8, 10)),
    "left brachiocephalic": ((-0.1, 26, -14, 7), (0.12, 22, -22, 7), (0.22, -8, -28, 6)),
    "brachiocephalic artery": ((-0.1, -16, 2, 5.5), (0.12, -12, -4, 6.5), (0.26, 0, -12, 7)),
    "left carotid": ((-0.1, 16, 0, 4.0), (0.26, 10, -2, 4.5)),
    "left subclavian": ((-0.1, 28, 8, 5.0), (0.10, 24, 12, 5.0), (0.26, 18, 10, 5.0)),
    "pulmonary trunk": ((0.42, 24, -20, 12), (0.50, 16, -30, 14), (0.58, 10, -36, 13)),
    "gullet": ((-0.15, 4, 26, 6), (0.4, 8, 28, 6.5), (0.95, 16, 14, 8)),
    "azygos": ((0.36, -9, 34, 4), (1.1, -5, 34, 3)),
    "lower vena cava": ((0.80, -24, 0, 12), (1.2, -22, 8, 13)),
}


class Organs:
    """Mediastinum and upper abdomen of one person.

    Parameters
    ----------
    lungs : Lungs
    seed : int
    """

    def __init__(self, lungs: Lungs, seed: int) -> None:
        self._lungs = lungs
        self.person = lungs.person
        random = stream(seed, "organs")
        depths = (-0.3 * self.person.lung_mm, 1.3 * self.person.lung_mm)
        self._fat = smooth_field(random, 11.0, depths)
        self._bowel = smooth_field(random, 24.0, depths)
        self._shift = {name: random.normal(0, 2.0, 2) for name in _TUBES}
        self._wide = {name: float(random.normal(1.0, 0.08)) for name in _TUBES}
        self._pedicle_size = float(random.uniform(0.65, 1.1))
        self._gas = float(random.uniform(-0.2, 0.9))
        self._liver_hu = float(_LIVER + random.normal(0, 9) - 25 * (random.random() < 0.12))
        self._nodes = random.uniform((-30, -20, 0.25), (30, 30, 0.6), (10, 3))
        self._node_hu = np.where(random.random(10) < 0.15, 420.0, 40.0)
        self._air_in_gullet = bool(random.random() < 0.35)

    def draw(self, image: Array, plane: Plane, section: Section) -> None:
        """Fill the cavity with fat and organs, in place; lungs are laid over it later."""
        person, pixel_mm = self.person, plane.grid.pixel_mm
        fat = self._fat.on(plane)
        part = plane.depth_mm / person.lung_mm
        # Above the apices lie the muscles of the neck.
        base = person.mediastinal_fat_hu + max(0.0, 0.05 - part) * 500
        strands = np.clip(fat - 0.9, 0, 1) * 90
        paint(image, section.cavity + 1.0, base + 28 + 32 * fat + strands, pixel_mm)
        if part < 0.12:
            necks = np.clip(fat + 0.9, 0, 1) * np.clip(section.cavity * 0.3, 0, 1)
            image += necks * np.float32(np.interp(part, (0.0, 0.12), (120, 0)))
        if part > 0.55:
            self._abdomen(image, plane, section)
        self._pedicle(image, plane, part, fat)
        self._heart(image, plane, fat)
        self._vessels(image, plane, part)

    def _pedicle(self, image: Array, plane: Plane, part: float, fat: Array) -> None:
        """Roots of the great vessels, appendages and lymphatic tissue between them."""
        size = 1 - ((part - 0.46) / 0.22) ** 2
        if size <= 0:
            return
        size = float(np.sqrt(size)) * self._pedicle_size
        width, depth = self.person.width, self.person.depth
        inside = ellipse(
            plane.x, plane.y, (1 * width, -14 * depth), (40 * width * size, 34 * depth * size)
        )
        paint(image, inside + 6 * fat, 38 + 8 * fat, plane.grid.pixel_mm)

    def _heart(self, image: Array, plane: Plane, fat: Array) -> None:
        heart = self._lungs.heart(plane)
        pixel_mm = plane.grid.pixel_mm
        blood = self.person.blood_hu
        paint(image, heart, 30.0, pixel_mm)  # pericardium
        paint(image, heart - 1.5, -80.0, pixel_mm)
        # Fat under the pericardium lies in patches.
        deep = heart - 1.2 - 4.5 * np.clip(fat - 0.5, 0, None)
        paint(image, deep, 55.0, pixel_mm)
        # Chambers differ from muscle only with contrast; fat marks the grooves between them.
        paint(image, deep - 9 - 3 * fat, blood, pixel_mm)
        groove = np.abs(plane.x * 0.8 - plane.y * 0.6 - 30) - 1.5
        paint(image, np.minimum(np.minimum(-groove, deep + 2), 9 - deep), -60.0, pixel_mm)

    def _vessels(self, image: Array, plane: Plane, part: float) -> None:
        person = self.person
        for name, course in _TUBES.items():
            if not course[0][0] <= part <= course[-1][0]:
                continue
            heights = [point[0] for point in course]
            x, y, radius = (
                float(np.interp(part, heights, [point[axis] for point in course]))
                for axis in (1, 2, 3)
            )
            centre = (
                x * person.width + self._shift[name][0],
                y * person.depth + self._shift[name][1],
            )
            radius *= self._wide[name]
            wall = name == "gullet"
            hu = 35.0 if wall else person.blood_hu
            paint_ellipse(image, plane, centre, (radius, radius), hu)
            if wall and self._air_in_gullet and 0.1 < part < 0.5:
                paint_ellipse(image, plane, centre, (2.5, 1.6), -700.0)
            if name.endswith("aorta") and person.age > 62:
                paint_ellipse(
                    image, plane, (centre[0] + radius * 0.9, centre[1] + 3), (1.5, 4), 500.0
                )
        if 0.265 < part < 0.33:  # the arch, from front right to back left
            thick = 13 * (1 - abs(part - 0.297) / 0.08)
            paint_ellipse(
                image, plane, (8 * person.width, 4.0), (34, thick), person.blood_hu, turned_deg=56
            )
        if 0.43 < part < 0.51:  # the right pulmonary artery crosses behind the aorta
            thick = 11 * (1 - abs(part - 0.47) / 0.08)
            paint_ellipse(image, plane, (-10, 0), (38, thick), person.blood_hu, turned_deg=-6)
        if 0.52 < part < 0.66:  # left atrium
            thick = 20 * (1 - abs(part - 0.59) / 0.12)
            paint_ellipse(image, plane, (-2, 4), (38, thick), person.blood_hu)
        for (x, y, height), hu in zip(self._nodes, self._node_hu, strict=True):
            radius = 4.5 - abs(part - height) * person.lung_mm * 0.8
            if radius > 0.5:
                paint_ellipse(image, plane, (x, y), (radius, radius * 0.7), hu)

    def _abdomen(self, image: Array, plane: Plane, section: Section) -> None:
        """Liver under the right dome, spleen and stomach under the left one."""
        pixel_mm, person = plane.grid.pixel_mm, self.person
        # A little too high: where there is lung, it is laid over.
        below = np.minimum(-section.diaphragm + 2.5, section.cavity - 1)
        if float(below.max()) < -3:
            return
        bowel = self._bowel.on(plane)
        paint(image, below + 1.5, 45.0, pixel_mm)  # the diaphragm itself
        across, back, middle = self._lungs.sizes(plane)
        u, v = plane.x / across, (plane.y - middle) / back
        paint(image, below, -98 + 10 * bowel, pixel_mm)
        edge = (0.22 - 0.45 * v - u) * 90 + 6 * bowel
        paint(image, np.minimum(below + 1, edge), self._liver_hu, pixel_mm)
        spleen = 34 * (1 - np.sqrt(((u - 0.64) / 0.44) ** 2 + ((v - 0.42) / 0.52) ** 2))
        paint(image, np.minimum(below + 1, spleen + 3 * bowel), _SPLEEN, pixel_mm)
        stomach = 36 * (1 - np.sqrt(((u - 0.42) / 0.46) ** 2 + ((v + 0.30) / 0.55) ** 2))
        stomach = np.minimum(below + 0.5, stomach + 4 * bowel)
        paint(image, stomach, 40.0, pixel_mm)
        paint(image, stomach - 4, _GUT + 6 * bowel, pixel_mm)
        gas = np.minimum(stomach - 4, (self._gas * -25 - 22 * person.depth) - plane.y)
        paint(image, gas, _GAS, pixel_mm)
