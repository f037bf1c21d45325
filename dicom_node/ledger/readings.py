"""The readings of the last time as numbers: what the drift panel counts. No patient is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState
from dicom_node.ledger.traits import traits_of
from dicom_node.series_traits import SeriesTraits

__all__ = ["MOST_READINGS", "ReadingNumbers", "newest_readings", "readings_between"]

MOST_READINGS = 1000
"""Of one period: more say no more, and cost."""


@dataclass(frozen=True, slots=True)
class ReadingNumbers:
    """One reading.

    Attributes
    ----------
    model_sha256 : str
        Which model read.
    probabilities : mapping of str to float
        Of the patient, by class; empty where the patient was not classified.
    lesion_probability : float or None
        The greatest of a slice; None for readings of before it was kept.
    lesion_percent : float or None
        Of the lung.
    """

    finished_at: float
    traits: SeriesTraits
    model_sha256: str
    probabilities: Mapping[str, float]
    lesion_probability: float | None
    lesion_percent: float | None


def readings_between(
    database: Database, begin: float, end: float, limit: int = MOST_READINGS
) -> list[ReadingNumbers]:
    """Return the newest readings of ``begin <= finished_at < end``, the newest first."""
    a = t.analyses.c
    return _readings(database, limit, 0, a.finished_at >= begin, a.finished_at < end)


def newest_readings(
    database: Database, limit: int = MOST_READINGS, *, skip: int = 0
) -> list[ReadingNumbers]:
    """Return the newest readings but for the `skip` newest of all, the newest first."""
    return _readings(database, limit, skip, t.analyses.c.finished_at.is_not(None))


def _readings(
    database: Database, limit: int, skip: int, *period: sa.ColumnElement[bool]
) -> list[ReadingNumbers]:
    a, r = t.analyses.c, t.revisions.c
    query = (
        sa.select(a.finished_at, a.result, r.series_id)
        .join(t.revisions, r.id == a.revision_id)
        # No index of the state, which would lead to all readings there ever were.
        .where(a.state.concat("") == AnalysisState.DONE, *period)
        .order_by(a.finished_at.desc())
        .limit(min(limit, MOST_READINGS))
        .offset(skip)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
        traits = traits_of(connection, {row.series_id for row in rows})
    return [_numbers(row.finished_at, traits[row.series_id], row.result or {}) for row in rows]


def _numbers(finished_at: float, traits: SeriesTraits, result: Mapping[str, Any]) -> ReadingNumbers:
    lesion = result.get("lesion") or {}
    probabilities = (result.get("patient") or {}).get("probabilities") or {}
    return ReadingNumbers(
        finished_at=finished_at,
        traits=traits,
        model_sha256=str((result.get("model") or {}).get("sha256", "")),
        probabilities={str(key): float(value) for key, value in probabilities.items()},
        lesion_probability=_number(lesion.get("probability")),
        lesion_percent=_number(lesion.get("percent_of_lung")),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
