"""One synthetic patient in one scanner: slices in HU, and the truth about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.errors import PhantomError
from training.phantom.artefacts import draw_motion
from training.phantom.bronchovascular import grow_bronchovascular
from training.phantom.geometry import Array, Grid, Plane, smooth_field, stream
from training.phantom.incidental import draw_incidental
from training.phantom.interior import look_inside
from training.phantom.lesions_cap import cap
from training.phantom.lesions_covid19 import covid19
from training.phantom.lesions_h1n1 import h1n1
from training.phantom.lungs import Lungs, Section
from training.phantom.organs import Organs
from training.phantom.patches import EFFUSION, NODULE, Patches, Texture
from training.phantom.person import Family, draw_person
from training.phantom.scanner import Scanner, acquire, draw_scanner
from training.phantom.shares import Shares
from training.phantom.surroundings import Surroundings
from training.phantom.wall import Wall

__all__ = ["BOTTOM_PART", "SEVERITIES", "TOP_PART", "Case", "TrueSlice", "draw_severity"]

# Percent of the lungs; test phantoms reach further at both ends.
SEVERITIES = {Family.TRAINING: (0.5, 50.0), Family.TEST: (0.3, 60.0)}
TOP_PART, BOTTOM_PART = -0.05, 1.07  # what a scan covers, as parts of the lungs' height
_MAX_SLICES = 495
_MIN_SLICES = 24
_LUNG_MM = (160.0, 340.0)  # how far a person is stretched to fit a scan


@dataclass(frozen=True, slots=True)
class TrueSlice:
    """A slice and what is true of it.

    Attributes
    ----------
    hu : ndarray of int16, shape (rows, columns)
    lung : ndarray of bool
    lobes, lesion : ndarray of uint8
        As in ``truth.npz``.
    """

    hu: NDArray[np.int16]
    lung: NDArray[np.bool_]
    lobes: NDArray[np.uint8]
    lesion: NDArray[np.uint8]


def draw_severity(seed: int, family: Family) -> float:
    """Return a severity in percent of the lungs: small ones are more frequent than large ones."""
    low, high = SEVERITIES[family]
    return float(low * (high / low) ** (stream(seed, "severity").random() ** 0.8))


class Case:
    """A synthetic patient.

    Parameters
    ----------
    label : DiseaseClass
    seed : int
    family : Family
    slices : int or None
        Drawn from thickness and size where None.
    slice_mm : float or None
        Distance of slices; drawn where None.
    thickness_mm : float or None
        Of slices; None: their distance. Thinner ones leave gaps, as in high-resolution CT.
    rows : int
        Rows and columns.
    severity_percent : float or None
        Share of the lungs that is diseased, before vessels; drawn where None.
    scanner : Scanner or None
        Drawn where None.
    shares : Shares or None
        How likely artefacts and incidental findings are.

    Raises
    ------
    PhantomError
        Where sizes are out of range.

    Notes
    -----
    Given both `slices` and `slice_mm`, the person is made to fit the scan, within what lungs there
    are; a shorter scan shows their middle.
    """

    def __init__(
        self,
        label: DiseaseClass,
        seed: int,
        *,
        family: Family = Family.TRAINING,
        slices: int | None = None,
        slice_mm: float | None = None,
        thickness_mm: float | None = None,
        rows: int = 512,
        severity_percent: float | None = None,
        scanner: Scanner | None = None,
        shares: Shares | None = None,
    ) -> None:
        _require_sizes(slices, slice_mm, rows, severity_percent)
        _require_sizes(None, thickness_mm, rows, None)
        self.label, self.seed, self.family = label, seed, family
        self._shares = shares or Shares()
        person = draw_person(seed, family)
        span = (BOTTOM_PART - TOP_PART) * person.lung_mm
        if slice_mm is None and slices is not None:
            slice_mm = float(np.clip(round(span / slices, 2), 0.3, 20))
        thick = thickness_mm or slice_mm
        self.scanner = scanner or draw_scanner(seed, family, 330 * person.width, thick, rows)
        self.slice_mm = slice_mm or self.scanner.thickness_mm
        self.thickness_mm = thickness_mm or self.slice_mm
        if slices is None:
            self.slices = int(np.clip(np.ceil(span / self.slice_mm), _MIN_SLICES, _MAX_SLICES))
        else:
            self.slices = slices
            lung_mm = self.slices * self.slice_mm / (BOTTOM_PART - TOP_PART)
            person = replace(person, lung_mm=float(np.clip(lung_mm, *_LUNG_MM)))
        self.person = person
        self.rows = rows
        slope = float(np.tan(np.deg2rad(self.scanner.tilt_deg)))
        self.grid = Grid(rows, rows, self.scanner.pixel_mm, self.scanner.centre_mm, slope)
        self.severity_asked = 0.0
        if label is not DiseaseClass.HEALTHY:
            self.severity_asked = severity_percent or draw_severity(seed, family)
        self._grown = False

    def _grow(self) -> None:
        """Make the patient, when first looked at: lungs, trees, findings, lesions."""
        if self._grown:
            return
        self._grown = True
        seed, person = self.seed, self.person
        self._lungs = Lungs(person, seed)
        self._wall, self._organs = Wall(self._lungs, seed), Organs(self._lungs, seed)
        self._around = Surroundings(seed, self._lungs, self.scanner.table)
        self._interior = look_inside(self._lungs)
        self._trees = grow_bronchovascular(self._interior, person, seed)
        visible = self._trees.lumina.radius[:, 0] > 1.05
        self._walls = self._trees.bronchi.pick(visible)
        self._lumina = self._trees.lumina.pick(visible)
        self._finest = self._trees.lumina.scaled(1.15)
        self._motion = draw_motion(seed, self.family, self._shares)
        self._incidental = draw_incidental(
            seed, self._lungs, self._interior, self.family, self._shares
        )
        random = stream(seed, "texture")
        depths = (-0.2 * person.lung_mm, 1.2 * person.lung_mm)
        self._fields = tuple(smooth_field(random, cell, depths) for cell in (34.0, 9.0, 3.4))
        self._texture = Texture(
            smooth_field(random, 14.0, depths), smooth_field(random, 5.0, depths),
            (smooth_field(random, 7.0, depths), smooth_field(random, 8.0, depths)),
        )  # fmt: skip
        self._patches = self._lesions()

    def _lesions(self) -> Patches:
        random = stream(self.seed, f"lesions/{self.label.key}")
        common = (random, self._interior, self.person, self._texture)
        if self.label is DiseaseClass.COVID19:
            return covid19(*common, self.severity_asked)
        if self.label is DiseaseClass.H1N1:
            return h1n1(*common, self._trees, self.severity_asked)
        if self.label is DiseaseClass.CAP:
            return cap(*common, self._trees, self.severity_asked)
        return Patches()

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Names of movement and incidental findings."""
        self._grow()
        return (*self._motion.names, *self._incidental.names)

    @property
    def has_effusion(self) -> bool:
        """Whether fluid lies behind a lung."""
        self._grow()
        return self._patches.effusion is not None

    @property
    def has_cavity(self) -> bool:
        """Whether consolidation holds a cavity."""
        self._grow()
        return self._patches.cavity is not None

    @property
    def has_bronchograms(self) -> bool:
        """Whether bronchi stay open in consolidation."""
        self._grow()
        return self._patches.bronchograms

    # -- slices -----------------------------------------------------------------------------------

    def depth_mm(self, index: int) -> float:
        """Return the depth of the middle of a slice."""
        covered = (BOTTOM_PART - TOP_PART) * self.person.lung_mm
        left_out = max(0.0, covered - self.slices * self.slice_mm) / 2
        top = TOP_PART * self.person.lung_mm + left_out
        return top + (index + 0.5) * self.slice_mm

    def __iter__(self) -> Iterator[TrueSlice]:
        for index in range(self.slices):
            yield self.draw(index)

    def draw(self, index: int) -> TrueSlice:
        """Draw one slice; index 0 is the most superior one."""
        self._grow()
        random = stream(self.seed, f"slice/{index}")
        depth = self._motion.depth(self.depth_mm(index))
        part = depth / self.person.lung_mm
        smear = self._motion.spread(part)
        thick = float(np.hypot(self.thickness_mm, smear))
        count = 1 + (thick > 2.4) + (thick > 4.4) + (thick > 7.5) + 2 * (smear > 3)
        offsets = (np.arange(count) - (count - 1) / 2) * thick / count
        # Lungs change fast with depth; for what is around them two layers do.
        groups = np.array_split(offsets, min(count, 2))
        layers = []
        for group in groups:
            around = self._tissue(self.grid.at(depth + float(group.mean())))
            for offset in group:
                plane = self.grid.at(depth + float(offset))
                layers.append(self._layer(plane, thick / count, around))
        middle = layers[count // 2]
        image = _mean([layer.image for layer in layers])
        solid = _mean([layer.solid for layer in layers])
        plane = self.grid.at(depth)
        lesion = self._thread(image, plane, thick, middle, solid)
        image = self._motion.beat(image, plane, self._lungs, random)
        image = acquire(image, middle.body, plane, self.scanner, random)
        return TrueSlice(self._stored(image), middle.lobes > 0, middle.lobes, lesion)

    def _tissue(self, plane: Plane) -> tuple[Array, Array]:
        """Draw everything but lungs, infinitely thin; return it and mm inside the body."""
        section = self._lungs.section(plane)
        image = np.full(plane.shape, np.float32(-1000))
        self._around.draw(image, plane)
        body = self._wall.draw(image, plane, section)
        self._organs.draw(image, plane, section)
        _, back, middle = self._lungs.sizes(plane)
        self._wall.spine(image, plane)
        front = float((middle - back)[plane.grid.rows // 2, 0])
        self._wall.sternum(image, plane, front)
        return image, body

    def _layer(self, plane: Plane, thick_mm: float, tissue: tuple[Array, Array]) -> _Layer:
        """Lay the lungs over what is around them, tubes left out."""
        person, pixel_mm = self.person, plane.grid.pixel_mm
        section = self._lungs.section(plane)
        around = self._lungs.lobes(plane, section)
        lobes = np.where(section.lung > 0, around, np.uint8(0))
        image, body = tissue[0].copy(), tissue[1]
        _, back, middle = self._lungs.sizes(plane)
        lung = self._parenchyma(plane, section, (plane.y - middle) / back)
        self._incidental.thin(lung, plane, section, person)
        self._draw_fissures(lung, plane, section, thick_mm)
        solid, lesion = self._patches.paint(lung, plane, around, self._texture)
        np.clip(lung, -1000, 120, out=lung)
        cover = np.clip(section.lung / np.float32(pixel_mm) + np.float32(0.5), 0, 1)
        image += cover * (lung - image)
        fluid = self._patches.effusion
        if fluid is not None:
            part = plane.depth_mm / person.lung_mm
            inside = fluid.inside_mm(plane, section.cavity, middle + back, part)
            inside = np.minimum(inside, section.lung)
            image += np.clip(inside / pixel_mm + 0.5, 0, 1) * (np.float32(12) - image)
            wet = inside > 0
            lobes[wet] = 0
            lesion[wet] = EFFUSION
        lesion[(lobes == 0) & (lesion != EFFUSION)] = 0
        return _Layer(image, solid, lobes, lesion, body, section)

    def _parenchyma(self, plane: Plane, section: Section, v: Array) -> Array:
        person = self.person
        broad, middle, fine = (field.on(plane) for field in self._fields)
        lung = np.float32(person.lung_hu) + np.float32(0.5 * person.gradient_hu) * v
        # Denser right below the pleura and around the hila, where small vessels crowd.
        lung = lung + 9 * broad + 7 * middle + 12 * fine + 6 * np.clip(fine - 1, 0, None)
        return np.asarray(lung + 26 * np.exp(-np.clip(section.lung, 0, None) / 1.6), np.float32)

    def _draw_fissures(self, lung: Array, plane: Plane, section: Section, thick_mm: float) -> None:
        right, left, minor = self._lungs.fissures(plane)
        oblique = np.abs(np.where(plane.x < 0, right, left))
        horizontal = np.abs(minor) + np.clip(right, 0, None) * 3 + 99 * (plane.x > 0)
        distance = np.minimum(oblique, horizontal)
        half = 0.7 + 0.36 * thick_mm + 0.3 * plane.grid.pixel_mm
        line = np.clip(1 - distance / half, 0, 1) * (0.75 / half)
        shown = np.clip(0.55 + 0.5 * self._fields[0].on(plane), 0.1, 1)
        lung += line * shown * np.float32(170) * (section.lung > 2)

    def _thread(
        self, image: Array, plane: Plane, thick: float, layer: _Layer, solid: Array
    ) -> NDArray[np.uint8]:
        """Draw vessels, bronchi, nodules and bands; return the lesion mask."""
        lesion, person = layer.lesion, self.person
        section = layer.section
        room = np.clip(np.minimum(section.cavity, section.diaphragm - 1), 0, 1)
        dry = room * (lesion != EFFUSION)
        findings = self._incidental
        for tubes, hu in (
            (findings.scars, -60.0), (findings.nodules, 380.0 if findings.calcified else 15.0),
            (self._patches.bands, -120.0), (self._patches.nodules, self._patches.nodule_hu),
        ):  # fmt: skip
            if len(tubes) == 0:
                continue
            cover = tubes.cover(plane, thick) * dry
            image += cover * np.clip(np.float32(hu) - image, 0, None)
            if tubes is self._patches.nodules:
                lesion[(cover > 0.45) & (layer.lobes > 0) & (lesion == 0)] = NODULE
            elif tubes is self._patches.bands:
                lesion[(cover > 0.4) & (layer.lobes > 0) & (lesion == 0)] = 3
        trees = self._trees
        blood = np.maximum(trees.arteries.cover(plane, thick), trees.veins.cover(plane, thick))
        image += blood * dry * np.clip(np.float32(person.blood_hu) - image, 0, None)
        open_air = np.float32(1) if self._patches.bronchograms else (1 - solid)
        wall = self._walls.cover(plane, thick) * (1 - solid)
        body = np.clip(layer.body - 8, 0, 1)
        image += wall * np.clip(np.float32(-120) - image, 0, None) * body
        image += self._lumina.cover(plane, thick) * body * open_air * (np.float32(-985) - image)
        if self._patches.bronchograms and float(solid.max()) > 0.3:
            fine = self._finest.cover(plane, thick) * np.clip(2 * solid - 0.6, 0, 1)
            image += fine * (np.float32(-900) - image) * np.float32(0.85)
        return lesion

    def _stored(self, image: Array) -> NDArray[np.int16]:
        stored = np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
        if self.scanner.padding_hu is not None:
            rows = self.rows
            axis = (np.arange(rows) - (rows - 1) / 2) / (rows / 2)
            stored[axis[:, None] ** 2 + axis[None, :] ** 2 > 1] = self.scanner.padding_hu
        return stored


@dataclass(frozen=True, slots=True)
class _Layer:
    image: Array
    solid: Array
    lobes: NDArray[np.uint8]
    lesion: NDArray[np.uint8]
    body: Array
    section: Section


def _mean(images: list[Array]) -> Array:
    total = images[0].copy()
    for image in images[1:]:
        total += image
    return total / np.float32(len(images))


def _require_sizes(
    slices: int | None, slice_mm: float | None, rows: int, severity_percent: float | None
) -> None:
    if slices is not None and not 1 <= slices <= 2000:
        raise PhantomError(f"a phantom has 1 to 2000 slices, not {slices}")
    if slice_mm is not None and not 0.3 <= slice_mm <= 20:
        raise PhantomError(f"slices are 0.3 to 20 mm thick, not {slice_mm:g}")
    if not 64 <= rows <= 1024:
        raise PhantomError(f"a slice has 64 to 1024 rows, not {rows}")
    if severity_percent is not None and not 0.1 <= severity_percent <= 80:
        raise PhantomError(
            f"a severity is 0.1 to 80 percent of the lungs, not {severity_percent:g}"
        )
