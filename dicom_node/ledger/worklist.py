"""What people ask and order: where is my study, try again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import queue
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, rows_changed
from dicom_node.ledger.states import (
    ANALYSIS_TRANSITIONS,
    DELIVERY_TRANSITIONS,
    REVISION_TRANSITIONS,
    AnalysisEvent,
    AnalysisState,
    DeliveryEvent,
    DeliveryState,
    RevisionEvent,
    RevisionState,
    step,
)
from dicom_node.settings import Priority

__all__ = ["DeliverySummary", "NodeCounts", "SeriesStatus", "Worklist", "status_of"]


@dataclass(frozen=True, slots=True)
class DeliverySummary:
    """How far the results of one analysis are at one destination."""

    destination: str
    states: dict[str, int]
    last_error: str
    next_attempt_at: float | None


@dataclass(frozen=True, slots=True)
class SeriesStatus:
    """Everything an administrator asks about one series; the newest revision counts."""

    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    accession_number: str
    description: str
    source_ae: str
    received: int
    expected: int | None
    revision: int
    state: str
    first_arrival_at: float
    last_arrival_at: float
    waiting_for: str
    closing_reason: str
    reason: str
    analysis_state: str | None
    attempts: int
    stage: str
    done: int
    total: int
    queue_position: int | None
    finished_at: float | None
    result: dict[str, Any] | None
    deliveries: tuple[DeliverySummary, ...] = field(default=())
    rule: str = ""  # that decided; empty where none did yet
    priority: str = Priority.NORMAL
    shadow: bool = False  # nothing is delivered


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """The node at a glance; ages in seconds."""

    revisions: dict[str, int]
    analyses: dict[str, int]
    deliveries: dict[str, int]
    conflicts: int
    oldest_waiting_analysis_s: float | None
    oldest_open_shipment_s: float | None


class Worklist:
    """Questions and orders of people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self,
        *,
        accession: str | None = None,
        patient_id: str | None = None,
        uid: str | None = None,
        limit: int = 20,
    ) -> list[SeriesStatus]:
        """Series by accession number, patient ID, or study/series/instance UID; newest first.

        Without any of them: the series that arrived last.
        """
        s, i = t.series.c, t.instances.c
        query = sa.select(s.id).order_by(s.last_arrival_at.desc()).limit(limit)
        if accession is not None:
            query = query.where(s.accession_number == accession)
        if patient_id is not None:
            query = query.where(s.patient_id == patient_id)
        if uid is not None:
            holds = sa.select(i.series_id).where(i.sop_instance_uid == uid)
            query = query.where(
                sa.or_(s.series_instance_uid == uid, s.study_instance_uid == uid, s.id.in_(holds))
            )
        with self._database.read() as connection:
            return [
                _series_status(connection, series_id)
                for series_id in connection.scalars(query).all()
            ]

    def counts(self, *, unfinished_only: bool = False) -> NodeCounts:
        """Return how many rows are in which state, and how long the oldest work waits.

        Parameters
        ----------
        unfinished_only : bool
            Leave out the states that grow for ever: fast, however old the ledger is.
        """
        now = self._database.now()
        with self._database.read() as connection:
            a, p = t.analyses.c, t.shipments.c
            ready_at = sa.case((a.queue_at > a.ready_at, a.queue_at), else_=a.ready_at)
            oldest_analysis = connection.scalar(
                # What stands back for off-peak hours is not late.
                sa.select(sa.func.min(ready_at)).where(
                    a.state == AnalysisState.WAITING, ~queue.is_held(now)
                )
            )
            # Nor is what quiet hours held back a moment ago.
            waits_since = sa.case((p.held_at > p.created_at, p.held_at), else_=p.created_at)
            oldest_shipment = connection.scalar(
                # What is sent and waits for its proof only is not late.
                sa.select(sa.func.min(waits_since))
                .join(t.deliveries, t.deliveries.c.shipment_id == t.shipments.c.id)
                .where(t.deliveries.c.state == DeliveryState.WAITING)
            )
            return NodeCounts(
                revisions=_by_state(connection, t.revisions, unfinished_only),
                analyses=_by_state(connection, t.analyses, unfinished_only),
                deliveries=_by_state(connection, t.deliveries, unfinished_only),
                conflicts=connection.scalar(sa.select(sa.func.count()).select_from(t.conflicts))
                or 0,
                oldest_waiting_analysis_s=_age(now, oldest_analysis),
                oldest_open_shipment_s=_age(now, oldest_shipment),
            )

    def retry(self, series_id: int, destination: str | None = None) -> list[str]:
        """Try again what ended without success; return in words what was set in motion.

        Parameters
        ----------
        destination : str or None
            Only what goes there; None: selection, analysis and all destinations.
        """
        with self._database.write() as connection:
            done = []
            if destination is None:
                done += self._retry_revision(connection, series_id)
                done += self._retry_analysis(connection, series_id)
            done += self._retry_deliveries(connection, series_id, destination)
            if done:
                self._database.event(connection, "retry", series_id, done=done)
            return done

    def _retry_revision(self, connection: sa.Connection, series_id: int) -> list[str]:
        r = t.revisions.c
        state = step(REVISION_TRANSITIONS, RevisionState.SKIPPED, RevisionEvent.REOPEN)
        changed = rows_changed(
            connection.execute(
                t.revisions.update()
                .where(
                    r.series_id == series_id,
                    r.state.in_([RevisionState.SKIPPED, RevisionState.REJECTED]),
                )
                .values(state=state, reason="", rule="")
            )
        )
        return ["selection is judged again"] if changed else []

    def _retry_analysis(self, connection: sa.Connection, series_id: int) -> list[str]:
        a, r = t.analyses.c, t.revisions.c
        state = step(ANALYSIS_TRANSITIONS, AnalysisState.QUARANTINED, AnalysisEvent.RETRY)
        ended = [AnalysisState.QUARANTINED, AnalysisState.REJECTED, AnalysisState.SKIPPED]
        changed = rows_changed(
            connection.execute(
                t.analyses.update()
                .where(
                    a.state.in_(ended),
                    a.revision_id.in_(
                        sa.select(r.id).where(
                            r.series_id == series_id, r.state == RevisionState.SELECTED
                        )
                    ),
                )
                .values(
                    state=state,
                    attempts=0,
                    reason="",
                    finished_at=None,
                    nudged_at=None,
                    ready_at=self._database.now(),
                )
            )
        )
        return ["the analysis is queued again"] if changed else []

    def _retry_deliveries(
        self, connection: sa.Connection, series_id: int, only: str | None
    ) -> list[str]:
        d, p, a, r = t.deliveries.c, t.shipments.c, t.analyses.c, t.revisions.c
        state = step(DELIVERY_TRANSITIONS, DeliveryState.PARKED, DeliveryEvent.RETRY)
        shipments = connection.execute(
            sa.select(p.id, p.destination)
            .join(t.analyses, a.id == p.analysis_id)
            .join(t.revisions, r.id == a.revision_id)
            .where(r.series_id == series_id, sa.true() if only is None else p.destination == only)
        ).all()
        ended = [
            DeliveryState.PARKED,
            DeliveryState.QUARANTINED,
            DeliveryState.EXPIRED,
            DeliveryState.COMMIT_FAILED,
        ]
        words = []
        for shipment_id, destination in shipments:
            changed = rows_changed(
                connection.execute(
                    t.deliveries.update()
                    .where(d.shipment_id == shipment_id, d.state.in_(ended))
                    .values(state=state, error="", object_id=None, resends=0)
                )
            )
            waiting = rows_changed(
                connection.execute(
                    t.shipments.update()
                    .where(p.id == shipment_id, sa.or_(p.open.is_(True), sa.literal(changed > 0)))
                    .values(open=True, ready_at=self._database.now(), nudged_at=None, attempts=0)
                )
            )
            if waiting:
                # A breaker that waits for its next probe would make "now" a lie.
                connection.execute(
                    t.breakers.update()
                    .where(t.breakers.c.destination == destination)
                    .values(probe_at=0.0)
                )
                words.append(f"delivery to {destination} is tried again now")
        return words


