"""``model_card.md`` of M²UNet and JCS: what it is, what it learned from, what was measured of it.

As :mod:`training.evaluation.card` for the main model; no part of the model's digest either.
"""

from __future__ import annotations

from collections.abc import Mapping

from inference.domain import DiseaseClass, Lobe
from inference.jcs.bundle import JcsManifest
from inference.m2unet.bundle import M2UNetManifest
from inference.system_bundle import SystemManifest
from training.evaluation.card import USE, percent, table, training_data_section
from training.evaluation.document import Figure
from training.systems.evaluation import SystemDocument

__all__ = ["system_card"]

_TWO_WAY = (
    ("auc", "AUC"), ("sensitivity", "Sensitivity"), ("specificity", "Specificity"),
    ("accuracy", "Accuracy"),
)  # fmt: skip
# Per cent, on the authors' own cohorts: the abstracts of arXiv 2004.07054 (v1) and its repository.
_PAPER_JCS = {"sensitivity": "95.0", "specificity": "93.0", "dice.lesion_slices": "78.5"}


def system_card(
    manifest: SystemManifest,
    sha256: str,
    evaluation: SystemDocument | None = None,
    *,
    notes: str = "",
) -> str:
    """Write the card of a bundle.

    Parameters
    ----------
    manifest : M2UNetManifest or JcsManifest
    sha256 : str
        The bundle's digest.
    evaluation : SystemDocument or None
        Of this bundle (:func:`training.systems.evaluation.evaluate_system`).
    notes : str
        Markdown about how it was trained and what else is to be known.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    ValueError
        The evaluation is of another bundle.
    """
    if evaluation is not None and evaluation.sha256 != sha256:
        raise ValueError(
            f"the evaluation belongs to another bundle ({evaluation.sha256[:16]}…, "
            f"this is {sha256[:16]}…)"
        )
    parts = [
        _head(manifest, sha256),
        training_data_section(manifest.training_data),
        _network(manifest),
        f"## How it was trained\n\n{notes.strip()}\n" if notes.strip() else "",
        _figures(manifest, evaluation),
        _limits(manifest),
    ]
    return "\n".join(part for part in parts if part)


def _head(manifest: SystemManifest, sha256: str) -> str:
    return (
        f"# Model card: {manifest.name} {manifest.version}\n\n"
        f"**{manifest.limits}**\n\n"
        f"- {_purpose(manifest)}\n"
        f"- Use: {USE[manifest.training]}\n"
        f"- Training: {manifest.training.value}\n"
        f"- sha256 over manifest and weights: `{sha256}`\n"
    )


def _purpose(manifest: SystemManifest) -> str:
    if isinstance(manifest, JcsManifest):
        positive, negative = (_labels(keys) for keys in (manifest.positive, manifest.negative))
        return (
            f"JCS (arXiv 2004.07054): tells {positive} from {negative}, shows why, and outlines "
            "lesions in positive slices of positive patients."
        )
    return (
        "M²UNet (arXiv 2005.03832): the five lobes of the lungs, and whether a patient is severe "
        f"(at least {_severe_from(manifest):g} % of the lungs)."
    )


def _labels(keys: tuple[str, ...]) -> str:
    return ", ".join(DiseaseClass[key.upper()].label for key in keys)


def _severe_from(manifest: SystemManifest) -> float:
    return manifest.severe_from_percent if isinstance(manifest, M2UNetManifest) else float("nan")


