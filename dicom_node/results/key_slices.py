"""Which slices a reader should look at first."""

from __future__ import annotations

import numpy as np

from inference.domain import Findings

__all__ = ["key_slices", "lesion_slices"]

_FEWEST_APART = 2  # two neighbouring slices show the same lesion


def lesion_slices(findings: Findings) -> list[int]:
    """Indices of the slices with lesion above the model's threshold, superior first."""
    return [index for index, found in enumerate(findings.slices) if found.lesion_area_px > 0]


def key_slices(findings: Findings, count: int) -> list[int]:
    """Return up to `count` lesion slices with the largest lesion area, superior first.

    They lie apart by a twentieth of the stack at least, so that they show different places.
    """
    areas = np.array([found.lesion_area_px for found in findings.slices])
    apart = max(_FEWEST_APART, len(areas) // 20) if len(areas) > 2 * count else 1
    chosen: list[int] = []
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] == 0 or len(chosen) == count:
            break
        if all(abs(int(index) - other) >= apart for other in chosen):
            chosen.append(int(index))
    return sorted(chosen)
