"""``report.html``: one file, no script, no reference to anything outside it.

Pictures are data URIs and the style sheet is named in the page's own Content-Security-Policy by
its digest, so that it can be shown from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dicom_node.results.dicom_file import write_atomically
from inference.domain import DiseaseClass
from training.evaluation import plots
from training.evaluation.document import EvaluationDocument
from training.evaluation.measures import labels_of, probabilities_of
from training.evaluation.predictions import Prediction, prediction_stem
from training.evaluation.report_tables import (
    artefact_table,
    calibration_table,
    cohort_line,
    comparison_table,
    localisation_table,
    patient_table,
    percentage_line,
    slice_table_html,
)
from training.evaluation.slice_table import SliceTable, slice_table

__all__ = ["write_report"]

_FIGURE_WIDTH = 1400  # of the pictures in the page; those in figures/ are larger

_STYLE = """
:root{--ink:#22272b;--dim:#666d74;--line:#dfe3e6;--warn:#8a5a00;--wash:#fff8ea}
*{box-sizing:border-box}
body{margin:0 auto;padding:40px 28px 80px;max-width:1080px;color:var(--ink);background:#fff;
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:27px;font-weight:600;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:18px;font-weight:600;margin:44px 0 10px;padding-top:14px;
 border-top:1px solid var(--line)}
p{margin:6px 0;max-width:78ch}
.dim{color:var(--dim)} .small{font-size:13px}
.warn{border:1px solid #e2b25c;background:var(--wash);color:var(--warn);border-radius:6px;
 padding:10px 14px;margin:16px 0;font-weight:600}
.warn p{font-weight:400;margin:2px 0 0}
table{border-collapse:collapse;margin:10px 0;font-variant-numeric:tabular-nums;font-size:13.5px}
th{font-weight:600;text-align:right;color:var(--dim);padding:4px 10px;vertical-align:bottom;
 border-bottom:1px solid #aab0b6}
td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0;color:var(--ink)}
td i{display:block;font-style:normal;color:var(--dim);font-size:11.5px;white-space:nowrap}
tr.aside td{color:var(--dim)}
.wide{overflow-x:auto}
img{max-width:100%;height:auto;display:block}
figure{margin:14px 0;break-inside:avoid}
figcaption{font-size:13px;color:var(--dim);margin-top:4px}
figcaption b{color:var(--ink);font-weight:600}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:8px 26px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;margin:12px 0;font-size:14px}
dt{color:var(--dim)} dd{margin:0;overflow-wrap:anywhere}
@media print{body{padding:0;max-width:none;font-size:11.5px}table{font-size:10.5px}
 td,th{padding:3px 6px} h2{margin-top:24px;break-after:avoid}}
