"""Where foci of disease begin: points chosen by weight, ellipsoids and bands around them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array
from training.phantom.interior import Interior
from training.phantom.patches import Blobs
from training.phantom.tubes import Tubes

__all__ = ["choose", "ellipsoids", "points", "subpleural_bands"]

_F64 = NDArray[np.float64]


def choose(random: np.random.Generator, interior: Interior, weights: Array, count: int) -> _F64:
    """Return `count` points of the lungs, (count, 3), as likely as `weights` says."""
    flat = np.cumsum(weights.ravel(), dtype=np.float64)
    places = np.searchsorted(flat, random.random(count) * flat[-1])
    index = np.unravel_index(np.minimum(places, flat.size - 1), weights.shape)
    at = np.stack(
        [interior.grid.x[0, index[2]], interior.grid.y[index[1], 0], interior.depths_mm[index[0]]],
        axis=1,
    )
    return np.asarray(at + random.uniform(-1.5, 1.5, at.shape), dtype=np.float64)


def ellipsoids(
    random: np.random.Generator,
    centres: _F64,
    radius_mm: float,
    shape: tuple[float, float, float],
    *,
    spread: float,
) -> Blobs:
    """Return blobs around `centres`, their first axis pointing from the middle of the lung.

    Parameters
    ----------
    radius_mm : float
        Mean radius.
    shape : (float, float, float)
        Radii along the normal, across it and along the body, as parts of the mean one.
    spread : float
        How much radii differ (standard deviation of their logarithm).
    """
    count = len(centres)
    sizes = radius_mm * np.exp(random.normal(0, spread, (count, 1)))
    radii = sizes * np.asarray(shape) * np.exp(random.normal(0, 0.18, (count, 3)))
    middle = np.stack([np.sign(centres[:, 0]) * 68, np.full(count, 5.0)], axis=1)
    way = centres[:, :2] - middle + random.normal(0, 12, (count, 2))
    normal = way / (np.linalg.norm(way, axis=1, keepdims=True) + 1e-9)
    return Blobs(centres, radii, normal)


def points(centres: _F64, radii: _F64) -> Tubes:
    """Return balls, as pieces of tube without length."""
    return Tubes(centres, centres + np.array([0.0, 0.0, 1e-3]), np.stack([radii, radii], axis=1))


def subpleural_bands(random: np.random.Generator, near: _F64, count: int) -> Tubes:
    """Return thin bands that run along or towards the pleura, near some points."""
    starts, ends, radii = [], [], []
    for _ in range(count):
        start = near[random.integers(len(near))] + random.normal(0, 6, 3)
        way = random.normal(0, 1, 3) * (1.0, 1.0, 0.35)
        length = random.uniform(10, 32)
        end = start + way / np.linalg.norm(way) * length
        middle = (start + end) / 2 + random.normal(0, 0.10 * length, 3)
        radius = random.uniform(0.6, 1.6)
        starts += [start, middle]
        ends += [middle, end]
        radii += [[0.6 * radius, radius], [radius, 0.5 * radius]]
    return Tubes(np.reshape(starts, (-1, 3)), np.reshape(ends, (-1, 3)), np.reshape(radii, (-1, 2)))
