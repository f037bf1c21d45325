"""The change since an earlier study in words, the same in report, summary page and console."""

from __future__ import annotations

from dicom_node.results.progress import Change, Progress
from inference.domain import Lobe

__all__ = ["change_words", "points_words", "progress_sentences", "relative_words", "score_change"]

_MEASURED = {"lung_involvement": "Lung involvement", "outlined_lesions": "Outlined lesions"}
_TREND = {"increased": "more", "decreased": "less", "unchanged": "no clear change"}


def progress_sentences(progress: Progress) -> list[str]:
    """Return what is to be said, the most important first."""
    if not progress.comparable:
        study = f"the study of {progress.study_date}" if progress.study_date else "an earlier study"
        return [f"Not compared with {study}: {progress.reason}."]
    words = _TREND[progress.trend or "unchanged"]
    said = [f"Compared with the study of {progress.study_date}: {words}."]
    said += [
        f"{_MEASURED[item.measure]} by {item.lesions_by}: {change_words(item)}."
        for item in progress.changes
        if item.measure in _MEASURED
    ]
    said += _of_lobes(progress)
    severity = _severity(progress)
    return [*said, *([severity] if severity else []), *progress.remarks]


def change_words(change: Change) -> str:
    """Return one share then and now, in percentage points and in per cent of what it was."""
    points = points_words(change.change)
    relative = relative_words(change)
    return (
        f"{change.before:.1f} % then, {change.now:.1f} % now: {points} percentage points"
        f"{f' ({relative})' if relative else ''}"
    )


def points_words(points: float, digits: int = 1) -> str:
    """Return a difference with its sign; no sign of what rounds to nothing."""
    text = f"{abs(points):.{digits}f}"
    if float(text) == 0.0:
        return text
    return f"{'+' if points > 0 else '-'}{text}"


def relative_words(change: Change) -> str:
    """Return the relative change with its sign; empty where it says nothing."""
    if change.relative_percent is None:
        return ""
    return f"{points_words(change.relative_percent, 0)} %"


def score_change(progress: Progress, lesions_by: str) -> Change | None:
    """Return the change of the CT severity score by one system's lesions, None without."""
    for item in progress.changes:
        if item.measure == "severity_score" and item.lesions_by == lesions_by:
            return item
    return None


def _of_lobes(progress: Progress) -> list[str]:
    short = {lobe.key: lobe.short for lobe in Lobe}
    said = []
    lobes = [item for item in progress.changes if item.measure == "lobe_involvement"]
    for lesions_by in dict.fromkeys(item.lesions_by for item in lobes):
        mine = [item for item in lobes if item.lesions_by == lesions_by]
        each = ", ".join(f"{short[i.lobe or '']} {points_words(i.change, 0)}" for i in mine)
        score = score_change(progress, lesions_by)
        total = (
            f"; CT severity score {score.before:.0f} then, {score.now:.0f} of 25 now"
            if score
            else ""
        )
        said.append(
            f"Lobes of {mine[0].lobes_by}, lesions of {lesions_by}: {each} percentage points"
            f"{total}."
        )
    return said


def _severity(progress: Progress) -> str:
    if progress.severity_by is None:
        return ""
    then = "severe" if progress.severe_before else "not severe"
    now = "severe" if progress.severe_now else "not severe"
    return f"Severity by {progress.severity_by}: {then} then, {now} now."
