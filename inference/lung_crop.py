"""Lung crop (paper III-A.1): which pixels are lung, and the rectangle the network sees.

Two results with two purposes. The *crop box* of a slice is the paper's, from that slice alone.
The *lung mask* is the denominator of percentages and is made from the whole stack: parts are
followed from slice to slice, so that bowel gas and a bare windpipe are no lung, and each lung
is closed, so that vessels and consolidation inside it count as lung **(decided)**.

numpy and OpenCV only; OpenCV releases the GIL, so slices run in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from inference.cpus import usable_cpus
from inference.domain import BoundingBox
from inference.lung_parts import SliceParts, is_lung_part, link_parts

__all__ = ["CropParameters", "LungCrop", "airway_and_lung", "crop_lungs", "crop_to_input"]

REFERENCE_COLUMNS = 512
MINIMUM_LUNG_MM2 = 400.0  # per slice; a windpipe alone has 150 to 350
CLOSING_MM = 10.0
HOLE_MM2 = 1000.0  # larger holes are liver under its dome, not consolidation
LEAK_FRACTION = 0.75

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CropParameters:
    """What the crop depends on; part of a model bundle.

    Attributes
    ----------
    threshold_hu : int
        Air below, body at or above (paper: T_HU = -300).
    kernel_rows : int
        Height of the one-column opening element, in pixels of a 512-column image (paper: 8).
    margin_px : int
        Margin of the box, in pixels of a 512-column image (paper: 10).
    input_size : int
        Rows and columns of the network's input (paper: 512).
    """

    threshold_hu: int = -300
    kernel_rows: int = 8
    margin_px: int = 10
    input_size: int = 512

    def scaled(self, length: int, columns: int) -> int:
        """`length` pixels of a 512-column image, in pixels of one with `columns`."""
        return max(1, round(length * columns / REFERENCE_COLUMNS))


@dataclass(frozen=True, slots=True)
class LungCrop:
    """The lungs of a stack.

    Attributes
    ----------
    boxes : tuple of BoundingBox, length ``slices``
        The crop of each slice; interpolated where `has_lung` is False.
    has_lung : ndarray of bool, shape (slices,)
    mask : ndarray of bool, shape (slices, rows, columns)
        Lung without windpipe and bowel gas, closed.
    """

    boxes: tuple[BoundingBox, ...]
    has_lung: BoolMask
    mask: BoolMask


def airway_and_lung(hu: NDArray[np.int16], parameters: CropParameters) -> BoolMask:
    """Steps 2 to 5 of the paper's algorithm on one slice.

    Parameters
    ----------
    hu : ndarray of int16, shape (rows, columns)
    parameters : CropParameters

    Returns
    -------
    ndarray of bool, shape (rows, columns)
        Air inside the body. Steps: body is HU >= threshold; opening with a column of
        ``kernel_rows`` removes the table; 8-connected air that reaches the border is
        background; a second opening removes what the first one left.

    Notes
    -----
    Two additions **(decided)**. Air is kept only inside the filled outline of the largest body
    part, so that hollow tables are no lung. And in lean patients the opening also removes the
    front chest wall, where it is thinner than the element, and the lungs drain into the
    background: where less than three quarters of the holes of the unopened body are left, the
    holes are taken as well.
    """
    element, anchor = _column_element(parameters.scaled(parameters.kernel_rows, hu.shape[1]))
    body = cv2.bitwise_not(cv2.compare(hu, float(parameters.threshold_hu), cv2.CMP_LT))
    outline, holes = _outline_and_holes(body)
    air = cv2.bitwise_and(_enclosed(cv2.bitwise_not(_open(body, element, anchor))), outline)
    if cv2.countNonZero(air) < LEAK_FRACTION * cv2.countNonZero(holes):
        air = cv2.bitwise_or(air, holes)
    return (_open(air, element, anchor) != 0).view(np.bool_)


def _enclosed(air: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The 8-connected components of `air` (0 or 255) that do not reach the image border.

    A frame of air around the image joins all that reach it: one fill finds them, and nothing has
    to be labelled.
    """
    framed = cv2.copyMakeBorder(air, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=255)
    cv2.floodFill(framed, None, (0, 0), 0, flags=8)
    return np.ascontiguousarray(framed[1:-1, 1:-1])


