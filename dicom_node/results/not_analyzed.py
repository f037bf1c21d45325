"""A short page for the PACS: this series was not analysed, and why (never a silent negative)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.domain import ObjectKind
from dicom_node.results.page import DIM, INK, MARGIN, PADDING, Page
from dicom_node.results.result_set import ResultSet
from dicom_node.results.secondary_capture import put_picture
from dicom_node.results.statements import completeness_statements
from dicom_node.results.summary import draw_head

__all__ = ["build_not_analyzed", "paint_not_analyzed"]

_WIDTH, _HEIGHT = 1080, 576


def build_not_analyzed(reason: str, results: ResultSet) -> Dataset:
    """Return the Secondary Capture.

    Parameters
    ----------
    reason : str
        One sentence for a radiologist.
    """
    dataset = results.new_instance(
        ObjectKind.SUMMARY,
        str(SecondaryCaptureImageStorage),
        results.options.secondary_capture_modality,
    )
    picture = paint_not_analyzed(reason, results)
    put_picture(dataset, picture, results, f"Not analysed: {reason} {results.options.banner}.")
    dataset.SeriesDescription = f"Not analysed: {results.options.banner}"[:64].rstrip()
    dataset.PatientOrientation = []
    return dataset


def paint_not_analyzed(reason: str, results: ResultSet) -> NDArray[np.uint8]:
    """Return the page as RGB, shape (576, 1080, 3)."""
    page = Page(_WIDTH, _HEIGHT)
    top = draw_head(page, results)
    right = page.width - MARGIN
    y = page.card(MARGIN, top, right, top + 190, "Result")
    y = page.text(MARGIN + PADDING, y, "Not analysed", 34, INK) + 6
    page.paragraph(MARGIN + PADDING, y, reason, right - MARGIN - 2 * PADDING, 19, INK)
    y = top + 210
    context = results.context
    for sentence in (
        "This is no statement about the lungs: the series has to be read without it.",
        *completeness_statements(results),
        f"Node {context.ae_title} {context.software_version} · "
        f"{results.started_at:%Y-%m-%d %H:%M:%S}",
    ):
        y = page.paragraph(MARGIN, y, sentence, right - MARGIN, 15, DIM) + 2
    return page.pixels()
