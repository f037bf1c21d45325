"""A bundle with the temperatures and the map threshold that validation patients ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.bundle import Manifest, load_bundle, write_bundle
from training.errors import TrainingError
from training.evaluation.calibration import fit_temperature
from training.evaluation.localisation import best_threshold
from training.evaluation.measures import labels_of, probabilities_of
from training.evaluation.predictions import Prediction
from training.evaluation.slice_table import slice_table

__all__ = ["Temperatures", "calibrated_bundle", "fit_lesion_threshold", "fit_temperatures"]


@dataclass(frozen=True, slots=True)
class Temperatures:
    """What the bundle's present temperatures are to be multiplied by.

    Attributes
    ----------
    lesion, slice_class, patient : float
        Of the two-way head, the four-way head, and the patient network.
    """

    lesion: float
    slice_class: float
    patient: float


def fit_temperatures(predictions: Sequence[Prediction]) -> Temperatures:
    """Fit all three on the predictions of validation patients.

    The slice heads are averaged over the windows after their softmax, so for them the temperature
    of the average stands for that of each window. A head without a labelled slice keeps its own.
    """
    table = slice_table(predictions, read_only=True)
    trained = table.as_trained()
    lesion = slice_class = 1.0
    if len(table.truth):
        lesion = fit_temperature(table.two_way(), table.truth)
    if trained.any():
        slice_class = fit_temperature(table.probabilities[trained], table.disease[trained])
    patient = fit_temperature(probabilities_of(predictions), labels_of(predictions))
    return Temperatures(lesion, slice_class, patient)


def fit_lesion_threshold(predictions: Sequence[Prediction]) -> float | None:
    """Threshold of the lesion map with the best Dice over the validation patients' lung.

    None where no patient came with true masks of lesions: labels say nothing about pixels.
    """
    tallies = [found.tally for found in predictions if found.tally is not None]
    if not any(tally.lesion_levels.any() for tally in tallies):
        return None
    threshold, _ = best_threshold(
        np.sum([tally.lesion_levels for tally in tallies], axis=0),
        np.sum([tally.other_levels for tally in tallies], axis=0),
    )
    return threshold


def calibrated_bundle(
    directory: Path,
    out: Path,
    temperatures: Temperatures,
    metrics: Mapping[str, float] | None = None,
    lesion_threshold: float | None = None,
) -> Manifest:
    """Write a copy of a bundle with other temperatures; the weights keep their bytes' values.

    Parameters
    ----------
    directory : Path
        Of the bundle.
    out : Path
        New or empty.
    temperatures : Temperatures
    metrics : mapping of str to float, or None
        Written into the manifest in place of those there.
    lesion_threshold : float or None
        Of the lesion map; None keeps that of the bundle.

    Returns
    -------
    Manifest
        Of the new bundle; its digest is another one. An int8 network stays behind: the old
        temperatures are in it, so it is to be made anew.

    Raises
    ------
    inference.errors.BundleError
        `directory` is no sound bundle.
    TrainingError
        `out` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(f"{out} is not empty: a bundle gets a folder of its own")
    bundle = load_bundle(directory)
    manifest = bundle.manifest.model_dump(
        mode="json", exclude={"slice_weights", "patient_weights", "calibration", "int8"}
    )
    present = bundle.manifest.calibration
    manifest["calibration"] = {
        "lesion_temperature": present.lesion_temperature * temperatures.lesion,
        "slice_temperature": present.slice_temperature * temperatures.slice_class,
        "patient_temperature": present.patient_temperature * temperatures.patient,
    }
    if metrics is not None:
        manifest["metrics"] = dict(metrics)
    if lesion_threshold is not None:
        manifest["thresholds"]["lesion"] = lesion_threshold
    return write_bundle(out, manifest, bundle.slice_net, bundle.patient_net)
