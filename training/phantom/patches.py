"""Lesions as fields: how far inside a patch each point lies, and how dense it is there."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array, Lattice, Mask, Plane, smooth_step
from training.phantom.interior import Interior
from training.phantom.tubes import Tubes

__all__ = [
    "CAVITY",
    "CONSOLIDATION",
    "CRAZY_PAVING",
    "EFFUSION",
    "GROUND_GLASS",
    "NODULE",
    "Blobs",
    "Effusion",
    "Patches",
    "Texture",
    "levelled",
    "no_tubes",
    "uneven_on",
]

GROUND_GLASS, CRAZY_PAVING, CONSOLIDATION, NODULE, CAVITY, EFFUSION = range(1, 7)
_FAR_MM = -60.0
_SEEN = 0.35  # a pixel is lesion where a patch has this part of its density
_F64 = NDArray[np.float64]


def no_tubes() -> Tubes:
    """Return nothing to draw."""
    return Tubes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2)))


@dataclass(frozen=True)
class Texture:
    """Noise that makes the edges and the inside of patches uneven.

    Attributes
    ----------
    broad, fine : Lattice
        Cells of some 14 and 5 mm.
    net : (Lattice, Lattice)
        Their zero lines are the thickened septa of crazy paving.
    """

    broad: Lattice
    fine: Lattice
    net: tuple[Lattice, Lattice]


@dataclass(frozen=True)
class Blobs:
    """Ellipsoids.

    Attributes
    ----------
    centre : ndarray of float64, shape (n, 3)
        x, y, depth in mm.
    radii : ndarray of float64, shape (n, 3)
        Along `normal`, across it in the slice, along the body.
    normal : ndarray of float64, shape (n, 2)
        Unit vectors within the slice.
    """

    centre: _F64
    radii: _F64
    normal: _F64

    def filling(self, ml: float) -> Blobs:
        """Return the blobs, enlarged where they are too small together to fill `ml`."""
        held = float(np.prod(self.radii, axis=1).sum()) * 4.19e-3 * 0.6  # they overlap
        return Blobs(self.centre, self.radii * max(1.0, (ml / held) ** (1 / 3)), self.normal)

    def inside_mm(self, interior: Interior) -> Array:
        """Return mm inside the nearest blob, negative outside, on the lungs' lattice."""
        score = np.full(interior.lobes.shape, np.float32(_FAR_MM))
        x, y = interior.grid.x[0], interior.grid.y[:, 0]
        for centre, radii, normal in zip(self.centre, self.radii, self.normal, strict=True):
            reach = 2.6 * radii.max() + 8
            windows = []
            for axis, values in ((2, interior.depths_mm), (1, y), (0, x)):
                low, high = np.searchsorted(values, (centre[axis] - reach, centre[axis] + reach))
                windows.append(slice(int(low), int(high)))
            window = (windows[0], windows[1], windows[2])
            dz = (interior.depths_mm[windows[0]] - centre[2]).astype(np.float32)[:, None, None]
            dy = (y[windows[1]] - np.float32(centre[1]))[None, :, None]
            dx = (x[windows[2]] - np.float32(centre[0]))[None, None, :]
            along = dx * np.float32(normal[0]) + dy * np.float32(normal[1])
            across = dy * np.float32(normal[0]) - dx * np.float32(normal[1])
            a, b, c = (np.float32(radius) for radius in radii)
            level = np.sqrt((along / a) ** 2 + (across / b) ** 2 + (dz / c) ** 2)
            inside = (1 - level) * np.float32(radii.mean())
            np.maximum(score[window], inside, out=score[window])
        return score


@dataclass(frozen=True)
class Effusion:
    """Fluid behind a lung: below a curved level, on one side.

    Attributes
    ----------
    side : int
        −1 right, 1 left.
    level_mm : float
        Height of the fluid above the back of the cavity at the lungs' base.
    top_part : float
        Where it begins, as part of the lungs' height.
    """

    side: int
    level_mm: float
    top_part: float

    def inside_mm(self, plane: Plane, cavity: Array, back_y: Array, part: float) -> Array:
        """Return mm inside the fluid, float32, shape (rows, columns)."""
        rise = float(np.clip((part - self.top_part) / (1 - self.top_part), 0, 1.05))
        level = self.level_mm * rise**0.7
        # The meniscus: fluid climbs along the chest wall.
        climb = 14 * np.exp(-np.clip(cavity, 0, None) / 9) * min(1.0, 3 * rise)
        inside = plane.y - (back_y - np.float32(level) - climb.astype(np.float32))
        inside = np.where(plane.x * self.side > 0, inside, np.float32(-50))
        return np.asarray(inside if rise > 0 else inside * 0 - 50, dtype=np.float32)


