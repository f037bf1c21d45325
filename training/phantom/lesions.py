"""Ground-glass patches: hazy, mostly peripheral and in the lower zones, as in viral pneumonia."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.phantom.shapes import Grid, superellipse

__all__ = ["Patch", "ground_glass", "scatter_patches"]


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: an ellipsoid with a soft, irregular border.

    Attributes
    ----------
    centre : (x, y, depth) in mm
    radii : (x, y, depth) in mm
    turned_deg : float
        In the axial plane.
    rise_hu : float
        How much denser than lung it is at its core.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turned_deg: float
    rise_hu: float


def scatter_patches(
    random: np.random.Generator, depth_mm: float, half_width_mm: float, half_height_mm: float
) -> list[Patch]:
    """Place 6 to 9 patches along the pleura, more of them low and at the back.

    Parameters
    ----------
    depth_mm : float
        Extent of the lungs, apex to base.
    half_width_mm, half_height_mm : float
        Of the thoracic cavity.
    """
    patches = []
    for number in range(int(random.integers(6, 10))):
        side = -1.0 if number % 2 else 1.0
        # 0° is lateral, 90° is the back.
        angle = np.deg2rad(random.uniform(-35.0, 68.0))
        inwards = random.uniform(0.74, 0.9)
        centre = (
            side * half_width_mm * inwards * float(np.cos(angle)),
            half_height_mm * inwards * float(np.sin(angle)),
            depth_mm * float(random.beta(4.0, 3.0)),
        )
        size = random.uniform(13.0, 27.0)
        radii = (size, size * random.uniform(0.6, 0.9), size * random.uniform(0.8, 1.3))
        along_pleura = float(np.rad2deg(np.arctan2(np.cos(angle), -side * np.sin(angle))))
        patches.append(Patch(centre, radii, along_pleura, random.uniform(190.0, 380.0)))
    return patches


def ground_glass(
    patches: Sequence[Patch], grid: Grid, depth_mm: float, texture: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the rise in HU that `patches` cause, float32, shape (rows, columns).

    Parameters
    ----------
    texture : ndarray of float32, shape (rows, columns)
        A smooth field that frays the borders and mottles the haze.
    """
    rise = np.zeros((grid.rows, grid.rows), np.float32)
    for patch in patches:
        height = (depth_mm - patch.centre[2]) / patch.radii[2]
        if abs(height) < 1.5:
            level = superellipse(
                grid, patch.centre[:2], patch.radii[:2], turned_deg=patch.turned_deg
            )
            edge = 1.0 + 0.55 * texture - level - np.float32(height**2)
            core = np.clip(edge * 1.4, 0.0, 1.0) * np.float32(patch.rise_hu)
            np.maximum(rise, core * (1.0 + 0.22 * texture), out=rise)
    return rise
