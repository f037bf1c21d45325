"""The change since an earlier study in the report: numbers by value, coded trend.

A group per figure, named by the models that gave both values. The earlier value carries date and
UID of its study as properties: nothing in the group can be taken for a value of this study.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from dicom_node.results import content_items as sr
from dicom_node.results.codes import LOBE, Concept
from dicom_node.results.measurement_group import measurement_group
from dicom_node.results.progress import Change, Progress
from dicom_node.results.result_set import ResultSet
from inference.domain import Findings, Lobe, ModelIdentity

__all__ = ["progress_evaluations", "progress_groups"]

_TREND = {
    "increased": Concept.INCREASED,
    "decreased": Concept.DECREASED,
    "unchanged": Concept.NO_CHANGE,
}
_LOBE_OF = {lobe.key: lobe for lobe in Lobe}


def progress_evaluations(results: ResultSet) -> Iterator[Dataset]:
    """Yield the coded trend of the lung involvement; nothing where nothing is compared."""
    progress = results.progress
    if progress is not None and progress.trend is not None:
        yield sr.code(Concept.COMPARISON, _TREND[progress.trend])


def progress_groups(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    """Yield a measurement group for each figure that was compared."""
    progress = results.progress
    if progress is None or not progress.comparable:
        return
    models = {model.name: model for model in findings.models}
    for change in progress.changes:
        yield _group(change, progress, models, results)


def _group(
    change: Change, progress: Progress, models: dict[str, ModelIdentity], results: ResultSet
) -> Dataset:
    lobe = _LOBE_OF[change.lobe] if change.lobe else None
    named = [models[name] for name in (change.lesions_by, change.lobes_by) if name]
    of = f"{lobe.label}, " if lobe else ""
    what = "CT severity score" if change.measure == "severity_score" else "involvement"
    return measurement_group(
        named,
        results,
        tracking=f"change/{change.measure}/{change.lobe or ''}/{change.lesions_by}",
        label=f"{of}{what} by {change.lesions_by}: change since {progress.study_date}",
        finding=Concept.OPACITY,
        site=LOBE[lobe] if lobe else (Concept.LUNG, Concept.BILATERAL),
        content=_score(change, progress)
        if change.measure == "severity_score"
        else _share(change, progress),
    )


def _share(change: Change, progress: Progress) -> Iterator[Dataset]:
    # Shares of lobes carry no false precision: as the involvement itself.
    digits = ".2g" if change.measure == "lobe_involvement" else ".6g"
    yield sr.number(Concept.INVOLVEMENT_CHANGE, float(f"{change.change:{digits}}"), Concept.PERCENT)
    if change.relative_percent is not None:
        relative = float(f"{change.relative_percent:.2g}")
        yield sr.number(Concept.RELATIVE_CHANGE, relative, Concept.PERCENT)
    yield sr.number(
        Concept.PRIOR_INVOLVEMENT,
        float(f"{change.before:{digits}}"),
        Concept.PERCENT,
        children=_study(progress),
    )


def _score(change: Change, progress: Progress) -> Iterator[Dataset]:
    yield sr.number(Concept.SEVERITY_SCORE_CHANGE, change.change, Concept.NO_UNITS)
    yield sr.number(
        Concept.PRIOR_SEVERITY_SCORE, change.before, Concept.NO_UNITS, children=_study(progress)
    )


def _study(progress: Progress) -> Iterator[Dataset]:
    if progress.study_date is not None and progress.study_instance_uid is not None:
        yield sr.date(Concept.STUDY_DATE, progress.study_date, sr.HAS_PROPERTIES)
        yield sr.uid_reference(
            Concept.STUDY_INSTANCE_UID, progress.study_instance_uid, sr.HAS_PROPERTIES
        )