def _network(manifest: SystemManifest) -> str:
    crop, window = manifest.preprocessing.crop, manifest.preprocessing.window
    lines = [
        f"- Input: lung crops of {crop.input_size} × {crop.input_size}, window "
        f"{window.centers_hu[0]:g} ± {window.width_hu / 2:g} HU"
    ]
    if isinstance(manifest, M2UNetManifest):
        net, reading = manifest.architecture, manifest.reading
        lines += [
            f"- Patches of {net.patch_px} px every {net.stride_px} px, {net.base_channels} "
            "channels in the first of five levels",
            f"- Severe from a probability of {reading.severe:.3f}, temperature "
            f"{reading.severity_temperature:.3f}",
            f"- A lobe is not told below {100 * reading.smallest_lobe:g} % of both lungs, or where "
            f"its own pixels are less than {reading.least_sure:g} sure on the average",
        ]
    elif isinstance(manifest, JcsManifest):
        parts, slices = manifest.architecture, manifest.reading
        lines += [
            f"- Classifier at {parts.classifier_px} px, segmentation with {parts.vgg_base} "
            f"channels in the first level, {'with' if parts.joint else 'without'} bridges "
            "between them",
            f"- A slice is positive above {slices.positive_slice:.3f} (temperature "
            f"{slices.temperature:.3f}), a patient above {slices.positive_slices} of "
            f"{slices.of_slices} slices, in proportion; a pixel is lesion above {slices.lesion:g}",
        ]
    return "## Network\n\n" + "\n".join(lines) + "\n"


def _figures(manifest: SystemManifest, document: SystemDocument | None) -> str:
    if document is None:
        return "## Figures\n\nNot evaluated.\n"
    tables = (
        _of_lobes(document.figures)
        if isinstance(manifest, M2UNetManifest)
        else _of_lesions(document.figures)
    )
    parts = [
        "## Figures\n",
        f"{document.patients} patients ({document.split}); cohort "
        f"`{document.cohort_sha256[:16]}…`. Per cent with 95 % intervals, bootstrap over patients "
        f"(m = {document.replicates}); distances in millimetres.\n",
        *tables,
    ]
    if document.statements:
        parts.append("What weakens these figures:\n")
        parts.append("\n".join(f"- {statement}" for statement in document.statements) + "\n")
    return "\n".join(parts)


def _of_lobes(figures: Mapping[str, Figure]) -> list[str]:
    rows = [
        (label, _shown(figures, f"dice.{key}"), _millimetres(figures, f"hd95_mm.{key}"))
        for key, label in (*((lobe.key, lobe.label) for lobe in Lobe), ("mean", "*Mean*"))
    ]
    severity = [(word, _shown(figures, f"severity.{key}")) for key, word in _TWO_WAY]
    return [
        table(("Lobes", "Dice", "95 % Hausdorff distance"), rows),
        table(("Severity", "%"), severity),
    ]


def _of_lesions(figures: Mapping[str, Figure]) -> list[str]:
    rows = [
        (word, _shown(figures, f"classification.{key}"), _PAPER_JCS.get(key, "–"))
        for key, word in _TWO_WAY
    ]
    lesions = [
        (
            "Dice in slices with lesion",
            _shown(figures, "dice.lesion_slices"),
            _PAPER_JCS["dice.lesion_slices"],
        ),
        ("Dice of what the product outlines", _shown(figures, "dice.product"), "–"),
        ("95 % Hausdorff distance, mm", _millimetres(figures, "hd95_mm"), "–"),
    ]
    heads = ("Measured here", "The paper's, its own cohort")
    return [table(("Classification", *heads), rows), table(("Lesions", *heads), lesions)]


def _shown(figures: Mapping[str, Figure], name: str) -> str:
    found = figures.get(name)
    return "–" if found is None else percent(found)


def _millimetres(figures: Mapping[str, Figure], name: str) -> str:
    found = figures.get(name)
    if found is None or found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}–{found.high:.1f}]"


def _limits(manifest: SystemManifest) -> str:
    if isinstance(manifest, JcsManifest):
        lines = [
            "It knows the classes it was taught only: all else becomes one of the two sides.",
            "It outlines nothing in patients that it calls negative: that is no proof of health.",
            "Lung is found by its air: consolidation at the chest wall may be lost beforehand.",
        ]
    else:
        lines = [
            "Fissures that cannot be seen are guessed from where they usually lie.",
            "After a lobectomy, with effusion or in a cropped field of view lobes may be wrong "
            "before they are uncertain enough to be left out.",
            "Severe means a share of the lungs, not how ill a patient is.",
        ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"
