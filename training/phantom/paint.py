"""Painting with soft edges: the part of a pixel that is covered takes the new density."""

from __future__ import annotations

import numpy as np

from training.phantom.geometry import Array, Plane

__all__ = ["ellipse", "paint", "paint_ellipse"]


def paint(image: Array, inside_mm: Array, hu: float | Array, pixel_mm: float) -> None:
    """Paint `hu` where `inside_mm` is positive, in place; edges are one pixel soft."""
    cover = np.clip(inside_mm * np.float32(1 / pixel_mm) + np.float32(0.5), 0, 1)
    image += cover * (np.float32(hu) - image)


def ellipse(
    x: Array,
    y: Array,
    centre: tuple[float, float],
    radii: tuple[float, float],
    turned_deg: float = 0.0,
) -> Array:
    """Return millimetres inside an ellipse, turned from +x towards +y."""
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    if turned_deg:
        angle = np.deg2rad(turned_deg)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    a, b = np.float32(radii[0]), np.float32(radii[1])
    level = np.sqrt((dx / a) ** 2 + (dy / b) ** 2)
    # The gradient of the level differs along the axes; the shorter one rules thin shapes.
    return np.asarray((1 - level) * np.float32(min(radii)), dtype=np.float32)


def paint_ellipse(
    image: Array,
    plane: Plane,
    centre: tuple[float, float],
    radii: tuple[float, float],
    hu: float,
    *,
    turned_deg: float = 0.0,
    rim: tuple[float, float] | None = None,
) -> None:
    """Paint an ellipse, looking only at the pixels around it.

    Parameters
    ----------
    image : ndarray of float32, shape (rows, columns)
        Changed in place.
    centre, radii : (float, float)
        x and y in mm.
    hu : float
    turned_deg : float
        From +x towards +y.
    rim : (float, float) or None
        Thickness in mm and HU of a rim (a bone's cortex, a bowel's wall).
    """
    reach = max(radii) + 2 * plane.grid.pixel_mm
    x, y = plane.x[0], plane.y[:, 0]
    left, right = np.searchsorted(x, (centre[0] - reach, centre[0] + reach))
    top, bottom = np.searchsorted(y, (centre[1] - reach, centre[1] + reach))
    if left >= right or top >= bottom or min(radii) <= 0:
        return
    window = image[top:bottom, left:right]
    inside = ellipse(plane.x[:, left:right], plane.y[top:bottom], centre, radii, turned_deg)
    if rim is not None:
        paint(window, inside, rim[1], plane.grid.pixel_mm)
        inside = inside - np.float32(rim[0])
    paint(window, inside, hu, plane.grid.pixel_mm)
