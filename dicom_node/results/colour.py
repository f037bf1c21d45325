"""Grey of the lung window, and the colours of the lesion location map."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

__all__ = [
    "LUNG_WINDOW",
    "MOST_ALPHA",
    "SCALE_LOGITS",
    "blended",
    "lesion_colours",
    "lung_window_grey",
    "scale_colours",
    "scale_value",
    "srgb_profile",
]

LUNG_WINDOW = (-600.0, 1500.0)
"""Centre and width in HU."""

MOST_ALPHA = 0.4
"""Opacity of the colour at the scale's end: the lung below stays readable."""

SCALE_LOGITS = 4.0
"""How far the colour scale reaches above the threshold: to odds e⁴ = 55 times as high."""

_FIRST_COLOUR = 0.3  # of plasma, at the threshold: violet that can be told from dark lung
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
def scale_colours() -> NDArray[np.uint8]:
    """Return the colours of the location map, from its threshold to the end of the scale.

    The scale is one of log-odds: the best threshold of a network may lie close to 1, and on a scale
    of probabilities everything above it would have one colour. It is the same for every slice and
    every patient that a model reads.

    Returns
    -------
    ndarray of uint8, shape (256, 3)
        RGB; row 0 is the threshold, row 255 is :func:`scale_value` of 1.
    """
    rows = np.linspace(_FIRST_COLOUR * 255, 255, 256).round().astype(np.intp)
    return lesion_colours()[rows]


def scale_value(position: float, threshold: float) -> float:
    """Map value at a place of the colour scale.

    Parameters
    ----------
    position : float
        0 at the threshold, 1 at the end.
    threshold : float
        Of the lesion map, in (0, 1).
    """
    odds = threshold / (1 - threshold) * math.exp(SCALE_LOGITS * position)
    return odds / (1 + odds)


def _scale_position(value: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Inverse of :func:`scale_value`, cut off at both ends."""
    inside = np.clip(value, 1e-7, 1 - 1e-7, dtype=np.float64)
    logits = np.log(inside / (1 - inside)) - math.log(threshold / (1 - threshold))
    return np.clip(logits / SCALE_LOGITS, 0, 1).astype(np.float32)


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
        In [0, 1].
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
    place = _scale_position(lesion_map[visible].astype(np.float32), threshold)  # (shown pixels,)
    alpha = (_LEAST_ALPHA + (MOST_ALPHA - _LEAST_ALPHA) * place)[:, None]
    colour = scale_colours()[np.rint(place * 255).astype(np.intp)].astype(np.float32)
    below = grey[visible].astype(np.float32)[:, None]
    rgb[visible] = np.rint(below + alpha * (colour - below)).astype(np.uint8)
    return rgb


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """ICC profile of sRGB (PS3.3 C.11.15), with a fixed date so that its bytes stay the same."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07e8 0001 0001 0000 0000 0000")  # ICC.1 §7.2.8: dateTimeNumber
    return bytes(profile)
