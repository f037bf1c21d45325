"""A study for a viewer: a CT series and what the node would write about it, stored by C-STORE."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread

from dicom_node.domain import ObjectKind
from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.results.source import SourceSeries
from dicom_node.results.writer import write_results
from support.made_findings import made_findings, made_volume
from support.orthanc import Orthanc
from support.peers import program

__all__ = ["ViewerStudy", "store_study"]


@dataclass(frozen=True)
class ViewerStudy:
    """What was stored.

    Attributes
    ----------
    slices, overlays : int
        Of the CT, and of the series with the map.
    """

    uid: str
    slices: int
    overlays: int


def store_study(series: Sequence[Path], folder: Path, orthanc: Orthanc) -> ViewerStudy:
    """Make findings about `series`, write them into `folder`, store both in `orthanc`."""
    volume, source = made_volume(series), SourceSeries.read(series)
    context = ResultContext(
        "1" * 64, "2" * 64, datetime(2026, 3, 5, 14, 56, 7, tzinfo=UTC),
        Completeness("the sender had finished", len(series)), "0.1.0", "M3LUNG",
    )  # fmt: skip
    written = write_results(made_findings(volume), volume, source, folder, ResultOptions(), context)
    # Of the report's forms a destination gets the first that it takes.
    chosen = [item for item in written if item.kind != ObjectKind.REPORT or item.rank == 0]
    for files in (series, [folder / item.path for item in chosen]):
        subprocess.run(
            [str(program("dcmsend")), "--decompress-never", "--call", orthanc.ae_title, "127.0.0.1",
             str(orthanc.dicom_port), *map(str, files)],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    return ViewerStudy(
        uid=str(dcmread(series[0], stop_before_pixels=True).StudyInstanceUID),
        slices=len(series),
        overlays=sum(item.kind == ObjectKind.OVERLAY for item in chosen),
    )
