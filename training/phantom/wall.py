"""The wall of the chest: skin, fat, muscles, bones, breasts, arms."""

from __future__ import annotations

import numpy as np

from training.phantom.geometry import Array, Plane, smooth_field, stream
from training.phantom.lungs import Lungs, Section
from training.phantom.paint import ellipse, paint, paint_ellipse

__all__ = ["Wall"]

FAT, MUSCLE, SKIN = -102.0, 52.0, 15.0
CORTEX, MARROW, DISC, CARTILAGE = 720.0, 190.0, 85.0, 110.0
_BODY = (280.0, 230.0)  # how far a body reaches, mm
_RIB_DISTANCE_MM = 27.0
_VERTEBRA_MM = 25.0


class Wall:
    """Everything around the lungs' room.

    Parameters
    ----------
    lungs : Lungs
    seed : int
    """

    def __init__(self, lungs: Lungs, seed: int) -> None:
        self._lungs = lungs
        self.person = lungs.person
        random = stream(seed, "wall")
        depths = (-0.3 * self.person.lung_mm, 1.3 * self.person.lung_mm)
        self._outline = smooth_field(random, 70.0, depths, _BODY)
        self._planes = smooth_field(random, 13.0, depths, _BODY)
        self._fibres = smooth_field(random, 5.0, depths, _BODY)
        self._rib_drop = float(random.uniform(80, 115))
        self._rib_phase = float(random.uniform(0, _RIB_DISTANCE_MM))
        self._disc_phase = float(random.uniform(0, _VERTEBRA_MM))
        self._bone = float(random.uniform(0.8, 1.15) * (1.15 - self.person.age / 260))
        self._lean = random.normal(0, 3.0, 2)

    def draw(self, image: Array, plane: Plane, section: Section) -> Array:
        """Draw the wall into `image` in place; return mm inside the body, (rows, columns)."""
        part = plane.depth_mm / self.person.lung_mm
        body = self._body(plane, part)
        pixel_mm = plane.grid.pixel_mm
        planes = self._planes.on(plane)
        paint(image, body, SKIN, pixel_mm)
        paint(image, body - 1.8, FAT + planes * 7, pixel_mm)
        self._glands(image, plane, part, body, planes)
        self._muscles(image, plane, section, body, planes, part)
        self._shoulders(image, plane, part)
        self._ribs(image, plane, section, part)
        return body

    def spine_y(self, plane: Plane) -> float:
        """Y of the middle of the vertebral bodies."""
        part = plane.depth_mm / self.person.lung_mm
        bend = float(np.sin(np.pi * np.clip(part, 0, 1))) * self.person.kyphosis_mm
        return float(44 * self.person.depth + 0.45 * bend + 7 * np.clip(part, 0, 1))

    def spine(self, image: Array, plane: Plane) -> None:
        """Draw a vertebra or a disc, with arch and processes."""
        y = self.spine_y(plane)
        bone, x = self._bone, 0.5 * float(self._lean[0])
        place = (plane.depth_mm + self._disc_phase) % _VERTEBRA_MM
        rim = (1.6, CORTEX * 0.75 * bone)
        if place < 5:
            paint_ellipse(image, plane, (x, y), (18, 14), DISC)
        else:
            paint_ellipse(image, plane, (x, y), (17.5, 14.5), MARROW * bone, rim=rim)
        back = y + 24
        paint_ellipse(image, plane, (x, back - 2), (10, 8), 30)
        for side in (-1, 1):
            lamina = (x + side * 9.5, back + 5)
            paint_ellipse(
                image, plane, lamina, (10, 4), MARROW * bone, turned_deg=side * -38, rim=rim
            )
            if 4 < place < 16:
                paint_ellipse(
                    image, plane, (x + side * 24, back - 1), (15, 5), MARROW * bone,
                    turned_deg=side * 14, rim=rim,
                )  # fmt: skip
                paint_ellipse(
                    image, plane, (x + side * 11, y + 15), (4.5, 8), MARROW * bone, rim=rim
                )
        if place > 7:
            paint_ellipse(image, plane, (x, back + 18), (3.4, 14), MARROW * bone, rim=rim)

    def sternum(self, image: Array, plane: Plane, front_y: float) -> None:
        """Draw manubrium or body of the sternum, in front of the cavity."""
        part = plane.depth_mm / self.person.lung_mm
        if 0.10 < part < 0.74:
            half = 27.0 if part < 0.26 else 17.0
            paint_ellipse(
                image, plane, (0.0, front_y - 9), (half, 6.0), 130 * self._bone,
                rim=(1.4, 480 * self._bone),
            )  # fmt: skip

    # -- outline ----------------------------------------------------------------------------------

    def _body(self, plane: Plane, part: float) -> Array:
        person = self.person
        across, back, middle = self._lungs.sizes(plane)
        shoulders = float(np.interp(part, (-0.2, 0.0, 0.12, 0.25, 0.4), (66, 72, 54, 22, 8)))
        soft = person.fat_mm + person.muscle_mm + 10
        width = across + np.float32(soft + shoulders)
        depth = back + np.float32(0.75 * person.fat_mm + 1.1 * person.muscle_mm + 15)
        # The back is flat: it lies on the table.
        u, v = (plane.x) / width, (plane.y - middle - 2) / depth
        v = np.where(v > 0, v * (1 + 0.10 * np.clip(1 - np.abs(u), 0, 1) * v), v)
        level = u * u * (0.75 + 0.25 * u * u) + v * v * (0.75 + 0.25 * v * v)
        inside = (1 - level) * (width + depth) * np.float32(0.25)
        inside = inside + self._outline.on(plane) * np.float32(3.5)
        if person.breast_mm > 0:
            inside = np.maximum(inside, self._breasts(plane, part, float(depth[0, 0])))
        if not person.arms_up:
            for side in (-1, 1):
                centre = (side * (float(width[0, 0]) + 46), 12.0)
                inside = np.maximum(inside, ellipse(plane.x, plane.y, centre, (44, 48)))
        return np.asarray(inside, dtype=np.float32)

    def _breasts(self, plane: Plane, part: float, depth_mm: float) -> Array:
        person = self.person
        size = 1 - ((part - 0.52) / 0.30) ** 2
        inside = np.full(plane.shape, np.float32(-50))
        if size <= 0:
            return inside
        size = float(np.sqrt(size))
        for side in (-1, 1):
            centre = (side * 84 * person.width, -depth_mm + 34)
            radii = (84 * size, (30 + 0.6 * person.breast_mm) * size)
            breast = ellipse(plane.x, plane.y, centre, radii, side * 18)
            inside = np.maximum(inside, breast)
        return inside

    def _glands(self, image: Array, plane: Plane, part: float, body: Array, planes: Array) -> None:
        """Glandular tissue, less of it with age; strands of connective tissue in all fat."""
        fibres = np.abs(planes + 0.6 * self._fibres.on(plane))
        strands = np.clip(1 - fibres * 7, 0, 1) * np.clip((body - 3) * 0.3, 0, 1)
        image += strands * np.float32(55)
        if self.person.breast_mm > 0 and 0.35 < part < 0.7:
            amount = np.float32(0.9 - self.person.age / 65)
            glands = np.clip(planes + amount, 0, 1) * np.clip((body - 9) * 0.2, 0, 1)
            front = np.clip((-plane.y - 95 * self.person.depth) * 0.1, 0, 1)
            image += glands * front * np.float32(110)

    # -- muscles and bones ------------------------------------------------------------------------

    def _muscles(
        self,
        image: Array,
        plane: Plane,
        section: Section,
        body: Array,
        planes: Array,
        part: float,
    ) -> None:
        person = self.person
        across, back, middle = self._lungs.sizes(plane)
        u, v = plane.x / across, (plane.y - middle) / back
        # Thick beside the spine and under the shoulder blades, thin in front low down.
        high = float(np.interp(part, (0.0, 0.3, 0.6, 1.0), (1.9, 1.5, 0.9, 0.8)))
        thick = person.muscle_mm * (0.55 + high * np.clip(np.abs(u) - 0.25, 0, 0.8))
        erector = ellipse(
            np.abs(plane.x), plane.y, (30.0, float(middle[0, 0] + back[0, 0]) + 8), (30, 22)
        )
        shell = section.cavity + 5 + thick * np.where(v < 0, 1.0, 1.15)
        muscle = np.minimum(np.maximum(shell, erector), body - 0.35 * np.float32(person.fat_mm) - 3)
        texture = MUSCLE + 5 * planes
        paint(image, muscle, texture, plane.grid.pixel_mm)
        # Fat between the muscles' layers.
        layer = np.abs(section.cavity + 7 + 0.55 * thick + 3 * planes)
        gap = np.clip(1.4 - layer, 0, 1) * np.clip(muscle - 2, 0, 1) * (thick > 8)
        image += gap * np.float32(-95)

    def _shoulders(self, image: Array, plane: Plane, part: float) -> None:
        person, bone = self.person, self._bone
        across = float(self._lungs.sizes(plane)[0][plane.grid.rows // 2, 0])
        rim = (1.8, CORTEX * bone)
        up = 12.0 if person.arms_up else 0.0
        for side in (-1, 1):
            if 0.0 < part < 0.52:  # shoulder blade
                outer = side * (across * 0.80 + 18 + up)
                paint_ellipse(
                    image, plane, (outer, 62 - 22 * part + 0.3 * person.kyphosis_mm),
                    (30 * (1 - 0.5 * part), 3.6), MARROW * bone,
                    turned_deg=-side * (52 - 20 * part + up), rim=rim,
                )  # fmt: skip
            if -0.04 < part < 0.10:  # collar bone
                centre = (side * (52 - 300 * part * 0.3), -34 - 60 * part)
                paint_ellipse(
                    image, plane, centre, (40, 6), MARROW * bone, turned_deg=side * 20, rim=rim
                )
            if part < 0.08:  # head of the upper arm
                centre = (side * (across + 62 + up), 18 - up)
                paint_ellipse(image, plane, centre, (24, 24), MARROW * 0.8 * bone, rim=rim)
            elif not person.arms_up:
                centre = (side * (across + 92 + person.fat_mm), 12.0)
                paint_ellipse(image, plane, centre, (34, 38), MUSCLE)
                paint_ellipse(image, plane, centre, (11, 11), 60, rim=(3.5, 1100))

    def _ribs(self, image: Array, plane: Plane, section: Section, part: float) -> None:
        """Rings that sink from spine to sternum: each slice cuts several."""
        if not -0.06 < part < 1.15:
            return
        pixel_mm = plane.grid.pixel_mm
        near = (section.cavity < 1) & (section.cavity > -16)
        rows, columns = np.nonzero(near)
        x, y = plane.x[0, columns], plane.y[rows, 0]
        turn = np.arctan2(np.abs(x), y - 4) / np.float32(np.pi)
        sink = self._rib_drop * (turn - 0.10 * np.sin(2 * np.pi * turn).astype(np.float32))
        depth = plane.depth[rows, 0] + self._rib_phase
        height = (depth - sink) % _RIB_DISTANCE_MM - _RIB_DISTANCE_MM / 2
        out = -section.cavity[rows, columns] - 6.5
        distance = (1 - np.sqrt((out / 4.3) ** 2 + (height / 6.2) ** 2)) * 4.3
        cover = np.clip(distance / pixel_mm + 0.5, 0, 1)
        inner = np.clip((distance - 1.3) / pixel_mm + 0.5, 0, 1)
        hard = CORTEX * self._bone * (1 - inner) + MARROW * self._bone * inner
        front = np.where(turn > 0.78, np.float32(CARTILAGE), hard.astype(np.float32))
        front = np.where(turn < 0.06, image[rows, columns], front)
        image[rows, columns] += cover.astype(np.float32) * (front - image[rows, columns])
