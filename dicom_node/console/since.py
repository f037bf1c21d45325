"""The change since an earlier study, ready for the series page: rows of a table, lobes apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dicom_node.results.progress import Change, Progress
from dicom_node.results.progress_words import points_words, progress_sentences, relative_words
from inference.domain import Lobe

__all__ = ["ChangedFigure", "ChangedLobes", "Since", "since"]

_MEASURES = {
    "lung_involvement": "Lung involvement",
    "outlined_lesions": "Outlined lesions",
    "severity_score": "CT severity score",
}
_TRENDS = {"increased": "more", "decreased": "less", "unchanged": "no clear change"}


@dataclass(frozen=True, slots=True)
class ChangedFigure:
    """A row: what, by whom, then, now, and the difference in words."""

    name: str
    source: str
    before: str
    now: str
    change: str
    relative: str


@dataclass(frozen=True, slots=True)
class ChangedLobes:
    """Percentage points of the five lobes, RUL to LLL; "–" where one could not be told."""

    source: str
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Since:
    """What the page shows.

    Attributes
    ----------
    sentence : str
        Why nothing is compared; empty where something is.
    study_date, trend : str
    series_instance_uid : str
        Of the earlier reading; empty without one.
    """

    sentence: str
    study_date: str
    trend: str
    series_instance_uid: str
    figures: tuple[ChangedFigure, ...] = ()
    lobes: tuple[ChangedLobes, ...] = ()
    remarks: tuple[str, ...] = ()


def since(result: Mapping[str, Any] | None) -> Since | None:
    """Return what a reading says of an earlier study; None where it says nothing."""
    try:
        progress = Progress.model_validate((result or {}).get("progress"))
    except ValidationError:  # nothing, or of a version that says it in other words
        return None
    uid = progress.series_instance_uid or ""
    date = str(progress.study_date or "")
    if not progress.comparable:
        return Since(progress_sentences(progress)[0], date, "", uid)
    return Since(
        sentence="",
        study_date=date,
        trend=_TRENDS[progress.trend or "unchanged"],
        series_instance_uid=uid,
        figures=(*_figures(progress), *_severity(progress)),
        lobes=_lobes(progress),
        remarks=progress.remarks,
    )


def _figures(progress: Progress) -> list[ChangedFigure]:
    return [_figure(item) for item in progress.changes if item.measure in _MEASURES]


def _figure(change: Change) -> ChangedFigure:
    score = change.measure == "severity_score"
    form = "{:.0f}" if score else "{:.1f} %"
    return ChangedFigure(
        name=_MEASURES[change.measure],
        source=_source(change),
        before=form.format(change.before),
        now=form.format(change.now) + (" of 25" if score else ""),
        change=f"{points_words(change.change, 0 if score else 1)} points",
        relative=relative_words(change),
    )


def _source(change: Change) -> str:
    return (
        f"{change.lesions_by} in lobes of {change.lobes_by}"
        if change.lobes_by
        else (change.lesions_by)
    )


def _severity(progress: Progress) -> list[ChangedFigure]:
    if progress.severity_by is None:
        return []
    then, now = (
        "severe" if said else "not severe" for said in (progress.severe_before, progress.severe_now)
    )
    change = "" if then == now else "changed"
    return [ChangedFigure("Severity", progress.severity_by, then, now, change, "")]


def _lobes(progress: Progress) -> tuple[ChangedLobes, ...]:
    found = [item for item in progress.changes if item.measure == "lobe_involvement"]
    by_source: dict[str, dict[str, str]] = {}
    for item in found:
        points = by_source.setdefault(_source(item), {})
        points[item.lobe or ""] = points_words(item.change, 0)
    return tuple(
        ChangedLobes(source, tuple(points.get(lobe.key, "–") for lobe in Lobe))
        for source, points in by_source.items()
    )
