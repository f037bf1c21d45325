"""A cohort cache of made-up crops that four classes can be told apart in, in the real format."""

from __future__ import annotations

import hashlib
from itertools import cycle
from pathlib import Path

import numpy as np

from inference.domain import DiseaseClass
from inference.lung_crop import CropParameters
from training.cohort import CohortCache
from training.cohort.cache import MANIFEST, CacheManifest, FileEntry, PatientEntry
from training.durable import file_digest

PARTS = {"train": 4, "validation": 1, "test": 2}  # patients of each class


def made_crops(
    label: DiseaseClass, slices: int, size: int, random: np.random.Generator, *, diffuse: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Two dark lungs; the diseases are bright patches at a place and of a density of their own.

    `diffuse` fills the lungs with that density instead: an even easier cohort.
    """
    y, x = np.mgrid[0:size, 0:size] / size
    lung = np.minimum((x - 0.27) ** 2, (x - 0.73) ** 2) / 0.04 + (y - 0.5) ** 2 / 0.16 < 1
    crops = np.where(lung, -850, 40)[None] + random.normal(0, 25, (slices, size, size))
    lesion = np.zeros(slices, dtype=np.int8)
    if label is not DiseaseClass.HEALTHY:
        top, left, hu = {1: (0.25, 0.1, -550), 2: (0.55, 0.3, -150), 3: (0.55, 0.62, -350)}[label]
        patch = (slice(int(top * size), int((top + 0.25) * size)),
                 slice(int(left * size), int((left + 0.25) * size)))  # fmt: skip
        lesion[slices // 4 : slices - slices // 4] = 1
        if diffuse:
            lesion[:] = 1
            crops += np.where(lung, hu + 850, 0)
        else:
            affected = np.flatnonzero(lesion)
            crops[affected[0] : affected[-1] + 1, *patch] = hu
    return np.clip(crops, -1024, 100).astype(np.int16), lesion


def made_lobes(slices: int, size: int) -> np.ndarray:
    """Lobes of :func:`made_crops`: three of the left ellipse, from above, two of the right one."""
    y, x = np.mgrid[0:size, 0:size] / size
    lung = np.minimum((x - 0.27) ** 2, (x - 0.73) ** 2) / 0.04 + (y - 0.5) ** 2 / 0.16 < 1
    right = np.digitize(y, (0.4, 0.6)) + 1
    left = np.digitize(y, (0.5,)) + 4
    plane = np.where(lung, np.where(x < 0.5, right, left), 0).astype(np.uint8)
    return np.repeat(plane[None], slices, axis=0)


def make_cache(
    directory: Path,
    *,
    size: int = 64,
    slices: int = 12,
    parts: dict[str, int] | None = None,
    seed: int = 0,
    diffuse: bool = False,
    masks: bool = False,
    lobes: bool = False,
) -> CohortCache:
    """Write a cache and open it; slice counts differ from patient to patient.

    `masks`: say where the patches are, too. `lobes`: and where five lobes are; the denser two
    diseases are severe then.
    """
    random = np.random.default_rng(seed)
    entries, split = [], {}
    counts = cycle((slices, slices + 3, slices - 2))
    for part, each in (parts or PARTS).items():
        for label in DiseaseClass:
            for number in range(each):
                patient_id = f"{part}-{label.key}-{number}"
                key = hashlib.sha256(patient_id.encode()).hexdigest()[:24]
                folder = directory / "patients" / key
                folder.mkdir(parents=True)
                crops, lesion = made_crops(label, next(counts), size, random, diffuse=diffuse)
                np.save(folder / "crops.npy", crops)
                numbers = np.arange(len(crops), dtype=np.int32)
                np.savez(folder / "slices.npz", lesion=lesion, number=numbers)
                named = [("crops", "crops.npy"), ("slices", "slices.npz")]
                if masks:
                    patch = (crops > -600) & (crops < 0) & (lesion == 1)[:, None, None]
                    np.save(folder / "lesion.npy", patch.astype(np.uint8) * 255)
                    named.append(("masks", "lesion.npy"))
                if lobes:
                    np.save(folder / "lobes.npy", made_lobes(len(crops), size))
                    named.append(("lobes", "lobes.npy"))
                files = {
                    name: FileEntry(
                        bytes=(folder / file).stat().st_size, sha256=file_digest(folder / file)
                    )
                    for name, file in named
                }
                entries.append(
                    PatientEntry(
                        patient_id=patient_id, key=key, label=label, count=len(crops),
                        slices_in_stack=len(crops), source="0" * 64, **files,
                        severe=label in (DiseaseClass.H1N1, DiseaseClass.CAP) if lobes else None,
                    )
                )  # fmt: skip
                split[patient_id] = part
    manifest = CacheManifest(
        cohort_sha256=hashlib.sha256(str(seed).encode()).hexdigest(),
        crop=CropParameters(input_size=size),
        patients=tuple(entries),
        split=split,
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return CohortCache.open(directory, verify=True)
