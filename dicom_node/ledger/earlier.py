"""Earlier studies of the same patient that this node has read: what a reading is compared with.

A finished reading never changes, and what counts as earlier is fixed when its analysis is claimed
for the first time: asked again, the ledger gives the same answer (ADR 0021).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from dicom_node.domain import EarlierReading, EarlierReadings, comparable_name
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState

__all__ = ["MOST_EARLIER", "Earlier"]

MOST_EARLIER = 12
"""Readings that are looked at: the newest ones."""

_UNNAMED = "the images name no patient"
_UNDATED = "the images have no study date"
_NONE = "this node has read no earlier study of the patient"
_SAME_DAY = "the other study that was read is of the same day, which came first is not told"
_OTHER_SENDER = (
    "an earlier study with this patient identifier came from another sender, and it is not stated "
    "who issued the identifier"
)
_OTHER_NAME = "an earlier study with this patient identifier names another patient"


class Earlier:
    """For the analysis workers.

    Parameters
    ----------
    database : Database
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def than(self, analysis_id: int) -> EarlierReadings:
        """Return what was read of the patient before, each series once, the newest study first.

        The same patient: the same Patient ID of the same issuer; where an issuer is not stated,
        from the same sender; and no other name. What was read in the shadow is not told outside.
        """
        return self._than(_of_analysis(analysis_id))

    def than_series(self, series_id: int) -> EarlierReadings:
        """Return the same for a series whose analysis would be claimed now, for the first time."""
        return self._than(_of_series(series_id, self._database.now()))

    def _than(self, query: sa.Select[Any]) -> EarlierReadings:
        with self._database.read() as connection:
            mine = connection.execute(query).one()
            if not mine.patient_id:
                return EarlierReadings(reason=_UNNAMED)
            today = _date(mine.study_date)
            if today is None:
                return EarlierReadings(reason=_UNDATED)
            return _chosen(mine, today, connection.execute(_candidates(mine)))


def _of_analysis(analysis_id: int) -> sa.Select[Any]:
    a, r = t.analyses.c, t.revisions.c
    return (
        _mine(a.shadow, a.first_started_at)
        .join(t.revisions, r.series_id == t.series.c.id)
        .join(t.analyses, a.revision_id == r.id)
        .where(a.id == analysis_id)
    )


def _of_series(series_id: int, now: float) -> sa.Select[Any]:
    shadow, started_at = sa.literal(False), sa.literal(now)
    columns = shadow.label("shadow"), started_at.label("first_started_at")
    return _mine(*columns).where(t.series.c.id == series_id)


def _mine(shadow: sa.ColumnElement[bool], started_at: sa.ColumnElement[float]) -> sa.Select[Any]:
    s = t.series.c
    return sa.select(
        s.patient_id, s.issuer_of_patient_id, s.study_date, s.study_instance_uid, s.source_ae,
        _patient_name(), shadow, started_at,
    ).select_from(t.series)  # fmt: skip


def _candidates(mine: sa.Row[Any]) -> sa.Select[Any]:
    """What was read by then of this identifier, along the index of patients and their studies."""
    s, r, a = t.series.c, t.revisions.c, t.analyses.c
    query = (
        sa.select(
            s.id, s.issuer_of_patient_id, s.study_date, s.study_instance_uid,
            s.series_instance_uid, s.source_ae, _patient_name(), r.instance_set_digest, a.result,
        )
        .select_from(t.series)
        .join(t.revisions, r.series_id == s.id)
        .join(t.analyses, a.revision_id == r.id)
        .where(
            s.patient_id == mine.patient_id,
            s.study_date <= mine.study_date,
            s.study_instance_uid != mine.study_instance_uid,
            # No index of the state or the time, which would lead to all readings there ever were.
            a.state.concat("") == AnalysisState.DONE,
            a.finished_at + 0.0 <= (mine.first_started_at or 0.0),
        )
        .order_by(s.study_date.desc(), a.id.desc())
        .limit(MOST_EARLIER)
    )  # fmt: skip
    return query if mine.shadow else query.where(a.shadow.is_(False))


def _patient_name() -> sa.Label[str]:
    i = t.instances.c
    return (
        sa.select(i.header["patient_name"].as_string())
        .where(i.series_id == t.series.c.id)
        .order_by(i.revision_number)
        .limit(1)
        .correlate(t.series)
        .scalar_subquery()
        .label("patient_name")
    )


def _chosen(mine: sa.Row[Any], today: dt.date, rows: Iterable[sa.Row[Any]]) -> EarlierReadings:
    readings: list[EarlierReading] = []
    reasons: list[str] = []
    seen: set[int] = set()
    for row in rows:
        day = _date(row.study_date)
        if day is None or row.id in seen or _is_of_another_issuer(mine, row):
            continue
        seen.add(row.id)  # a later revision of the series came first
        doubt = _SAME_DAY if day == today else _doubt(mine, row)
        if doubt:
            reasons.append(doubt)
            continue
        readings.append(
            EarlierReading(
                study_date=day,
                study_instance_uid=row.study_instance_uid,
                series_instance_uid=row.series_instance_uid,
                instance_set_digest=row.instance_set_digest or "",
                result=row.result or {},
            )
        )
    return EarlierReadings(tuple(readings), "" if readings else next(iter(reasons), _NONE))


def _is_of_another_issuer(mine: sa.Row[Any], row: sa.Row[Any]) -> bool:
    one, other = mine.issuer_of_patient_id, row.issuer_of_patient_id
    return bool(one and other) and one != other


def _doubt(mine: sa.Row[Any], row: sa.Row[Any]) -> str:
    """Why it may be of somebody else; empty where nothing says so."""
    one, other = (comparable_name(each.patient_name or "") for each in (mine, row))
    if one and other and one != other:
        return _OTHER_NAME
    issued = mine.issuer_of_patient_id and row.issuer_of_patient_id
    return "" if issued or mine.source_ae == row.source_ae else _OTHER_SENDER


def _date(text: str) -> dt.date | None:
    """Return a date of PS3.5 §6.2, DA; None for anything else."""
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        return None
    try:
        return dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