_FINISHED = {"selected", "skipped", "superseded", "done", "sent", "committed", "verified"}
_UNFINISHED = {
    str(state) for states in (RevisionState, AnalysisState, DeliveryState) for state in states
} - _FINISHED


def _by_state(
    connection: sa.Connection, table: sa.Table, unfinished_only: bool = False
) -> dict[str, int]:
    query = sa.select(table.c.state, sa.func.count())
    if unfinished_only:
        query = query.where(table.c.state.in_(sorted(_UNFINISHED)))
    rows = connection.execute(query.group_by(table.c.state).order_by(table.c.state))
    return {str(state): int(count) for state, count in rows}


def _age(now: float, since: float | None) -> float | None:
    return None if since is None else max(0.0, now - since)


def _series_status(connection: sa.Connection, series_id: int) -> SeriesStatus:
    a, r = t.analyses.c, t.revisions.c
    series = connection.execute(sa.select(t.series).where(t.series.c.id == series_id)).one()
    revision = connection.execute(
        sa.select(t.revisions).where(r.series_id == series_id).order_by(r.number.desc()).limit(1)
    ).one()
    analysis = connection.execute(
        sa.select(t.analyses).where(a.revision_id == revision.id).order_by(a.run.desc()).limit(1)
    ).first()
    position = None
    if analysis is not None and analysis.state == AnalysisState.WAITING:
        position = connection.scalar(queue.position(analysis.queue_at, analysis.id))
    deliveries = _deliveries(connection, analysis.id) if analysis else ()
    return status_of(series, revision, analysis, position, deliveries)


