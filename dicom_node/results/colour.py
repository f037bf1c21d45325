"""Grey of the lung window, and the colours of the lesion location map."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

__all__ = [
    "LUNG_WINDOW",
    "MOST_ALPHA",
    "blended",
    "lesion_colours",
    "lung_window_grey",
    "srgb_profile",
]

LUNG_WINDOW = (-600.0, 1500.0)
"""Centre and width in HU."""

MOST_ALPHA = 0.4
"""Opacity of the colour at map value 1: the lung below stays readable."""

_LEAST_ALPHA = 0.22  # at the threshold: a border that can be seen
_LOWEST_HU, _HIGHEST_HU = -1024, 3071


@lru_cache(maxsize=1)
def lesion_colours() -> NDArray[np.uint8]:
    """Return the perceptually uniform map "plasma" on the fixed scale 0..1.

    Returns
    -------
    ndarray of uint8, shape (256, 3)
        RGB; row 255 is map value 1.
    """
    ramp = np.arange(256, dtype=np.uint8)
    table = cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA).reshape(256, 3)  # BGR
    return np.ascontiguousarray(table[:, ::-1], dtype=np.uint8)


@lru_cache(maxsize=1)
def _window_table() -> NDArray[np.uint8]:
    """VOI LUT of PS3.3 C.11.2.1.2.1 (LINEAR) for every HU from -1024 to 3071."""
    centre, width = LUNG_WINDOW
    hu = np.arange(_LOWEST_HU, _HIGHEST_HU + 1, dtype=np.float64)
    grey = ((hu - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def lung_window_grey(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return 8-bit grey in the lung window, any shape; `hu` lies in [-1024, 3071]."""
    return np.asarray(_window_table()[hu.astype(np.int32) - _LOWEST_HU])


def blended(
    hu: NDArray[np.int16],
    lesion_map: NDArray[np.float16],
    visible: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.uint8]:
    """Lay the location map over the lung window.

    Parameters
    ----------
    hu : ndarray of int16, shape (rows, columns)
    lesion_map : ndarray of float16, shape (rows, columns)
        In [0, 1], fixed scale.
    visible : ndarray of bool, shape (rows, columns)
        Where the colour is shown; everywhere else the picture is the CT alone.
    threshold : float
        Map value at which the colour begins, in (0, 1).

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        RGB.
    """
    grey = lung_window_grey(hu)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    value = np.clip(lesion_map[visible].astype(np.float32), 0, 1)  # (shown pixels,)
    span = max(1.0 - threshold, 1e-6)
    rise = np.clip((value - threshold) / span, 0, 1)
    alpha = (_LEAST_ALPHA + (MOST_ALPHA - _LEAST_ALPHA) * rise)[:, None]
    colour = lesion_colours()[np.rint(value * 255).astype(np.intp)].astype(np.float32)
    below = grey[visible].astype(np.float32)[:, None]
    rgb[visible] = np.rint(below + alpha * (colour - below)).astype(np.uint8)
    return rgb


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """ICC profile of sRGB (PS3.3 C.11.15), with a fixed date so that its bytes stay the same."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07e8 0001 0001 0000 0000 0000")  # ICC.1 §7.2.8: dateTimeNumber
    return bytes(profile)
