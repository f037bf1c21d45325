"""A cohort decoded once: what the network sees of each patient, ready to be trained on.

::

    CACHE/cache.json                 manifest: cohort, crop, patients, sha256 of each file
    CACHE/patients/<key>/crops.npy   int16 (slices with lung, S, S)
    CACHE/patients/<key>/slices.npz  lesion int8, number int32
    CACHE/patients/<key>/lesion.npy  uint8 (slices with lung, S, S), where true masks are known
    CACHE/patients/<key>/lobes.npy   uint8 (slices with lung, S, S), where true lobes are known

The crops are made by the functions of serving (:mod:`inference.lung_crop`), turned as
:mod:`inference.analyzer` turns them, and clipped to [-1024, 100] HU: no window centre of training
or inference (-700 to -500, width 1200) sees anything above, so the network's input is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.domain import DiseaseClass
from inference.lung_crop import CropParameters
from training.cohort.split import Part
from training.durable import file_digest
from training.errors import CacheError

__all__ = ["CacheManifest", "CachedPatient", "CohortCache", "PatientEntry"]

MANIFEST = "cache.json"
REACH_HU = (-1024, 100)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """A file of the cache."""

    bytes: int
    sha256: Sha256


class PatientEntry(_Frozen):
    """A patient of the cache, as in the manifest.

    Attributes
    ----------
    key : str
        Folder name under ``patients``.
    source : str
        Digest of what the crops were made from and how; decides whether they can be kept.
    """

    patient_id: str
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
    label: DiseaseClass
    count: Annotated[int, Field(ge=1)]
    slices_in_stack: Annotated[int, Field(ge=1)]
    source: Sha256
    crops: FileEntry
    slices: FileEntry
    masks: FileEntry | None = None
    lobes: FileEntry | None = None
    severe: bool | None = None


class CacheManifest(_Frozen):
    """``cache.json``: written last, so that its presence means a whole cache."""

    format_version: int = 1
    cohort_sha256: Sha256
    crop: CropParameters
    patients: tuple[PatientEntry, ...]
    split: Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class CachedPatient:
    """One patient of a cache.

    Attributes
    ----------
    patient_id : str
    label : DiseaseClass
    split : "train", "validation" or "test"
    count : int
        Slices with lung, n.
    slice_lesion : ndarray of int8, shape (n,)
        1 lesion, 0 none, -1 unknown.
    slice_number : ndarray of int32, shape (n,)
        Index in the whole stack, most superior first.
    slices_in_stack : int
    key : str
        Of the patient's folder.
    has_masks : bool
        True masks of the lesions are known.
    has_lobes : bool
        True masks of the lobes are known.
    severe : bool or None
        Whether the patient is severe; None where nobody knows.
    """

    patient_id: str
    label: DiseaseClass
    split: Part
    count: int
    slice_lesion: NDArray[np.int8]
    slice_number: NDArray[np.int32]
    slices_in_stack: int
    key: str
    has_masks: bool = False
    has_lobes: bool = False
    severe: bool | None = None


@dataclass(frozen=True)
class CohortCache:
    """A whole cache on disk. Make one with :meth:`open`.

    Attributes
    ----------
    directory : Path
    crop : CropParameters
    cohort_digest : str
        sha256 of the cohort the cache was made from (:attr:`training.cohort.Cohort.sha256`).
    digest : str
        sha256 of the cache's manifest, so of all pixels, labels and the split.
    patients : tuple of CachedPatient
    """

    directory: Path
    crop: CropParameters
    cohort_digest: str
    digest: str
    patients: tuple[CachedPatient, ...]
    _maps: dict[str, NDArray[np.int16]] = field(default_factory=dict, repr=False, compare=False)
    _masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, directory: Path, *, verify: bool = False) -> CohortCache:
        """Open a cache.

        Parameters
        ----------
        directory : Path
        verify : bool
            Compare every file's sha256; else existence and length only.

        Raises
        ------
        CacheError
            There is no whole cache, or a file is missing or altered.
        """
        manifest = read_manifest(directory)
        for entry in manifest.patients:
            check_entry(directory, entry, verify=verify)
        patients = tuple(_patient(directory, entry, manifest) for entry in manifest.patients)
        return cls(
            directory,
            manifest.crop,
            manifest.cohort_sha256,
            file_digest(directory / MANIFEST),
            patients,
        )

    @property
    def size(self) -> int:
        """Rows and columns of the crops, S."""
        return self.crop.input_size

    def crops(self, patient: CachedPatient) -> NDArray[np.int16]:
        """Crops of a patient's slices with lung, most superior first.

        Returns
        -------
        ndarray of int16, shape (n, S, S)
            HU; a read-only view of the file.
        """
        if patient.key not in self._maps:
            path = self.directory / "patients" / patient.key / "crops.npy"
            self._maps[patient.key] = np.load(path, mmap_mode="r")
        return self._maps[patient.key]

    def lesion_shares(self, patient: CachedPatient) -> NDArray[np.uint8]:
        """How much of each pixel of the crops is lesion, for a patient with masks.

        Returns
        -------
        ndarray of uint8, shape (n, S, S)
            0 none to 255 all of it; a read-only view of the file.
        """
        if patient.key not in self._masks:
            path = self.directory / "patients" / patient.key / "lesion.npy"
            self._masks[patient.key] = np.load(path, mmap_mode="r")
        return self._masks[patient.key]

    def lobes(self, patient: CachedPatient) -> NDArray[np.uint8]:
        """Lobes of a patient's crops, for a patient whose lobes are known.

        Returns
        -------
        ndarray of uint8, shape (n, S, S)
            :class:`inference.domain.Lobe`, 0 none; a read-only view of the file.
        """
        name = f"{patient.key}/lobes"
        if name not in self._masks:
            path = self.directory / "patients" / patient.key / "lobes.npy"
            self._masks[name] = np.load(path, mmap_mode="r")
        return self._masks[name]

    def patients_of(self, part: Part) -> tuple[CachedPatient, ...]:
        """Patients of one part of the split, in the cohort's order."""
        return tuple(patient for patient in self.patients if patient.split == part)

    def learning_patients(self) -> tuple[tuple[CachedPatient, ...], tuple[CachedPatient, ...]]:
        """Patients that train and patients that validate.

        Raises
        ------
        CacheError
            There are none of the one or of the other.
        """
        train, validation = self.patients_of("train"), self.patients_of("validation")
        if not train or not validation:
            raise CacheError(f"{self.directory} has no training or no validation patients")
        return train, validation


