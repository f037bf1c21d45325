"""Pictures of a patient: a strip of slices with the truth outlined, and the paper's figure."""

from __future__ import annotations

import datetime as dt
import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node import __version__
from dicom_node.results.colour import blended, lung_window_grey
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.figure import paint_figure, png
from dicom_node.results.key_slices import key_slices
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import lesion_mask
from dicom_node.results.source import SourceSeries
from dicom_node.results.summary_figures import square_around
from training.evaluation.reading import Case, PatientReading

__all__ = ["figure_png", "strip_jpeg"]

_SHOWN = 4
_TILE = 224
_GAP = 4
_TRUTH = (86, 220, 226)  # outline of the true lesion: far from every colour of the map


def strip_jpeg(reading: PatientReading) -> bytes:
    """Up to four slices, raw above and with the location map below; true lesion outlined.

    The slices with most true lesion where it is known, else with most lesion found, else spread.
    """
    window = square_around(reading.findings.lung_mask)
    columns = [_column(reading, index, window) for index in _chosen(reading)]
    gap = np.full((columns[0].shape[0], _GAP, 3), 255, np.uint8)
    parts = [part for column in columns for part in (column, gap)][:-1]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(parts, axis=1)).save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def figure_png(case: Case, reading: PatientReading) -> bytes:
    """Return the paper's figure of one patient, with the true class beside the prediction."""
    row, findings = case.row, reading.findings
    context = ResultContext(
        instance_set_digest=case.digest,
        configuration_digest="",
        analysis_started_at=dt.datetime.now(dt.UTC),
        completeness=Completeness("a cohort's series was read", len(case.files.paths)),
        software_version=__version__,
        ae_title="",
    )
    source = SourceSeries.read(case.files.paths)
    results = ResultSet(source, findings.model, context, ResultOptions())
    percent = reading.prediction.severity_percent
    extent = "" if percent is None else f", {percent:.1f} % of the lung"
    picture = paint_figure(
        findings,
        reading.volume,
        results,
        title=row.patient_id,
        note=f"True: {row.label.label}{extent}",
    )
    return png(picture)


def _chosen(reading: PatientReading) -> list[int]:
    findings = reading.findings
    if reading.truth is not None and reading.truth.lesion.any():
        area = np.count_nonzero(reading.truth.lesion, axis=(1, 2))
        occupied = np.flatnonzero(area)
        places = np.linspace(0, len(occupied) - 1, min(_SHOWN, len(occupied)))
        return [int(occupied[round(place)]) for place in places]
    total = len(findings.slices)
    spread = sorted({int(i) for i in np.linspace(0.2 * total, 0.8 * total, _SHOWN)})
    return key_slices(findings, _SHOWN) or spread


def _column(reading: PatientReading, index: int, window: tuple[slice, slice]) -> NDArray[np.uint8]:
    findings, volume = reading.findings, reading.volume
    grey = lung_window_grey(volume.hu[index])
    raw = np.repeat(grey[:, :, None], 3, axis=2)
    mapped = blended(
        volume.hu[index],
        findings.lesion_map[index],
        lesion_mask(findings, index),
        findings.model.lesion_threshold,
    )
    truth = None if reading.truth is None else reading.truth.lesion[index][window]
    tiles = [_tile(raw[window], None), _tile(mapped[window], truth)]
    gap = np.full((_GAP, _TILE, 3), 255, np.uint8)
    return np.concatenate([tiles[0], gap, tiles[1]], axis=0)


def _tile(rgb: NDArray[np.uint8], truth: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    size = (_TILE, _TILE)
    tile = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_AREA)
    if truth is not None and truth.any():
        mask = cv2.resize(truth.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, _TRUTH, thickness=1)
    return np.asarray(tile, dtype=np.uint8)