def status_of(
    series: sa.Row[Any],
    revision: sa.Row[Any],
    analysis: sa.Row[Any] | None,
    queue_position: int | None,
    deliveries: tuple[DeliverySummary, ...],
) -> SeriesStatus:
    """Put the rows of a series, its last revision and that one's last analysis together."""
    return SeriesStatus(
        series_id=series.id,
        series_instance_uid=series.series_instance_uid,
        study_instance_uid=series.study_instance_uid,
        accession_number=series.accession_number,
        description=series.description,
        source_ae=series.source_ae,
        received=revision.instance_count,
        expected=revision.expected_count,
        revision=revision.number,
        state=revision.state,
        first_arrival_at=series.first_arrival_at,
        last_arrival_at=series.last_arrival_at,
        waiting_for=revision.waiting_for,
        closing_reason=revision.closing_reason or "",
        reason=revision.reason or (analysis.reason if analysis else ""),
        analysis_state=analysis.state if analysis else None,
        attempts=analysis.attempts if analysis else 0,
        stage=analysis.stage if analysis else "",
        done=analysis.done if analysis else 0,
        total=analysis.total if analysis else 0,
        queue_position=queue_position,
        finished_at=analysis.finished_at if analysis else None,
        result=analysis.result if analysis else None,
        deliveries=deliveries,
        rule=revision.rule,
        priority=analysis.priority if analysis else Priority.NORMAL,
        shadow=bool(analysis.shadow) if analysis else False,
    )


def _deliveries(connection: sa.Connection, analysis_id: int) -> tuple[DeliverySummary, ...]:
    p, d = t.shipments.c, t.deliveries.c
    summaries = []
    for shipment in connection.execute(
        sa.select(t.shipments).where(p.analysis_id == analysis_id).order_by(p.destination)
    ):
        states = connection.execute(
            sa.select(d.state, sa.func.count())
            .where(d.shipment_id == shipment.id)
            .group_by(d.state)
            .order_by(d.state)
        )
        error = shipment.last_error or connection.scalar(
            sa.select(d.error).where(d.shipment_id == shipment.id, d.error != "").limit(1)
        )
        summaries.append(
            DeliverySummary(
                destination=shipment.destination,
                states={str(state): int(count) for state, count in states},
                last_error=error or "",
                next_attempt_at=shipment.ready_at if shipment.open else None,
            )
        )
    return tuple(summaries)
