"""The drawings of the summary page: class bars, lesion distribution, key slices."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.results.colour import lesion_colours
from dicom_node.results.key_slices import key_slices
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.page import ACCENT, CARD, DIM, INK, LINE, Page
from dicom_node.results.typeface import text_width
from inference.domain import DiseaseClass, Distribution, Findings

__all__ = [
    "MOST_MARKED",
    "draw_class_bars",
    "draw_distribution",
    "draw_thumbnails",
    "square_around",
]

MOST_MARKED = 4
"""Key slices that the page shows and marks in the profile."""

_GAP = 16


def draw_class_bars(page: Page, left: int, top: int, width: int, findings: Findings) -> int:
    """Draw a bar with its number for every class, the predicted one in colour."""
    patient = findings.patient
    if patient is None:
        return top
    label_width = max(text_width(disease.label, 18) for disease in DiseaseClass) + 16
    number_width = text_width("0.00", 18) + 12
    bar_width = width - label_width - number_width
    y = top
    for disease, probability in zip(DiseaseClass, patient.probabilities, strict=True):
        chosen = disease == patient.predicted
        colour = INK if chosen else DIM
        page.text(left, y, disease.label, 18, colour)
        page.bar(left + label_width, y + 4, bar_width, 14, probability, ACCENT if chosen else DIM)
        page.text(left + width, y, f"{probability:.2f}", 18, colour, anchor="ra")
        y += 32
    return y


def draw_distribution(
    page: Page, left: int, top: int, side: int, width: int, findings: Findings
) -> None:
    """Draw the coronal map and, on the same height, the profile from apex to base.

    Parameters
    ----------
    side : int
        Edge of the square map in pixels.
    width : int
        Of map, scale and profile together.
    """
    distribution = findings.burden.distribution
    if distribution is None:
        return
    most = _rounded_up(float(distribution.map.max()))
    page.paste(_coloured(distribution.map / most), left, top, side, side)
    _draw_grid(page, left, top, side)
    page.text(left + 8, top + 6, "R", 16, INK)
    page.text(left + side - 8, top + 6, "L", 16, INK, anchor="ra")
    _draw_scale(page, left + side + 12, top, side, most)
    profile_left = left + side + 84
    _draw_profile(page, profile_left, top, left + width - profile_left, side, findings)
    page.text(left, top + side + 8, "Seen from the front, apex to base", 14, DIM)


def draw_thumbnails(
    page: Page,
    left: int,
    top: int,
    width: int,
    indices: list[int],
    captions: list[tuple[str, str]],
    painter: OverlayPainter,
    findings: Findings,
) -> int:
    """Draw slices side by side, cropped to the lungs of the whole stack; return the y below."""
    count = max(len(indices), MOST_MARKED)
    side = (width - (count - 1) * _GAP) // count
    window = square_around(findings.lung_mask)
    for number, (index, (first, second)) in enumerate(zip(indices, captions, strict=True)):
        x = left + number * (side + _GAP)
        page.paste(painter.blend(index)[window], x, top, side, side)
        page.text(x, top + side + 6, first, 15, INK)
        page.text(x, top + side + 26, second, 14, DIM)
    return top + side + 58


def _coloured(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour a map in [0, 1], enlarged so that no pixel edges show."""
    large = cv2.resize(share.astype(np.float32), (384, 384), interpolation=cv2.INTER_CUBIC)
    return _faded(np.clip(large, 0, 1))


def _faded(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour values in [0, 1]; towards zero they fade into the ground."""
    colour = lesion_colours()[np.rint(share * 255).astype(np.intp)].astype(np.float32)
    opacity = np.clip(share / 0.15, 0, 1)[:, :, None]
    ground = np.array(CARD, np.float32) * 0.7
    return np.rint(ground + opacity * (colour - ground)).astype(np.uint8)


def _draw_grid(page: Page, left: int, top: int, side: int) -> None:
    """Frame, midline and the borders of the thirds."""
    page.draw.rectangle((left, top, left + side - 1, top + side - 1), outline=LINE)
    page.draw.line((left + side // 2, top, left + side // 2, top + side - 1), fill=LINE)
    for third in (1, 2):
        row = top + side * third // 3
        page.draw.line((left, row, left + 10, row), fill=LINE)
        page.draw.line((left + side - 11, row, left + side - 1, row), fill=LINE)


def _draw_scale(page: Page, left: int, top: int, height: int, most: float) -> None:
    ramp = np.linspace(1, 0, height, dtype=np.float32)[:, None].repeat(12, axis=1)
    page.paste(_faded(ramp), left, top, 12, height)
    page.text(left + 18, top, f"{100 * most:.0f} %", 14, DIM)
    page.text(left + 18, top + height, "0 %", 14, DIM, anchor="ld")


def _draw_profile(
    page: Page, left: int, top: int, width: int, height: int, findings: Findings
) -> None:
    """Draw the lesion share of the lung area per slice, from the first lung slice to the last."""
    distribution: Distribution | None = findings.burden.distribution
    lungs = [index for index, found in enumerate(findings.slices) if found.lung_area_px > 0]
    if distribution is None or not lungs:
        return
    profile = distribution.profile[lungs[0] : lungs[-1] + 1]
    most = _rounded_up(float(profile.max()))
    page.draw.line((left, top, left, top + height), fill=LINE)
    rows = np.linspace(0, len(profile) - 1, height)
    values = np.interp(rows, np.arange(len(profile)), profile)
    for row, value in enumerate(values):
        length = round(width * float(value) / most)
        if length:
            page.draw.line((left + 1, top + row, left + length, top + row), fill=ACCENT)
    for index in key_slices(findings, MOST_MARKED):
        row = top + round((index - lungs[0]) / max(len(profile) - 1, 1) * (height - 1))
        page.draw.polygon([(left - 9, row - 4), (left - 9, row + 4), (left - 2, row)], fill=INK)
    right = left + width
    page.draw.line((right, top, right, top + height), fill=LINE)
    caption = (
        f"Slices {lungs[0] + 1} to {lungs[-1] + 1}; full width: {100 * most:.0f} % of the lung "
        "area; marks: slices below"
    )
    page.fitted(left, top + height + 8, caption, width, 14, DIM)


def _rounded_up(value: float) -> float:
    """Return the next of 5, 10, 20, 50, 100 %: a scale that a reader can compare."""
    return next((step for step in (0.05, 0.1, 0.2, 0.5) if value <= step), 1.0)


def square_around(lung: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest square with all lung and a border, inside the picture."""
    area: NDArray[np.bool_] = np.any(lung, axis=0)
    rows, columns = np.flatnonzero(np.any(area, axis=1)), np.flatnonzero(np.any(area, axis=0))
    height, width = area.shape
    if not rows.size:
        rows, columns = np.array([0, height - 1]), np.array([0, width - 1])
    side = min(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 25, height, width)
    top = int(np.clip((rows[0] + rows[-1] - side) // 2, 0, height - side))
    left = int(np.clip((columns[0] + columns[-1] - side) // 2, 0, width - side))
    return slice(top, top + side), slice(left, left + side)
