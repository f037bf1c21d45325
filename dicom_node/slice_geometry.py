"""Where slices lie: normals, heights, spacing, gaps (PS3.3 C.7.6.2).

Heights are projections of ImagePositionPatient on the slice normal that points to the head, in
millimetres; orientations are ImageOrientationPatient (row cosines, then column cosines), LPS.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "AXIAL_COSINE",
    "SAME_HEIGHT_MM",
    "Orientation",
    "StackSpacing",
    "Vector",
    "distinct_heights",
    "height_mm",
    "is_axial",
    "slice_normal",
    "stack_spacing",
]

Vector = tuple[float, float, float]
Orientation = tuple[float, float, float, float, float, float]

AXIAL_COSINE = 0.9
"""A slice whose normal has at least this cosine with the body axis is axial (26° of tilt)."""

SAME_HEIGHT_MM = 0.01
"""Heights closer than this are the same position: rounding in DS values, not anatomy."""

GAP_TOLERANCE = 0.10
"""Share of the usual spacing by which a distance of neighbours may differ."""


def slice_normal(orientation: Orientation) -> Vector | None:
    """Return the unit normal that points to the head; None for cosines that span no plane."""
    r, c = orientation[:3], orientation[3:]
    x = r[1] * c[2] - r[2] * c[1]
    y = r[2] * c[0] - r[0] * c[2]
    z = r[0] * c[1] - r[1] * c[0]
    length = math.sqrt(x * x + y * y + z * z)
    # Cosines are unit vectors at right angles: anything far from length 1 is a broken header.
    if not 0.9 <= length <= 1.1:
        return None
    sign = -1.0 if z < 0 else 1.0
    return (sign * x / length, sign * y / length, sign * z / length)


def is_axial(normal: Vector) -> bool:
    """Whether a slice with this unit normal is axial."""
    return abs(normal[2]) >= AXIAL_COSINE


def height_mm(position: Vector, normal: Vector) -> float:
    """Projection of ImagePositionPatient on the unit normal, mm."""
    return position[0] * normal[0] + position[1] * normal[1] + position[2] * normal[2]


def distinct_heights(heights: Iterable[float]) -> list[float]:
    """Sorted heights (mm, ascending), those nearer than `SAME_HEIGHT_MM` counted once."""
    distinct: list[float] = []
    for height in sorted(heights):
        if not distinct or height - distinct[-1] > SAME_HEIGHT_MM:
            distinct.append(height)
    return distinct


@dataclass(frozen=True, slots=True)
class StackSpacing:
    """How evenly the positions of a stack lie.

    Attributes
    ----------
    positions : int
        Distinct positions.
    spacing_mm : float or None
        Median distance of neighbours; None for fewer than two positions.
    gaps : int
        Distances that differ from the median by more than 10 %.
    largest_mm : float or None
        The largest distance of neighbours.
    extent_mm : float
        From the first to the last position.
    """

    positions: int
    spacing_mm: float | None
    gaps: int
    largest_mm: float | None
    extent_mm: float


def stack_spacing(heights: Sequence[float]) -> StackSpacing:
    """Measure a stack by the heights (mm) of its slices, in any order."""
    distinct = distinct_heights(heights)
    if len(distinct) < 2:
        return StackSpacing(len(distinct), None, 0, None, 0.0)
    distances = [b - a for a, b in itertools.pairwise(distinct)]
    median = statistics.median(distances)
    # SAME_HEIGHT_MM beside the share: 0.5 mm spacing is often written with two decimals.
    allowed = GAP_TOLERANCE * median + SAME_HEIGHT_MM
    gaps = sum(abs(distance - median) > allowed for distance in distances)
    return StackSpacing(len(distinct), median, gaps, max(distances), distinct[-1] - distinct[0])
