"""The product on one page: a series is loaded, analysed, and written as DICOM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dicom_node.crashpoints import crash_point
from dicom_node.results.context import ResultContext, ResultOptions
from dicom_node.results.dicom_file import WrittenObject
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from inference.analyzer import Analyzer
from inference.domain import Findings
from inference.pixel_file import PixelReader
from inference.volume import load_volume

__all__ = ["Progress", "Reading", "read_series"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total), every few seconds at least."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one series.

    Attributes
    ----------
    findings : Findings
    source : SourceSeries
    objects : tuple of WrittenObject
        Paths relative to the output directory.
    """

    findings: Findings
    source: SourceSeries
    objects: tuple[WrittenObject, ...]


def read_series(
    instances: Sequence[Path],
    analyzer: Analyzer,
    pixels: PixelReader,
    out_dir: Path,
    options: ResultOptions,
    context: ResultContext,
    *,
    frames: Mapping[Path, Sequence[int]] | None = None,
    progress: Progress = lambda stage, done, total: None,
    slice_level: bool = False,
) -> Reading:
    """Read one selected series and write its results.

    Parameters
    ----------
    instances : sequence of Path
        The instances of the stack, in any order.
    analyzer : Analyzer
        The loaded model.
    pixels : PixelReader
        Decodes the instances' pixel data.
    out_dir : Path
        Where the DICOM objects go.
    options, context
        What the results look like, and where the series came from.
    frames : mapping of Path to frame numbers
        Of multi-frame instances of which only some frames belong to the stack.
    progress : callable
    slice_level : bool
        Read a single slice or a few: no patient reading.

    Raises
    ------
    inference.errors.SeriesError
        The pixels cannot be analysed, with the reason for a radiologist.
    """
    progress("decode", 0, len(instances))
    crash_point("worker.in_decode")
    with ThreadPoolExecutor(1) as beside:  # the pixels are decoded in children meanwhile
        headers = beside.submit(SourceSeries.read, instances)
        volume = load_volume(instances, frames=frames, pixels=pixels, progress=progress)
        source = headers.result()

    findings = analyzer.analyze(volume, progress=progress, slice_level=slice_level)
    crash_point("worker.in_inference")

    progress("results", 0, len(volume))
    objects = write_results(
        findings,
        volume,
        source,
        out_dir,
        options,
        context,
        progress=lambda done, total: progress("results", done, total),
    )
    crash_point("worker.after_write")
    return Reading(findings, source, objects)
