"""Slice labels: whether a slice shows a lesion. Given by a CSV, else derived from the patient.

Derived, weakly: every slice of a healthy person is without lesion (0). Of a patient's slices
nothing is known (-1), and training finds out by multi-instance self-labelling: for a warm-up of
some epochs every slice takes part with its patient's class; from then on only those count as
lesion whose lesion probability by the current network exceeds 0.5, the top tenth of each patient
in any case, and the others are left out (:mod:`training.weak_labels`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass, SliceReference
from training.errors import CohortError

__all__ = ["UNKNOWN", "label_slices", "read_slice_labels"]

UNKNOWN = -1

Key = tuple[str, int | None]


def read_slice_labels(file: Path) -> dict[Key, int]:
    """Read ``sop_instance_uid, lesion[, frame_number]``.

    Returns
    -------
    dict of (SOP Instance UID, frame number or None) to 0 or 1

    Raises
    ------
    CohortError
        Names the file and the line.
    """
    labels: dict[Key, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            if not {"sop_instance_uid", "lesion"} <= set(reader.fieldnames or ()):
                raise CohortError(file, 1, "the columns sop_instance_uid and lesion are needed")
            for record in reader:
                key, value = _entry(file, reader.line_num, record)
                if labels.setdefault(key, value) != value:
                    raise CohortError(file, reader.line_num, f"{key[0]} has two different labels")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CohortError(file, None, f"cannot be read: {reason}") from error
    return labels


def _entry(file: Path, line: int, record: dict[str, str]) -> tuple[Key, int]:
    lesion = (record["lesion"] or "").strip()
    if lesion not in ("0", "1"):
        raise CohortError(file, line, f"lesion is {lesion!r}, not 0 or 1")
    frame = (record.get("frame_number") or "").strip()
    if frame and not frame.isdecimal():
        raise CohortError(file, line, f"frame_number is {frame!r}, no number")
    return (record["sop_instance_uid"].strip(), int(frame) if frame else None), int(lesion)


def label_slices(
    references: Sequence[SliceReference], patient: DiseaseClass, file: Path | None
) -> NDArray[np.int8]:
    """Label the slices of one volume.

    Parameters
    ----------
    references : sequence of SliceReference
        Of the volume's slices, in order.
    patient : DiseaseClass
    file : Path or None
        The slice labels' CSV.

    Returns
    -------
    ndarray of int8, shape (slices,)
        1 lesion, 0 none, -1 unknown.

    Raises
    ------
    CohortError
        The file cannot be read, names none of the slices, or gives a healthy person a lesion.
    """
    if file is None:
        default = 0 if patient == DiseaseClass.HEALTHY else UNKNOWN
        return np.full(len(references), default, dtype=np.int8)
    given = read_slice_labels(file)
    absent = 0 if patient == DiseaseClass.HEALTHY else UNKNOWN
    labels = np.array(
        [
            given.get(
                (one.sop_instance_uid, one.frame_number),
                given.get((one.sop_instance_uid, None), absent),
            )
            for one in references
        ],
        dtype=np.int8,
    )
    named = {key[0] for key in given}
    if not any(one.sop_instance_uid in named for one in references):
        raise CohortError(file, None, "names none of the slices of its series")
    if patient == DiseaseClass.HEALTHY and labels.any():
        raise CohortError(file, None, "gives a healthy person a slice with lesion")
    return labels
