"""The report's tables: numbers in, HTML out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from inference.domain import DiseaseClass
from training.evaluation.document import EvaluationDocument, Figure, PatientFigures

__all__ = [
    "artefact_table",
    "calibration_table",
    "cohort_line",
    "comparison_table",
    "localisation_table",
    "patient_table",
    "percentage_line",
    "slice_table_html",
]

_WHOLE = {"accuracy": "Acc", "fpe": "FPE", "fne": "FNE", "fdpe": "FDPE"}
_BY_CLASS = {"sensitivity": "Sensitivity", "specificity": "Specificity", "auc": "AUC"}
_PAPER = {"accuracy": 95.21, "fpe": 2.83, "fne": 4.15, "fdpe": 1.57}
"""Table II of arXiv 2010.03201v1, on its own private cohort."""


def cohort_line(document: EvaluationDocument) -> str:
    """Who was read, in one line."""
    cohort = document.cohort
    total = sum(cohort.patients.values())
    part = "all patients" if cohort.split == "all" else f"{cohort.split} part"
    listed = ", ".join(
        f"{cohort.patients[disease.key]} {disease.label}" for disease in DiseaseClass
    )
    return (
        f"{part}: {total} patients ({listed}); {cohort.read_slices} of {cohort.slices} slices "
        "with lung"
    )


def patient_table(document: EvaluationDocument) -> str:
    """Table II: the patient network, the rule, and the paper's own line for orientation."""
    rows = [("Patient network", document.patient), ("Counting slices", document.nonparametric)]
    whole = _table(
        ["", *_WHOLE.values()],
        [
            *((name, *(_cell(table.figures[key]) for key in _WHOLE)) for name, table in rows),
            ("The paper's, its own cohort", *(f"{_PAPER[key]:.2f}" for key in _WHOLE)),
        ],
        aside=True,
    )
    classes = "".join(_class_table(name, table) for name, table in rows)
    return whole + classes


def _class_table(name: str, table: PatientFigures) -> str:
    rows = [
        (word, *(_cell(table.figures[f"{kind}.{d.key}"]) for d in DiseaseClass))
        for kind, word in _BY_CLASS.items()
    ]
    return _table([name, *(d.label for d in DiseaseClass)], rows)


def comparison_table(document: EvaluationDocument) -> str:
    """Differences to the other model with p-values."""
    comparison = document.comparison
    if comparison is None:
        return ""
    other = comparison.against
    rows = []
    for name, found in comparison.differences.items():
        if name.startswith("patient."):
            p = "" if found.p is None else _p_value(found.p)
            rows.append((_figure_name(name.removeprefix("patient.")), _signed(found.difference), p))
    return (
        f"<p>Against {escape(other.name)} {escape(other.version)} "
        f"({other.sha256[:8]}, {other.training}) on the same patients; positive: larger here. "
        "Paired bootstrap, two-sided.</p>" + _table(["Figure", "Difference", "p"], rows)
    )


def slice_table_html(document: EvaluationDocument) -> str:
    """Slice-level AUC."""
    slices = document.slices
    if slices is None:
        return ""
    figures = slices.figures
    rows = [
        ("As trained", *(_cell(figures[f"auc.{d.key}"]) for d in DiseaseClass), ""),
        (
            "All slices",
            *(_cell(figures[f"auc_all.{d.key}"]) for d in DiseaseClass),
            _cell(figures["auc.lesion"]),
        ),
    ]
    return (
        f"<p>AUC of {slices.slices} slices, {slices.with_lesion} with lesion. As trained: "
        "four-way head, normal slices of patients left out. All slices: both heads joined, those "
        "count as healthy.</p>" + _table(["AUC", *(d.label for d in DiseaseClass), "Lesion"], rows)
    )


def localisation_table(document: EvaluationDocument) -> str:
    """Pointing game, pixel AUC and Dice by class and severity."""
    names = {disease.key: disease.label for disease in DiseaseClass} | {"all": "All"}
    rows = [
        (
            names.get(name, f"{name} of lung"),
            str(found.patients),
            str(found.lesion_slices),
            *(
                _percent(value)
                for value in (
                    found.pointing_game,
                    found.pointing_game_patients,
                    found.pixel_auc,
                    found.dice_patient,
                    found.dice_slice,
                    found.dice_pooled,
                )
            ),
        )
        for name, found in document.localisation.items()
    ]
    heads = [
        "", "Patients", "Lesion slices", "Pointing game", "… patients", "Pixel AUC",
        "Dice, patients", "Dice, slices", "Dice, pooled",
    ]  # fmt: skip
    return _table(heads, rows)


def artefact_table(document: EvaluationDocument) -> str:
    """FPE among healthy people, by artefact."""
    rows = [
        (escape(name.replace("_", " ")), str(found.patients), _percent(found.fpe))
        for name, found in document.artefacts.items()
    ]
    return "<p>Healthy people by artefact.</p>" + _table(["Artefact", "Healthy", "FPE"], rows)


def calibration_table(document: EvaluationDocument) -> str:
    """ECE, Brier score and likelihood of the three heads."""
    rows = [
        (name, str(found.count), _percent(found.ece), f"{found.brier:.4f}",
         f"{found.negative_log_likelihood:.4f}")
        for name, found in (
            ("Patient network", document.calibration_patient),
            ("Slices, four classes", document.calibration_slice),
            ("Slices, lesion", document.calibration_lesion),
        )
        if found is not None
    ]  # fmt: skip
    return _table(["", "Cases", "ECE", "Brier", "NLL"], rows)


def percentage_line(document: EvaluationDocument) -> str:
    """Agreement of the lesion percentage in words."""
    found = document.lesion_percentage
    if found is None:
        return ""
    return (
        f"Lesion percentage of {found.patients} patients: mean absolute error "
        f"{found.mean_absolute_error:.2f}, bias {found.bias:+.2f}, limits of agreement "
        f"{found.lower_limit:+.2f} to {found.upper_limit:+.2f} percentage points."
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, aside: bool = False) -> str:
    """HTML table of ready cells; with `aside` the last row stands back."""
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    if aside and lines:
        lines[-1] = lines[-1].replace("<tr>", '<tr class="aside">', 1)
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(lines)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _cell(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    text = f"{100 * figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text}<i>{100 * figure.low:.1f} to {100 * figure.high:.1f}</i>"


def _signed(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    text = f"{100 * figure.value:+.2f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text}<i>{100 * figure.low:+.1f} to {100 * figure.high:+.1f}</i>"


def _figure_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    kind, _, disease = name.partition(".")
    return f"{_BY_CLASS[kind]}, {DiseaseClass[disease.upper()].label}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _p_value(value: float) -> str:
    return "< 0.01" if value < 0.01 else f"{value:.2f}"
