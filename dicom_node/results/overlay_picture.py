"""One slice with its lesion location map, as a reader sees it.

The annotation is laid out once for the whole series, clear of every slice's lung, so that nothing
jumps while scrolling; where no place is clear of all of them, slice by slice. What finds no clear
place even then is left out, but for banner and model, which take the place that covers least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.results.colour import blended, scale_colours, scale_value
from dicom_node.results.layout import Anchor, Block, Box, Placed, clear_of, free_place, place_blocks
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import lesion_mask
from dicom_node.results.typeface import font, line_height, text_width
from inference.domain import CtVolume, Findings

__all__ = ["OverlayPainter"]

BANNER_COLOUR = (226, 178, 92)
TEXT_COLOUR = (196, 200, 204)
_OUTLINE = (0, 0, 0)
_CORNERS: dict[str, tuple[Anchor, ...]] = {
    "banner": (("top", "left"), ("bottom", "left"), ("top", "right"), ("bottom", "right")),
    "reading": (("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left")),
    "model": (("bottom", "left"), ("top", "left"), ("bottom", "right"), ("top", "right")),
    "slice": (("bottom", "right"), ("top", "right"), ("bottom", "left"), ("top", "left")),
    "bar": (
        ("middle", "right"),
        ("middle", "left"),
        ("top", "right"),
        ("bottom", "right"),
        ("top", "left"),
        ("bottom", "left"),
        ("top", "centre"),
        ("bottom", "centre"),
    ),
}


@dataclass(frozen=True, slots=True)
class _Annotation:
    """Banner, model, slice and reading, in this order, and the place of the colour bar."""

    blocks: tuple[Placed, ...]
    bar: Box
    bar_is_clear: bool

    @property
    def is_clear(self) -> bool:
        return self.bar_is_clear and all(block.is_clear for block in self.blocks)


class OverlayPainter:
    """Paints the slices of one reading; safe to share between threads.

    Parameters
    ----------
    findings : Findings
    volume : CtVolume
    results : ResultSet
    """

    def __init__(self, findings: Findings, volume: CtVolume, results: ResultSet) -> None:
        self._findings = findings
        self._volume = volume
        self._results = results
        self._size = max(round(12.5 * min(volume.hu.shape[1:]) / 512), 8)
        self._steady = self._annotation(np.asarray(np.any(findings.lung_mask, axis=0)))

    def paint(self, index: int) -> NDArray[np.uint8]:
        """Return the picture of one slice.

        Returns
        -------
        ndarray of uint8, shape (rows, columns, 3)
            RGB on the grid of the source image.
        """
        annotation = self._steady
        if not annotation.is_clear:
            annotation = self._annotation(self._findings.lung_mask[index])
        picture = Image.fromarray(self.blend(index))
        draw = ImageDraw.Draw(picture)
        banner, model, own, reading = annotation.blocks
        _draw_block(draw, banner, banner.lines, BANNER_COLOUR)
        _draw_block(draw, model, model.lines, TEXT_COLOUR)
        if own.is_clear:
            _draw_block(draw, own, self._slice_lines(index), TEXT_COLOUR)
        if reading.is_clear:
            _draw_block(draw, reading, reading.lines, TEXT_COLOUR)
        if annotation.bar_is_clear:
            self._draw_bar(picture, draw, annotation.bar)
        return np.asarray(picture)

    def blend(self, index: int) -> NDArray[np.uint8]:
        """Return the slice with its map, without annotation; shape (rows, columns, 3)."""
        return blended(
            self._volume.hu[index],
            self._findings.lesion_map[index],
            lesion_mask(self._findings, index),
            self._findings.model.lesion_threshold,
        )

    def _annotation(self, lung: NDArray[np.bool_]) -> _Annotation:
        taken = clear_of(lung)
        blocks = [
            Block(lines, _CORNERS[name], self._size)
            for name, lines in (
                ("banner", self._banner_lines()),
                ("model", self._model_lines()),
                ("slice", self._slice_lines(len(self._findings.slices) - 1)),
                ("reading", self._reading_lines()),
            )
        ]
        placed = place_blocks(blocks, taken)
        height = round(0.3 * lung.shape[0])
        bar, _, covered = free_place(height, self._bar_width(), _CORNERS["bar"], taken)
        return _Annotation(tuple(placed), bar, covered == 0)

    def _banner_lines(self) -> tuple[str, ...]:
        return tuple(filter(None, (self._results.options.banner, self._results.training_words)))

    def _reading_lines(self) -> tuple[str, ...]:
        patient, segmented = self._findings.patient, self._findings.segmented
        if self._results.part and segmented is not None:
            if segmented.positive is None:
                return ("Explanation: class activation",)
            words = segmented.positive_words if segmented.positive else segmented.negative_words
            return ("Explanation: class activation", f"Patient: {words}")
        if patient is None:
            return ("Slice-level reading",)
        return (f"Patient: {patient.predicted.label}, p {max(patient.probabilities):.2f}",)

    def _model_lines(self) -> tuple[str, ...]:
        return (
            self._results.model_words,
            f"{self._results.started_at:%Y-%m-%d %H:%M}",
        )

    def _slice_lines(self, index: int) -> tuple[str, ...]:
        found, segmented = self._findings.slices[index], self._findings.segmented
        words = f"Lesion p {found.lesion_probability:.2f}"
        if self._results.part and segmented is not None:
            words = f"{segmented.positive_words} p {segmented.slice_probability[index]:.2f}"
        return (f"Slice {index + 1} of {len(self._findings.slices)}", words)

    # -- the colour bar -----------------------------------------------------------------------

    def _bar_width(self) -> int:
        return self._strip_width() + 4 + text_width("0.000", self._size - 2)

    def _strip_width(self) -> int:
        return max(self._size // 2, 4)

    def _draw_bar(self, picture: Image.Image, draw: ImageDraw.ImageDraw, box: Box) -> None:
        """From the threshold, where the colour begins, to the end of the scale."""
        size = self._size - 2
        strip = self._strip_width()
        top, bottom = box.top + size // 2, box.bottom - size // 2  # room for the outer labels
        height = bottom - top
        left = box.right - strip
        rows = np.linspace(255, 0, height).round().astype(np.intp)
        colours = np.repeat(scale_colours()[rows][:, None, :], strip, axis=1)
        picture.paste(Image.fromarray(colours), (left, top))
        draw.rectangle((left, top, left + strip - 1, bottom), outline=TEXT_COLOUR)
        threshold = self._findings.model.lesion_threshold
        for position in (1.0, 0.5, 0.0):
            value = scale_value(position, threshold)
            row = top + round((1 - position) * height)
            draw.text(
                (left - 4, row),
                f"{value:.2f}" if value < 0.99 else f"{value:.3f}",
                font=font(size),
                fill=TEXT_COLOUR,
                stroke_width=1,
                stroke_fill=_OUTLINE,
                anchor="rm",
            )


def _draw_block(
    draw: ImageDraw.ImageDraw, block: Placed, lines: tuple[str, ...], colour: tuple[int, int, int]
) -> None:
    """Light type with a dark outline: readable on air and on soft tissue."""
    if len(lines) != len(block.lines):  # the block was wrapped for its place
        lines = tuple(" ".join(lines).split(" ", len(block.lines) - 1))
    right = block.alignment == "right"
    for number, line in enumerate(lines):
        draw.text(
            (
                block.box.right if right else block.box.left,
                block.box.top + number * line_height(block.size),
            ),
            line,
            font=font(block.size),
            fill=colour,
            stroke_width=1,
            stroke_fill=_OUTLINE,
            anchor="ra" if right else "la",
        )