def _outline_and_holes(body: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Filled outline of the largest 8-connected body part, and what is not body inside it."""
    outline = np.zeros_like(body)
    contours, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if contours:
        largest = max(contours, key=cv2.contourArea)
        cv2.drawContours(outline, [largest], -1, 255, thickness=cv2.FILLED)
    return outline, cv2.bitwise_and(outline, cv2.bitwise_not(body))


def _column_element(height: int) -> tuple[NDArray[np.uint8], int]:
    return np.ones((height, 1), dtype=np.uint8), height // 2


def _open(image: NDArray[np.uint8], element: NDArray[np.uint8], anchor: int) -> NDArray[np.uint8]:
    """Opening with an element of even height.

    The dilation takes the element reflected in the anchor; OpenCV's own MORPH_OPEN does not
    reflect it and shifts the result by one row.
    """
    eroded = cv2.erode(image, element, anchor=(0, anchor))
    opened = cv2.dilate(eroded, element, anchor=(0, element.shape[0] - 1 - anchor))
    return np.asarray(opened, dtype=np.uint8)


def bounding_box(mask: BoolMask, margin: int) -> BoundingBox | None:
    """Step 6: minimum bounding rectangle of `mask` plus `margin` pixels, cut at the image border.

    None where the mask is empty.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return BoundingBox(
        top=max(0, int(rows[0]) - margin),
        left=max(0, int(columns[0]) - margin),
        bottom=min(mask.shape[0], int(rows[-1]) + 1 + margin),
        right=min(mask.shape[1], int(columns[-1]) + 1 + margin),
    )


def crop_lungs(
    hu: NDArray[np.int16],
    pixel_spacing_mm: tuple[float, float],
    parameters: CropParameters,
    *,
    threads: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> LungCrop:
    """Find the lungs of a stack.

    Parameters
    ----------
    hu : ndarray of int16, shape (slices, rows, columns)
        Most superior slice first.
    pixel_spacing_mm : (float, float)
        Between rows, between columns.
    parameters : CropParameters
    threads : int
        0 takes the number of CPUs.
    progress : callable or None
        Called with ("crop", slices done, slices in all).

    Returns
    -------
    LungCrop
        Slices whose lung covers less than 400 mm² are without lung; they take the box
        interpolated between their neighbours with lung (the nearest one beyond the ends), and
        the box of the body where no slice has lung **(decided)**.
    """
    total = len(hu)
    margin = parameters.scaled(parameters.margin_px, hu.shape[2])
    mask = np.zeros(hu.shape, dtype=np.bool_)
    boxes: list[BoundingBox | None] = [None] * total
    parts: list[SliceParts] = []

    def paper_crop(index: int) -> SliceParts:
        air = airway_and_lung(hu[index], parameters)
        boxes[index] = bounding_box(air, margin)
        return SliceParts.of(air, hu[index])

    with ThreadPoolExecutor(threads or usable_cpus()) as pool:
        for part in pool.map(paper_crop, range(total)):
            parts.append(part)
            if progress is not None:
                progress("crop", len(parts), 2 * total)
        stacks = link_parts(parts)
        pixel_mm2 = pixel_spacing_mm[0] * pixel_spacing_mm[1]
        keep = is_lung_part(parts, stacks, pixel_mm2)
        area = np.zeros(total)

        def lung_mask(index: int) -> None:
            lung = keep[index].astype(np.uint8).take(parts[index].labels)
            area[index] = cv2.countNonZero(lung) * pixel_mm2
            if area[index] >= MINIMUM_LUNG_MM2:
                mask[index] = _closed(lung, pixel_spacing_mm)

        for done, _ in enumerate(pool.map(lung_mask, range(total)), start=1):
            if progress is not None:
                progress("crop", total + done, 2 * total)
    has_lung = area >= MINIMUM_LUNG_MM2
    return LungCrop(_complete(boxes, has_lung, hu, parameters, margin), has_lung, mask)


def _closed(lung: NDArray[np.uint8], pixel_spacing_mm: tuple[float, float]) -> BoolMask:
    """Close each 2D part of a lung by 10 mm and fill its holes up to 10 cm².

    Parts are closed one at a time, so that the right and the left lung do not grow together
    across the mediastinum. Large vessels at the hilum and the heart stay outside.
    """
    radius = (
        max(1, round(CLOSING_MM / pixel_spacing_mm[0])),
        max(1, round(CLOSING_MM / pixel_spacing_mm[1])),
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lung, connectivity=8)
    result = np.zeros(lung.shape, dtype=np.uint8)
    for part in range(1, count):
        left, top, width, height = (int(value) for value in stats[part, :4])
        window = (slice(top, top + height), slice(left, left + width))
        padded = cv2.copyMakeBorder(
            (labels[window] == part).astype(np.uint8), radius[0], radius[0], radius[1], radius[1],
            cv2.BORDER_CONSTANT, value=0,
        )  # fmt: skip
        closed = _close_by_disk(padded, radius)
        _fill_holes(closed, HOLE_MM2 / (pixel_spacing_mm[0] * pixel_spacing_mm[1]))
        result[window] |= closed[radius[0] : radius[0] + height, radius[1] : radius[1] + width]
    return result.view(np.bool_)


def _fill_holes(mask: NDArray[np.uint8], largest_px: float) -> None:
    """Fill, in place, the holes of at most `largest_px` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= largest_px
    small[0] = False
    if count > 1 and small.any():
        mask |= small.astype(np.uint8)[labels]


def _close_by_disk(image: NDArray[np.uint8], radius: tuple[int, int]) -> NDArray[np.uint8]:
    """Closing by a disk, through two distance transforms: the cost does not grow with the disk."""
    distance = cv2.distanceTransform(1 - image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grown = (distance <= float(np.mean(radius))).astype(np.uint8)
    distance = cv2.distanceTransform(grown, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    closed = (distance > float(np.mean(radius))).astype(np.uint8)
    return np.asarray(closed | image, dtype=np.uint8)


def _complete(
    boxes: list[BoundingBox | None],
    has_lung: BoolMask,
    hu: NDArray[np.int16],
    parameters: CropParameters,
    margin: int,
) -> tuple[BoundingBox, ...]:
    known = [index for index, box in enumerate(boxes) if has_lung[index] and box is not None]
    if not known:
        return tuple(_body_box(plane, parameters, margin) for plane in hu)
    corners = np.array([box.as_tuple() for i in known if (box := boxes[i]) is not None])
    wanted = np.arange(len(boxes))
    filled = np.stack([np.interp(wanted, known, corners[:, side]) for side in range(4)], axis=1)
    return tuple(BoundingBox(*(int(value) for value in row)) for row in np.rint(filled))


def _body_box(plane: NDArray[np.int16], parameters: CropParameters, margin: int) -> BoundingBox:
    """Box of the largest body part, or of the whole image where there is no body."""
    body = cv2.bitwise_not(cv2.compare(plane, float(parameters.threshold_hu), cv2.CMP_LT))
    body = _open(body, *_column_element(parameters.scaled(parameters.kernel_rows, plane.shape[1])))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=8)
    if count > 1:
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        box = bounding_box(labels == largest, margin)
        if box is not None:
            return box
    return BoundingBox(0, 0, plane.shape[0], plane.shape[1])


def crop_to_input(
    plane: NDArray[np.int16], box: BoundingBox, parameters: CropParameters
) -> NDArray[np.int16]:
    """Cut `box` out of a slice and resize it to the network's input.

    Returns
    -------
    ndarray of int16, shape (input_size, input_size)
        HU; linear interpolation, area averaging where the crop is larger than the input.
    """
    cut = np.ascontiguousarray(plane[box.top : box.bottom, box.left : box.right])
    size = parameters.input_size
    shrinks = cut.shape[0] > size and cut.shape[1] > size
    resized = cv2.resize(
        cut, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return np.asarray(resized, dtype=np.int16)
