"""Which patient trains, which validates, which tests: by patient, by class, seeded, saved."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from inference.domain import DiseaseClass
from training.cohort.table import Cohort
from training.durable import write_durably
from training.errors import CohortError

__all__ = ["Part", "Split", "read_split", "require_validation", "split_patients", "write_split"]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Split:
    """The part of each patient.

    Attributes
    ----------
    parts : mapping of patient_id to "train", "validation" or "test"
    """

    parts: Mapping[str, Part]

    def counts(self, cohort: Cohort) -> dict[DiseaseClass, dict[Part, int]]:
        """Patients by class and part."""
        counted = Counter((row.label, self.parts[row.patient_id]) for row in cohort.rows)
        return {label: {part: counted[label, part] for part in PARTS} for label in DiseaseClass}


def split_patients(
    cohort: Cohort, seed: int = 0, fractions: Sequence[float] = (0.7, 0.1, 0.2)
) -> Split:
    """Split a cohort by patient, the classes in the same proportion in each part.

    Parameters
    ----------
    cohort : Cohort
    seed : int
        The same seed and patients give the same split, whatever their order in the CSV.
    fractions : three floats
        Of training, validation and test, summing to 1. A part with a fraction above 0 gets one
        patient of each class at least.

    Raises
    ------
    CohortError
        A class has too few patients for its parts.
    """
    if len(fractions) != len(PARTS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError("fractions are three numbers >= 0 that sum to 1")
    parts: dict[str, Part] = {}
    for label in DiseaseClass:
        patients = sorted(row.patient_id for row in cohort.rows if row.label == label)
        if not patients:
            continue
        order = np.random.default_rng([seed, int(label)]).permutation(len(patients))
        sizes = _sizes(cohort, label, len(patients), fractions)
        names = [part for part, size in zip(PARTS, sizes, strict=True) for _ in range(size)]
        parts.update({patients[i]: name for i, name in zip(order, names, strict=True)})
    return Split(parts)


def _sizes(
    cohort: Cohort, label: DiseaseClass, count: int, fractions: Sequence[float]
) -> tuple[int, ...]:
    needed = sum(fraction > 0 for fraction in fractions)
    if count < needed:
        raise CohortError(
            cohort.file,
            None,
            f"the class {label.key} has {count} patients, a split needs {needed} at least",
        )
    wanted = np.array(fractions) * count
    least = (np.array(fractions) > 0).astype(int)
    sizes = np.maximum(np.floor(wanted + 1e-9).astype(int), least)
    # Largest remainder; what the minimum of one took too many comes back out of the largest part.
    while sizes.sum() < count:
        sizes[int(np.argmax(wanted - sizes))] += 1
    while sizes.sum() > count:
        sizes[int(np.argmax(sizes))] -= 1
    return tuple(int(size) for size in sizes)


def require_validation(cohort: Cohort, split: Split) -> None:
    """Check that each class of the cohort can be validated.

    Raises
    ------
    CohortError
        A class has patients, but none of them validates or none trains.
    """
    for label, counts in split.counts(cohort).items():
        if not sum(counts.values()):
            continue
        for part in ("train", "validation"):
            if not counts[part]:
                raise CohortError(cohort.file, None, f"the class {label.key} has no {part} case")


def write_split(file: Path, cohort: Cohort, split: Split) -> None:
    """Save as CSV ``patient_id, label, split``."""
    lines = ["patient_id,label,split"]
    for row in cohort.rows:
        name = row.patient_id
        if any(character in name for character in ',"\r\n'):
            name = '"' + name.replace('"', '""') + '"'
        lines.append(f"{name},{row.label.key},{split.parts[row.patient_id]}")
    write_durably(file, ("\n".join(lines) + "\n").encode())


def read_split(file: Path, cohort: Cohort) -> Split:
    """Read a saved split.

    Raises
    ------
    CohortError
        A patient stands in two parts (leakage), is not in the cohort, or is missing; or a part
        is unknown.
    """
    parts: dict[str, Part] = {}
    known = {row.patient_id for row in cohort.rows}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            if not {"patient_id", "split"} <= set(reader.fieldnames or ()):
                raise CohortError(file, 1, "the columns patient_id and split are needed")
            for record in reader:
                patient, name = record["patient_id"], record["split"]
                part = next((part for part in PARTS if part == name), None)
                if part is None:
                    raise CohortError(file, reader.line_num, f"unknown split {name!r}")
                if patient not in known:
                    raise CohortError(
                        file, reader.line_num, f"patient {patient!r} is not in {cohort.file.name}"
                    )
                if parts.setdefault(patient, part) != part:
                    raise CohortError(
                        file,
                        reader.line_num,
                        f"leakage: patient {patient!r} is in {parts[patient]} and in {part}",
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CohortError(file, None, f"cannot be read: {reason}") from error
    missing = next((row for row in cohort.rows if row.patient_id not in parts), None)
    if missing is not None:
        raise CohortError(file, None, f"patient {missing.patient_id!r} is in no part")
    return Split(parts)
