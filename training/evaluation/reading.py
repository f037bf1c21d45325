"""One patient through the product's own door: folder, selection, volume, analyzer, prediction."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dicom_node.results.segmentation import lesion_mask
from inference.analyzer import Analyzer
from inference.domain import CtVolume, Findings
from inference.errors import SeriesError
from inference.volume import load_volume
from training.cohort.case_series import SeriesProblem, StackFiles, stack_of
from training.cohort.table import Cohort, CohortRow
from training.cohort.truth import CaseTruth, file_digest, read_truth, slice_truth
from training.errors import CohortError
from training.evaluation.localisation import MapTally
from training.evaluation.predictions import Prediction

__all__ = ["Case", "PatientReading", "find_case", "read_case"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Case:
    """A row whose series was found and can be a stack.

    Attributes
    ----------
    cohort : Cohort
    row : CohortRow
    files : StackFiles
    digest : str
        Over the series, the truth and the slice labels: what a prediction depends on beside the
        model.
    """

    cohort: Cohort
    row: CohortRow
    files: StackFiles
    digest: str

    def error(self, text: str) -> CohortError:
        """An error that names file, row and patient."""
        return self.cohort.error(self.row, f"patient {self.row.patient_id!r}: {text}")


@dataclass(frozen=True)
class PatientReading:
    """A prediction with what pictures are painted from."""

    prediction: Prediction
    findings: Findings
    volume: CtVolume
    truth: CaseTruth | None


def find_case(cohort: Cohort, row: CohortRow) -> Case:
    """Find the series of a row by headers alone.

    Raises
    ------
    CohortError
        No series, several that could be meant, an unreadable file, or a series that the product
        would not analyse. Names the row.
    """
    try:
        files = stack_of(row.series_path)
    except SeriesProblem as problem:
        raise cohort.error(row, f"patient {row.patient_id!r}: {problem}") from problem
    extras = [row.slice_labels] if row.slice_labels else []
    if row.truth_path is not None:
        extras += [row.truth_path / "truth.json", row.truth_path / "truth.npz"]
    digest = hashlib.sha256(row.label.key.encode())
    digest.update(file_digest(*files.paths, *extras).encode())
    return Case(cohort, row, files, digest.hexdigest())


def read_case(case: Case, analyzer: Analyzer, progress: Progress | None = None) -> PatientReading:
    """Read one patient as the node would.

    Raises
    ------
    CohortError
        The pixels cannot be read or analysed (names the row), or the truth does not fit (names
        its file).
    """
    row = case.row
    began = time.perf_counter()
    try:
        volume = load_volume(case.files.paths, frames=case.files.frames, progress=progress)
        findings = analyzer.analyze(volume, progress=progress)
    except SeriesError as error:
        raise case.error(f"{row.series_path}: {error.reason}") from error
    seconds = time.perf_counter() - began
    if findings.patient is None or findings.nonparametric is None:
        raise case.error(f"{len(volume)} slices are too few for a patient reading")
    truth = None
    if row.truth_path is not None and (row.truth_path / "truth.npz").is_file():
        truth = read_truth(row.truth_path, volume, row.label)
    distribution = findings.burden.distribution
    prediction = Prediction(
        patient_id=row.patient_id,
        label=row.label,
        probabilities=np.array(findings.patient.probabilities, dtype=np.float64),
        counted=findings.nonparametric.predicted,
        counts=np.array(findings.nonparametric.counts, dtype=np.int64),
        slice_lesion=np.array([f.lesion_probability for f in findings.slices], np.float32),
        slice_probabilities=np.array([f.probabilities for f in findings.slices], np.float32),
        has_lung=np.array([f.has_lung for f in findings.slices], np.bool_),
        slice_truth=slice_truth(row, volume, truth),
        percent_of_lung=findings.burden.percent_of_lung,
        distribution=np.zeros((64, 64), np.float32) if distribution is None else distribution.map,
        seconds=seconds,
        has_masks=truth is not None,
        severity_percent=None if truth is None else truth.severity_percent,
        severe=None if truth is None else truth.severe,
        artefacts=() if truth is None else truth.artefacts,
        tally=None if truth is None else _tally(findings, truth),
    )
    return PatientReading(prediction, findings, volume, truth)


def _tally(findings: Findings, truth: CaseTruth) -> MapTally:
    tally = MapTally()
    for index, plane in enumerate(findings.lesion_map):
        if truth.lung[index].any() or truth.lesion[index].any():
            called = lesion_mask(findings, index)
            tally.add(plane, truth.lesion[index], truth.lung[index], called)
    return tally.finish()
