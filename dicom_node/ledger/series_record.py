"""Everything the ledger knows of one series, for the page about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.worklist_rows import WorklistRow, rows_of

__all__ = [
    "DeliveryRecord",
    "JournalLine",
    "ObjectRecord",
    "RevisionRecord",
    "SeriesRecord",
    "instance_paths",
    "read_series",
]

_MOST_LINES = 200


@dataclass(frozen=True, slots=True)
class RevisionRecord:
    """A revision and its latest analysis; times are None for what has not happened."""

    revision_id: int
    number: int
    state: str
    instance_count: int
    opened_at: float
    last_arrival_at: float
    closed_at: float | None
    closing_reason: str
    statements: tuple[str, ...]
    analysis_id: int | None
    analysis_state: str
    attempts: int
    queued_at: float | None
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """A written result; `path` is relative to the results directory."""

    object_id: int
    kind: str
    slot: str
    rank: int
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One object to one destination; `object_id` is None until an alternative is chosen."""

    destination: str
    slot: str
    object_id: int | None
    state: str
    attempts: int
    status: int | None
    error: str
    sent_at: float | None
    committed_at: float | None


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One event of the series."""

    at: float
    kind: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """A series with all its revisions; objects and deliveries are those of the newest one."""

    row: WorklistRow
    revisions: tuple[RevisionRecord, ...]
    objects: tuple[ObjectRecord, ...]
    deliveries: tuple[DeliveryRecord, ...]
    journal: tuple[JournalLine, ...]
    images_held: int  # received and not purged
    conflicts: int

    @property
    def newest(self) -> RevisionRecord:
        """The revision that counts."""
        return self.revisions[-1]


def read_series(database: Database, series_id: int) -> SeriesRecord | None:
    """Read one series; None if there is none of this id."""
    i, c = t.instances.c, t.conflicts.c
    with database.read() as connection:
        rows = rows_of(connection, [series_id])
        if not rows:
            return None
        revisions = _revisions(connection, series_id)
        analysis_id = revisions[-1].analysis_id
        return SeriesRecord(
            row=rows[0],
            revisions=revisions,
            objects=_objects(connection, analysis_id) if analysis_id else (),
            deliveries=_deliveries(connection, analysis_id) if analysis_id else (),
            journal=_journal(connection, series_id),
            images_held=connection.scalar(
                sa.select(sa.func.count())
                .select_from(t.instances)
                .where(i.series_id == series_id, i.purged_at.is_(None))
            )
            or 0,
            conflicts=connection.scalar(
                sa.select(sa.func.count())
                .select_from(t.conflicts)
                .where(
                    c.sop_instance_uid.in_(
                        sa.select(i.sop_instance_uid).where(i.series_id == series_id)
                    )
                )
            )
            or 0,
        )


def instance_paths(database: Database, series_id: int) -> dict[str, str]:
    """Return the spool path of each image that is held, by SOP Instance UID."""
    i = t.instances.c
    query = sa.select(i.sop_instance_uid, i.path).where(
        i.series_id == series_id, i.purged_at.is_(None)
    )
    with database.read() as connection:
        return {row.sop_instance_uid: row.path for row in connection.execute(query)}


def _revisions(connection: sa.Connection, series_id: int) -> tuple[RevisionRecord, ...]:
    r, a = t.revisions.c, t.analyses.c
    rows = connection.execute(
        sa.select(
            r.id, r.number, r.state, r.instance_count, r.opened_at, r.last_arrival_at, r.closed_at,
            r.closing_reason, r.selection,
            a.id.label("analysis_id"), a.state.label("analysis_state"), a.attempts, a.created_at,
            a.started_at, a.finished_at,
        )
        .select_from(t.revisions.outerjoin(t.analyses, a.revision_id == r.id))
        .where(r.series_id == series_id)
        .order_by(r.number, a.run)
    ).all()  # fmt: skip
    latest = {row.id: row for row in rows}  # the last run of each revision stays
    return tuple(
        RevisionRecord(
            revision_id=row.id,
            number=row.number,
            state=row.state,
            instance_count=row.instance_count,
            opened_at=row.opened_at,
            last_arrival_at=row.last_arrival_at,
            closed_at=row.closed_at,
            closing_reason=row.closing_reason or "",
            statements=tuple((row.selection or {}).get("statements", ())),
            analysis_id=row.analysis_id,
            analysis_state=row.analysis_state or "",
            attempts=row.attempts or 0,
            queued_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in latest.values()
    )


def _objects(connection: sa.Connection, analysis_id: int) -> tuple[ObjectRecord, ...]:
    o = t.objects.c
    rows = connection.execute(
        sa.select(t.objects).where(o.analysis_id == analysis_id).order_by(o.id)
    )
    return tuple(
        ObjectRecord(
            object_id=row.id,
            kind=row.kind,
            slot=row.slot,
            rank=row.rank,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            path=row.path,
            size_bytes=row.size_bytes,
        )
        for row in rows
    )


def _deliveries(connection: sa.Connection, analysis_id: int) -> tuple[DeliveryRecord, ...]:
    p, d, i, c = t.shipments.c, t.deliveries.c, t.commitment_items.c, t.commitments.c
    committed_at = (
        sa.select(sa.func.max(c.reported_at))
        .join(t.commitment_items, i.commitment_id == c.id)
        .where(i.delivery_id == d.id, i.outcome == "committed")
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(p.destination, t.deliveries, committed_at.label("committed_at"))
        .join(t.deliveries, d.shipment_id == p.id)
        .where(p.analysis_id == analysis_id)
        .order_by(p.destination, d.id)
    )
    return tuple(
        DeliveryRecord(
            destination=row.destination,
            slot=row.slot,
            object_id=row.object_id,
            state=row.state,
            attempts=row.attempts,
            status=row.status,
            error=row.error,
            sent_at=row.sent_at,
            committed_at=row.committed_at,
        )
        for row in rows
    )


def _journal(connection: sa.Connection, series_id: int) -> tuple[JournalLine, ...]:
    e = t.events.c
    rows = connection.execute(
        sa.select(e.at, e.kind, e.detail)
        .where(e.series_id == series_id)
        .order_by(e.id.desc())
        .limit(_MOST_LINES)
    )
    return tuple(JournalLine(row.at, row.kind, row.detail or {}) for row in rows)
