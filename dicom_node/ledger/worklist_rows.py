"""Series as rows of the worklist: a fixed number of queries, however many they are."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import queue
from dicom_node.ledger import tables as t
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState
from dicom_node.ledger.worklist import DeliverySummary, SeriesStatus, status_of

__all__ = ["FAILED_DELIVERY", "SeriesStage", "WorklistRow", "rows_of"]

FAILED_DELIVERY = [
    DeliveryState.PARKED,
    DeliveryState.QUARANTINED,
    DeliveryState.EXPIRED,
    DeliveryState.COMMIT_FAILED,
]
"""States of a delivery that somebody has to do something about."""


class SeriesStage(enum.StrEnum):
    """Where a series is, in one word for people."""

    RECEIVING = "receiving"
    QUEUED = "queued"  # complete, or waits for a worker
    ANALYSING = "analysing"
    DELIVERING = "delivering"
    DELIVERED = "delivered"  # or analysed without any destination
    NOT_ANALYSED = "not_analysed"  # not meant to be
    FAILED = "failed"  # somebody has to look


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """One series of the worklist."""

    status: SeriesStatus
    stage: SeriesStage
    patient_id: str
    started_at: float | None


def rows_of(connection: sa.Connection, series_ids: Collection[int]) -> list[WorklistRow]:
    """Read series by id, a fixed number of queries for all of them."""
    if not series_ids:
        return []
    s = t.series.c
    series = {
        row.id: row for row in connection.execute(sa.select(t.series).where(s.id.in_(series_ids)))
    }
    revisions = _revisions(connection, series_ids)
    analyses = _analyses(connection, [row.id for row in revisions.values()])
    deliveries = _deliveries(connection, [row.id for row in analyses.values()])
    positions = _positions(connection, analyses.values())
    return [
        _row(series[number], revisions[number], analyses, deliveries, positions)
        for number in series_ids
        if number in series and number in revisions
    ]


def _revisions(connection: sa.Connection, series_ids: Collection[int]) -> dict[int, sa.Row[Any]]:
    r = t.revisions.c
    # Not the selection, which names every image.
    columns: list[sa.Column[Any]] = [
        r.id, r.series_id, r.number, r.state, r.instance_count, r.expected_count, r.waiting_for,
        r.closing_reason, r.reason, r.rule,
    ]  # fmt: skip
    query = sa.select(*columns).where(r.series_id.in_(series_ids)).order_by(r.number)
    return {row.series_id: row for row in connection.execute(query)}  # the last one stays


def _analyses(connection: sa.Connection, revision_ids: Collection[int]) -> dict[int, sa.Row[Any]]:
    a = t.analyses.c
    query = sa.select(t.analyses).where(a.revision_id.in_(revision_ids)).order_by(a.run)
    return {row.revision_id: row for row in connection.execute(query)}


def _deliveries(
    connection: sa.Connection, analysis_ids: Collection[int]
) -> dict[int, tuple[DeliverySummary, ...]]:
    p, d = t.shipments.c, t.deliveries.c
    rows = connection.execute(
        sa.select(
            p.analysis_id, p.destination, p.open, p.ready_at, p.last_error,
            d.state, sa.func.count().label("number"), sa.func.max(d.error).label("error"),
        )
        .join(t.deliveries, d.shipment_id == p.id)
        .where(p.analysis_id.in_(analysis_ids))
        .group_by(p.id, p.analysis_id, p.destination, p.open, p.ready_at, p.last_error, d.state)
        .order_by(p.destination, d.state)
    ).all()  # fmt: skip
    found: dict[int, dict[str, list[sa.Row[Any]]]] = {}
    for row in rows:
        found.setdefault(row.analysis_id, {}).setdefault(row.destination, []).append(row)
    return {
        analysis_id: tuple(
            DeliverySummary(
                destination=destination,
                states={str(row.state): row.number for row in parts},
                last_error=parts[0].last_error or max(row.error or "" for row in parts),
                next_attempt_at=parts[0].ready_at if parts[0].open else None,
            )
            for destination, parts in destinations.items()
        )
        for analysis_id, destinations in found.items()
    }


def _positions(connection: sa.Connection, analyses: Collection[sa.Row[Any]]) -> dict[int, int]:
    a = t.analyses.c
    waiting = [row.queue_at for row in analyses if row.state == AnalysisState.WAITING]
    if not waiting:
        return {}
    query = (
        sa.select(a.id)
        .where(a.state == AnalysisState.WAITING, a.queue_at <= max(waiting))
        .order_by(*queue.ORDER)
    )
    return {
        analysis_id: position
        for position, analysis_id in enumerate(connection.scalars(query), start=1)
    }


def _row(
    series: sa.Row[Any],
    revision: sa.Row[Any],
    analyses: Mapping[int, sa.Row[Any]],
    deliveries: Mapping[int, tuple[DeliverySummary, ...]],
    positions: Mapping[int, int],
) -> WorklistRow:
    analysis = analyses.get(revision.id)
    of_analysis = deliveries.get(analysis.id, ()) if analysis else ()
    position = positions.get(analysis.id) if analysis else None
    status = status_of(series, revision, analysis, position, of_analysis)
    return WorklistRow(
        status=status,
        stage=_stage(status),
        patient_id=series.patient_id,
        started_at=analysis.started_at if analysis else None,
    )


def _stage(status: SeriesStatus) -> SeriesStage:
    of_revision = {
        RevisionState.RECEIVING: SeriesStage.RECEIVING,
        RevisionState.COMPLETE: SeriesStage.QUEUED,
        RevisionState.SKIPPED: SeriesStage.NOT_ANALYSED,
        RevisionState.REJECTED: SeriesStage.FAILED,
    }
    of_analysis = {
        AnalysisState.WAITING: SeriesStage.QUEUED,
        AnalysisState.RUNNING: SeriesStage.ANALYSING,
        AnalysisState.SKIPPED: SeriesStage.NOT_ANALYSED,
    }
    if status.state in of_revision:
        return of_revision[RevisionState(status.state)]
    if status.analysis_state in of_analysis:
        return of_analysis[AnalysisState(status.analysis_state)]
    if status.analysis_state != AnalysisState.DONE:
        return SeriesStage.FAILED
    states = {state for delivery in status.deliveries for state in delivery.states}
    if states & set(FAILED_DELIVERY):
        return SeriesStage.FAILED
    return SeriesStage.DELIVERING if DeliveryState.WAITING in states else SeriesStage.DELIVERED