@dataclass(frozen=True)
class Patches:
    """All lesions of a person.

    Attributes
    ----------
    haze, solid : Lattice or None
        Millimetres inside ground glass and consolidation, noise left out.
    haze_hu, solid_hu : float
    haze_edge_mm, solid_edge_mm : float
        Half width of the edges.
    unevenness_mm : float
        How far noise moves the edges.
    net : float
        Strength of crazy paving, 0 to 1.
    lobes : tuple of int
        Lobes that hold them; a fissure is a sharp border. Empty: all.
    nodules, bands : Tubes
    nodule_hu : float
    cavities : Blobs or None
        Air with a wall, on the lattice.
    cavity : Lattice or None
    effusion : Effusion or None
    severity_percent : float
        Asked for.
    bronchograms : bool
        Bronchi stay open in consolidation.
    """

    haze: Lattice | None = None
    solid: Lattice | None = None
    haze_hu: float = -600.0
    solid_hu: float = 25.0
    haze_edge_mm: float = 6.0
    solid_edge_mm: float = 2.5
    unevenness_mm: float = 4.0
    net: float = 0.0
    lobes: tuple[int, ...] = ()
    nodules: Tubes = field(default_factory=no_tubes)
    nodule_hu: float = 20.0
    bands: Tubes = field(default_factory=no_tubes)
    cavity: Lattice | None = None
    effusion: Effusion | None = None
    severity_percent: float = 0.0
    bronchograms: bool = False

    def paint(
        self, lung: Array, plane: Plane, lobes: NDArray[np.uint8], texture: Texture
    ) -> tuple[Array, NDArray[np.uint8]]:
        """Make the patches denser than the lung around them, in place.

        Parameters
        ----------
        lung : ndarray of float32, shape (rows, columns)
            HU of lung without vessels, everywhere.
        plane : Plane
        lobes : ndarray of uint8, same shape
            Nearest lobe, outside the lungs too.
        texture : Texture

        Returns
        -------
        solid : ndarray of float32
            0 to 1: how much of each pixel is consolidated.
        types : ndarray of uint8
            What the lesion mask holds there.
        """
        types = np.zeros(plane.shape, np.uint8)
        nothing = np.zeros(plane.shape, np.float32)
        if self.haze is None and self.solid is None:
            return nothing, types
        broad, fine = texture.broad.on(plane), texture.fine.on(plane)
        uneven = (0.75 * broad + 0.45 * fine) * np.float32(self.unevenness_mm)
        allowed = self._allowed(lobes)
        solid = nothing
        if self.haze is not None:
            amount = smooth_step(self.haze.on(plane) + uneven, self.haze_edge_mm) * allowed
            self._add_haze(lung, plane, amount, (broad, fine), types, texture)
        if self.solid is not None:
            inside = self.solid.on(plane) + 0.8 * uneven
            solid = smooth_step(inside, self.solid_edge_mm) * allowed
            lung += solid * (np.float32(self.solid_hu) + 14 * fine - lung)
            types[solid > 0.5] = CONSOLIDATION
        if self.cavity is not None:
            self._hollow(lung, plane, allowed, types, 0.4 * uneven)
        return np.asarray(solid, np.float32), types

    def _allowed(self, lobes: NDArray[np.uint8]) -> Array:
        """Return 1 in the lobes concerned, with soft borders at fissures."""
        if not self.lobes:
            return np.ones(lobes.shape, np.float32)
        inside = np.isin(lobes, self.lobes).astype(np.float32)
        return np.asarray(cv2.GaussianBlur(inside, (0, 0), 0.8), dtype=np.float32)

    def _add_haze(
        self,
        lung: Array,
        plane: Plane,
        amount: Array,
        noise: tuple[Array, Array],
        types: NDArray[np.uint8],
        texture: Texture,
    ) -> None:
        broad, fine = noise
        dense = np.clip(0.82 + 0.20 * broad + 0.16 * fine, 0.25, 1.25) * amount
        lung += dense * np.clip(np.float32(self.haze_hu) - lung, 0, None)
        types[amount > _SEEN] = GROUND_GLASS
        if self.net > 0:
            lines = np.minimum(np.abs(texture.net[0].on(plane)), np.abs(texture.net[1].on(plane)))
            where = np.clip(broad + np.float32(2.4 * self.net - 0.9), 0, 1) * amount
            lung += np.clip(1 - lines * 4.5, 0, 1) * where * np.float32(210)
            types[(where > 0.4) & (amount > _SEEN)] = CRAZY_PAVING

    def _hollow(
        self, lung: Array, plane: Plane, allowed: Array, types: NDArray[np.uint8], uneven: Array
    ) -> None:
        if self.cavity is None:
            return
        inside = self.cavity.on(plane) + uneven
        wall = smooth_step(inside + 4.5, 1.5) * allowed
        lung += wall * (np.float32(30) - lung)
        lung += smooth_step(inside, 1.2) * allowed * (np.float32(-960) - lung)
        types[wall > 0.5] = CAVITY


def levelled(
    score: Array, noise: Array, interior: Interior, where: Mask, percent: float, edge_mm: float
) -> Lattice:
    """Return `score` shifted so that the mask of its patch fills `percent` of the lungs.

    Parameters
    ----------
    score : ndarray of float32, shape of the lungs' lattice
        Millimetres inside.
    noise : ndarray of float32, same shape
        Added when the patch is painted.
    interior : Interior
    where : ndarray of bool
        Where the patch may be.
    percent : float
    edge_mm : float
        Half width of its edge.
    """
    values = score[where] + noise[where]
    wanted = round(np.count_nonzero(interior.lobes) * percent / 100)
    wanted = min(len(values) - 1, max(1, wanted))
    level = float(np.partition(values, len(values) - wanted)[len(values) - wanted])
    # The mask begins where the edge has reached `_SEEN`, not at its middle.
    return interior.lattice(score - np.float32(level + 0.2 * edge_mm))


def uneven_on(interior: Interior, texture: Texture, unevenness_mm: float) -> Array:
    """Return the noise that moves edges, on the lungs' lattice."""
    planes = [interior.grid.at(float(depth)) for depth in interior.depths_mm]
    return np.stack(
        [
            (0.75 * texture.broad.on(plane) + 0.45 * texture.fine.on(plane))
            * np.float32(unevenness_mm)
            for plane in planes
        ]
    )