def read_manifest(directory: Path) -> CacheManifest:
    """Read ``cache.json``.

    Raises
    ------
    CacheError
    """
    path = directory / MANIFEST
    if not path.is_file():
        partly = directory.with_name(f"{directory.name}.partial").is_dir()
        words = "only a partly built one; build it again to finish it" if partly else "none here"
        raise CacheError(f"{directory} is no whole cache: {words}")
    try:
        manifest = CacheManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CacheError(f"{path} is no manifest of a cache: {error.errors()[0]['msg']}") from error
    if manifest.format_version != 1:
        raise CacheError(f"{path} has the format {manifest.format_version}, known is 1")
    return manifest


def check_entry(directory: Path, entry: PatientEntry, *, verify: bool) -> None:
    """Compare a patient's files with the manifest.

    Raises
    ------
    CacheError
    """
    files = {"crops.npy": entry.crops, "slices.npz": entry.slices}
    if entry.masks is not None:
        files["lesion.npy"] = entry.masks
    if entry.lobes is not None:
        files["lobes.npy"] = entry.lobes
    for name, known in files.items():
        path = directory / "patients" / entry.key / name
        try:
            same = path.stat().st_size == known.bytes
        except OSError as error:
            raise CacheError(
                f"{path} (patient {entry.patient_id}) is missing from the cache"
            ) from error
        if not same or (verify and file_digest(path) != known.sha256):
            raise CacheError(f"{path} (patient {entry.patient_id}) has been altered")


def _patient(directory: Path, entry: PatientEntry, manifest: CacheManifest) -> CachedPatient:
    with np.load(directory / "patients" / entry.key / "slices.npz") as arrays:
        lesion, number = arrays["lesion"], arrays["number"]
    return CachedPatient(
        entry.patient_id,
        entry.label,
        manifest.split[entry.patient_id],
        entry.count,
        lesion,
        number,
        entry.slices_in_stack,
        entry.key,
        entry.masks is not None,
        entry.lobes is not None,
        entry.severe,
    )
