"""Trees that fill a lung: arteries, veins and bronchi.

Grown as airway models are (Tawhai et al., J Appl Physiol 97:2310, 2004): a cloud of points fills
the lobe; each branch heads for the middle of its points and splits them by a plane, so that every
part of the lung is reached. All branches of one generation grow at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.phantom.tubes import Tubes

__all__ = ["grow_tree"]

_F64 = NDArray[np.float64]


def grow_tree(
    random: np.random.Generator,
    root: _F64,
    points: _F64,
    *,
    twig_mm: float,
    exponent: float,
    share: float = 0.50,
) -> Tubes:
    """Grow one tree from `root` through a cloud of points.

    Parameters
    ----------
    random : numpy Generator
    root : ndarray of float64, shape (3,)
    points : ndarray of float64, shape (n, 3)
        What is to be reached, spread evenly.
    twig_mm : float
        Radius where a single point is left.
    exponent : float
        r^e is the number of points fed (Murray: 3; bronchi and arteries a little less).
    share : float
        A branch goes this part of the way to the middle of its points.

    Returns
    -------
    Tubes
        Each branch in two pieces, bent in the middle.
    """
    starts, ends, radii = [], [], []
    tips = root[None, :].copy()
    normals = random.standard_normal((1, 3))
    group = np.zeros(len(points), np.int64)
    while len(points):
        count = np.bincount(group, minlength=len(tips))
        middle = _means(points, group, len(tips), count)
        alone = count[group] == 1
        part = np.where(count == 1, 1.0, share * random.uniform(0.75, 1.25, len(tips)))
        target = tips + (middle - tips) * part[:, None]
        alive = count > 0
        radius = twig_mm * np.maximum(count, 1) ** (1 / exponent)
        starts.append(tips[alive])
        ends.append(target[alive])
        radii.append(radius[alive])
        # Split each group by a plane through its middle, across the last one.
        way = middle - tips
        normal = np.cross(normals, way) + 0.25 * random.standard_normal(way.shape) * (
            np.linalg.norm(way, axis=1, keepdims=True)
        )
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        points, group = points[~alone], group[~alone]
        beyond = np.einsum("ij,ij->i", points - middle[group], normal[group])
        # Halves are unequal: the larger goes straight on, the smaller turns off.
        spread = np.sqrt(np.bincount(group, beyond**2, len(tips)) / np.maximum(count, 1))
        above = beyond > (spread * random.uniform(-1.5, 1.5, len(tips)))[group]
        group = 2 * group + above
        used, group = np.unique(group, return_inverse=True)
        tips, normals = target[used // 2], normal[used // 2]
    return _bent(random, np.concatenate(starts), np.concatenate(ends), np.concatenate(radii))


def _means(points: _F64, group: NDArray[np.int64], groups: int, count: NDArray[np.int64]) -> _F64:
    sums = [np.bincount(group, points[:, axis], groups) for axis in range(3)]
    return np.stack(sums, axis=1) / np.maximum(count, 1)[:, None]


def _bent(random: np.random.Generator, start: _F64, end: _F64, radius: _F64) -> Tubes:
    """Return each branch as two pieces with a bend between them."""
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    bend = (start + end) / 2 + random.standard_normal(start.shape) * length * 0.035
    radii = np.stack([radius * 1.04, radius * 0.96], axis=1)
    return Tubes(
        np.concatenate([start, bend]),
        np.concatenate([bend, end]),
        np.concatenate([radii, radii * 0.96]),
    )
