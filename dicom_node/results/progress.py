"""What has changed since an earlier study of the same patient, or why that cannot be said.

Compared is only what the same model says, with the same weights, of lungs that are shown about as
finely and as far (ADR 0021). Nothing else is turned into a number.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.domain import EarlierReading, EarlierReadings
from dicom_node.results.lesion_figures import LesionFigures, Reader
from inference.domain import Findings, Lobe

__all__ = ["Change", "LobeKey", "Measure", "Progress", "Trend", "progress_of"]

LobeKey = Literal["right_upper", "right_middle", "right_lower", "left_upper", "left_lower"]
Measure = Literal["lung_involvement", "outlined_lesions", "lobe_involvement", "severity_score"]
Trend = Literal["increased", "decreased", "unchanged"]

_LOBES: tuple[LobeKey, ...] = (
    "right_upper", "right_middle", "right_lower", "left_upper", "left_lower",
)  # fmt: skip
UNCHANGED_POINTS = 1.0
"""Percentage points below which nothing is called a change **(decided)**."""
_SMALLEST_BASE = 1.0  # per cent: of less, a relative change says nothing
_SPACING_RATIO = 2.0
_HEIGHT_SHARE = 0.2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Part):
    """One figure then and now. No figure without the models that gave it."""

    measure: Measure
    lesions_by: str = Field(description="The model whose lesions are measured.")
    lobes_by: str | None = Field(description="The model whose lobes; null where none is needed.")
    lobe: LobeKey | None = Field(description="Null but for lobe_involvement.")
    before: float = Field(description="Per cent; of severity_score points of 25.")
    now: float
    change: float = Field(description="now - before: percentage points, or points of the score.")
    relative_percent: float | None = Field(
        description="change in per cent of before; null below 1 %, and of severity_score."
    )


class Progress(_Part):
    """The change since the last earlier study that can be compared, or why there is none."""

    comparable: bool
    reason: str | None = Field(description="Why nothing is compared; null where it is.")
    study_date: dt.date | None = Field(
        default=None, description="Of the earlier study; null without one."
    )
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    instance_set_digest: str | None = Field(
        default=None, description="Over the instances of the earlier reading."
    )
    trend: Trend | None = Field(
        default=None,
        description="Of lung_involvement; unchanged below one percentage point. Null where "
        "nothing is compared.",
    )
    changes: tuple[Change, ...] = ()
    severity_by: str | None = Field(
        default=None, description="The model that gave both of the following; else null."
    )
    severe_before: bool | None = None
    severe_now: bool | None = None
    remarks: tuple[str, ...] = Field(default=(), description="What is left out, and why.")

    @property
    def identity(self) -> str:
        """What a UID has to differ by: which earlier reading is spoken of; empty without one."""
        if self.series_instance_uid is None:
            return ""
        return f"since {self.series_instance_uid} {self.instance_set_digest}"


def progress_of(findings: Findings, earlier: EarlierReadings | None) -> Progress | None:
    """Compare a reading with what was read of the patient before.

    Parameters
    ----------
    earlier : EarlierReadings or None
        The newest study first; None where nobody could look.

    Returns
    -------
    Progress or None
        None where nobody could look.
    """
    if earlier is None:
        return None
    if not earlier.readings:
        return Progress(comparable=False, reason=earlier.reason)
    now = LesionFigures.of(findings)
    doubts = [(one, _doubt(now, LesionFigures.of_document(one.result))) for one in earlier.readings]
    fitting = [one for one, doubt in doubts if not doubt]
    if not fitting:
        newest, doubt = doubts[0]
        return _told(newest, comparable=False, reason=doubt)
    chosen = _closest([one for one in fitting if one.study_date == fitting[0].study_date], now)
    passed = [
        f"The study of {one.study_date} is not compared: {doubt}."
        for one, doubt in doubts
        if doubt and one.study_date > chosen.study_date
    ]
    return _compared(now, chosen, passed)


def _doubt(now: LesionFigures, before: LesionFigures | None) -> str:
    """Why an earlier reading cannot be compared; empty where it can."""
    if before is None:
        return "its figures are not kept any more"
    if before.reader.sha256 != now.reader.sha256:
        return _other_model(before.reader, now.reader)
    if now.percent is None:
        return "this series has no percentage, its slices are not evenly spaced"
    if before.percent is None:
        return "that series has no percentage, its slices are not evenly spaced"
    return _other_coverage(now, before)


def _other_model(before: Reader, now: Reader) -> str:
    if before.words == now.words:
        return f"{now.words} had other weights then"
    return f"it was read by {before.words}, this study by {now.words}"


def _other_coverage(now: LesionFigures, before: LesionFigures) -> str:
    here, there = now.coverage, before.coverage
    if here is None or there is None or None in (
        here.slice_spacing_mm, there.slice_spacing_mm, here.lung_height_mm, there.lung_height_mm,
    ):  # fmt: skip
        return "how finely, and how much of the lungs it shows, was not kept"
    fine, coarse = sorted((here.slice_spacing_mm or 0.0, there.slice_spacing_mm or 0.0))
    if coarse > _SPACING_RATIO * fine:
        return (
            f"its slices are {there.slice_spacing_mm:.1f} mm apart, "
            f"these {here.slice_spacing_mm:.1f} mm"
        )
    low, high = sorted((here.lung_height_mm or 0.0, there.lung_height_mm or 0.0))
    if low < (1.0 - _HEIGHT_SHARE) * high:
        return (
            f"it shows {there.lung_height_mm:.0f} mm of the lungs' height, "
            f"this study {here.lung_height_mm:.0f} mm"
        )
    return ""


def _closest(readings: list[EarlierReading], now: LesionFigures) -> EarlierReading:
    """Of several series of one study, the one whose slices are most like these; the newest first.

    Kernels differ between them, too, but spacing is what percentages depend on.
    """

    def apart(one: EarlierReading) -> float:
        before = LesionFigures.of_document(one.result)
        here = now.coverage.slice_spacing_mm if now.coverage else None
        there = before.coverage.slice_spacing_mm if before and before.coverage else None
        return abs((here or 0.0) - (there or 0.0))

    return min(readings, key=apart)  # of equal ones the first


def _told(reading: EarlierReading, **fields: object) -> Progress:
    return Progress.model_validate(
        {
            "study_date": reading.study_date,
            "study_instance_uid": reading.study_instance_uid,
            "series_instance_uid": reading.series_instance_uid,
            "instance_set_digest": reading.instance_set_digest,
            **fields,
        }
    )


def _compared(now: LesionFigures, chosen: EarlierReading, passed: list[str]) -> Progress:
    before = LesionFigures.of_document(chosen.result)
    if before is None or before.percent is None or now.percent is None:
        raise ValueError("what cannot be compared was chosen")
    main = _change("lung_involvement", now.reader.name, before.percent, now.percent)
    same_lobes = _same(now.lobes_by, before.lobes_by)
    return _told(
        chosen,
        comparable=True,
        reason=None,
        trend=_trend(main.change),
        changes=(main, *_outlined(now, before), *(_in_lobes(now, before) if same_lobes else ())),
        **_severity(now, before),
        remarks=(*passed, *_left_out(now, before)),
    )


def _trend(points: float) -> Trend:
    if abs(points) < UNCHANGED_POINTS:
        return "unchanged"
    return "increased" if points > 0 else "decreased"


def _change(
    measure: Measure,
    lesions_by: str,
    before: float,
    now: float,
    *,
    lobes_by: str | None = None,
    lobe: LobeKey | None = None,
) -> Change:
    relative = measure != "severity_score" and before >= _SMALLEST_BASE
    return Change(
        measure=measure,
        lesions_by=lesions_by,
        lobes_by=lobes_by,
        lobe=lobe,
        before=before,
        now=now,
        change=now - before,
        relative_percent=100.0 * (now - before) / before if relative else None,
    )


def _same(one: Reader | None, other: Reader | None) -> bool:
    return one is not None and other is not None and one.sha256 == other.sha256


def _outlined(now: LesionFigures, before: LesionFigures) -> Iterator[Change]:
    """Lesions of JCS, where it outlined any: of a negative patient it outlines nothing."""
    if not _same(now.outlined_by, before.outlined_by) or not (now.positive and before.positive):
        return
    if now.outlined_by and now.outlined_percent is not None and before.outlined_percent is not None:
        yield _change(
            "outlined_lesions", now.outlined_by.name, before.outlined_percent, now.outlined_percent
        )


def _in_lobes(now: LesionFigures, before: LesionFigures) -> Iterator[Change]:
    """Per lobe that both could tell, by each system that both times located lesions."""
    lobes_by = now.lobes_by.name if now.lobes_by else None
    then = {item.lesions_by: item for item in before.involvement}
    trusted = {now.reader.name}
    if _same(now.outlined_by, before.outlined_by) and now.positive and before.positive:
        trusted |= {now.outlined_by.name} if now.outlined_by else set()
    for here in now.involvement:
        there = then.get(here.lesions_by)
        if there is None or here.lesions_by not in trusted:
            continue
        for lobe, old, new in zip(Lobe, there.percent, here.percent, strict=True):
            if old is not None and new is not None:
                yield _change(
                    "lobe_involvement",
                    here.lesions_by,
                    old,
                    new,
                    lobes_by=lobes_by,
                    lobe=_LOBES[lobe - 1],
                )
        if there.total_score is not None and here.total_score is not None:
            yield _change(
                "severity_score",
                here.lesions_by,
                there.total_score,
                here.total_score,
                lobes_by=lobes_by,
            )


def _severity(now: LesionFigures, before: LesionFigures) -> dict[str, object]:
    if not _same(now.lobes_by, before.lobes_by) or None in (now.severe, before.severe):
        return {}
    by = now.lobes_by.name if now.lobes_by else None
    return {"severity_by": by, "severe_before": before.severe, "severe_now": now.severe}


def _left_out(now: LesionFigures, before: LesionFigures) -> Iterator[str]:
    for what, here, there in (
        ("Lobes and severity", now.lobes_by, before.lobes_by),
        ("Outlines", now.outlined_by, before.outlined_by),
    ):
        if here is None or _same(here, there):
            continue
        why = f"{here.name} did not run then" if there is None else _other_model(there, here)
        yield f"{what} are not compared: {why}."
    if _same(now.outlined_by, before.outlined_by) and now.outlined_by:
        then, today = before.positive, now.positive
        if None not in (then, today) and not (then and today):
            words = [("positive" if said else "negative") for said in (then, today)]
            yield (
                f"{now.outlined_by.name} read {words[0]} then and {words[1]} now; it outlines "
                "nothing in a negative patient, so its outlines are not compared."
            )
