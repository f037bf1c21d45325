"""Random changes of one training slice, in HU, on the CPU (numpy and OpenCV)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.recipe import Augmentation

__all__ = ["Augmented", "augment", "resize_crop"]

AIR_HU = -1024.0
REFERENCE_COLUMNS = 512

Plane = NDArray[np.float32]


class Augmented(NamedTuple):
    """One slice, changed at random.

    Attributes
    ----------
    plane : ndarray of float32, shape (S, S)
        HU.
    center_hu : float
        Of the window.
    mask : ndarray of float32, shape (S, S), or None
        Moved as the slice was.
    """

    plane: Plane
    center_hu: float
    mask: Plane | None


def resize_crop(crop: NDArray[np.int16 | np.uint8], size: int) -> NDArray[np.float32]:
    """A cached crop at the training size, by area.

    Parameters
    ----------
    crop : ndarray of int16, shape (S, S)
    size : int
        At most S.

    Returns
    -------
    ndarray of float32, shape (size, size)
    """
    if crop.shape[0] == size:
        return crop.astype(np.float32)
    resized = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.float32)


def augment(
    plane: Plane, recipe: Augmentation, rng: np.random.Generator, mask: Plane | None = None
) -> Augmented:
    """Change a slice at random and draw its window centre.

    Parameters
    ----------
    plane : ndarray of float32, shape (S, S)
        HU.
    recipe : Augmentation
    rng : numpy.random.Generator
        All randomness comes from it.
    mask : ndarray of float32, shape (S, S), or None
        Something that belongs to places of the slice.
    """
    center_hu = float(rng.uniform(*recipe.center_hu))
    if rng.random() < recipe.flip_columns:
        plane = plane[:, ::-1]
        mask = None if mask is None else mask[:, ::-1]
    if rng.random() < recipe.flip_rows:
        plane = plane[::-1]
        mask = None if mask is None else mask[::-1]
    plane = np.ascontiguousarray(plane)
    if recipe.zoom or recipe.rotate_deg or recipe.shift:
        matrix = _motion(plane.shape[0], recipe, rng)
        plane = _moved(plane, matrix)
        mask = None if mask is None else _moved(np.ascontiguousarray(mask), matrix)
    if recipe.motion and rng.random() < recipe.motion:
        plane = _blurred_by_motion(plane, rng)
    if recipe.blur_px:
        sigma = rng.uniform(0.0, recipe.blur_px) * plane.shape[1] / REFERENCE_COLUMNS
        if sigma > 0.15:  # narrower ones change nothing
            plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), dtype=np.float32)
    if recipe.gain or recipe.offset_hu:
        gain = 1.0 + rng.uniform(-recipe.gain, recipe.gain)
        offset = rng.uniform(-recipe.offset_hu, recipe.offset_hu)
        # About air: what is scaled is density, not the number -1000.
        plane = np.asarray((plane - AIR_HU) * gain + (AIR_HU + offset), dtype=np.float32)
    if recipe.noise_hu:
        plane = plane + _noise(plane.shape, recipe.noise_hu, rng)
    return Augmented(plane, center_hu, mask)


def _motion(size: int, recipe: Augmentation, rng: np.random.Generator) -> NDArray[np.floating]:
    """Draw a rotation, scale and shift: an affine matrix of shape (2, 3)."""
    middle = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D(
        (middle, middle),
        rng.uniform(-recipe.rotate_deg, recipe.rotate_deg),
        1.0 + rng.uniform(-recipe.zoom, recipe.zoom),
    )
    matrix[:, 2] += rng.uniform(-recipe.shift, recipe.shift, 2) * size
    return np.asarray(matrix)


def _moved(plane: Plane, matrix: NDArray[np.floating]) -> Plane:
    size = plane.shape[0]
    moved = cv2.warpAffine(
        plane, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, dtype=np.float32)


def _blurred_by_motion(plane: Plane, rng: np.random.Generator) -> Plane:
    """The mean of copies along a short path: where edges move, double contours and haze.

    Pulsation moves a neighbourhood of the heart (which lies right of the middle on the display,
    or left of it after a flip), breathing the whole slice.
    """
    size = plane.shape[0]
    length = rng.uniform(0.008, 0.03) * size
    angle = rng.uniform(0, 2 * np.pi)
    copies = int(rng.integers(2, 5))
    total = np.zeros_like(plane)
    for place in np.linspace(-0.5, 0.5, copies):
        shift = place * length
        matrix = np.array([[1, 0, shift * np.cos(angle)], [0, 1, shift * np.sin(angle)]])
        total += cv2.warpAffine(plane, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    mean = total / np.float32(copies)
    if rng.random() < 0.3:
        return np.asarray(mean, dtype=np.float32)
    y, x = rng.uniform(0.3, 0.7), rng.choice([0.38, 0.62]) + rng.uniform(-0.08, 0.08)
    width = rng.uniform(0.12, 0.25)
    axis = np.arange(size, dtype=np.float32) / size
    across = np.exp(-(((axis - x) / width) ** 2))
    along = np.exp(-(((axis - y) / width) ** 2))
    weight = np.outer(along, across).astype(np.float32)
    return np.asarray(plane + weight * (mean - plane), dtype=np.float32)


def _noise(shape: tuple[int, ...], largest_hu: float, rng: np.random.Generator) -> Plane:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.5:
        # Correlated over a pixel or so, brought back to a standard deviation of 1.
        sigma = rng.uniform(0.5, 1.2)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma)
        noise /= max(float(noise.std()), 1e-6)
    return np.asarray(noise * np.float32(rng.uniform(0.0, largest_hu)), dtype=np.float32)
