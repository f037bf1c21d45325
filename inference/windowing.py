"""Window-leveling (paper III-A.2): Hounsfield units to the network's input.

A window is an affine map and a clip. It is applied on the device, to slices already cropped,
once per window centre; :func:`apply_window` is the same map for numpy, for training and tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WindowParameters", "apply_window", "normalize"]


@dataclass(frozen=True, slots=True)
class WindowParameters:
    """Windows and normalisation; part of a model bundle.

    Attributes
    ----------
    centers_hu : tuple of float
        Inference centres (paper: -700, -600, -500), averaged over.
    width_hu : float
        Paper: 1200. A window maps [c - w/2, c + w/2] to [0, 1] **(decided)**.
    mean, std : tuple of 3 float
        Of ImageNet; the three equal channels are normalised by them.
    """

    centers_hu: tuple[float, ...] = (-700.0, -600.0, -500.0)
    width_hu: float = 1200.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def apply_window(hu: NDArray[np.generic], center_hu: float, width_hu: float) -> NDArray[np.float32]:
    """Window Hounsfield units to [0, 1].

    Parameters
    ----------
    hu : ndarray, any shape
    center_hu, width_hu : float

    Returns
    -------
    ndarray of float32, shape of `hu`
    """
    scaled = (hu.astype(np.float32) - np.float32(center_hu - width_hu / 2)) / np.float32(width_hu)
    return np.clip(scaled, 0.0, 1.0, dtype=np.float32)


def normalize(windowed: NDArray[np.float32], parameters: WindowParameters) -> NDArray[np.float32]:
    """Three equal channels with ImageNet's mean and standard deviation.

    Parameters
    ----------
    windowed : ndarray of float32, shape (batch, rows, columns)

    Returns
    -------
    ndarray of float32, shape (batch, 3, rows, columns)
    """
    mean = np.array(parameters.mean, dtype=np.float32)[:, None, None]
    std = np.array(parameters.std, dtype=np.float32)[:, None, None]
    return np.asarray((windowed[:, None] - mean) / std, dtype=np.float32)
