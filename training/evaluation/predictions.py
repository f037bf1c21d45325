"""What one patient's reading leaves on the disk: all that the figures need, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from dicom_node.results.dicom_file import write_atomically
from inference.domain import DiseaseClass
from training.evaluation.localisation import MapTally

__all__ = ["FORMAT", "Prediction", "load_prediction", "prediction_stem", "save_prediction"]

FORMAT = 1  # raised whenever what is kept changes: older predictions are then read again


@dataclass(frozen=True)
class Prediction:
    """One patient: what the product said, and what is true.

    Attributes
    ----------
    patient_id : str
    label : DiseaseClass
    probabilities : ndarray of float64, shape (4,)
        Of the patient network.
    counted : DiseaseClass
        Of the non-parametric rule.
    counts : ndarray of int64, shape (4,)
        Slices per class by that rule.
    slice_lesion : ndarray of float32, shape (slices,)
    slice_probabilities : ndarray of float32, shape (slices, 4)
    has_lung : ndarray of bool, shape (slices,)
        The network read these slices.
    slice_truth : ndarray of int8, shape (slices,)
        1 lesion, 0 none, -1 unknown.
    percent_of_lung : float or None
    distribution : ndarray of float32, shape (64, 64)
        Zero without lesion.
    seconds : float
        From the files to the findings.
    has_masks : bool
        The next four come from a truth folder.
    severity_percent, severe, artefacts
    tally : MapTally or None
    """

    patient_id: str
    label: DiseaseClass
    probabilities: NDArray[np.float64]
    counted: DiseaseClass
    counts: NDArray[np.int64]
    slice_lesion: NDArray[np.float32]
    slice_probabilities: NDArray[np.float32]
    has_lung: NDArray[np.bool_]
    slice_truth: NDArray[np.int8]
    percent_of_lung: float | None
    distribution: NDArray[np.float32]
    seconds: float
    has_masks: bool = False
    severity_percent: float | None = None
    severe: bool | None = None
    artefacts: tuple[str, ...] = ()
    tally: MapTally | None = None

    @property
    def predicted(self) -> DiseaseClass:
        """Class of the largest probability."""
        return DiseaseClass(int(np.argmax(self.probabilities)))


_ARRAYS = (
    "probabilities", "counts", "slice_lesion", "slice_probabilities", "has_lung", "slice_truth",
    "distribution",
)  # fmt: skip
_LEVELS = ("lesion_levels", "other_levels")
_PLAIN = ("patient_id", "percent_of_lung", "seconds", "has_masks", "severity_percent", "severe")
_TALLY = (
    "predicted_px", "true_px", "both_px", "lesion_slices", "hits", "slice_dice", "patient_hit",
)  # fmt: skip


def prediction_stem(folder: Path, patient_id: str) -> Path:
    """Path of a patient's files without their suffix."""
    return folder / quote(patient_id, safe=" ")


def save_prediction(folder: Path, prediction: Prediction, key: str) -> None:
    """Write ``<patient>.npz``, then ``<patient>.json`` with its digest: only both are a prediction.

    Parameters
    ----------
    key : str
        Identity of everything the prediction depends on.
    """
    arrays = {name: getattr(prediction, name) for name in _ARRAYS}
    tally = prediction.tally
    if tally is not None:
        arrays |= {name: getattr(tally, name) for name in _LEVELS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    document = {name: getattr(prediction, name) for name in _PLAIN} | {
        "format": FORMAT,
        "key": key,
        "arrays_sha256": hashlib.sha256(content).hexdigest(),
        "label": prediction.label.key,
        "predicted": prediction.predicted.key,
        "counted": prediction.counted.key,
        "artefacts": list(prediction.artefacts),
        "tally": None if tally is None else {name: getattr(tally, name) for name in _TALLY},
    }
    stem = prediction_stem(folder, prediction.patient_id)
    write_atomically(stem.with_name(f"{stem.name}.npz"), content)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_atomically(stem.with_name(f"{stem.name}.json"), text.encode())


def load_prediction(folder: Path, patient_id: str, key: str | None = None) -> Prediction | None:
    """Read a prediction; None where there is none, it is not whole, or it has another `key`."""
    stem = prediction_stem(folder, patient_id)
    try:
        document = json.loads(stem.with_name(f"{stem.name}.json").read_text(encoding="utf-8"))
        content = stem.with_name(f"{stem.name}.npz").read_bytes()
        if document["format"] != FORMAT or (key is not None and document["key"] != key):
            return None
        if hashlib.sha256(content).hexdigest() != document["arrays_sha256"]:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return Prediction(
        **{name: arrays[name] for name in _ARRAYS},
        **{name: document[name] for name in _PLAIN},
        label=_disease(document["label"]),
        counted=_disease(document["counted"]),
        artefacts=tuple(document["artefacts"]),
        tally=_tally(document["tally"], arrays),
    )


def _tally(stored: dict[str, Any] | None, arrays: dict[str, NDArray[Any]]) -> MapTally | None:
    if stored is None:
        return None
    values: dict[str, Any] = {name: arrays[name] for name in _LEVELS}
    return MapTally(**values, **{name: stored[name] for name in _TALLY})


def _disease(key: str) -> DiseaseClass:
    return DiseaseClass[key.upper()]
