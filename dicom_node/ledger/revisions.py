"""What the reconciler reads and writes: series revisions from first image to selection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.header import InstanceHeader
from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database, inserted_id, rows_changed
from dicom_node.ledger.plan import NO_PLAN, Plan
from dicom_node.ledger.senders import last_outcome, still_open
from dicom_node.ledger.states import (
    REVISION_TRANSITIONS,
    AnalysisState,
    RevisionEvent,
    RevisionState,
    step,
)

__all__ = ["CompletedRevision", "OpenRevision", "Revisions", "instance_set_digest"]


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """A revision that still receives."""

    revision_id: int
    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    source_ae: str
    instance_count: int
    opened_at: float
    last_arrival_at: float
    expected_count: int | None
    queried_at: float | None
    waiting_for: str
    associations_over: bool
    association_aborted: bool  # the last one that sent an image: its sender may come again


@dataclass(frozen=True, slots=True)
class CompletedRevision:
    """A revision that is closed and waits for selection."""

    revision_id: int
    series_id: int
    number: int
    series_instance_uid: str
    study_instance_uid: str
    closed_at: float


class Revisions:
    """Completion and selection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receiving(self, idle_timeout_s: float) -> list[OpenRevision]:
        """All revisions that still receive.

        Parameters
        ----------
        idle_timeout_s : float
            An association without activity for longer counts as over: its listener is dead, since
            a living one would have closed it.
        """
        r, s = t.revisions.c, t.series.c
        over = ~still_open(self._database.now() - idle_timeout_s)
        query = (
            sa.select(t.revisions, t.series, over.label("over"), last_outcome().label("outcome"))
            .join(t.series, s.id == r.series_id)
            .where(r.state == RevisionState.RECEIVING)
            .order_by(r.id)
        )
        with self._database.read() as connection:
            return [
                OpenRevision(
                    revision_id=row[r.id],
                    series_id=row[r.series_id],
                    series_instance_uid=row[s.series_instance_uid],
                    study_instance_uid=row[s.study_instance_uid],
                    source_ae=row[s.source_ae],
                    instance_count=row[r.instance_count],
                    opened_at=row[r.opened_at],
                    last_arrival_at=row[r.last_arrival_at],
                    expected_count=row[r.expected_count],
                    queried_at=row[r.queried_at],
                    waiting_for=row[r.waiting_for],
                    associations_over=bool(row["over"]),
                    association_aborted=bool(row["over"]) and row["outcome"] != "released",
                )
                for row in connection.execute(query).mappings()
            ]

    def headers(self, revision_id: int) -> list[InstanceHeader]:
        """Headers of all instances of a revision, those of earlier revisions included."""
        r, i = t.revisions.c, t.instances.c
        query = (
            sa.select(i.header)
            .join(t.revisions, sa.and_(r.series_id == i.series_id, i.revision_number <= r.number))
            .where(r.id == revision_id)
            .order_by(i.sop_instance_uid)
        )
        with self._database.read() as connection:
            return [InstanceHeader.model_validate(header) for header in connection.scalars(query)]

    def removed(self, revision_id: int) -> int:
        """Return how many instances of a revision retention has removed."""
        r, i = t.revisions.c, t.instances.c
        query = (
            sa.select(sa.func.count())
            .select_from(t.instances)
            .join(t.revisions, sa.and_(r.series_id == i.series_id, i.revision_number <= r.number))
            .where(r.id == revision_id, i.purged_at.is_not(None))
        )
        with self._database.read() as connection:
            return connection.scalar(query) or 0

    def path(self, sop_instance_uid: str) -> str:
        """Return where an instance lies, relative to the spool."""
        i = t.instances.c
        with self._database.read() as connection:
            return str(
                connection.execute(
                    sa.select(i.path).where(i.sop_instance_uid == sop_instance_uid)
                ).scalar_one()
            )

    def note_query(self, revision_id: int, expected_count: int | None) -> None:
        """Record what the source PACS answered when asked how many images the series has."""
        with self._database.write() as connection:
            connection.execute(
                t.revisions.update()
                .where(t.revisions.c.id == revision_id)
                .values(expected_count=expected_count, queried_at=self._database.now())
            )

    def note_waiting(self, revision_id: int, waiting_for: str) -> None:
        """Record, for people, what a revision still waits for."""
        with self._database.write() as connection:
            connection.execute(
                t.revisions.update()
                .where(t.revisions.c.id == revision_id)
                .values(waiting_for=waiting_for[:256])
            )

    def close(self, revision: OpenRevision, reason: str) -> bool:
        """Close a revision for `reason`; False if an image arrived since `revision` was read."""
        state = step(REVISION_TRANSITIONS, RevisionState.RECEIVING, RevisionEvent.EVIDENCE)
        r, i = t.revisions.c, t.instances.c
        with self._database.write() as connection:
            identities = connection.execute(
                sa.select(i.sop_instance_uid, i.digest)
                .join(
                    t.revisions,
                    sa.and_(r.series_id == i.series_id, i.revision_number <= r.number),
                )
                .where(r.id == revision.revision_id)
                .order_by(i.sop_instance_uid)
            ).all()
            if len(identities) != revision.instance_count:
                return False
            changed = rows_changed(
                connection.execute(
                    t.revisions.update()
                    .where(
                        r.id == revision.revision_id,
                        r.state == RevisionState.RECEIVING,
                        r.instance_count == revision.instance_count,
                    )
                    .values(
                        state=state,
                        closed_at=self._database.now(),
                        closing_reason=reason,
                        waiting_for="",
                        instance_set_digest=instance_set_digest(
                            [(uid, digest) for uid, digest in identities]
                        ),
                    )
                )
            )
            if changed:
                self._database.event(
                    connection,
                    "series_complete",
                    revision.series_id,
                    reason=reason,
                    instances=revision.instance_count,
                )
            return bool(changed)

    def completed(self) -> list[CompletedRevision]:
        """All revisions that are closed and wait for selection."""
        r, s = t.revisions.c, t.series.c
        query = (
            sa.select(
                r.id,
                r.series_id,
                r.number,
                s.series_instance_uid,
                s.study_instance_uid,
                r.closed_at,
            )
            .join(t.series, s.id == r.series_id)
            .where(r.state == RevisionState.COMPLETE)
            .order_by(r.id)
        )
        with self._database.read() as connection:
            return [CompletedRevision(*row) for row in connection.execute(query)]

    def study_is_receiving(self, study_instance_uid: str) -> bool:
        """Whether any series of the study still receives."""
        return self._study_has(study_instance_uid, [RevisionState.RECEIVING])

    def analysed_sister(
        self, study_instance_uid: str, series_id: int, *, shadow: bool = False
    ) -> str | None:
        """SeriesInstanceUID of another selected series of the study, None if there is none.

        A selected series whose pixels turned out not to be a chest CT does not count, nor does a
        shadow for one that is none.
        """
        r, s, a = t.revisions.c, t.series.c, t.analyses.c
        useless = [AnalysisState.SKIPPED, AnalysisState.REJECTED, AnalysisState.QUARANTINED]
        query = (
            sa.select(s.series_instance_uid)
            .join(t.revisions, r.series_id == s.id)
            .join(t.analyses, a.revision_id == r.id)
            .where(
                s.study_instance_uid == study_instance_uid,
                s.id != series_id,
                r.state == RevisionState.SELECTED,
                a.state.not_in(useless),
                a.shadow.is_(shadow),
            )
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.scalar(query)

    def select(
        self, revision_id: int, selection: dict[str, Any], plan: Plan = NO_PLAN
    ) -> int | None:
        """Have a revision analysed; return the id of its analysis, None if it is no longer closed.

        Parameters
        ----------
        selection : dict
            The chosen stack: ``{"sop_instance_uids": [...], "frames": {uid: [...]},
            "statements": [...]}``; `frames` names the multi-frame instances that are read in part.
        """
        with self._database.write() as connection:
            if not self._leave_complete(
                connection,
                revision_id,
                RevisionEvent.SELECT,
                selection=selection,
                rule=plan.rule,
            ):
                return None
            now = self._database.now()
            run = 1 + int(
                connection.scalar(
                    sa.select(sa.func.coalesce(sa.func.max(t.analyses.c.run), 0)).where(
                        t.analyses.c.revision_id == revision_id
                    )
                )
                or 0
            )
            result = connection.execute(
                t.analyses.insert().values(
                    revision_id=revision_id,
                    run=run,
                    state=AnalysisState.WAITING,
                    priority=plan.priority,
                    queue_at=now + plan.behind_s,
                    shadow=plan.shadow,
                    destinations=list(plan.destinations) or None,
                    ready_at=now,
                    created_at=now,
                )
            )
            return inserted_id(result)

    def skip(self, revision_id: int, reason: str, rule: str = "") -> bool:
        """Set a revision aside that is not meant to be analysed, by `rule` where one says so."""
        with self._database.write() as connection:
            return self._leave_complete(
                connection, revision_id, RevisionEvent.SKIP, reason=reason[:512], rule=rule
            )

    def reject(self, revision_id: int, reason: str, rule: str = "") -> bool:
        """Set a revision aside that cannot be analysed, though `rule` says it should be."""
        with self._database.write() as connection:
            return self._leave_complete(
                connection, revision_id, RevisionEvent.REJECT, reason=reason[:512], rule=rule
            )

    def _leave_complete(
        self, connection: sa.Connection, revision_id: int, event: RevisionEvent, **values: Any
    ) -> bool:
        state = step(REVISION_TRANSITIONS, RevisionState.COMPLETE, event)
        changed = rows_changed(
            connection.execute(
                t.revisions.update()
                .where(
                    t.revisions.c.id == revision_id, t.revisions.c.state == RevisionState.COMPLETE
                )
                .values(state=state, **values)
            )
        )
        if changed:
            series_id = connection.scalar(
                sa.select(t.revisions.c.series_id).where(t.revisions.c.id == revision_id)
            )
            self._database.event(
                connection, f"series_{state}", series_id, reason=values.get("reason", "")
            )
        return bool(changed)

    def _study_has(self, study_instance_uid: str, states: Sequence[RevisionState]) -> bool:
        query = (
            sa.select(sa.literal(1))
            .select_from(t.series.join(t.revisions))
            .where(
                t.series.c.study_instance_uid == study_instance_uid,
                t.revisions.c.state.in_(states),
            )
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.scalar(query) is not None


def instance_set_digest(identities: Sequence[tuple[str, str]]) -> str:
    """sha256 over the sorted (SOP Instance UID, digest) pairs: the same set, the same digest."""
    lines = "".join(f"{uid} {digest}\n" for uid, digest in sorted(identities))
    return hashlib.sha256(lines.encode("ascii")).hexdigest()
