"""The worklist in pages: filtered, searched, and as fast with a million series as with ten.

A page follows the one before by key (last image, id), never by counting rows. A filter whose
series are few starts at the index of their state; one whose series are many walks along the
newest series and finds enough of them soon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState
from dicom_node.ledger.worklist_rows import (
    FAILED_DELIVERY,
    SeriesStage,
    WorklistRow,
    rows_of,
)

__all__ = ["Cursor", "Listing", "Page", "SeriesStage", "WorklistRow"]

_FEW = 2000  # series that are sorted faster than found along the index of time
_MOST_COUNTED = 1000

_UNSENT_DELIVERY = [DeliveryState.WAITING, *FAILED_DELIVERY]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place between two pages: behind (or before) the series of this key."""

    last_arrival_at: float
    series_id: int
    newer: bool = False  # the page before the key instead of behind it

    def __str__(self) -> str:
        return f"{'n' if self.newer else 'o'}{self.last_arrival_at!r}_{self.series_id}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read what :meth:`__str__` wrote; None for anything else."""
        at, _, series_id = text[1:].partition("_")
        try:
            key = float(at), int(series_id)
        except ValueError:
            return None
        return cls(*key, newer=text[0] == "n") if text[0] in "on" else None


@dataclass(frozen=True, slots=True)
class Page:
    """Some series, the newest first, and where it goes on."""

    rows: tuple[WorklistRow, ...]
    newer: Cursor | None
    older: Cursor | None


