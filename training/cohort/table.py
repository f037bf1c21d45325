"""The cohort's CSV: one row per patient.

Columns ``patient_id, series_path, label`` and optionally ``slice_labels, truth_path, severe``;
other columns are left alone. Paths are relative to the folder of the CSV. Labels are the keys of
:class:`inference.domain.DiseaseClass`: healthy, covid19, h1n1, cap.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.domain import DiseaseClass
from training.errors import CohortError

__all__ = ["Cohort", "CohortRow", "Problem", "parse_cohort", "read_cohort", "write_cohort"]

COLUMNS = ("patient_id", "series_path", "label")
OPTIONAL = ("slice_labels", "truth_path")


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One patient.

    Attributes
    ----------
    patient_id : str
        The cohort's own name of the patient; need not be that of the DICOM files.
    series_path : Path
        Folder (or file) with one chest CT series.
    label : DiseaseClass
    slice_labels : Path or None
        CSV ``sop_instance_uid, lesion`` with 0 or 1.
    truth_path : Path or None
        Case folder of a phantom, or a DICOM SEG or NIfTI of lobes and lesions (or a folder of
        them).
    number : int
        Line of the CSV, the header being line 1.
    severe : bool or None
        As the column says, 0 or 1; None where it is empty or missing. A phantom's case folder
        says it too.
    """

    patient_id: str
    series_path: Path
    label: DiseaseClass
    slice_labels: Path | None
    truth_path: Path | None
    number: int
    severe: bool | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The rows of a CSV.

    Attributes
    ----------
    file : Path
    rows : tuple of CohortRow
    sha256 : str
        Digest over who has which label and series, and over the slice labels' content: changes
        whenever training would. The place of the folder does not matter.
    """

    file: Path
    rows: tuple[CohortRow, ...]
    sha256: str

    def error(self, row: CohortRow, text: str) -> CohortError:
        """An error that names the file and `row`."""
        return CohortError(self.file, row.number, text)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong with a cohort.

    Attributes
    ----------
    row : int
        Line of the CSV; 0 for the whole.
    text : str
    fatal : bool
        False: worth knowing, but training is possible.
    """

    row: int
    text: str
    fatal: bool = True


def read_cohort(file: Path) -> Cohort:
    """Read a cohort's CSV.

    Raises
    ------
    CohortError
        For the first problem, with its row; :func:`training.cohort.checks.check_cohort` lists all.
    """
    cohort, problems = parse_cohort(file)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise CohortError(file, problems[0].row or None, problems[0].text + more)
    return cohort


def parse_cohort(file: Path) -> tuple[Cohort, list[Problem]]:
    """Read what can be read of a cohort's CSV, and list what cannot.

    Raises
    ------
    CohortError
        The file is missing, is no CSV, or lacks a column.
    """
    records = _records(file)
    rows: list[CohortRow] = []
    problems: list[Problem] = []
    for number, record in records:
        try:
            rows.append(_row(file.absolute().parent, number, record))
        except ValueError as error:
            problems.append(Problem(number, str(error)))
    problems += _repeated(rows)
    if not records:
        problems.append(Problem(0, "holds no patient"))
    return Cohort(file, tuple(rows), _digest(file, rows)), sorted(problems)


def _records(file: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise CohortError(file, 1, f"the column {missing[0]} is missing")
            return [
                (
                    reader.line_num,
                    {k: (v or "").strip() for k, v in record.items() if isinstance(k, str)},
                )
                for record in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CohortError(file, None, f"cannot be read: {reason}") from error


def _row(folder: Path, number: int, record: dict[str, str]) -> CohortRow:
    for name in COLUMNS:
        if not record[name]:
            raise ValueError(f"{name} is empty")
    known = {disease.key: disease for disease in DiseaseClass}
    if record["label"] not in known:
        raise ValueError(f"unknown label {record['label']!r}; known: {', '.join(known)}")
    slice_labels, truth = (folder / record[name] if record.get(name) else None for name in OPTIONAL)
    severe = record.get("severe", "")
    if severe not in ("", "0", "1"):
        raise ValueError(f"severe is {severe!r}, not 0 or 1")
    return CohortRow(
        record["patient_id"],
        folder / record["series_path"],
        known[record["label"]],
        slice_labels,
        truth,
        number,
        severe == "1" if severe else None,
    )


def _repeated(rows: Sequence[CohortRow]) -> list[Problem]:
    problems = []
    patients: dict[str, int] = {}
    folders: dict[Path, int] = {}
    for row in rows:
        if row.patient_id in patients:
            first = patients[row.patient_id]
            problems.append(
                Problem(row.number, f"patient {row.patient_id!r} stands in row {first} already")
            )
        patients.setdefault(row.patient_id, row.number)
        folder = row.series_path.resolve()
        if folder in folders:
            problems.append(
                Problem(row.number, f"row {folders[folder]} has the same series: {row.series_path}")
            )
        folders.setdefault(folder, row.number)
    return problems


def _digest(file: Path, rows: Sequence[CohortRow]) -> str:
    folder = file.absolute().parent
    content = []
    for row in rows:
        path = row.series_path
        name = path.relative_to(folder) if path.is_relative_to(folder) else path
        labels = ""
        if row.slice_labels is not None and row.slice_labels.is_file():
            labels = hashlib.sha256(row.slice_labels.read_bytes()).hexdigest()
        severe = [] if row.severe is None else [f"severe={int(row.severe)}"]
        content.append([row.patient_id, name.as_posix(), row.label.key, labels, *severe])
    return hashlib.sha256(json.dumps(sorted(content)).encode()).hexdigest()


def write_cohort(file: Path, rows: Sequence[CohortRow]) -> None:
    """Write rows as a cohort's CSV; paths under its folder become relative."""
    folder = file.absolute().parent

    def relative(path: Path | None) -> str:
        if path is None:
            return ""
        path = path.absolute()
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        with_severity = any(row.severe is not None for row in rows)
        writer.writerow((*COLUMNS, *OPTIONAL, *(("severe",) if with_severity else ())))
        for row in rows:
            severe = "" if row.severe is None else str(int(row.severe))
            writer.writerow(
                (
                    row.patient_id,
                    relative(row.series_path),
                    row.label.key,
                    relative(row.slice_labels),
                    relative(row.truth_path),
                    *((severe,) if with_severity else ()),
                )
            )
