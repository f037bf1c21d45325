"""The summary page: one Secondary Capture for viewers that show no structured report.

Holds no patient identifier: the viewer shows those from the header.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.domain import ObjectKind
from dicom_node.results.key_slices import key_slices
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.page import AMBER, DIM, INK, MARGIN, PADDING, Page
from dicom_node.results.progress_card import (
    FOOT_SIZE,
    draw_progress,
    foot_sentences,
    progress_height,
)
from dicom_node.results.result_set import ResultSet
from dicom_node.results.secondary_capture import put_picture, source_image_item
from dicom_node.results.statements import (
    completeness_statements,
    lesion_sentence,
    quality_sentences,
    second_opinion,
)
from dicom_node.results.summary_figures import (
    MOST_MARKED,
    draw_class_bars,
    draw_distribution,
    draw_thumbnails,
)
from dicom_node.results.system_card import card_sentences, draw_systems, systems_height
from inference.domain import CtVolume, Findings, Training

__all__ = ["HEIGHT", "WIDTH", "build_summary", "draw_head", "paint_summary"]

WIDTH, HEIGHT = 1080, 1476


def build_summary(
    findings: Findings, volume: CtVolume, results: ResultSet, painter: OverlayPainter
) -> Dataset:
    """Return the summary page."""
    dataset = results.new_instance(
        ObjectKind.SUMMARY,
        str(SecondaryCaptureImageStorage),
        results.options.secondary_capture_modality,
    )
    put_picture(
        dataset,
        paint_summary(findings, results, painter),
        results,
        f"Summary of the reading. {results.model_words}. {results.options.banner}. "
        f"{results.training_words}".strip(),
    )
    dataset.PatientOrientation = []
    shown = key_slices(findings, MOST_MARKED) or [len(volume) // 2]
    dataset.SourceImageSequence = [source_image_item(volume.slices[index]) for index in shown]
    return dataset


def paint_summary(
    findings: Findings, results: ResultSet, painter: OverlayPainter
) -> NDArray[np.uint8]:
    """Return the page as RGB, shape (1476, 1080, 3); longer with the cards that not all have."""
    extra = systems_height(findings, WIDTH - 2 * MARGIN)
    since = progress_height(results.progress, WIDTH - 2 * MARGIN)
    page = Page(WIDTH, HEIGHT + extra + since)
    top = draw_head(page, results)
    middle = WIDTH // 2
    _reading_card(page, MARGIN, top, middle - 9, top + 322, findings)
    _burden_card(page, middle + 9, top, WIDTH - MARGIN, top + 322, findings)
    top += 340
    if extra:
        draw_systems(page, MARGIN, top, WIDTH - MARGIN, top + extra - 18, findings)
        top += extra
    if results.progress is not None and results.progress.comparable:
        bottom = top + since - 18
        sure = findings.model.training is not Training.UNTRAINED
        draw_progress(page, MARGIN, top, WIDTH - MARGIN, bottom, results.progress, sure=sure)
        top += since
    if findings.burden.distribution is not None:
        _distribution_card(page, MARGIN, top, WIDTH - MARGIN, top + 350, findings)
        top += 368
        height = 344
    else:
        height = 640  # two rows of slices for orientation instead
    _slices_card(page, MARGIN, top, WIDTH - MARGIN, top + height, findings, results, painter)
    _foot(page, top + height + 18, findings, results)
    return page.pixels()


def draw_head(page: Page, results: ResultSet) -> int:
    """Draw title, banner and what was read; return the y below.

    Viewers write into the corners of a picture, so the lines stand in the middle, and the banner
    below what is written beside them.
    """
    left, middle, right = MARGIN, page.width // 2, page.width - MARGIN
    page.text(middle, 30, "Chest CT: lung reading", 32, INK, "ma")
    source = results.source
    series = [
        f"Study {_date(source.study_date)}" if source.study_date else "",
        f"Series {source.series_number}" if source.series_number is not None else "",
        source.series_description,
        f"{results.context.completeness.instance_count} images",
    ]
    page.fitted(middle, 80, " · ".join(filter(None, series)), right - left, 17, DIM, "ma")
    lines = [line for line in (results.options.banner, results.training_words) if line]
    top, bottom = 144, 144 + 16 + 28 * len(lines)
    page.draw.rounded_rectangle((left, top, right, bottom), radius=8, outline=AMBER, width=2)
    y = top + 10
    for line in lines:
        page.fitted(middle, y, line, right - left - 2 * PADDING, 20, AMBER, "ma")
        y += 28
    return bottom + 18


def _date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def _reading_card(
    page: Page, left: int, top: int, right: int, bottom: int, findings: Findings
) -> None:
    y = page.card(left, top, right, bottom, "Class of the patient")
    x, width = left + PADDING, right - left - 2 * PADDING
    patient = findings.patient
    if patient is None:
        y = page.text(x, y, "Not classified", 30, INK) + 10
        page.paragraph(
            x,
            y,
            "Slice-level reading: the slices were read one by one. A class of the patient needs "
            "the whole series.",
            width,
            17,
            DIM,
        )
        return
    y = _headline(page, x, y, patient.predicted.label, findings) + 12
    y = draw_class_bars(page, x, y, width, findings) + 6
    opinion = second_opinion(findings)
    second = findings.nonparametric
    agrees = second is None or second.predicted == patient.predicted
    page.paragraph(x, y, opinion, width, 16, DIM if agrees else AMBER)


def _headline(page: Page, x: int, y: int, words: str, findings: Findings) -> int:
    """Draw what is read first. Of an untrained network not even that is read without the word."""
    if findings.model.training is Training.UNTRAINED:
        return page.text(x, y, f"Untrained: {words}", 30, AMBER)
    return page.text(x, y, words, 34, INK)


def _burden_card(
    page: Page, left: int, top: int, right: int, bottom: int, findings: Findings
) -> None:
    y = page.card(left, top, right, bottom, "Lung involvement (estimate from the location map)")
    x, width = left + PADDING, right - left - 2 * PADDING
    burden = findings.burden
    if burden.percent_of_lung is None:
        y = page.text(x, y, "No percentage", 30, INK) + 10
        reason = "The distance between slices is not regular or not known, so no volume is given."
        page.paragraph(x, y, reason, width, 17, DIM)
        return
    y = _headline(page, x, y, f"{burden.percent_of_lung:.1f} % of the lung", findings)
    if burden.lesion_ml is not None and burden.lung_ml is not None:
        words = f"{burden.lesion_ml:,.0f} ml of {burden.lung_ml:,.0f} ml".replace(",", " ")
        y = page.text(x, y + 4, words, 17, DIM)
    distribution = burden.distribution
    if distribution is None:
        page.paragraph(x, y + 16, lesion_sentence(findings), width, 16, INK)
        return
    y += 16
    for labels, shares in (
        (("Right", "Left"), distribution.right_left),
        (("Upper third", "Middle", "Lower"), distribution.craniocaudal),
        (("Central", "Peripheral"), distribution.central_peripheral),
    ):
        y = page.split_bar(x, y, width, list(zip(labels, shares, strict=True))) + 7


def _distribution_card(
    page: Page, left: int, top: int, right: int, bottom: int, findings: Findings
) -> None:
    y = page.card(left, top, right, bottom, "Where the lesions lie: share of lung above threshold")
    width = right - left - 2 * PADDING
    draw_distribution(page, left + PADDING, y, bottom - y - 38, width, findings)


def _slices_card(
    page: Page,
    left: int,
    top: int,
    right: int,
    bottom: int,
    findings: Findings,
    results: ResultSet,
    painter: OverlayPainter,
) -> None:
    indices = key_slices(findings, MOST_MARKED)
    title = "Slices with the largest lesions"
    if not indices:
        title = "Slices for orientation: none has lesion above the threshold"
        indices = _spread(len(findings.slices), 2 * MOST_MARKED)
    y = page.card(left, top, right, bottom, title)
    for row in range(0, len(indices), MOST_MARKED):
        shown = indices[row : row + MOST_MARKED]
        captions = [_caption(findings, results, index) for index in shown]
        width = right - left - 2 * PADDING
        y = draw_thumbnails(page, left + PADDING, y, width, shown, captions, painter, findings)


def _spread(total: int, count: int) -> list[int]:
    """Return up to `count` indices from the upper fifth of the stack to the lower."""
    return sorted({int(index) for index in np.linspace(0.2 * total, 0.8 * total, count)})


def _caption(findings: Findings, results: ResultSet, index: int) -> tuple[str, str]:
    found = findings.slices[index]
    number = results.source.image(found.reference.sop_instance_uid).instance_number
    frame = found.reference.frame_number
    place = f"frame {frame}" if frame is not None else f"image {number}" if number else ""
    first = f"Slice {index + 1} of {len(findings.slices)}" + (f" ({place})" if place else "")
    return first, f"z {found.z_mm:.0f} mm · lesion p {found.lesion_probability:.2f}"


def _foot(page: Page, top: int, findings: Findings, results: ResultSet) -> None:
    """Quality, completeness and origin; smaller type where there is much to say."""
    above = card_sentences(findings)
    sentences = [
        *((words, INK) for words in quality_sentences(findings) if words not in above),
        *((sentence, DIM) for sentence in foot_sentences(results.progress)),
        *((sentence, DIM) for sentence in completeness_statements(results)),
        (
            f"{results.model_words} · node {results.context.ae_title} "
            f"{results.context.software_version} · {results.started_at:%Y-%m-%d %H:%M:%S}",
            DIM,
        ),
    ]
    y = top
    for sentence, colour in sentences:
        if y > page.height - 24:
            break
        y = page.paragraph(MARGIN, y, sentence, page.width - 2 * MARGIN, FOOT_SIZE, colour) + 2
