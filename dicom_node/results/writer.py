"""The one door: findings in, DICOM files out.

Same findings, source, options and context give the same files, byte for byte. Everything is on
the disk when :func:`write_results` returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.domain import ObjectKind
from dicom_node.results.context import ResultContext, ResultOptions
from dicom_node.results.dicom_file import WrittenObject, sync_directory, write_object
from dicom_node.results.key_objects import build_key_objects
from dicom_node.results.not_analyzed import build_not_analyzed
from dicom_node.results.overlay import build_overlay, overlay_slices
from dicom_node.results.overlay_picture import OverlayPainter
from dicom_node.results.progress import progress_of
from dicom_node.results.report import build_reports
from dicom_node.results.result_set import ResultSet
from dicom_node.results.segmentation import build_segmentation
from dicom_node.results.source import SourceSeries
from dicom_node.results.summary import build_summary
from dicom_node.results.system_objects import (
    explained,
    explained_slices,
    system_results,
    system_segmentations,
)
from inference.domain import CtVolume, Findings

__all__ = ["write_not_analyzed", "write_results"]

_MOST_DOCUMENTS = 8  # three reports, summary, three segmentations, key objects


@dataclass(frozen=True, slots=True)
class _Overlays:
    """One series of overlays: of what, by whom, which slices, and the name of its folder."""

    findings: Findings
    results: ResultSet
    painter: OverlayPainter
    slices: list[int]
    folder: str


def write_results(
    findings: Findings,
    volume: CtVolume,
    source: SourceSeries,
    out_dir: Path,
    options: ResultOptions,
    context: ResultContext,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[WrittenObject, ...]:
    """Write report, overlays, summary page, segmentation and key objects of one reading.

    Overlays, segmentation and key objects exist only where a slice has lesion.

    Parameters
    ----------
    volume : CtVolume
        What the findings are about, slice by slice.
    source : SourceSeries
        Headers of the same instances.
    out_dir : Path
        Created if need be; files of an earlier, interrupted try are replaced.
    progress : callable
        Called with (done, total) after each object, from this thread; it may raise to stop.

    Returns
    -------
    tuple of WrittenObject
        Most important first: report, summary, segmentation, key objects, overlays from the top.

    Raises
    ------
    OSError
        No space, or `out_dir` is not writable.
    ValueError
        Findings, volume and source are not about the same images.
    """
    _require_same_images(findings, volume, source)
    # Report and page hold what all systems say; map, segmentation and key slices are the main's.
    # They tell the change since an earlier study, too.
    results = ResultSet(
        source, findings.model, context, options, findings.models[1:],
        progress=progress_of(findings, context.earlier),
    )  # fmt: skip
    main = _of_the_main_model(results)
    painter = OverlayPainter(findings, volume, main)
    jobs = [_Overlays(findings, main, painter, overlay_slices(findings, main), "overlay")]
    if explained_slices(findings):
        view, own = explained(findings), system_results(findings, results, "explanation")
        painted = OverlayPainter(view, volume, own)
        jobs.append(_Overlays(view, own, painted, explained_slices(findings), "explanation"))
    out_dir.mkdir(parents=True, exist_ok=True)
    # Painting and fsync run without the interpreter lock for most of their time.
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        overlays = [
            pool.submit(_write_overlay, index, job, volume, out_dir)
            for job in jobs
            for index in job.slices
        ]
        written = []
        for kind, rank, name, dataset in _documents(findings, volume, results, painter):
            written.append(write_object(dataset, out_dir, Path(name), kind, str(kind), rank))
            progress(len(written), _MOST_DOCUMENTS + len(overlays))
        for name, dataset in system_segmentations(findings, volume, results):
            kind = ObjectKind.SEGMENTATION
            path = Path(f"segmentation-{name}.dcm")
            written.append(write_object(dataset, out_dir, path, kind, f"{kind}/{name}", 0))
            progress(len(written), _MOST_DOCUMENTS + len(overlays))
        for overlay in overlays:
            written.append(overlay.result())
            progress(len(written), _MOST_DOCUMENTS + len(overlays))
    for job in jobs:
        if job.slices:
            sync_directory(out_dir / job.folder)
    sync_directory(out_dir)
    return tuple(written)


def write_not_analyzed(
    reason: str, source: SourceSeries, out_dir: Path, options: ResultOptions, context: ResultContext
) -> tuple[WrittenObject, ...]:
    """Write the page that says why a series was not analysed.

    Parameters
    ----------
    reason : str
        One sentence for a radiologist.

    Raises
    ------
    OSError
        No space, or `out_dir` is not writable.
    """
    results = ResultSet(source, None, context, options)
    out_dir.mkdir(parents=True, exist_ok=True)
    page = build_not_analyzed(reason, results)
    written = write_object(page, out_dir, Path("summary.dcm"), ObjectKind.SUMMARY, "summary")
    sync_directory(out_dir)
    return (written,)


def _require_same_images(findings: Findings, volume: CtVolume, source: SourceSeries) -> None:
    known = {image.sop_instance_uid for image in source.images}
    read = [found.reference for found in findings.slices]
    if read != list(volume.slices) or not {item.sop_instance_uid for item in read} <= known:
        raise ValueError("findings, volume and source are not about the same images")


def _documents(
    findings: Findings, volume: CtVolume, results: ResultSet, painter: OverlayPainter
) -> Iterator[tuple[ObjectKind, int, str, Dataset]]:
    """Yield (kind, rank, file name, dataset) of all but the overlays."""
    main = _of_the_main_model(results)
    for rank, report in enumerate(build_reports(findings, volume, results)):
        yield ObjectKind.REPORT, rank, f"report-{rank}.dcm", report
    yield ObjectKind.SUMMARY, 0, "summary.dcm", build_summary(findings, volume, results, painter)
    segmentation = build_segmentation(findings, volume, main)
    if segmentation is not None:
        yield ObjectKind.SEGMENTATION, 0, "segmentation.dcm", segmentation
    key_objects = build_key_objects(findings, main)
    if key_objects is not None:
        yield ObjectKind.KEY_OBJECTS, 0, "key_objects.dcm", key_objects


def _of_the_main_model(results: ResultSet) -> ResultSet:
    """The circumstances of what shows one model's findings in this study, and nothing else."""
    return replace(results, others=(), progress=None)


def _write_overlay(index: int, job: _Overlays, volume: CtVolume, out_dir: Path) -> WrittenObject:
    name = f"{index + 1:04d}"
    return write_object(
        build_overlay(index, job.findings, volume, job.results, job.painter),
        out_dir,
        Path(job.folder) / f"{name}.dcm",
        ObjectKind.OVERLAY,
        f"{job.folder}/{name}",
    )
