"""Who the demo shows where no series is given: two synthetic patients, one of them ill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_node.cli.terminal import progress_bar

__all__ = ["true_lesions", "write_patients"]

_SEED = 7
_SLICES = 36
_SLICE_MM = 7.5
_ROWS = 512


def write_patients(folder: Path) -> Path:
    """Draw a patient with COVID-19 and a healthy one, each with the truth beside the series.

    They are of the generator's test family: scanners and bodies that no shipped model has learned
    from.

    Returns
    -------
    Path
        `folder`; in it one case per patient (:func:`training.phantom.write_case`).
    """
    from inference.domain import DiseaseClass
    from training.phantom import Case, Family, write_case

    with progress_bar() as bar:
        for number, label in enumerate((DiseaseClass.COVID19, DiseaseClass.HEALTHY)):
            ill = label is not DiseaseClass.HEALTHY
            case = Case(
                label,
                _SEED + number,
                family=Family.TEST,
                slices=_SLICES,
                slice_mm=_SLICE_MM,
                rows=_ROWS,
                severity_percent=15.0 if ill else None,
            )

            def advance(_: str, done: int, total: int, name: str = label.label) -> None:
                bar(f"draw: {name}", done, total)

            write_case(case, folder / label.key, advance)
    return folder


def true_lesions(folder: Path) -> Mapping[str, NDArray[np.bool_]]:
    """Return the true lesions of all cases in a folder, by SOP Instance UID.

    Each is an array of bool, shape (rows, columns). Effusion is no lesion of the lung.
    """
    from training.phantom.patches import EFFUSION

    found = {}
    for case in sorted(folder.iterdir()):
        truth = json.loads((case / "truth.json").read_bytes())
        with np.load(case / "truth.npz") as arrays:
            lesion = arrays["lesion"]
        for row, plane in zip(truth["slices"], lesion, strict=True):
            found[row["sop_instance_uid"]] = (plane > 0) & (plane != EFFUSION)
    return found
