"""The one suitable chest CT series of a row's folder, chosen as the node chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dicom_node.errors import SeriesRejected
from dicom_node.header import InstanceHeader
from dicom_node.selection import FrameGeometry, SelectedStack, read_frames, select_stack
from dicom_node.series_folder import FoundFiles, FoundSeries, find_series
from dicom_node.settings import SelectionSettings

__all__ = ["CaseSeries", "SeriesProblem", "StackFiles", "stack_of", "survey_folder"]


class SeriesProblem(Exception):
    """A row's folder does not hold exactly one suitable series; the text says why."""


@dataclass(frozen=True, slots=True)
class StackFiles:
    """Where the slices of a stack are.

    Attributes
    ----------
    paths : tuple of Path
        Most superior first.
    frames : dict of Path to tuple of int
        1-based frames of multi-frame files of which only some belong to the stack.
    """

    paths: tuple[Path, ...] = ()
    frames: dict[Path, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaseSeries:
    """What was found in a row's folder.

    Attributes
    ----------
    files : StackFiles
        Of the stack; empty where there is a problem.
    series_instance_uids, dicom_patient_ids : frozenset of str
        Of all series of the folder.
    unreadable : tuple of (file name, reason)
    problem : str
        Why there is not exactly one suitable series; else empty.
    """

    files: StackFiles = field(default_factory=StackFiles)
    series_instance_uids: frozenset[str] = frozenset()
    dicom_patient_ids: frozenset[str] = frozenset()
    unreadable: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def survey_folder(folder: Path, selection: SelectionSettings | None = None) -> CaseSeries:
    """Read the headers of a row's folder; report, never raise for what the folder holds."""
    if not folder.exists():
        return CaseSeries(problem=f"there is no folder {folder}")
    found = find_series(folder)
    headers = [header for series in found.series for header in series.headers]
    case = CaseSeries(
        series_instance_uids=frozenset(header.series_instance_uid for header in headers),
        dicom_patient_ids=frozenset(header.patient_id for header in headers) - {""},
        unreadable=tuple(found.unreadable),
    )
    try:
        series, stack = _only_suitable(found, selection or SelectionSettings())
    except SeriesProblem as problem:
        return replace(case, problem=str(problem))
    files = StackFiles(
        paths=tuple(series.paths[uid] for uid in stack.sop_instance_uids),
        frames={series.paths[uid]: numbers for uid, numbers in stack.frames.items()},
    )
    return replace(case, files=files)


def stack_of(folder: Path, selection: SelectionSettings | None = None) -> StackFiles:
    """Return the files of the one suitable stack under `folder`.

    Raises
    ------
    SeriesProblem
        No folder, no series, several suitable ones, none suitable, or an unreadable file: a
        cohort's series is taken whole or not at all.
    """
    case = survey_folder(folder, selection)
    if case.problem:
        raise SeriesProblem(case.problem)
    if case.unreadable:
        name, reason = case.unreadable[0]
        raise SeriesProblem(f"{len(case.unreadable)} unreadable files, such as {name}: {reason}")
    return case.files


def _only_suitable(
    found: FoundFiles, selection: SelectionSettings
) -> tuple[FoundSeries, SelectedStack]:
    suitable: list[tuple[FoundSeries, SelectedStack]] = []
    reasons: list[str] = []
    for series in found.series:
        try:
            suitable.append((series, _select(series, selection)))
        except SeriesRejected as error:
            reasons.append(error.reason)
    if len(suitable) > 1:
        raise SeriesProblem(f"{len(suitable)} suitable series; one per patient is wanted")
    if not suitable:
        raise SeriesProblem(f"no suitable series: {reasons[0] if reasons else 'no DICOM image'}")
    return suitable[0]


def _select(series: FoundSeries, selection: SelectionSettings) -> SelectedStack:
    def frames(header: InstanceHeader) -> Sequence[FrameGeometry]:
        return read_frames(series.paths[header.sop_instance_uid])

    return select_stack(series.headers, selection, frames)
