"""What an analysis worker reads and writes: claim, progress, outcome.

A claim is a lease with a fencing token. Every later write of the claim is conditional on the
token, so a worker that slept past its lease can do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.domain import ObjectKind
from dicom_node.errors import LeaseLost
from dicom_node.ledger import queue
from dicom_node.ledger import tables as t
from dicom_node.ledger.analysis_claim import AnalysisClaim, NewObject, read_claim
from dicom_node.ledger.database import Database, inserted_id, rows_changed
from dicom_node.ledger.leases import owner_is_gone
from dicom_node.ledger.states import (
    ANALYSIS_TRANSITIONS,
    AnalysisEvent,
    AnalysisState,
    DeliveryState,
    step,
)

__all__ = ["Analyses"]


class Analyses:
    """Leases and outcomes of analyses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- for the reconciler -------------------------------------------------------------------

    def due(self, renudge_after_s: float, limit: int = 1000, *, off_peak: bool = True) -> list[int]:
        """Return and stamp the analyses to nudge: ready, and not nudged for `renudge_after_s`.

        What lies in the future was written before the clock was set back: it counts as past.

        Parameters
        ----------
        off_peak : bool
            Whether off-peak work may start now; what has waited long enough may in any case.

        Returns
        -------
        list of int
            In the order of the queue.
        """
        now = self._database.now()
        a = t.analyses.c
        with self._database.read() as connection:
            ahead = connection.execute(queue.of_the_future(now)).all()
            ids = list(
                connection.scalars(
                    sa.select(a.id)
                    .where(
                        *queue.startable(now, off_peak=off_peak),
                        sa.or_(
                            a.nudged_at.is_(None),
                            a.nudged_at <= now - renudge_after_s,
                            a.nudged_at > now,
                        ),
                    )
                    .order_by(*queue.ORDER)
                    .limit(limit)
                )
            )
        if ids or ahead:  # most sweeps find nothing, and then need no writers' lock
            with self._database.write() as connection:
                connection.execute(t.analyses.update().where(a.id.in_(ids)).values(nudged_at=now))
                if ahead:
                    queue.bring_back(connection, [row.id for row in ahead], now)
        return ids

    def someone_waits(self, *, off_peak: bool, nudged_for_s: float = 0.0) -> bool:
        """Whether an analysis could be taken now, and was nudged so long ago that nobody is free.

        Parameters
        ----------
        off_peak : bool
            As of :meth:`due`.
        nudged_for_s : float
            0: it need not have been nudged at all.
        """
        now = self._database.now()
        a = t.analyses.c
        query = sa.select(a.id).where(*queue.startable(now, off_peak=off_peak)).limit(1)
        if nudged_for_s:
            # What was nudged in the future was so before the clock was set back.
            query = query.where(sa.or_(a.nudged_at <= now - nudged_for_s, a.nudged_at > now))
        with self._database.read() as connection:
            return connection.scalar(query) is not None

    def return_expired(self, max_attempts: int) -> list[int]:
        """Take back the leases of dead or silent workers; quarantine what killed too many."""
        now = self._database.now()
        a = t.analyses.c
        with self._database.read() as connection:
            running = connection.execute(
                sa.select(a.id, a.lease_token, a.lease_owner, a.lease_expires_at, a.attempts).where(
                    a.state == AnalysisState.RUNNING
                )
            ).all()
        lost = [
            row for row in running if row.lease_expires_at <= now or owner_is_gone(row.lease_owner)
        ]
        returned = []
        for row in lost:
            exhausted = row.attempts >= max_attempts
            event = AnalysisEvent.EXHAUSTED if exhausted else AnalysisEvent.LEASE_EXPIRED
            reason = (
                f"the analysis ended its worker {row.attempts} times and was set aside; "
                "use 'm3lung retry' after the cause is found"
            )
            with self._database.write() as connection:
                if self._leave_running(
                    connection, row.id, row.lease_token, event, reason if exhausted else ""
                ):
                    returned.append(row.id)
        return returned

    # -- for the worker -----------------------------------------------------------------------

    def claim(self, analysis_id: int, owner: str, lease_s: float) -> AnalysisClaim | None:
        """Lease an analysis that is ready; None if it is not, somebody has it, or it is done."""
        with self._database.write() as connection:
            return self._claim(connection, analysis_id, owner, lease_s)

    def claim_next(
        self, owner: str, lease_s: float, *, off_peak: bool = True
    ) -> AnalysisClaim | None:
        """Lease the ready analysis that stands first in the queue; None if there is none.

        Parameters
        ----------
        off_peak : bool
            Whether off-peak work may start now; what has waited long enough may in any case.
        """
        first = (
            sa.select(t.analyses.c.id)
            .where(*queue.startable(self._database.now(), off_peak=off_peak))
            .order_by(*queue.ORDER)
            .limit(1)
            .with_for_update(skip_locked=True)  # PostgreSQL: two workers at once get two
        )
        with self._database.write() as connection:
            found = connection.scalar(first)
            return None if found is None else self._claim(connection, found, owner, lease_s)

    def _claim(
        self, connection: sa.Connection, analysis_id: int, owner: str, lease_s: float
    ) -> AnalysisClaim | None:
        now = self._database.now()
        state = step(ANALYSIS_TRANSITIONS, AnalysisState.WAITING, AnalysisEvent.CLAIM)
        a = t.analyses.c
        changed = rows_changed(
            connection.execute(
                t.analyses.update()
                .where(
                    a.id == analysis_id,
                    a.state == AnalysisState.WAITING,
                    # Nudges pile up while no worker runs: the second one is no second chance.
                    sa.or_(a.ready_at <= now, a.created_at > now),
                )
                .values(
                    state=state,
                    attempts=a.attempts + 1,
                    lease_token=a.lease_token + 1,
                    lease_owner=owner,
                    lease_expires_at=now + lease_s,
                    started_at=now,
                    first_started_at=sa.func.coalesce(a.first_started_at, now),
                    stage="claimed",
                    done=0,
                    total=0,
                )
            )
        )
        return read_claim(connection, analysis_id) if changed else None

    def progress(
        self, claim: AnalysisClaim, lease_s: float, stage: str, done: int, total: int
    ) -> None:
        """Renew the lease and show how far the analysis is.

        Raises
        ------
        LeaseLost
            The lease expired and was taken back, or late slices made the analysis moot.
        """
        with self._database.write() as connection:
            self._update_running(
                connection,
                claim,
                lease_expires_at=self._database.now() + lease_s,
                stage=stage[:32],
                done=done,
                total=total,
            )

    def finish(
        self,
        claim: AnalysisClaim,
        *,
        result: Mapping[str, Any],
        objects: Sequence[NewObject],
        destinations: Mapping[str, Collection[ObjectKind]],
        withheld: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Record a reading, its objects and their deliveries in one transaction.

        Parameters
        ----------
        destinations : mapping of name to object kinds
            Who gets what.
        withheld : mapping of name to slots, or None
            Of that, what a destination does not get.

        Raises
        ------
        LeaseLost
            Nothing is recorded.
        """
        now = self._database.now()
        with self._database.write() as connection:
            self._end(connection, claim, AnalysisEvent.FINISH, "", dict(result))
            if objects:
                connection.execute(
                    t.objects.insert(),
                    [
                        {
                            "analysis_id": claim.analysis_id,
                            **{name: getattr(item, name) for name in NewObject.__slots__},
                        }
                        for item in objects
                    ],
                )
            for destination, kinds in destinations.items():
                without = (withheld or {}).get(destination, ())
                slots = sorted(
                    {i.slot for i in objects if i.kind in kinds and i.slot not in without}
                )
                if slots:
                    _open_shipment(connection, claim.analysis_id, destination, slots, now)

    def set_aside(
        self, claim: AnalysisClaim, event: AnalysisEvent, reason: str, *, error: str = ""
    ) -> None:
        """End an analysis without a reading: `event` is SKIP or REJECT, `error` a class's name.

        Raises
        ------
        LeaseLost
            Nothing is recorded.
        """
        with self._database.write() as connection:
            self._end(connection, claim, event, reason, None, error)

    def fail(
        self,
        claim: AnalysisClaim,
        reason: str,
        max_attempts: int,
        retry_in_s: float,
        *,
        error: str = "",
    ) -> None:
        """Give an analysis back that may succeed another time, or quarantine it.

        Parameters
        ----------
        error : str
            The name of the error's class, for who counts them.

        Raises
        ------
        LeaseLost
            Nothing is recorded.
        """
        exhausted = claim.attempt >= max_attempts
        event = AnalysisEvent.EXHAUSTED if exhausted else AnalysisEvent.FAIL
        with self._database.write() as connection:
            if not self._leave_running(
                connection, claim.analysis_id, claim.token, event, reason, retry_in_s, error
            ):
                raise LeaseLost(f"analysis {claim.analysis_id} is no longer ours")

    # -- inside -------------------------------------------------------------------------------

    def _update_running(
        self, connection: sa.Connection, claim: AnalysisClaim, **values: Any
    ) -> None:
        a = t.analyses.c
        changed = rows_changed(
            connection.execute(
                t.analyses.update()
                .where(
                    a.id == claim.analysis_id,
                    a.lease_token == claim.token,
                    a.state == AnalysisState.RUNNING,
                )
                .values(**values)
            )
        )
        if not changed:
            raise LeaseLost(f"analysis {claim.analysis_id} is no longer ours")

    def _end(
        self,
        connection: sa.Connection,
        claim: AnalysisClaim,
        event: AnalysisEvent,
        reason: str,
        result: dict[str, Any] | None,
        error: str = "",
    ) -> None:
        state = step(ANALYSIS_TRANSITIONS, AnalysisState.RUNNING, event)
        now = self._database.now()
        started_at = connection.scalar(
            sa.select(t.analyses.c.started_at).where(t.analyses.c.id == claim.analysis_id)
        )
        self._update_running(
            connection,
            claim,
            state=state,
            reason=reason[:512],
            result=result,
            finished_at=now,
            lease_owner=None,
            lease_expires_at=None,
        )
        self._database.event(
            connection,
            f"analysis_{state}",
            claim.series_id,
            reason=reason,
            attempt=claim.attempt,
            analysis_id=claim.analysis_id,
            seconds=None if started_at is None else round(max(0.0, now - started_at), 3),
            **({"error": error} if error else {}),
        )

    def _leave_running(
        self,
        connection: sa.Connection,
        analysis_id: int,
        token: int,
        event: AnalysisEvent,
        reason: str,
        retry_in_s: float = 0.0,
        error: str = "",
    ) -> bool:
        """Take one lease back; False if it changed hands meanwhile."""
        now = self._database.now()
        state = step(ANALYSIS_TRANSITIONS, AnalysisState.RUNNING, event)
        a = t.analyses.c
        changed = rows_changed(
            connection.execute(
                t.analyses.update()
                .where(
                    a.id == analysis_id,
                    a.lease_token == token,
                    a.state == AnalysisState.RUNNING,
                )
                .values(
                    state=state,
                    reason=reason[:512],
                    lease_owner=None,
                    lease_expires_at=None,
                    nudged_at=None,
                    ready_at=now + retry_in_s,
                    finished_at=now if state == AnalysisState.QUARANTINED else None,
                )
            )
        )
        if changed:
            series_id = connection.scalar(
                sa.select(t.revisions.c.series_id)
                .join(t.analyses, t.analyses.c.revision_id == t.revisions.c.id)
                .where(a.id == analysis_id)
            )
            detail = {"reason": reason, "analysis_id": analysis_id}
            detail |= {"error": error} if error else {}
            self._database.event(connection, f"analysis_{event}", series_id, **detail)
        return bool(changed)


def _open_shipment(
    connection: sa.Connection, analysis_id: int, destination: str, slots: list[str], now: float
) -> None:
    result = connection.execute(
        t.shipments.insert().values(
            analysis_id=analysis_id,
            destination=destination,
            open=True,
            ready_at=now,
            created_at=now,
        )
    )
    shipment_id = inserted_id(result)
    connection.execute(
        t.deliveries.insert(),
        [
            {"shipment_id": shipment_id, "slot": slot, "state": DeliveryState.WAITING}
            for slot in slots
        ],
    )
