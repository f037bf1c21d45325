"""A bundle of M²UNet or JCS whose probabilities are as sure as they are right.

Fitted on validation patients only: the temperature of the patient's probability, and for M²UNet the
probability from which a patient counts as severe. JCS keeps its thresholds: they are the authors'.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from inference.engine import DeviceName, Precision
from inference.jcs.bundle import load_jcs, write_jcs
from inference.m2unet.bundle import load_m2unet, write_m2unet
from training.errors import TrainingError
from training.evaluation.calibration import fit_temperature, scale
from training.evaluation.errors import EvaluationError
from training.systems.evaluation import Row, measured_rows, system_of

__all__ = ["SystemCalibration", "best_severe_threshold", "calibrate_system"]

_NEVER_BELOW, _NEVER_ABOVE = 0.05, 0.95


class SystemCalibration(BaseModel):
    """What was fitted.

    Attributes
    ----------
    patients : int
        Validation patients whose side is known.
    temperature : float
        Of the new bundle.
    severe : float or None
        Threshold of the new bundle; None of JCS.
    """

    model_config = ConfigDict(frozen=True)

    patients: int
    temperature: float
    severe: float | None


def calibrate_system(
    bundle: Path,
    cohort_file: Path,
    out: Path,
    *,
    scratch: Path,
    split_file: Path | None = None,
    device: DeviceName = "auto",
    precision: Precision = "auto",
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> SystemCalibration:
    """Read the validation patients and write a bundle with the same weights.

    Parameters
    ----------
    out : Path
        New or empty.
    scratch : Path
        Where what is measured of each patient is kept: run again to go on.

    Raises
    ------
    TrainingError
        `out` is not empty.
    EvaluationError
        The validation patients are not of both sides, or it is a bundle of the main model.
    CohortError, inference.errors.BundleError
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(f"{out} is not empty: a bundle gets a folder of its own")
    rows = measured_rows(
        bundle, cohort_file, scratch, split="validation", split_file=split_file, device=device,
        precision=precision, progress=progress,
    )  # fmt: skip
    side = "severe" if system_of(bundle) == "m2unet" else "positive"
    probability, truth = _known(rows, side)
    if truth.all() or not truth.any():
        raise EvaluationError(
            f"the validation patients are not of both sides ({side} or not): nothing can be fitted"
        )
    pairs = np.stack([1.0 - probability, probability], axis=1)
    factor = fit_temperature(pairs, truth.astype(np.intp))
    if side == "positive":
        temperature = _write_jcs(bundle, out, factor)
        return SystemCalibration(patients=len(truth), temperature=temperature, severe=None)
    severe = best_severe_threshold(scale(pairs, factor)[:, 1], truth)
    temperature = _write_m2unet(bundle, out, factor, severe)
    return SystemCalibration(patients=len(truth), temperature=temperature, severe=severe)


def best_severe_threshold(probability: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Threshold with the greatest sum of sensitivity and specificity (Youden, Cancer 1950).

    Parameters
    ----------
    probability : ndarray of float64, shape (patients,)
    truth : ndarray of bool, shape (patients,)
        Severe; both kinds occur.

    Returns
    -------
    float
        Half-way between two patients' probabilities, of equally good ones the nearest to 0.5,
        within [0.05, 0.95]: beyond, a few patients would decide that nobody or everybody is severe.
    """
    ordered = np.unique(probability)
    between = (ordered[1:] + ordered[:-1]) / 2
    tried = np.unique(np.clip(np.concatenate([between, [0.5]]), _NEVER_BELOW, _NEVER_ABOVE))
    called = probability[None] >= tried[:, None]  # (thresholds, patients)
    gain = called[:, truth].mean(axis=1) + (~called[:, ~truth]).mean(axis=1)
    best = tried[gain >= gain.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


def _known(rows: list[Row], side: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    pairs = [
        (probability, truth)
        for row in rows
        if (probability := row.get("probability")) is not None
        and (truth := row.get(side)) is not None
    ]
    return (
        np.array([one for one, _ in pairs], np.float64),
        np.array([one > 0.5 for _, one in pairs], np.bool_),
    )


def _write_m2unet(bundle: Path, out: Path, factor: float, severe: float) -> float:
    found = load_m2unet(bundle)
    fields = found.manifest.model_dump(mode="json", exclude={"weights"})
    temperature = found.manifest.reading.severity_temperature * factor
    fields["reading"] |= {"severity_temperature": temperature, "severe": severe}
    write_m2unet(out, fields, found.net)
    return temperature


def _write_jcs(bundle: Path, out: Path, factor: float) -> float:
    found = load_jcs(bundle)
    fields = found.manifest.model_dump(mode="json", exclude={"weights"})
    temperature = found.manifest.reading.temperature * factor
    fields["reading"] |= {"temperature": temperature}
    write_jcs(out, fields, found.net)
    return temperature
