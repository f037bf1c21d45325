"""``model_card.md``: what a model is, what it learned from, and what was measured of it.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019): identity, intended use,
training data, how it was measured, figures with intervals, limits. The card lies in the bundle's
folder beside the weights; it is no part of the model's digest, so a card can be written anew when
more has been measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from inference.bundle import Manifest
from inference.bundle_files import TrainingData
from inference.domain import DiseaseClass, Training
from inference.quantized import QuantizedNet
from training.evaluation.document import EvaluationDocument, Figure

__all__ = ["CARD", "USE", "model_card", "percent", "table", "training_data_section"]

CARD = "model_card.md"

USE = {
    Training.UNTRAINED: "To try an installation. Its output means nothing.",
    Training.DEMONSTRATION: (
        "To show what the software does before a site has trained a model of its own. Not for "
        "clinical use, not for research on patients' readings."
    ),
    Training.SITE: (
        "Research at the site it was trained on. Not for diagnosis until validated there."
    ),
}
"""What a model may be used for, by what it was made from."""
_PAPER = {"accuracy": 95.21, "fpe": 2.83, "fne": 4.15, "fdpe": 1.57}
"""Per cent; Table II of arXiv 2010.03201v1, on its own private cohort."""


def model_card(
    manifest: Manifest,
    sha256: str,
    evaluation: EvaluationDocument | None = None,
    *,
    real: Mapping[str, Any] | None = None,
    notes: str = "",
) -> str:
    """Write the card of a bundle.

    Parameters
    ----------
    manifest : Manifest
    sha256 : str
        The bundle's digest.
    evaluation : EvaluationDocument or None
        Of this bundle (:func:`training.evaluation.evaluate.evaluate`).
    real : mapping or None
        What ``benchmarks/real_slices.py --json`` wrote for this bundle.
    notes : str
        Markdown about how it was trained and what else is to be known.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    ValueError
        The evaluation or the figures on real slices are of another bundle.
    """
    for what, other in (
        ("evaluation", evaluation and evaluation.model.sha256),
        ("figures on real slices", real and real["sha256"]),
    ):
        if other and other != sha256:
            raise ValueError(
                f"the {what} belong to another bundle ({other[:16]}…, this is {sha256[:16]}…)"
            )
    parts = [
        _head(manifest, sha256),
        training_data_section(manifest.training_data),
        _network(manifest),
        f"## How it was trained\n\n{notes.strip()}\n" if notes.strip() else "",
        _figures(evaluation),
        _on_real_slices(real),
        _in_int8(manifest.int8),
    ]
    return "\n".join(part for part in parts if part)


def _head(manifest: Manifest, sha256: str) -> str:
    return (
        f"# Model card: {manifest.name} {manifest.version}\n\n"
        f"**{manifest.limits}**\n\n"
        f"- Reads chest CT into four classes: {', '.join(d.label for d in DiseaseClass)}; marks "
        "slices with lesions and where in them the lesions lie.\n"
        f"- Use: {USE[manifest.training]}\n"
        f"- Training: {manifest.training.value}\n"
        f"- sha256 over manifest and weights: `{sha256}`\n"
    )


def training_data_section(data: TrainingData | None) -> str:
    """Say what a model learned from."""
    if data is None:
        return "## Training data\n\nNot stated.\n"
    counts = ", ".join(f"{count} {name}" for name, count in data.patients.items())
    return (
        f"## Training data\n\n{data.description}\n\n"
        f"Patients by class: {counts}. Digest of the cohort: `{data.sha256}`\n"
    )


def _network(manifest: Manifest) -> str:
    net, crop = manifest.architecture.slice_net, manifest.preprocessing.crop
    window, calibration = manifest.preprocessing.window, manifest.calibration
    centers = ", ".join(f"{center:g}" for center in window.centers_hu)
    return (
        "## Network\n\n"
        f"M3Lung-Sys (arXiv 2010.03201): {net.backbone}, location map "
        f"{'with' if net.attention else 'without'} attention, coordinate maps "
        f"{'on' if net.coordinates else 'off'}; patients by their slices' features, "
        f"D′ = {manifest.architecture.patient_net.reduced_size}.\n\n"
        f"- Input: lung crops of {crop.input_size} × {crop.input_size}, window centres {centers} "
        f"HU, width {window.width_hu:g} HU\n"
        f"- Lesion map threshold: {manifest.thresholds.lesion:.3f}\n"
        f"- Temperatures: lesion {calibration.lesion_temperature:.3f}, slice class "
        f"{calibration.slice_temperature:.3f}, patient {calibration.patient_temperature:.3f}\n"
    )


def _figures(document: EvaluationDocument | None) -> str:
    if document is None:
        return "## Figures\n\nNot evaluated.\n"
    cohort = document.cohort
    total = sum(cohort.patients.values())
    listed = ", ".join(f"{cohort.patients[d.key]} {d.label}" for d in DiseaseClass)
    parts = [
        "## Figures\n",
        f"{total} patients ({listed}), {cohort.read_slices} of {cohort.slices} slices with lung; "
        f"cohort `{cohort.sha256[:16]}…`. Per cent with 95 % intervals, bootstrap over patients "
        f"(m = {document.replicates}).\n",
        _patients(document),
        _by_class(document),
        _slices(document),
        _localisation(document),
        _calibration(document),
    ]
    if document.statements:
        parts.append("What weakens these figures:\n")
        parts.append("\n".join(f"- {statement}" for statement in document.statements) + "\n")
    return "\n".join(part for part in parts if part)


def _patients(document: EvaluationDocument) -> str:
    rows = [
        (
            name,
            percent(document.patient.figures[key]),
            percent(document.nonparametric.figures[key]),
            f"{_PAPER[key]:.2f}",
        )
        for key, name in (
            ("accuracy", "Accuracy"),
            ("fpe", "Healthy called ill (FPE)"),
            ("fne", "Ill called healthy (FNE)"),
            ("fdpe", "Wrong disease (FDPE)"),
        )
    ]
    heads = ("Patients", "Patient network", "Counting slices", "The paper's, its own cohort")
    return table(heads, rows)


def _by_class(document: EvaluationDocument) -> str:
    rows = [
        (word, *(percent(document.patient.figures[f"{kind}.{d.key}"]) for d in DiseaseClass))
        for kind, word in (
            ("sensitivity", "Sensitivity"),
            ("specificity", "Specificity"),
            ("auc", "AUC"),
        )
    ]
    confusion = [
        (f"*true {disease.label}*", *(str(count) for count in counts))
        for disease, counts in zip(DiseaseClass, document.patient.confusion, strict=True)
    ]
    return table(("Patient network", *(d.label for d in DiseaseClass)), [*rows, *confusion])


def _slices(document: EvaluationDocument) -> str:
    if document.slices is None:
        return ""
    figures = document.slices.figures
    rows = [
        (f"AUC {disease.label}", percent(figures[f"auc.{disease.key}"]))
        for disease in DiseaseClass
        if f"auc.{disease.key}" in figures
    ]
    rows.append(("AUC lesion or none", percent(figures["auc.lesion"])))
    slices = f"Slices ({document.slices.slices}, {document.slices.with_lesion} with lesion)"
    return table((slices, "%"), rows)


def _localisation(document: EvaluationDocument) -> str:
    if not document.localisation:
        return ""
    rows = [
        (
            name,
            str(found.lesion_slices),
            *(
                "–" if value is None else f"{100 * value:.1f}"
                for value in (
                    found.pointing_game,
                    found.pixel_auc,
                    found.dice_pooled,
                    found.dice_patient,
                )
            ),
        )
        for name, found in document.localisation.items()
    ]
    heads = (
        "Maps against true masks", "Slices", "Pointing game", "Pixel AUC", "Dice, all pixels",
        "Dice, mean of patients",
    )  # fmt: skip
    text = table(heads, rows)
    burden = document.lesion_percentage
    if burden is not None:
        text += (
            f"\nLesion as percentage of lung: mean absolute error "
            f"{burden.mean_absolute_error:.2f} points, bias {burden.bias:+.2f} (limits of "
            f"agreement {burden.lower_limit:+.1f} to {burden.upper_limit:+.1f}).\n"
        )
    return text


def _calibration(document: EvaluationDocument) -> str:
    rows = [
        (name, f"{found.ece:.3f}", f"{found.brier:.3f}", f"{found.negative_log_likelihood:.3f}")
        for name, found in (
            ("Patient", document.calibration_patient),
            ("Slice, four-way", document.calibration_slice),
            ("Slice, lesion", document.calibration_lesion),
        )
        if found is not None
    ]
    return table(("Calibration", "ECE", "Brier", "Negative log-likelihood"), rows)


def _on_real_slices(real: Mapping[str, Any] | None) -> str:
    if real is None:
        return ""
    rows = [
        (
            name,
            str(real[key]["slices"]),
            str(real[key]["infected"]),
            f"{real[key]['auc']:.3f}",
            f"{real[key]['density_rule_auc']:.3f}",
        )
        for key, name in (
            ("P001", "COVID-19, one patient (P001)"),
            ("cap001", "CAP, one patient (cap001)"),
            ("pooled", "Pooled"),
        )
    ]
    heads = ("Real slices", "Slices", "With lesion", "AUC", "AUC of a density rule")
    normal, pictures = real["normal001"], real["covid-19-ct100"]
    every = "" if real["every"] == 1 else f" (every {real['every']}th slice)"
    return (
        f"## Real CT, never trained on{every}\n\n"
        "Three patients of COVID-CT-MD (Afshar et al., Scientific Data 8, 121, 2021), slices "
        "labelled by radiologists, and slices of covid-19-ct100 (medicalsegmentation.com/covid19) "
        "with lesion masks. One patient a row: no estimate for other patients.\n\n"
        + table(heads, rows)
        + f"\n- A healthy patient (normal001): {100 * normal['share_p_above_half']:.1f} % of "
        f"{normal['with_lung']} slices called lesion.\n"
        f"- covid-19-ct100, {pictures['pictures']} slices: pixel AUC "
        f"{pictures['pixel_auc_pooled']:.3f} (density rule "
        f"{pictures['density_rule_pixel_auc_pooled']:.3f}), pointing game "
        f"{100 * pictures['pointing_game']:.1f} %, Dice {pictures['dice_mean']:.3f}\n"
    )


def _in_int8(int8: QuantizedNet | None) -> str:
    if int8 is None:
        return ""
    found = int8.agreement
    rows = [
        (
            "Patient",
            f"{100 * found.same_patient_class:.1f} %",
            f"{found.patient_difference:.3f}",
            "",
        ),
        (
            "Slice, four-way",
            f"{100 * found.same_slice_class:.1f} %",
            f"{found.slice_difference:.3f}",
            f"{found.mean_slice_difference:.4f}",
        ),
        (
            "Slice, lesion",
            "",
            f"{found.lesion_difference:.3f}",
            f"{found.mean_lesion_difference:.4f}",
        ),
    ]
    heads = ("int8 against float32", "Same class", "Largest difference", "Mean")
    return (
        f"## In 8-bit integers\n\nThe slice network a second time ({int8.made_with}; ranges from "
        f"{int8.calibration_slices} slices). {found.patients} patients, {found.slices} slices with "
        f"lung, cohort `{found.cohort_sha256[:16]}…`, read by both:\n\n"
        + table(heads, rows)
        + "\nLesion as percentage of lung: at most "
        f"{found.percent_of_lung_difference:.2f} points apart.\n"
    )


def percent(figure: Figure) -> str:
    """Return a share in per cent with its interval."""
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.2f}"
    return f"{100 * figure.value:.2f} [{100 * figure.low:.1f}–{100 * figure.high:.1f}]"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, all but the first column to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
