"""Building a cache: each patient decoded and cropped once, in parallel, resumable."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dicom_node.settings import SelectionSettings
from inference.anatomy import require_chest
from inference.domain import BoundingBox, CtVolume
from inference.errors import SeriesError
from inference.lung_crop import CropParameters, crop_lungs, crop_to_input
from inference.volume import load_volume
from training.cohort.cache import (
    MANIFEST,
    REACH_HU,
    CacheManifest,
    FileEntry,
    PatientEntry,
    check_entry,
)
from training.cohort.case_series import SeriesProblem, stack_of
from training.cohort.drawn_masks import masks_digest, read_masks
from training.cohort.slice_labels import label_slices
from training.cohort.split import Split, require_validation
from training.cohort.table import Cohort, CohortRow
from training.durable import file_digest, sync_directory, write_durably
from training.errors import CacheError, CohortError

__all__ = ["NetworkView", "build_cache", "network_view"]

Progress = Callable[[str, int, int], None]


def build_cache(
    cohort: Cohort,
    split: Split,
    out: Path,
    crop: CropParameters | None = None,
    *,
    selection: SelectionSettings | None = None,
    progress: Progress | None = None,
    workers: int = 0,
) -> Path:
    """Decode a cohort into a cache.

    Parameters
    ----------
    cohort : Cohort
    split : Split
    out : Path
        Folder to make. While it is built it is called ``OUT.partial``; what is there of an
        earlier, interrupted run is kept where it is whole and made from the same files.
    crop : CropParameters or None
        None: the paper's, 512 x 512.
    selection : SelectionSettings or None
        Which series are suitable; None: the node's defaults.
    progress : callable or None
        Called with ("cache", patients done, patients in all).
    workers : int
        Processes; 0 takes the number of CPUs, 1 works in this one.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    CohortError
        Names the row whose series or labels cannot be used; all others have been finished by
        then. Or a class has no validation case.
    CacheError
        `out` is there already.
    """
    if out.exists():
        raise CacheError(f"{out} is there already")
    require_validation(cohort, split)
    partial = out.with_name(f"{out.name}.partial")
    (partial / "patients").mkdir(parents=True, exist_ok=True)
    parameters = crop or CropParameters()
    chosen = selection or SelectionSettings()
    jobs = [(row, partial, parameters, chosen) for row in cohort.rows]
    entries: dict[int, PatientEntry] = {}
    failures: list[tuple[CohortRow, str]] = []
    with _executor(workers, len(jobs)) as pool:
        futures = {pool.submit(_cache_row, *job): job[0] for job in jobs}
        for done, future in enumerate(as_completed(futures), start=1):
            row, result = futures[future], future.result()
            if isinstance(result, PatientEntry):
                entries[row.number] = result
            else:
                failures.append((row, result))
            if progress is not None:
                progress("cache", done, len(jobs))
    if failures:
        row, text = min(failures, key=lambda failure: failure[0].number)
        more = f" (and {len(failures) - 1} more rows)" if len(failures) > 1 else ""
        raise cohort.error(row, f"patient {row.patient_id}: {text}{more}")
    manifest = CacheManifest(
        cohort_sha256=cohort.sha256,
        crop=parameters,
        patients=tuple(entries[row.number] for row in cohort.rows),
        split={row.patient_id: split.parts[row.patient_id] for row in cohort.rows},
    )
    _drop_strangers(partial, {entry.key for entry in manifest.patients})
    write_durably(partial / MANIFEST, manifest.model_dump_json(indent=1).encode())
    partial.rename(out)
    sync_directory(out.absolute().parent)
    return out


class NetworkView(NamedTuple):
    """What the network sees of a volume: crops of the slices with lung, as displayed.

    Attributes
    ----------
    crops : ndarray of int16, shape (n, S, S)
        HU, clipped to :data:`~training.cohort.cache.REACH_HU`.
    numbers : ndarray of int32, shape (n,)
        Their indices in the volume.
    lesion_shares : ndarray of uint8, shape (n, S, S), or None
        How much of each pixel is lesion, 255 all of it; None where nobody knows.
    lobes : ndarray of uint8, shape (n, S, S), or None
        :class:`inference.domain.Lobe` of each pixel; None where nobody knows.
    """

    crops: NDArray[np.int16]
    numbers: NDArray[np.int32]
    lesion_shares: NDArray[np.uint8] | None
    lobes: NDArray[np.uint8] | None = None


def network_view(
    volume: CtVolume,
    parameters: CropParameters,
    lesion: NDArray[np.bool_] | None = None,
    lobes: NDArray[np.uint8] | None = None,
    *,
    threads: int = 0,
) -> NetworkView:
    """Crop a volume, and the true masks of it where they are known, as serving does.

    Parameters
    ----------
    volume : CtVolume
    parameters : CropParameters
    lesion : ndarray of bool, shape (slices, rows, columns), or None
    lobes : ndarray of uint8, shape (slices, rows, columns), or None

    Raises
    ------
    NotAChestCt
    """
    found = crop_lungs(volume.hu, volume.pixel_spacing_mm, parameters, threads=threads)
    require_chest(volume, found)
    numbers = np.flatnonzero(found.has_lung).astype(np.int32)
    planes = [crop_to_input(volume.hu[i], found.boxes[i], parameters) for i in numbers]
    crops = np.clip(np.stack(planes), *REACH_HU)[volume.as_displayed]
    shares = None
    if lesion is not None:
        scaled = [
            crop_to_input(lesion[i].astype(np.int16) * 255, found.boxes[i], parameters)
            for i in numbers
        ]
        shares = np.ascontiguousarray(np.stack(scaled).astype(np.uint8)[volume.as_displayed])
    labels = None
    if lobes is not None:
        size = (parameters.input_size, parameters.input_size)
        cut = [
            np.asarray(
                cv2.resize(_cut(lobes[i], found.boxes[i]), size, interpolation=cv2.INTER_NEAREST),
                dtype=np.uint8,
            )
            for i in numbers
        ]
        labels = np.ascontiguousarray(np.stack(cut)[volume.as_displayed])
    return NetworkView(np.ascontiguousarray(crops), numbers, shares, labels)


def _cut(plane: NDArray[np.uint8], box: BoundingBox) -> NDArray[np.uint8]:
    return np.ascontiguousarray(plane[box.top : box.bottom, box.left : box.right])


def _cache_row(
    row: CohortRow, directory: Path, crop: CropParameters, selection: SelectionSettings
) -> PatientEntry | str:
    """Cache one patient; the reason as text where that is not possible (errors cross processes)."""
    key = hashlib.sha256(row.patient_id.encode()).hexdigest()[:24]
    folder = directory / "patients" / key
    try:
        files = stack_of(row.series_path, selection)
        source = _source(row, files.paths, crop)
        kept = _kept(directory, folder, source)
        if kept is not None:
            return kept
        volume = load_volume(files.paths, frames=files.frames, threads=1)
        drawn = read_masks(row, volume)
        crops, numbers, shares, lobes = network_view(
            volume, crop, drawn.lesion, drawn.lobes, threads=1
        )
        lesion = label_slices([volume.slices[i] for i in numbers], row.label, row.slice_labels)
    except SeriesProblem as error:
        return str(error)
    except SeriesError as error:
        return error.reason
    except CohortError as error:
        return str(error)
    aside = folder.with_name(f"{key}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    np.save(aside / "crops.npy", crops)
    np.savez(aside / "slices.npz", lesion=lesion, number=numbers)
    if shares is not None:
        np.save(aside / "lesion.npy", shares)
    if lobes is not None:
        np.save(aside / "lobes.npy", lobes)
    entry = PatientEntry(
        patient_id=row.patient_id,
        key=key,
        label=row.label,
        count=len(crops),
        slices_in_stack=len(volume),
        source=source,
        crops=_file_entry(aside / "crops.npy"),
        slices=_file_entry(aside / "slices.npz"),
        masks=None if shares is None else _file_entry(aside / "lesion.npy"),
        lobes=None if lobes is None else _file_entry(aside / "lobes.npy"),
        severe=drawn.severe,
    )
    write_durably(aside / "patient.json", entry.model_dump_json().encode())
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    sync_directory(folder.parent)
    return entry


def _kept(directory: Path, folder: Path, source: str) -> PatientEntry | None:
    """The entry of an earlier run, if it is whole and made from the same."""
    path = folder / "patient.json"
    if not path.is_file():
        return None
    try:
        entry = PatientEntry.model_validate_json(path.read_bytes())
        check_entry(directory, entry, verify=True)
    except (ValueError, CacheError):  # pydantic's error is a ValueError
        return None
    return entry if entry.source == source else None


def _source(row: CohortRow, paths: tuple[Path, ...], crop: CropParameters) -> str:
    """Digest of what a patient's crops depend on; files by name, length and time."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    labels = file_digest(row.slice_labels) if row.slice_labels is not None else ""
    masks = masks_digest(row)
    known = [row.patient_id, row.label.key, labels, masks]
    content = [*known, str(row.series_path), files, asdict(crop)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileEntry(bytes=path.stat().st_size, sha256=file_digest(path))


def _drop_strangers(directory: Path, wanted: set[str]) -> None:
    """Remove what an interrupted run left of patients that are no longer in the cohort."""
    for folder in (directory / "patients").iterdir():
        if folder.name not in wanted:
            shutil.rmtree(folder)


@contextmanager
def _executor(workers: int, jobs: int) -> Iterator[Executor]:
    count = max(1, min(workers or len(os.sched_getaffinity(0)), jobs))
    pool: Executor
    if count == 1:
        pool = ThreadPoolExecutor(1)
    else:
        # Not fork: OpenCV and torch hold threads in this process.
        pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
