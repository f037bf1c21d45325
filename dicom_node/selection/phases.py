"""Split the slices of a series into stacks in which each position occurs once.

The order in which slices are given never matters: everything is sorted by what the slices say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dicom_node.slice_geometry import (
    SAME_HEIGHT_MM,
    Orientation,
)

__all__ = ["Slice", "split_into_stacks"]

_ORIENTATION_TOLERANCE = 1e-3
_PIXEL_SPACING_TOLERANCE_MM = 1e-3

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Slice:
    """A single-frame instance or one frame, axial and with a position.

    Attributes
    ----------
    height_mm : float
        On the normal that points to the head.
    matrix : (int or None, int or None)
        (rows, columns).
    flavour : tuple of str
        ImageType from its third value on.
    """

    sop_instance_uid: str
    frame_number: int | None
    height_mm: float
    orientation: Orientation
    pixel_spacing: tuple[float, float] | None
    slice_thickness_mm: float | None
    matrix: tuple[int | None, int | None]
    convolution_kernel: str
    flavour: tuple[str, ...]
    frame_of_reference_uid: str
    acquisition_number: int | None
    instance_number: int | None

    @property
    def _kind(self) -> tuple[object, ...]:
        """What all slices of a stack share exactly."""
        return (
            self.frame_of_reference_uid,
            self.convolution_kernel.upper(),
            tuple(-1 if side is None else side for side in self.matrix),
            self.flavour,
        )

    @property
    def _order(self) -> tuple[float, int, int, str, int]:
        """Position first, then the order of acquisition; the UID settles the rest."""
        return (self.height_mm, *self._sequence)

    @property
    def _sequence(self) -> tuple[int, int, str, int]:
        return (
            -1 if self.acquisition_number is None else self.acquisition_number,
            -1 if self.instance_number is None else self.instance_number,
            self.sop_instance_uid,
            self.frame_number or 0,
        )


def split_into_stacks(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Return stacks, each sorted from the head down, no position twice.

    Split by frame of reference, kernel, matrix and image type; by orientation and pixel spacing
    within 1e-3; then, only where stacks overlap, by acquisition number and by the order of
    instances. An acquisition number alone splits nothing: sequential scanning counts one per
    slice.
    """
    kinds: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for item in slices:
        kinds[item._kind].append(item)
    stacks: list[list[Slice]] = []
    for kind in sorted(kinds, key=repr):
        for plane in _near(kinds[kind], lambda s: s.orientation, _ORIENTATION_TOLERANCE):
            for group in _near(plane, lambda s: s.pixel_spacing or (), _PIXEL_SPACING_TOLERANCE_MM):
                stacks.extend(
                    phase for part in _by_acquisition(group) for phase in _by_repetition(part)
                )
    return [sorted(stack, key=lambda s: s._order, reverse=True) for stack in stacks]


def _near(
    items: Sequence[_Item], vector_of: Callable[[_Item], tuple[float, ...]], tolerance: float
) -> list[list[_Item]]:
    """Group items whose vectors differ from the group's first by at most `tolerance`."""
    members: dict[tuple[float, ...], list[_Item]] = defaultdict(list)
    for item in items:
        members[vector_of(item)].append(item)
    groups: dict[tuple[float, ...], list[_Item]] = {}
    for vector in sorted(members):
        for first, group in groups.items():
            if len(first) == len(vector) and all(
                abs(a - b) <= tolerance for a, b in zip(first, vector, strict=True)
            ):
                group.extend(members[vector])
                break
        else:
            groups[vector] = list(members[vector])
    return list(groups.values())


def _by_acquisition(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Split by acquisition number where acquisitions overlap by more than half of the shorter."""
    parts: dict[int | None, list[Slice]] = defaultdict(list)
    for item in slices:
        parts[item.acquisition_number].append(item)
    extents = sorted(
        (min(heights), max(heights))
        for heights in ([s.height_mm for s in part] for part in parts.values())
        if len(heights) > 1
    )
    overlapping = any(
        min(last, other_last) - other_first
        > 0.5 * min(last - first, other_last - other_first) + SAME_HEIGHT_MM
        for index, (first, last) in enumerate(extents)
        for other_first, other_last in extents[index + 1 :]
    )
    if not overlapping:
        return [list(slices)]
    numbers = sorted(parts, key=lambda number: -1 if number is None else number)
    return [parts[number] for number in numbers]


def _by_repetition(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Split where a position occurs more than once: phases without an acquisition number."""
    positions = _positions(slices)
    most = max(len(position) for position in positions)
    if most == 1:
        return [list(slices)]
    repeated = sum(len(position) > 1 for position in positions)
    runs = _runs(slices)
    # Phase after phase: as many runs as repeats, over much the same positions. Otherwise the
    # phases are interleaved, or slabs touch: the n-th slice at each position is of the n-th stack.
    if len(runs) == most and 2 * repeated > len(positions):
        return runs
    return [
        [position[index] for position in positions if index < len(position)]
        for index in range(most)
    ]


def _positions(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by position, each position in order of acquisition."""
    positions: list[list[Slice]] = []
    for item in sorted(slices, key=lambda s: s._order):
        if positions and item.height_mm - positions[-1][0].height_mm <= SAME_HEIGHT_MM:
            positions[-1].append(item)
        else:
            positions.append([item])
    return [sorted(position, key=lambda s: s._sequence) for position in positions]


def _runs(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Cut the slices, in order of acquisition, wherever a position would come twice."""
    place = {
        id(item): index for index, position in enumerate(_positions(slices)) for item in position
    }
    runs: list[list[Slice]] = []
    seen: set[int] = set()
    for item in sorted(slices, key=lambda s: s._sequence):
        if not runs or place[id(item)] in seen:
            runs.append([])
            seen = set()
        runs[-1].append(item)
        seen.add(place[id(item)])
    return runs
