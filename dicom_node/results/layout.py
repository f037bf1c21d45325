"""Where text goes in a picture so that it never covers lung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.results.typeface import line_height, text_width, wrapped

__all__ = ["Anchor", "Block", "Box", "Placed", "clear_of", "free_place", "place_blocks"]

_MARGIN = 5  # pixels from the edge of a 512-pixel picture
_CLEARANCE = 3  # pixels kept free around lung and between blocks
_SLIDE = 6  # pixels between two tries
_WIDTHS = (1.0, 0.62, 0.45)  # of the block's natural width: fewer pixels across, more lines
_SHRINK = (1.0, 0.85, 0.72)

Anchor = tuple[str, str]  # ("top" | "middle" | "bottom", "left" | "centre" | "right")


@dataclass(frozen=True, slots=True)
class Box:
    """Rows [top, bottom), columns [left, right) of the picture."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Block:
    """Lines that stand together, with the places they may take, best first."""

    lines: tuple[str, ...]
    anchors: tuple[Anchor, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A block with its lines, place and type size; `is_clear` is False where it covers lung."""

    lines: tuple[str, ...]
    box: Box
    size: int
    alignment: str
    is_clear: bool


def clear_of(lung: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels that text must not take: lung and a few pixels around it."""
    kernel = np.ones((2 * _CLEARANCE + 1,) * 2, np.uint8)
    return cv2.dilate(lung.astype(np.uint8), kernel).astype(bool)


def place_blocks(blocks: Sequence[Block], taken: NDArray[np.bool_]) -> list[Placed]:
    """Place each block at its first free anchor; narrower and smaller before it covers anything.

    Parameters
    ----------
    taken : ndarray of bool, shape (rows, columns)
        What must stay visible. The blocks are added to it.
    """
    placed = []
    for block in blocks:
        found = _placed(block, taken)
        box = found.box
        around = _CLEARANCE
        taken[
            max(box.top - around, 0) : box.bottom + around,
            max(box.left - around, 0) : box.right + around,
        ] = True
        placed.append(found)
    return placed


def free_place(
    height: int, width: int, anchors: Sequence[Anchor], taken: NDArray[np.bool_]
) -> tuple[Box, Anchor, int]:
    """Return the place that covers the fewest taken pixels, the first of equals, and how many.

    From the top and the bottom a block may slide inwards along its edge, by a third of the
    picture at most: so several fit below each other.
    """
    best: tuple[Box, Anchor, int] | None = None
    for anchor in anchors:
        reach = 1 if anchor[0] == "middle" else taken.shape[0] // 3
        for slide in range(0, reach, _SLIDE):
            box = _box(height, width, anchor, slide, taken.shape)
            covered = int(np.count_nonzero(taken[box.top : box.bottom, box.left : box.right]))
            if best is None or covered < best[2]:
                best = (box, anchor, covered)
            if covered == 0:
                return best
    if best is None:
        raise ValueError("a block needs an anchor")
    return best


def _placed(block: Block, taken: NDArray[np.bool_]) -> Placed:
    fewest: tuple[int, Placed] | None = None
    for shrink in _SHRINK:
        size = max(round(block.size * shrink), 8)
        natural = max(text_width(line, size) for line in block.lines)
        for share in _WIDTHS:
            limit = min(natural, taken.shape[1] - 2 * _MARGIN) * share
            lines = [part for line in block.lines for part in wrapped(line, size, int(limit) + 1)]
            width = max(text_width(line, size) for line in lines)
            height = line_height(size) * len(lines)
            box, anchor, covered = free_place(height, width, block.anchors, taken)
            placed = Placed(tuple(lines), box, size, anchor[1], covered == 0)
            if covered == 0:
                return placed
            if fewest is None or covered < fewest[0]:
                fewest = (covered, placed)
    assert fewest is not None  # noqa: S101 - the loops run at least once
    return fewest[1]


def _box(height: int, width: int, anchor: Anchor, slide: int, shape: tuple[int, ...]) -> Box:
    rows, columns = shape[:2]
    margin = max(round(_MARGIN * min(rows, columns) / 512), 2)
    tops = {
        "top": margin + slide,
        "middle": (rows - height) // 2,
        "bottom": rows - height - margin - slide,
    }
    lefts = {"left": margin, "centre": (columns - width) // 2, "right": columns - width - margin}
    top, left = max(tops[anchor[0]], 0), max(lefts[anchor[1]], 0)
    return Box(top, left, min(top + height, rows), min(left + width, columns))
