"""What is known of a case beyond its class: the phantom's masks, or a list of slice labels."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.domain import CtVolume, DiseaseClass
from training.cohort.slice_labels import label_slices
from training.cohort.table import CohortRow
from training.errors import CohortError

__all__ = ["EFFUSION", "CaseTruth", "file_digest", "read_truth", "slice_truth"]

EFFUSION = 6  # of the mask `lesion`: lies outside the lung and is no lesion for scoring


@dataclass(frozen=True)
class CaseTruth:
    """Truth of one case, slice by slice in the order of a volume.

    Attributes
    ----------
    lesion, lung : ndarray of bool, shape (slices, rows, columns)
        Lesion without effusion; lung with the lesions in it.
    severity_percent : float or None
        Lesion of lung volume.
    severe : bool or None
    artefacts : tuple of str
    family : str
        Of generator settings: ``training`` or ``test``.
    lobes : ndarray of uint8, shape (slices, rows, columns), or None
        :class:`inference.domain.Lobe` of each pixel of lung, 0 none.
    """

    lesion: NDArray[np.bool_]
    lung: NDArray[np.bool_]
    severity_percent: float | None
    severe: bool | None
    artefacts: tuple[str, ...]
    family: str
    lobes: NDArray[np.uint8] | None = None


def read_truth(folder: Path, volume: CtVolume, label: DiseaseClass) -> CaseTruth:
    """Read ``truth.npz`` and ``truth.json`` and put them in the order of `volume`.

    Raises
    ------
    CohortError
        A file is missing or unreadable, states another class, or does not hold a slice of the
        volume. Names the file.
    """
    document = _document(folder / "truth.json")
    masks = _masks(folder / "truth.npz")
    if document.get("label") != label.key:
        raise CohortError(
            folder / "truth.json",
            None,
            f"says {document.get('label')!r}, the cohort says {label.key!r}",
        )
    place = {item["sop_instance_uid"]: i for i, item in enumerate(document.get("slices", []))}
    wanted = [reference.sop_instance_uid for reference in volume.slices]
    absent = [uid for uid in wanted if uid not in place]
    if absent:
        raise CohortError(folder / "truth.json", None, f"does not list the image {absent[0]}")
    order = [place[uid] for uid in wanted]
    lesion, lung = masks["lesion"], masks["lung"]
    if lesion.shape != lung.shape or len(lesion) != len(place):
        raise CohortError(folder / "truth.npz", None, f"does not fit truth.json: {lesion.shape}")
    if lesion.shape[1:] != volume.hu.shape[1:]:
        text = f"has slices of {lesion.shape[1:]}, the series of {volume.hu.shape[1:]}"
        raise CohortError(folder / "truth.npz", None, text)
    severe, percent = document.get("severe"), document.get("severity_percent")
    return CaseTruth(
        lesion=(lesion[order] > 0) & (lesion[order] != EFFUSION),
        lung=lung[order].astype(np.bool_),
        severity_percent=None if percent is None else float(percent),
        severe=None if severe is None else bool(severe),
        artefacts=tuple(_artefact(item) for item in document.get("artefacts", [])),
        family=str(document.get("family", "")),
        lobes=masks["lobes"][order].astype(np.uint8) if "lobes" in masks else None,
    )


def slice_truth(row: CohortRow, volume: CtVolume, truth: CaseTruth | None) -> NDArray[np.int8]:
    """Whether each slice shows lesion: 1, 0, or -1 where nobody knows.

    The row's slice labels come first, then the masks; a healthy person's slices have none; the
    rest is unknown, because a patient's class does not say which slices show it.

    Raises
    ------
    CohortError
        The slice labels cannot be read. Names the file.
    """
    if row.slice_labels is None and truth is not None:
        return np.asarray(truth.lesion.any(axis=(1, 2)), dtype=np.int8)
    return label_slices(volume.slices, row.label, row.slice_labels)


def file_digest(*files: Path) -> str:
    """sha256 over the contents of those of `files` that are there."""
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _document(file: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CohortError(file, None, f"cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise CohortError(file, None, "is no truth of a case")
    return loaded


def _masks(file: Path) -> dict[str, NDArray[np.integer]]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in ("lesion", "lung")}
            return found | ({"lobes": stored["lobes"]} if "lobes" in stored.files else {})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CohortError(file, None, f"cannot be read: {error}") from error


def _artefact(item: object) -> str:
    """Name of an artefact: a word, or an object with a ``kind``."""
    return str(item.get("kind", "unnamed")) if isinstance(item, dict) else str(item)
