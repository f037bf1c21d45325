"""Straight tapering pieces of tube, and what a slice of some thickness shows of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from training.phantom.geometry import Array, Plane

__all__ = ["Tubes", "joined"]

_F64 = NDArray[np.float64]
_WIDE_MM = 0.85  # drawn exactly; thinner pieces as lines
_SHIFT = 5  # fractional bits of drawn coordinates


@dataclass(frozen=True)
class Tubes:
    """Pieces of tube.

    Attributes
    ----------
    start, end : ndarray of float64, shape (pieces, 3)
        x, y, depth in mm.
    radius : ndarray of float64, shape (pieces, 2)
        At start and end, mm.
    """

    start: _F64
    end: _F64
    radius: _F64

    def __len__(self) -> int:
        return len(self.start)

    def pick(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Tubes:
        """Return some of the pieces."""
        return Tubes(self.start[chosen], self.end[chosen], self.radius[chosen])

    def scaled(self, factor: float, added_mm: float = 0.0) -> Tubes:
        """Return the pieces with other radii."""
        return Tubes(self.start, self.end, self.radius * factor + added_mm)

    def cover(self, plane: Plane, thickness_mm: float) -> Array:
        """Return how much of each pixel's depth they fill, float32 0 to 1, (rows, columns).

        Parameters
        ----------
        plane : Plane
        thickness_mm : float
            Of the slice.
        """
        wide, thin = self._parts
        cover = thin._thin_cover(plane, thickness_mm)
        count = 1 + 2 * (thickness_mm > 2.5)
        solid = np.zeros(plane.shape, np.float32)
        for step in (np.arange(count) - (count - 1) / 2) / count:
            layer = plane.grid.at(plane.depth_mm + float(step) * thickness_mm)
            solid += wide._cut(layer)
        return np.asarray(np.maximum(cover, solid / np.float32(count)), dtype=np.float32)

    @cached_property
    def _parts(self) -> tuple[Tubes, Tubes]:
        """What is drawn exactly, and what is drawn as lines."""
        wide = self.radius.max(axis=1, initial=0.0) > _WIDE_MM
        return self.pick(wide), self.pick(~wide)

    def _cut(self, plane: Plane) -> Array:
        """Return what an infinitely thin slice cuts, exactly, float32 0 to 1."""
        cover = np.zeros(plane.shape, np.float32)
        slope, pixel_mm = plane.grid.slope, plane.grid.pixel_mm
        start, end, radius = self.start, self.end, self.radius
        z = np.stack([start[:, 2] - slope * start[:, 1], end[:, 2] - slope * end[:, 1]])
        reach = radius.max(axis=1, initial=0.0) * (1 + abs(slope)) + 0.1
        hit = (z.min(axis=0) - reach < plane.depth_mm) & (z.max(axis=0) + reach > plane.depth_mm)
        start, end, radius = start[hit], end[hit], radius[hit]
        margin = reach[hit, None] + pixel_mm
        low = np.minimum(start, end)[:, :2] - margin
        high = np.maximum(start, end)[:, :2] + margin
        x, y = plane.x[0], plane.y[:, 0]
        lefts, rights = np.searchsorted(x, low[:, 0]), np.searchsorted(x, high[:, 0])
        tops, bottoms = np.searchsorted(y, low[:, 1]), np.searchsorted(y, high[:, 1])
        for index, (a, b) in enumerate(zip(start, end, strict=True)):
            left, right, top, bottom = lefts[index], rights[index], tops[index], bottoms[index]
            if left >= right or top >= bottom:
                continue
            dx = x[None, left:right] - np.float32(a[0])
            dy = y[top:bottom, None] - np.float32(a[1])
            dz = plane.depth[top:bottom] - np.float32(a[2])
            wx, wy, wz = (np.float32(value) for value in b - a)
            part = np.clip((dx * wx + dy * wy + dz * wz) / (wx * wx + wy * wy + wz * wz), 0, 1)
            away = np.sqrt((dx - part * wx) ** 2 + (dy - part * wy) ** 2 + (dz - part * wz) ** 2)
            r0, r1 = np.float32(radius[index, 0]), np.float32(radius[index, 1])
            inside = (r0 + part * (r1 - r0) - away) / np.float32(pixel_mm) + np.float32(0.5)
            window = cover[top:bottom, left:right]
            np.maximum(window, np.clip(inside, 0, 1), out=window)
        return cover

    def _thin_cover(self, plane: Plane, thickness_mm: float) -> Array:
        fine = 3 if plane.grid.pixel_mm > 0.9 else 2
        canvas = np.zeros((plane.grid.rows * fine, plane.grid.columns * fine), np.uint8)
        _draw(canvas, self._clipped(plane, thickness_mm), plane, fine)
        if fine > 1:
            canvas = np.asarray(
                cv2.resize(canvas, plane.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8
            )
        return canvas.astype(np.float32) * np.float32(1 / 255)

    def _clipped(self, plane: Plane, thickness_mm: float) -> tuple[_F64, _F64, _F64, _F64]:
        """Return 2D start, end, radii and weight of what reaches into the slice."""
        slope, half = plane.grid.slope, thickness_mm / 2
        z0 = self.start[:, 2] - slope * self.start[:, 1] - plane.depth_mm
        z1 = self.end[:, 2] - slope * self.end[:, 1] - plane.depth_mm
        reach = half + 0.7 * self.radius.max(axis=1)
        hit = (np.minimum(z0, z1) < reach) & (np.maximum(z0, z1) > -reach)
        start, end, radius = self.start[hit], self.end[hit], self.radius[hit]
        z0, z1, reach = z0[hit], z1[hit], reach[hit]
        rise = np.where(np.abs(z1 - z0) < 1e-6, 1e-6, z1 - z0)
        first = np.clip((-np.sign(rise) * reach - z0) / rise, 0, 1)[:, None]
        last = np.clip((np.sign(rise) * reach - z0) / rise, 0, 1)[:, None]
        way = end - start
        tapered = radius[:, :1] + (radius[:, 1:] - radius[:, :1]) * np.hstack([first, last])
        # Chord through a tube lying flat, against the slice's thickness.
        length = np.linalg.norm(way, axis=1) + 1e-9
        flat = np.maximum(np.hypot(way[:, 0], way[:, 1]) / length, 0.05)
        chord = 0.5 * np.pi * tapered.mean(axis=1) / flat
        weight = np.minimum(1.0, chord / thickness_mm)
        return start[:, :2] + way[:, :2] * first, start[:, :2] + way[:, :2] * last, tapered, weight


def _draw(
    canvas: NDArray[np.uint8],
    pieces: tuple[_F64, _F64, _F64, _F64],
    plane: Plane,
    fine: int,
) -> None:
    start, end, radius, weight = pieces
    pixel = plane.grid.pixel_mm / fine
    corner = np.array([plane.x[0, 0], plane.y[0, 0]], float) - plane.grid.pixel_mm / 2
    start, end = (start - corner) / pixel - 0.5, (end - corner) / pixel - 0.5
    radius = radius / pixel
    # What is thinner than a pixel is drawn a pixel wide, and fainter.
    drawn = np.maximum(radius, 0.55)
    weight = weight * np.minimum(1.0, radius.mean(axis=1) / 0.55)
    way = end - start
    length = np.hypot(way[:, 0], way[:, 1])
    across = np.stack([-way[:, 1], way[:, 0]], axis=1) / np.maximum(length, 1e-6)[:, None]
    corners = np.stack(
        [
            start + across * drawn[:, :1],
            end + across * drawn[:, 1:],
            end - across * drawn[:, 1:],
            start - across * drawn[:, :1],
        ],
        axis=1,
    )
    scale = 1 << _SHIFT
    corners = np.rint(corners * scale).astype(np.int32)
    ends = np.rint(end * scale).astype(np.int32)
    spots = np.rint(drawn[:, 1] * scale).astype(np.int32)
    values = np.rint(np.clip(weight, 0, 1) * 255).astype(int)
    for index in np.argsort(values, kind="stable"):
        value = int(values[index])
        if value < 4:
            continue
        if length[index] > 0.6:
            cv2.fillConvexPoly(canvas, corners[index], value, cv2.LINE_AA, _SHIFT)
        if length[index] <= 0.6 or drawn[index, 1] > 0.7:
            x, y = int(ends[index, 0]), int(ends[index, 1])
            cv2.circle(canvas, (x, y), int(spots[index]), value, -1, cv2.LINE_AA, _SHIFT)


def joined(*parts: Tubes) -> Tubes:
    """Return all pieces together."""
    return Tubes(
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.end for part in parts]),
        np.concatenate([part.radius for part in parts]),
    )
