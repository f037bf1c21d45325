"""The picture of a whole reading, as the paper shows it: every fifth slice, raw and with its map.

Holds no patient identifier but what the caller gives as title.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node.results.colour import lung_window_grey, scale_colours, scale_value
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.page import ACCENT, AMBER, CARD, DIM, INK, LINE, MARGIN, Page
from dicom_node.results.result_set import ResultSet
from dicom_node.results.summary_figures import draw_class_bars, square_around
from dicom_node.results.typeface import font
from inference.domain import CtVolume, DiseaseClass, Findings

__all__ = ["STEP", "paint_figure", "png"]

STEP = 5
"""Every fifth slice (paper)."""

_TILE = 168
_ACROSS = 10
_GAP = 4
_BLOCK_GAP = 22
_HEAD = 128
_FOOT = 238


def paint_figure(
    findings: Findings,
    volume: CtVolume,
    results: ResultSet,
    painter: OverlayPainter | None = None,
    *,
    step: int = STEP,
    title: str = "Chest CT: lung reading",
    note: str = "",
) -> NDArray[np.uint8]:
    """Draw every `step`-th slice: raw above, location map below with class and probability.

    Parameters
    ----------
    findings : Findings
    volume : CtVolume
    results : ResultSet
        For banner and model, which stand on every picture.
    painter : OverlayPainter or None
        The one of the overlays, where there is one already.
    step : int
    title, note : str
        Head line, and a line behind the patient's probabilities, such as the true class.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB. The colours are those of the overlays: only lesion above the model's threshold.
    """
    painter = painter or OverlayPainter(findings, volume, results)
    shown = list(range(0, len(findings.slices), max(step, 1)))
    across = min(_ACROSS, len(shown))
    width = max(2 * MARGIN + across * (_TILE + _GAP) - _GAP, 900)
    rows = -(-len(shown) // across)
    block = 2 * _TILE + _GAP + _BLOCK_GAP
    page = Page(width, _HEAD + rows * block + _FOOT)
    _draw_head(page, findings, results, step, title)
    window = square_around(findings.lung_mask)
    for number, index in enumerate(shown):
        left = MARGIN + (number % across) * (_TILE + _GAP)
        top = _HEAD + (number // across) * block
        _draw_pair(page, left, top, index, findings, volume, painter, window)
    _draw_end(page, _HEAD + rows * block, findings, note)
    return page.pixels()


def png(rgb: NDArray[np.uint8]) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_head(page: Page, findings: Findings, results: ResultSet, step: int, title: str) -> None:
    right = page.width - MARGIN
    page.text(MARGIN, 22, title, 28, INK)
    every = "every slice" if step == 1 else f"every {step}th slice"
    words = (
        f"{len(findings.slices)} slices, {every} from head to feet · above: lung window, below: "
        f"lesion location above {findings.model.lesion_threshold:.2g} · {results.model_words}"
    )
    page.fitted(MARGIN, 60, words, right - MARGIN, 16, DIM)
    warning = " · ".join(filter(None, (results.options.banner, results.training_words)))
    page.draw.rounded_rectangle((MARGIN, 86, right, 116), radius=6, outline=AMBER, width=2)
    page.fitted(MARGIN + 12, 90, warning, right - MARGIN - 24, 18, AMBER)


def _draw_pair(
    page: Page,
    left: int,
    top: int,
    index: int,
    findings: Findings,
    volume: CtVolume,
    painter: OverlayPainter,
    window: tuple[slice, slice],
) -> None:
    grey = lung_window_grey(volume.hu[index][window])
    page.paste(np.repeat(grey[:, :, None], 3, axis=2), left, top, _TILE, _TILE)
    _label(page, left + 4, top + 3, str(index + 1), DIM, "la")
    below = top + _TILE + _GAP
    page.paste(painter.blend(index)[window], left, below, _TILE, _TILE)
    found = findings.slices[index]
    if not found.has_lung:
        _label(page, left + 4, below + _TILE - 4, "no lung", DIM, "ld")
        return
    sick = found.predicted is not DiseaseClass.HEALTHY
    words = f"{found.predicted.label} {max(found.probabilities):.2f}"
    _label(page, left + 4, below + _TILE - 4, words, ACCENT if sick else INK, "ld")


def _label(page: Page, x: int, y: int, words: str, colour: tuple[int, int, int], at: str) -> None:
    """Type on a dark ground of its own: readable on air, on soft tissue and on the table."""
    left, top, right, bottom = page.draw.textbbox((x, y), words, font=font(15), anchor=at)
    page.draw.rectangle((left - 4, top - 3, right + 3, bottom + 3), fill=CARD)
    page.draw.text((x, y), words, font=font(15), fill=colour, anchor=at)


def _draw_end(page: Page, top: int, findings: Findings, note: str) -> None:
    """Patient probabilities, percentage and colour scale."""
    page.draw.line((MARGIN, top, page.width - MARGIN, top), fill=LINE)
    y = top + 16
    patient = findings.patient
    words = "Slice-level reading: the patient was not classified" if patient is None else "Patient"
    page.text(MARGIN, y, words, 20, INK)
    draw_class_bars(page, MARGIN, y + 34, 430, findings)
    x = MARGIN + 470
    percent = findings.burden.percent_of_lung
    burden = "no percentage" if percent is None else f"{percent:.1f} % of the lung (estimate)"
    y = page.text(x, y, f"Lesion: {burden}", 20, INK) + 10
    counted = findings.nonparametric
    if counted is not None:
        y = page.text(x, y, f"By counting slices: {counted.predicted.label}", 16, DIM) + 6
    if note:
        page.fitted(x, y, note, page.width - MARGIN - x, 18, INK)
    _draw_scale(page, x, top + 148, findings.model.lesion_threshold)


def _draw_scale(page: Page, left: int, top: int, threshold: float) -> None:
    """From the threshold, where the colour begins, to the end of the scale."""
    width, height = 256, 12
    page.paste(np.repeat(scale_colours()[None], height, axis=0), left, top, width, height)
    page.draw.rectangle((left, top, left + width, top + height), outline=DIM)
    for position in (0.0, 0.5, 1.0):
        value = scale_value(position, threshold)
        words = f"{value:.2f}" if value < 0.99 else f"{value:.3f}"
        page.text(left + round(position * width), top + 16, words, 14, DIM, anchor="ma")
    page.text(left + width + 16, top - 3, "lesion probability", 14, DIM)
