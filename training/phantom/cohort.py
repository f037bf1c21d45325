"""Many cases in one folder, drawn by several processes, and the CSV that lists them."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.domain import DiseaseClass
from training.errors import PhantomError
from training.phantom.case import BOTTOM_PART, TOP_PART, Case
from training.phantom.case_folder import GENERATOR_VERSION, write_case
from training.phantom.cohort_spec import CohortSpec, FamilySpec
from training.phantom.geometry import stream
from training.phantom.person import Family, draw_person
from training.phantom.shares import Shares

__all__ = ["CasePlan", "plans_of", "write_cohort"]

Progress = Callable[[str, int, int], None]
_SEEDS_APART = 1_000_000


@dataclass(frozen=True, slots=True)
class CasePlan:
    """Everything a case is made from."""

    patient_id: str
    label: DiseaseClass
    seed: int
    family: Family
    slices: int
    slice_mm: float
    thickness_mm: float
    rows: int
    severity_percent: float | None
    shares: Shares

    def case(self) -> Case:
        """Make the case."""
        return Case(
            self.label,
            self.seed,
            family=self.family,
            slices=self.slices,
            slice_mm=self.slice_mm,
            thickness_mm=self.thickness_mm,
            rows=self.rows,
            severity_percent=self.severity_percent,
            shares=self.shares,
        )


def plans_of(spec: CohortSpec) -> Iterator[CasePlan]:
    """Yield the plan of each case, classes taking turns."""
    for family in spec.families:
        base = spec.seed * _SEEDS_APART + (500_000 if family.family is Family.TEST else 0)
        number = 0
        for turn in range(max(family.counts)):
            for label in DiseaseClass:
                if turn < family.counts[label]:
                    yield _plan(family, label, base + number)
                    number += 1


def _plan(spec: FamilySpec, label: DiseaseClass, seed: int) -> CasePlan:
    random = stream(seed, "plan")
    span = (BOTTOM_PART - TOP_PART) * draw_person(seed, spec.family).lung_mm
    low, high = spec.slice_mm
    wanted = float(low * (high / low) ** random.random())
    slices = int(np.clip(round(span / wanted), *spec.slices))
    severity = None
    if label is not DiseaseClass.HEALTHY:
        small, large = spec.severity_percent
        severity = float(small * (large / small) ** (random.random() ** 0.8))
    distance = round(float(np.clip(span / slices, 0.3, 20.0)), 3)
    thickness = distance
    if spec.thickness_mm is not None:
        thin, thick = spec.thickness_mm
        thickness = min(distance, round(float(thin * (thick / thin) ** random.random()), 2))
    letter = "T" if spec.family is Family.TEST else "P"
    return CasePlan(
        f"PH{letter}{seed:08d}",
        label,
        seed,
        spec.family,
        slices,
        distance,
        thickness,
        spec.rows,
        severity,
        spec.shares,
    )


def write_cohort(
    spec: CohortSpec, out: Path, *, workers: int = 1, progress: Progress | None = None
) -> Path:
    """Write all cases of a specification, and ``cohort.csv`` when they are whole.

    Cases that are there already, made from the same plan, are kept; a case that was cut off is
    made again. One run at a time may fill a folder.

    Parameters
    ----------
    spec : CohortSpec
    out : Path
    workers : int
        Processes.
    progress : callable or None
        Called with ("cases", cases done, cases in all).

    Returns
    -------
    Path
        ``cohort.csv``.

    Raises
    ------
    PhantomError
        Where a case of another specification lies under the same name.
    """
    plans = list(plans_of(spec))
    folder = out / "cases"
    for remains in folder.glob(".*.partly-*"):
        shutil.rmtree(remains)
    missing = [plan for plan in plans if not _is_there(plan, folder / plan.patient_id)]
    done = len(plans) - len(missing)
    report = progress or (lambda stage, done, total: None)
    report("cases", done, len(plans))
    if workers <= 1:
        for plan in missing:
            _write(plan, folder)
            done += 1
            report("cases", done, len(plans))
    else:
        context = multiprocessing.get_context("spawn")
        with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
            for finished in as_completed([pool.submit(_write, plan, folder) for plan in missing]):
                finished.result()
                done += 1
                report("cases", done, len(plans))
    return _write_table(plans, out)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started meanwhile use one thread for linear algebra: they share the cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write(plan: CasePlan, folder: Path) -> None:
    import cv2

    cv2.setNumThreads(1)
    write_case(plan.case(), folder / plan.patient_id)


def _is_there(plan: CasePlan, folder: Path) -> bool:
    if not folder.exists():
        return False
    try:
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PhantomError(f"{folder} is there, but holds no readable truth.json") from error
    same = (
        truth["generator_version"] == GENERATOR_VERSION
        and truth["label"] == plan.label.key
        and truth["seed"] == plan.seed
        and len(truth["slices"]) == plan.slices
        and truth["scanner"]["rows"] == plan.rows
        and truth["slice_mm"] == plan.slice_mm
        and truth["thickness_mm"] == plan.thickness_mm
        and truth["severity_asked_percent"] == round(plan.severity_percent or 0.0, 4)
    )
    if not same:
        raise PhantomError(f"{folder} holds a case of another specification; choose another --out")
    return True


def _write_table(plans: list[CasePlan], out: Path) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("patient_id", "series_path", "label", "slice_labels", "truth_path"))
    for plan in plans:
        case = f"cases/{plan.patient_id}"
        labels = f"{case}/slice_labels.csv"
        writer.writerow((plan.patient_id, f"{case}/series", plan.label.key, labels, case))
    path, partly = out / "cohort.csv", out / ".cohort.csv.partly"
    partly.write_text(text.getvalue(), encoding="utf-8")
    partly.replace(path)
    return path