class Listing:
    """For who looks at many series at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        *,
        text: str = "",
        stage: SeriesStage | None = None,
        within_s: float | None = None,
        cursor: Cursor | None = None,
        limit: int = 50,
    ) -> Page:
        """Return one page.

        Parameters
        ----------
        text : str
            An accession number, a patient ID, or a study, series or SOP instance UID.
        within_s : float or None
            Only series whose last image came no longer ago.
        """
        s = t.series.c
        newer = cursor is not None and cursor.newer
        query = sa.select(s.id, s.last_arrival_at)
        at: sa.ColumnElement[float] = s.last_arrival_at
        with self._database.read() as connection:
            if text:
                query = query.where(s.id.in_(_found(text)))
                at = at + 0.0
            if stage is not None and (text or not _are_few(connection, stage)):
                of_series = [
                    part.where(t.revisions.c.series_id == s.id) for part in _WALKING[stage]
                ]
                query = query.where(
                    sa.or_(*(part.correlate(t.series).exists() for part in of_series))
                )
            elif stage is not None:
                query = query.where(s.id.in_(sa.union(*_PARTS[stage])))
                # No index serves a sum: the few are looked up and sorted.
                at = at + 0.0
            if within_s is not None:
                query = query.where(s.last_arrival_at >= self._database.now() - within_s)
            if cursor is not None:
                key = sa.tuple_(s.last_arrival_at, s.id)
                limits = sa.tuple_(sa.literal(cursor.last_arrival_at), sa.literal(cursor.series_id))
                query = query.where(key > limits if newer else key < limits)
            order = (at.asc(), s.id.asc()) if newer else (at.desc(), s.id.desc())
            keys = connection.execute(query.order_by(*order).limit(limit + 1)).all()
            more, keys = len(keys) > limit, keys[:limit]
            if newer:
                keys = keys[::-1]
            rows = rows_of(connection, [key.id for key in keys])
        first = Cursor(keys[0].last_arrival_at, keys[0].id, newer=True) if keys else None
        last = Cursor(keys[-1].last_arrival_at, keys[-1].id) if keys else None
        return Page(
            rows=tuple(rows),
            newer=first if (more if newer else cursor is not None) else None,
            older=last if (newer or more) else None,
        )

    def rows(self, series_ids: Sequence[int]) -> list[WorklistRow]:
        """Return these series in the order asked for; unknown ones are left out."""
        with self._database.read() as connection:
            return rows_of(connection, series_ids)

    def counts(self) -> dict[SeriesStage, int]:
        """Return how many series are on their way or failed; counting ends at 1000."""
        stages = [
            SeriesStage.RECEIVING,
            SeriesStage.QUEUED,
            SeriesStage.ANALYSING,
            SeriesStage.DELIVERING,
            SeriesStage.FAILED,
        ]
        with self._database.read() as connection:
            return {stage: _count(connection, stage, _MOST_COUNTED) for stage in stages}


def _parts(*, walking: bool) -> Mapping[SeriesStage, Sequence[sa.Select[tuple[int]]]]:
    """Return for each stage the queries whose series together are in it.

    Parameters
    ----------
    walking : bool
        They are asked series by series. Then no index of states may be used, which leads to all
        rows of a state, each time: an expression has none, and the index of the series is left.
    """
    r, a, p, d = t.revisions.c, t.analyses.c, t.shipments.c, t.deliveries.c

    def plain(column: sa.Column[str]) -> sa.ColumnElement[str]:
        return column.concat("") if walking else column

    of_revision = sa.select(r.series_id)
    of_analysis = of_revision.join(t.analyses, a.revision_id == r.id).where(
        plain(r.state) == RevisionState.SELECTED
    )
    of_shipment = of_analysis.join(t.shipments, p.analysis_id == a.id)

    def has_delivery(states: Sequence[DeliveryState]) -> sa.Exists:
        other = t.shipments.alias()
        # Those of the shipment at hand are looked at, see `walking`.
        of_other = sa.exists().where(d.shipment_id == other.c.id, d.state.concat("").in_(states))
        return sa.exists().where(other.c.analysis_id == a.id, of_other)

    failed = sa.select(d.shipment_id).where(d.state.in_(FAILED_DELIVERY)).distinct()
    is_done = plain(a.state) == AnalysisState.DONE
    return {
        SeriesStage.RECEIVING: [of_revision.where(plain(r.state) == RevisionState.RECEIVING)],
        SeriesStage.QUEUED: [
            of_revision.where(plain(r.state) == RevisionState.COMPLETE),
            of_analysis.where(plain(a.state) == AnalysisState.WAITING),
        ],
        SeriesStage.ANALYSING: [of_analysis.where(plain(a.state) == AnalysisState.RUNNING)],
        SeriesStage.DELIVERING: [
            (of_analysis.where(is_done) if walking else of_shipment.where(p.open.is_(True))).where(
                has_delivery([DeliveryState.WAITING]), ~has_delivery(FAILED_DELIVERY)
            )
        ],
        SeriesStage.DELIVERED: [of_analysis.where(is_done, ~has_delivery(_UNSENT_DELIVERY))],
        SeriesStage.NOT_ANALYSED: [
            of_revision.where(plain(r.state) == RevisionState.SKIPPED),
            of_analysis.where(plain(a.state) == AnalysisState.SKIPPED),
        ],
        SeriesStage.FAILED: [
            of_revision.where(plain(r.state) == RevisionState.REJECTED),
            of_analysis.where(
                plain(a.state).in_([AnalysisState.REJECTED, AnalysisState.QUARANTINED])
            ),
            of_analysis.where(has_delivery(FAILED_DELIVERY))
            if walking
            else of_shipment.where(p.id.in_(failed)),
        ],
    }


_PARTS = _parts(walking=False)
_WALKING = _parts(walking=True)


def _of_series(part: sa.Select[tuple[int]]) -> sa.Exists:
    s, r = t.series.c, t.revisions.c
    return part.where(r.series_id == s.id).correlate(t.series).exists()


def _found(text: str) -> sa.CompoundSelect[tuple[int]]:
    """Return the ids of series that carry `text` as a name; each part has its own index."""
    s, i = t.series.c, t.instances.c
    names = (s.accession_number, s.patient_id, s.study_instance_uid, s.series_instance_uid)
    return sa.union(
        *(sa.select(s.id).where(name == text) for name in names),
        sa.select(i.series_id).where(i.sop_instance_uid == text),
    )


def _count(connection: sa.Connection, stage: SeriesStage, most: int) -> int:
    some = sa.union(*_PARTS[stage]).limit(most).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _are_few(connection: sa.Connection, stage: SeriesStage) -> bool:
    parts: Sequence[sa.Select[tuple[int]]] = _PARTS[stage]
    if stage is SeriesStage.DELIVERED:  # as many at most, and counted at once
        parts = [sa.select(t.analyses.c.id).where(t.analyses.c.state == AnalysisState.DONE)]
    # No `union`, which would collect all of them first.
    for part in parts:
        some = part.limit(_FEW).subquery()
        if (connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) >= _FEW:
            return False
    return True
