"""The series that benchmarks read: the project's own phantom, drawn once and kept under build/.

Anybody may run the suite: no patient's image is needed. ``M3LUNG_BENCH_SERIES=DIR`` reads a chest
CT series of one's own instead. A patient of 60 slices is drawn (half a minute of computing); longer
stacks repeat each slice, as thin reconstructions of thick slices would.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

__all__ = ["phantom_series", "series_files"]

BUILD = Path(__file__).resolve().parents[1] / "build" / "bench"
DRAWN, SLICE_MM = 60, 5.0


def series_files(slices: int) -> list[Path]:
    """Return the files of a chest CT series of `slices` slices, or of one's own."""
    own = os.environ.get("M3LUNG_BENCH_SERIES")
    if own:
        return sorted(path for path in Path(own).iterdir() if path.is_file())
    return phantom_series(slices, BUILD / f"phantom-{slices}", seed="bench")


def phantom_series(slices: int, folder: Path, *, seed: str) -> list[Path]:
    """Write a series into `folder` where it is not there yet; another `seed`, other UIDs."""
    if not folder.exists():
        making = folder.with_name(folder.name + ".part")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        _stretch(_drawn(), slices, making, seed)
        making.rename(folder)
    return sorted(folder.glob("*.dcm"))


def _drawn() -> list[Path]:
    folder = BUILD / f"drawn-{DRAWN}"
    if not folder.exists():
        from inference.domain import DiseaseClass
        from training.phantom import Case, write_case

        print("drawing the phantom, once …", flush=True)
        case = Case(DiseaseClass.COVID19, 7, slices=DRAWN, slice_mm=SLICE_MM)
        write_case(case, folder)
    return sorted((folder / "series").glob("*.dcm"))


def _stretch(drawn: list[Path], slices: int, folder: Path, seed: str) -> None:
    study, series, frame = (generate_uid(entropy_srcs=[seed, word]) for word in ("st", "se", "fr"))
    distance_mm = DRAWN * SLICE_MM / slices
    headers = [dcmread(path) for path in drawn]
    top = max(float(header.ImagePositionPatient[2]) for header in headers)
    headers.sort(key=lambda header: -float(header.ImagePositionPatient[2]))
    for index in range(slices):
        dataset = headers[index * len(headers) // slices]
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(top - index * distance_mm, 3)]
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.FrameOfReferenceUID = frame
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[seed, str(index)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID, dataset.InstanceNumber = f"BENCH-{seed}", index + 1
        dataset.SliceThickness = distance_mm
        dataset.save_as(folder / f"{index + 1:04d}.dcm", enforce_file_format=True)
