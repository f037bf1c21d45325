"""A case on disk: the CT series, and the truth beside it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from inference.domain import DiseaseClass
from training.phantom.case import Case, TrueSlice
from training.phantom.patches import EFFUSION
from training.phantom.person import Family
from training.phantom.scanner import Kernel, Scanner
from training.phantom.series import SeriesIdentity, instance_of

__all__ = ["GENERATOR_VERSION", "SEVERE_PERCENT", "write_case", "write_simple_series"]

GENERATOR_VERSION = "4"
SEVERE_PERCENT = 25.0
_VISIBLE_MM2 = 12.0  # a slice is labelled where it shows so much lesion

Progress = Callable[[str, int, int], None]


def write_case(case: Case, folder: Path, progress: Progress | None = None) -> Path:
    """Write a case: ``series/``, ``truth.npz``, ``truth.json``, ``slice_labels.csv``.

    A folder under a temporary name is filled and renamed, so that `folder` is whole or absent.

    Parameters
    ----------
    case : Case
    folder : Path
        Must not exist, or be empty.
    progress : callable or None
        Called with ("draw", slices done, slices in all).

    Returns
    -------
    Path
        `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partly = folder.with_name(f".{folder.name}.partly-{os.getpid()}")
    shutil.rmtree(partly, ignore_errors=True)
    (partly / "series").mkdir(parents=True)
    try:
        _fill(case, partly, progress)
        if folder.is_dir():
            folder.rmdir()  # refuses where there is something in it
        partly.rename(folder)
    finally:
        shutil.rmtree(partly, ignore_errors=True)
    return folder


def _fill(case: Case, folder: Path, progress: Progress | None) -> None:
    identity = _identity(case)
    shape = (case.slices, case.rows, case.rows)
    lung = np.zeros(shape, np.bool_)
    lobes, lesion = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    rows = []
    pixel_mm2 = case.scanner.pixel_mm**2
    for index, drawn in enumerate(case):
        _save(case, drawn, index, identity, folder / "series")
        lung[index], lobes[index], lesion[index] = drawn.lung, drawn.lobes, drawn.lesion
        lesion_px = int(np.count_nonzero(drawn.lesion)) - int((drawn.lesion == EFFUSION).sum())
        rows.append(
            {
                "sop_instance_uid": str(identity.uid("instance", index)),
                "lesion": lesion_px * pixel_mm2 >= _VISIBLE_MM2,
                "lesion_px": lesion_px,
                "lung_px": int(np.count_nonzero(drawn.lung)),
            }
        )
        if progress is not None:
            progress("draw", index + 1, case.slices)
    np.savez_compressed(folder / "truth.npz", lung=lung, lobes=lobes, lesion=lesion)
    (folder / "slice_labels.csv").write_text(_labels(rows), encoding="utf-8")
    truth = json.dumps(_truth(case, identity, rows), indent=1) + "\n"
    (folder / "truth.json").write_text(truth, encoding="utf-8")


def _save(case: Case, drawn: TrueSlice, index: int, identity: SeriesIdentity, folder: Path) -> None:
    instance = instance_of(
        drawn.hu, index, identity, case.person, case.scanner, case.slice_mm, case.thickness_mm
    )
    instance.save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)


def _identity(case: Case) -> SeriesIdentity:
    sizes = [case.slices, case.rows, f"{case.slice_mm:g}", f"{case.severity_asked:g}"]
    if case.thickness_mm != case.slice_mm:
        sizes.append(f"{case.thickness_mm:g}")
    words = (case.family, case.label.key, case.seed, *sizes, case.scanner)
    letter = "T" if case.family is Family.TEST else "P"
    return SeriesIdentity("/".join(map(str, words)), f"PH{letter}{case.seed:08d}", case.seed)


def _labels(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("sop_instance_uid", "lesion"))
    writer.writerows((row["sop_instance_uid"], int(row["lesion"])) for row in rows)
    return text.getvalue()


def _truth(case: Case, identity: SeriesIdentity, rows: list[dict[str, Any]]) -> dict[str, Any]:
    lung_px = sum(row["lung_px"] for row in rows)
    lesion_px = sum(row["lesion_px"] for row in rows)
    percent = 100.0 * lesion_px / lung_px if lung_px else 0.0
    return {
        "generator_version": GENERATOR_VERSION,
        "patient_id": identity.patient_id,
        "label": case.label.key,
        "seed": case.seed,
        "family": str(case.family),
        "severity_percent": round(percent, 4),
        "severity_asked_percent": round(case.severity_asked, 4),
        "severe": percent >= SEVERE_PERCENT,
        "effusion": case.has_effusion,
        "artefacts": list(case.artefacts),
        "slice_mm": case.slice_mm,
        "thickness_mm": case.thickness_mm,
        "person": asdict(case.person),
        "scanner": asdict(case.scanner),
        "slices": rows,
    }


def write_simple_series(
    folder: Path,
    *,
    seed: int = 7,
    slices: int = 60,
    rows: int = 512,
    slice_mm: float = 4.0,
    lesions: bool = True,
) -> Path:
    """Write a synthetic chest CT series as ``0001.dcm`` … into `folder`, made if missing.

    The same arguments give the same bytes. The chest is stretched to the length of the scan.

    Parameters
    ----------
    folder : Path
    seed : int
        Of anatomy, lesions and noise.
    slices, rows : int
        Slices; rows and columns of each, over 400 mm.
    slice_mm : float
        Slice thickness and distance.
    lesions : bool
        Whether the patient has COVID-19, on some tenth of the lungs, or is healthy.

    Returns
    -------
    Path
        `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    label = DiseaseClass.COVID19 if lesions else DiseaseClass.HEALTHY
    case = Case(
        label,
        seed,
        slices=slices,
        slice_mm=slice_mm,
        rows=rows,
        severity_percent=10.0 if lesions else None,
        scanner=_simple_scanner(rows, slice_mm),
    )
    identity = _identity(case)
    for index, drawn in enumerate(case):
        _save(case, drawn, index, identity, folder)
    return folder


def _simple_scanner(rows: int, slice_mm: float) -> Scanner:
    return Scanner(
        manufacturer="m3lung-node project",
        kernel=Kernel("LUNG", 0.45, 0.3, 0.48, 1.3),
        thickness_mm=slice_mm,
        pixel_mm=400.0 / rows,
        rows=rows,
        centre_mm=(0.0, 0.0),
        tilt_deg=0.0,
        noise_hu=16.0,
        streaks=0.15,
        kvp=120,
        current_ma=200,
        intercept=-1024,
        signed=False,
        padding_hu=None,
        windows=((-600, 1500, "LUNG"), (40, 400, "SOFT TISSUE")),
        table=0,
    )