@media(max-width:760px){.pair{grid-template-columns:1fr}}
"""


def write_report(
    file: Path, document: EvaluationDocument, predictions: Sequence[Prediction], folder: Path
) -> None:
    """Write the report.

    Parameters
    ----------
    file : Path
    document : EvaluationDocument
    predictions : sequence of Prediction
    folder : Path
        Of the evaluation, with ``pictures/`` and ``figures/``.
    """
    table = slice_table(predictions)
    sections = [
        _head(document),
        _patients(document),
        _plots(document, predictions, table),
        _slices(document),
        _localisation(document, predictions),
        _calibration(document, predictions, table),
        _distribution(predictions),
        _worst(document, folder),
        _figures(predictions, folder),
        _statements(document),
    ]
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {escape(document.model.name)} {escape(document.model.version)}"
        f"</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )
    write_atomically(file, page.encode())


def _head(document: EvaluationDocument) -> str:
    model = document.model
    rows = {
        "Model": f"{model.name} {model.version}, {model.training}",
        "Digest": model.sha256,
        "Trained on": model.trained_on or "not stated",
        "Read": cohort_line(document),
        "Cohort": f"{document.cohort.file}, sha256 {document.cohort.sha256[:16]}…",
        "Time": f"{document.timing.seconds_per_series:.1f} s per series; {document.timing.engine}",
        "Intervals": f"95 %, bootstrap over patients, m = {document.replicates}, "
        f"seed {document.seed}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items())
    return (
        f"<h1>Evaluation of {escape(model.name)} {escape(model.version)}</h1>"
        f'<p class="dim">Four-way reading of chest CT: healthy, COVID-19, H1N1, CAP</p>'
        f"{_warning(document)}<dl>{listed}</dl>"
    )


def _warning(document: EvaluationDocument) -> str:
    words = {
        "untrained": "Untrained model: its output means nothing.",
        "demonstration": "Demonstration model: not for clinical use.",
        "site": "Not for diagnosis.",
    }[document.model.training]
    return f'<div class="warn">{words}<p>{escape(document.model.limits)}</p></div>'


def _patients(document: EvaluationDocument) -> str:
    parts = [
        "<h2>Patients</h2>",
        "<p>All figures in percent, with their interval. FPE: healthy people given a disease; "
        "FNE: patients called healthy; FDPE: patients given another disease.</p>",
        patient_table(document),
    ]
    if document.comparison is not None:
        parts.append(comparison_table(document))
    return "".join(parts)


def _plots(
    document: EvaluationDocument, predictions: Sequence[Prediction], table: SliceTable
) -> str:
    matrices = [
        ("Patient network", document.patient.confusion),
        ("Counting slices", document.nonparametric.confusion),
    ]
    return _svg_figure(plots.roc_plot(predictions, table), "ROC curves.") + _svg_figure(
        plots.confusion_plot(matrices), "Patients by true and predicted class."
    )


def _slices(document: EvaluationDocument) -> str:
    return "" if document.slices is None else "<h2>Slices</h2>" + slice_table_html(document)


def _localisation(document: EvaluationDocument, predictions: Sequence[Prediction]) -> str:
    if not document.localisation and document.lesion_percentage is None:
        return ""
    parts = ["<h2>Where the lesions lie</h2>"]
    if document.localisation:
        parts.append(
            "<p>Location maps against true lesion masks. Pointing game: the largest value of a "
            "slice's map lies in the lesion, or within "
            f"{document.localisation_tolerance_px:g} pixels of it (of 512). Pixel AUC: inside the "
            f"true lung. Dice: map above {document.model.lesion_threshold:g}.</p>"
        )
        parts.append(localisation_table(document))
    agreement = plots.bland_altman_plot(predictions)
    if agreement is not None and document.lesion_percentage is not None:
        parts.append(_svg_figure(agreement, percentage_line(document)))
    if document.artefacts:
        parts.append(artefact_table(document))
    return "".join(parts)


def _calibration(
    document: EvaluationDocument, predictions: Sequence[Prediction], table: SliceTable
) -> str:
    panels: list[tuple[str, NDArray[np.integer], NDArray[np.floating]]] = [
        ("Patient network", labels_of(predictions), probabilities_of(predictions))
    ]
    if len(table.truth):
        keep = table.as_trained()
        if keep.any():
            panels.append(("Slices, four classes", table.disease[keep], table.probabilities[keep]))
        panels.append(("Slices, lesion", table.truth.astype(np.int64), table.two_way()))
    fitted = (
        "The bundle's temperatures were fitted on validation patients."
        if document.model.calibrated
        else "The bundle has no fitted temperature."
    )
    return (
        f"<h2>Calibration</h2><p>{fitted}</p>"
        + calibration_table(document)
        + _svg_figure(plots.reliability_plot(panels), "Largest probability against truth.")
    )


def _distribution(predictions: Sequence[Prediction]) -> str:
    return "<h2>Distribution of lesions by disease</h2>" + _svg_figure(
        plots.distribution_plot(predictions),
        "Mean share of lung above the threshold, seen from the front, apex to base.",
    )


def _worst(document: EvaluationDocument, folder: Path) -> str:
    shown = []
    for case in document.worst:
        stem = prediction_stem(folder / "pictures", case.patient_id)
        picture = stem.with_name(f"{stem.name}.jpg")
        if not picture.is_file():
            continue
        right = case.label == case.predicted
        words = "right" if right else f"called {_label(case.predicted)}"
        caption = (
            f"<b>{escape(case.patient_id)}</b>: {_label(case.label)} got "
            f"{case.probability_of_label:.3f}, {words}"
        )
        source = _data_uri(picture.read_bytes(), "image/jpeg")
        shown.append(_figure(source, caption, f"Slices of {escape(case.patient_id)}"))
    if not shown:
        return ""
    return (
        "<h2>Worst cases</h2><p>The true class got the least probability. Above the slice, below "
        "its location map; the thin line is the true lesion where it is known.</p>"
        f'<div class="pair">{"".join(shown)}</div>'
    )


def _figures(predictions: Sequence[Prediction], folder: Path) -> str:
    shown = []
    for prediction in predictions:
        stem = prediction_stem(folder / "figures", prediction.patient_id)
        picture = stem.with_name(f"{stem.name}.png")
        if picture.is_file():
            caption = f"<b>{escape(prediction.patient_id)}</b>: {prediction.label.label}"
            source = _data_uri(_reduced(picture), "image/jpeg")
            shown.append(_figure(source, caption, f"Reading of {escape(prediction.patient_id)}"))
    return "" if not shown else "<h2>Readings, every fifth slice</h2>" + "".join(shown)


def _statements(document: EvaluationDocument) -> str:
    if not document.statements:
        return ""
    items = "".join(f"<p>{escape(text)}</p>" for text in document.statements)
    return f"<h2>What to keep in mind</h2>{items}"


def _label(key: str) -> str:
    return DiseaseClass[key.upper()].label


def _reduced(picture: Path) -> bytes:
    with Image.open(picture) as image:
        image.thumbnail((_FIGURE_WIDTH, 100_000))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()


def _svg_figure(svg: str, caption: str) -> str:
    return _figure(_data_uri(svg.encode(), "image/svg+xml"), escape(caption), escape(caption))


def _figure(source: str, caption_html: str, words: str) -> str:
    return (
        f'<figure><img src="{source}" alt="{words}"><figcaption>{caption_html}</figcaption>'
        "</figure>"
    )


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
