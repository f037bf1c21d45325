"""Is this a chest? Two large air-filled regions inside a body, of a volume lungs can have.

BodyPartExamined is a hint at best, so the answer comes from the pixels.
"""

from __future__ import annotations

import numpy as np

from inference.domain import CtVolume
from inference.errors import NotAChestCt
from inference.lung_crop import LungCrop

__all__ = ["require_chest", "require_lung"]

MINIMUM_ML = 1000.0
MAXIMUM_ML = 10_000.0
SMALLER_SIDE = 0.05  # of all lung; one lung may be collapsed, but not absent
MINIMUM_SLICE_MM2 = 2000.0  # a slice through both lungs has 10,000 to 35,000
BODY_HU = -300


def require_chest(volume: CtVolume, crop: LungCrop) -> None:
    """Check a whole stack.

    Parameters
    ----------
    volume : CtVolume
    crop : LungCrop
        Of the same volume.

    Raises
    ------
    NotAChestCt
        No lung at all; lung on one side only; or, where the slice spacing is known, less than
        1 or more than 10 litres of it.
    """
    require_lung(volume, crop)
    if volume.voxel_ml is not None:
        litres = float(np.count_nonzero(crop.mask)) * volume.voxel_ml / 1000.0
        if not MINIMUM_ML / 1000.0 <= litres <= MAXIMUM_ML / 1000.0:
            raise NotAChestCt(
                f"The images show {litres:.1f} litres of air-filled lung; "
                "a chest CT shows between 1 and 10."
            )
    profile = np.count_nonzero(crop.mask, axis=(0, 1))
    middle = _body_midline(volume)
    smaller = min(profile[:middle].sum(), profile[middle:].sum()) / profile.sum()
    if smaller < SMALLER_SIDE:
        raise NotAChestCt("The images do not show two air-filled lungs.")


def _body_midline(volume: CtVolume) -> int:
    """Column through the middle of the body's mass, from every fourth pixel."""
    body = volume.hu[::4, ::4] >= BODY_HU
    weight = np.count_nonzero(body, axis=(0, 1)).astype(np.float64)
    return round(float(np.average(np.arange(len(weight)), weights=weight)))


def require_lung(volume: CtVolume, crop: LungCrop) -> None:
    """Check a single slice or a few: some slice must show 20 cm² of lung.

    Raises
    ------
    NotAChestCt
    """
    pixel_mm2 = volume.pixel_spacing_mm[0] * volume.pixel_spacing_mm[1]
    areas = np.count_nonzero(crop.mask, axis=(1, 2)) * pixel_mm2
    if not crop.has_lung.any() or areas.max(initial=0.0) < MINIMUM_SLICE_MM2:
        raise NotAChestCt("The images show no air-filled lung inside a body.")
