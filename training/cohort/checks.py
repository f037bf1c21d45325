"""Everything wrong with a cohort, at once, with row numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dicom_node.settings import SelectionSettings
from inference.domain import DiseaseClass
from training.cohort.case_series import CaseSeries, survey_folder
from training.cohort.drawn_masks import holds_masks
from training.cohort.slice_labels import read_slice_labels
from training.cohort.split import Split
from training.cohort.table import Cohort, CohortRow, Problem, parse_cohort
from training.errors import CohortError

__all__ = ["check_cohort"]

Progress = Callable[[str, int, int], None]


def check_cohort(
    file: Path,
    split: Split | None = None,
    *,
    selection: SelectionSettings | None = None,
    progress: Progress | None = None,
    workers: int = 0,
) -> tuple[Cohort, list[Problem]]:
    """Read a cohort's CSV and the headers of all its series.

    Parameters
    ----------
    file : Path
    split : Split or None
        With it, leakage between its parts and classes without a validation case are errors.
    selection : SelectionSettings or None
    progress : callable or None
        Called with ("check", rows done, rows in all).
    workers : int
        Threads; 0 takes the default.

    Returns
    -------
    cohort : Cohort
        The rows that could be read.
    problems : list of Problem
        By row; empty when all is well.

    Raises
    ------
    CohortError
        The file itself cannot be read.
    """
    cohort, problems = parse_cohort(file)
    cases: list[CaseSeries] = []
    with ThreadPoolExecutor(workers or None) as pool:
        surveys = pool.map(lambda row: survey_folder(row.series_path, selection), cohort.rows)
        for done, case in enumerate(surveys, start=1):
            cases.append(case)
            if progress is not None:
                progress("check", done, len(cohort.rows))
    for row, case in zip(cohort.rows, cases, strict=True):
        problems += _of_row(row, case)
    problems += _shared(cohort.rows, cases, split)
    problems += _of_classes(cohort, split)
    return cohort, sorted(problems)


def _of_row(row: CohortRow, case: CaseSeries) -> list[Problem]:
    problems = [
        Problem(row.number, f"unreadable file {name}: {reason}") for name, reason in case.unreadable
    ]
    if case.problem:
        problems.append(Problem(row.number, case.problem))
    if row.slice_labels is not None:
        try:
            labels = read_slice_labels(row.slice_labels)
        except CohortError as error:
            problems.append(Problem(row.number, str(error)))
        else:
            if row.label == DiseaseClass.HEALTHY and any(labels.values()):
                text = f"{row.slice_labels.name} gives a healthy person a slice with lesion"
                problems.append(Problem(row.number, text))
    if row.truth_path is not None and not holds_masks(row.truth_path):
        text = (
            f"{row.truth_path} holds no truth.npz, no SEG and no NIfTI; "
            "evaluation will not locate lesions"
        )
        problems.append(Problem(row.number, text, fatal=False))
    return problems


def _shared(
    rows: Sequence[CohortRow], cases: Sequence[CaseSeries], split: Split | None
) -> list[Problem]:
    """Series and people that stand in more than one row."""
    problems = []
    series: dict[str, CohortRow] = {}
    people: dict[str, CohortRow] = {}
    for row, case in zip(rows, cases, strict=True):
        for uid in sorted(case.series_instance_uids):
            first = series.setdefault(uid, row)
            if first is not row:
                text = f"patient {first.patient_id!r} in row {first.number} has the same series"
                problems.append(Problem(row.number, f"{text}: SeriesInstanceUID {uid}"))
        if len(case.dicom_patient_ids) > 1:
            problems.append(Problem(row.number, "holds images of more than one PatientID"))
        for name in sorted(case.dicom_patient_ids):
            first = people.setdefault(name, row)
            if first is not row:
                problems.append(_same_person(first, row, split))
    return problems


def _same_person(first: CohortRow, row: CohortRow, split: Split | None) -> Problem:
    text = f"has the same PatientID in its images as row {first.number}"
    parts = split.parts if split is not None else {}
    a, b = parts.get(first.patient_id), parts.get(row.patient_id)
    if a is not None and b is not None and a != b:
        return Problem(row.number, f"leakage: {text}, one is in {a} and one in {b}")
    return Problem(row.number, f"{text}: keep both in one part of the split", fatal=False)


def _of_classes(cohort: Cohort, split: Split | None) -> list[Problem]:
    problems = []
    counts = Counter(row.label for row in cohort.rows)
    for label in DiseaseClass:
        if not counts[label]:
            problems.append(Problem(0, f"the class {label.key} has no patient", fatal=False))
        elif split is None and counts[label] < 3:
            text = f"the class {label.key} has {counts[label]} patients: too few to be split"
            problems.append(Problem(0, text))
        elif split is not None:
            validating = sum(
                row.label == label and split.parts.get(row.patient_id) == "validation"
                for row in cohort.rows
            )
            if not validating:
                problems.append(Problem(0, f"the class {label.key} has no validation case"))
    return problems
