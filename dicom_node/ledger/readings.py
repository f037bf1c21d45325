"""The readings of the last time as numbers: what the drift panel counts. No patient is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState
from dicom_node.ledger.traits import traits_of
from dicom_node.series_traits import SeriesTraits

__all__ = ["MOST_READINGS", "ReadingNumbers", "Readings"]

MOST_READINGS = 1000
"""Of one period: more say no more, and cost."""
_MOST_KEPT = 4 * MOST_READINGS


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


class Readings:
    """The readings of the last time. Each is read once: a finished reading stays as it is.

    Parameters
    ----------
    database : Database
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[int, float], ReadingNumbers] = {}  # by analysis and its end

    def between(self, begin: float, end: float, limit: int = MOST_READINGS) -> list[ReadingNumbers]:
        """Return the newest readings of ``begin <= finished_at < end``, the newest first."""
        a = t.analyses.c
        return self._numbers(limit, 0, a.finished_at >= begin, a.finished_at < end)

    def newest(self, limit: int = MOST_READINGS, *, skip: int = 0) -> list[ReadingNumbers]:
        """Return the newest readings but for the `skip` newest of all, the newest first."""
        return self._numbers(limit, skip, t.analyses.c.finished_at.is_not(None))

    def _numbers(
        self, limit: int, skip: int, *period: sa.ColumnElement[bool]
    ) -> list[ReadingNumbers]:
        a = t.analyses.c
        query = (
            sa.select(a.id, a.finished_at)
            # No index of the state, which would lead to all readings there ever were.
            .where(a.state.concat("") == AnalysisState.DONE, *period)
            .order_by(a.finished_at.desc())
            .limit(min(limit, MOST_READINGS))
            .offset(skip)
        )
        with self._database.read() as connection:
            wanted = [(row.id, row.finished_at) for row in connection.execute(query)]
            # Its own copy: two may ask at once.
            known = self._known if len(self._known) <= _MOST_KEPT else {}
            found = {key: known[key] for key in wanted if key in known}
            found |= _read(connection, [key for key in wanted if key not in found])
        self._known = {**known, **found}
        return [found[key] for key in wanted if key in found]


def _read(
    connection: sa.Connection, wanted: Sequence[tuple[int, float]]
) -> dict[tuple[int, float], ReadingNumbers]:
    """Read the numbers of analyses, and nothing else of their results: they are long."""
    a, r = t.analyses.c, t.revisions.c
    query = (
        sa.select(
            a.id,
            a.finished_at,
            r.series_id,
            a.result["model"]["sha256"].label("model_sha256"),
            a.result["patient"]["probabilities"].label("probabilities"),
            a.result["lesion"]["probability"].label("lesion_probability"),
            a.result["lesion"]["percent_of_lung"].label("lesion_percent"),
        )
        .join(t.revisions, r.id == a.revision_id)
        .where(a.id.in_([analysis_id for analysis_id, _ in wanted]))
    )
    rows = connection.execute(query).all() if wanted else []
    traits = traits_of(connection, {row.series_id for row in rows})
    return {
        (row.id, row.finished_at): ReadingNumbers(
            finished_at=row.finished_at,
            traits=traits[row.series_id],
            model_sha256=str(row.model_sha256 or ""),
            probabilities={key: float(value) for key, value in (row.probabilities or {}).items()},
            lesion_probability=_number(row.lesion_probability),
            lesion_percent=_number(row.lesion_percent),
        )
        for row in rows
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
