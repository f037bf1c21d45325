"""One look at the ledger: what waits, for how long, who runs, and the counters.

Each statement goes along an index to what is open, or to what was not folded yet: a hundred
thousand series that ended cost nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import LedgerError
from dicom_node.ledger import Ledger, RunningProcess, queue, tables
from dicom_node.ledger.outbox import MessageState
from dicom_node.ledger.presence import SILENT_AFTER_S
from dicom_node.ledger.shipments import BreakerRow
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState
from dicom_node.metrics.totals import Totals

__all__ = ["Reader", "Reading", "Waiting"]

_REMEMBERED_S = 2 * 86400.0
_PATIENCE = 10.0  # times what a look takes: looks cost a tenth of the time at most
_OPEN_ANALYSES = (AnalysisState.WAITING, AnalysisState.RUNNING, AnalysisState.QUARANTINED)
_OPEN_REVISIONS = (RevisionState.RECEIVING, RevisionState.COMPLETE)
_UNPROVEN = (
    DeliveryState.COMMIT_REQUESTED,
    DeliveryState.COMMIT_FAILED,
    DeliveryState.PARKED,
    DeliveryState.QUARANTINED,
    DeliveryState.EXPIRED,
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Rows of one kind that wait; the age of the oldest in seconds, 0 without any."""

    count: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The ledger at one moment.

    Attributes
    ----------
    ready : mapping of str to Waiting
        Work that nobody has taken though it is ready, by kind: ``analysis``, ``delivery``.
    open_revisions : mapping of str to Waiting
        Series that receive, or are complete and wait for selection; since they do.
    analyses : mapping of str to int
        Waiting, running, quarantined.
    running_s : float
        How long the longest running analysis runs.
    shipments : mapping of str to Waiting
        By destination: readings of which something is not sent yet; since they were made.
    deliveries : mapping of (str, str) to int
        By destination and state: objects that are sent and unproven, or ended without success.
    last_image_at : float or None
        When the last image was received.
    """

    at: float
    took_s: float
    ready: Mapping[str, Waiting]
    open_revisions: Mapping[str, Waiting]
    analyses: Mapping[str, int]
    running_s: float
    shipments: Mapping[str, Waiting]
    deliveries: Mapping[tuple[str, str], int]
    breakers: tuple[BreakerRow, ...]
    processes: tuple[RunningProcess, ...]
    messages: Mapping[str, int]
    last_image_at: float | None
    counts: Mapping[tuple[str, tuple[str, ...]], float]


class Reader:
    """Looks at the ledger, for several scrapes at once.

    Parameters
    ----------
    ledger : Ledger
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._totals = Totals(ledger)
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._good_until = 0.0  # monotonic
        self.error = ""

    def read(self, max_age_s: float) -> Reading | None:
        """Return a look that is `max_age_s` old at most; None, and `error`, if there is none.

        A look that took long serves for longer: looking never takes more than a tenth of the time.
        """
        with self._lock:
            if time.monotonic() >= self._good_until:
                try:
                    self._reading = self._look()
                    self.error = ""
                except (SQLAlchemyError, LedgerError, OSError) as error:
                    self._reading = None
                    self.error = type(error).__name__
                took_s = self._reading.took_s if self._reading else 0.0
                self._good_until = time.monotonic() + max(max_age_s, _PATIENCE * took_s)
            return self._reading

    def _look(self) -> Reading:
        began = time.monotonic()
        database = self._ledger.database
        now = database.now()
        with database.read() as connection:
            if not database.is_sqlite:  # there a transaction is one moment as it is
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            a, r = tables.analyses.c, tables.revisions.c
            running = sa.select(sa.func.min(a.started_at)).where(a.state == AnalysisState.RUNNING)
            return Reading(
                at=now,
                ready={
                    "analysis": _ready_analyses(connection, now),
                    "delivery": _ready_shipments(connection, now),
                },
                open_revisions={
                    str(state): _waiting(
                        connection,
                        now,
                        r.opened_at if state is RevisionState.RECEIVING else r.closed_at,
                        r.state == state,
                    )
                    for state in _OPEN_REVISIONS
                },
                analyses={
                    str(state): connection.scalar(
                        sa.select(sa.func.count()).where(a.state == state)
                    )
                    or 0
                    for state in _OPEN_ANALYSES
                },
                running_s=_age(now, connection.scalar(running)),
                shipments=_open_shipments(connection, now),
                deliveries=_deliveries(connection),
                breakers=tuple(
                    BreakerRow(**row._asdict())
                    for row in connection.execute(sa.select(tables.breakers))
                ),
                processes=tuple(self._ledger.presence.heard_of(connection, SILENT_AFTER_S)),
                messages=_messages(connection, now),
                last_image_at=connection.scalar(
                    sa.select(sa.func.max(tables.series.c.last_arrival_at))
                ),
                counts=self._totals.read(connection),
                took_s=time.monotonic() - began,
            )


def _age(now: float, since: float | None) -> float:
    return 0.0 if since is None else max(0.0, now - since)


def _waiting(
    connection: sa.Connection,
    now: float,
    since: sa.ColumnElement[Any],
    *where: sa.ColumnElement[bool],
) -> Waiting:
    row = connection.execute(sa.select(sa.func.count(), sa.func.min(since)).where(*where)).one()
    return Waiting(int(row[0]), _age(now, row[1]))


def _ready_analyses(connection: sa.Connection, now: float) -> Waiting:
    a = tables.analyses.c
    # What stands back for off-peak hours is not ready, and was not while it did.
    since = sa.case((a.queue_at > a.ready_at, a.queue_at), else_=a.ready_at)
    waits, held = a.state == AnalysisState.WAITING, queue.is_held(now)
    return _waiting(connection, now, since, waits, a.ready_at <= now, ~held)


def _ready_shipments(connection: sa.Connection, now: float) -> Waiting:
    s = tables.shipments.c
    free = s.lease_owner.is_(None)
    since = sa.case((s.held_at > s.ready_at, s.held_at), else_=s.ready_at)  # by quiet hours
    return _waiting(connection, now, since, s.open.is_(True), s.ready_at <= now, free)


def _open_shipments(connection: sa.Connection, now: float) -> dict[str, Waiting]:
    s, d = tables.shipments.c, tables.deliveries.c
    unsent = sa.exists().where(d.shipment_id == s.id, d.state == DeliveryState.WAITING)
    rows = connection.execute(
        sa.select(s.destination, sa.func.count(), sa.func.min(s.created_at))
        .where(s.open.is_(True), unsent)
        .group_by(s.destination)
    )
    return {str(name): Waiting(int(count), _age(now, since)) for name, count, since in rows}


def _deliveries(connection: sa.Connection) -> dict[tuple[str, str], int]:
    s, d = tables.shipments.c, tables.deliveries.c
    rows = connection.execute(
        sa.select(s.destination, d.state, sa.func.count())
        .select_from(tables.deliveries.join(tables.shipments, s.id == d.shipment_id))
        .where(d.state.in_(_UNPROVEN))
        .group_by(s.destination, d.state)
    )
    return {(str(name), str(state)): int(count) for name, state, count in rows}


def _messages(connection: sa.Connection, now: float) -> dict[str, int]:
    """Count messages that wait, and those of the last days that were given up."""
    m = tables.messages.c
    states = (MessageState.WAITING, MessageState.GIVEN_UP)
    rows = connection.execute(
        sa.select(m.state, sa.func.count())
        .where(m.state.in_(states), m.created_at > now - _REMEMBERED_S)
        .group_by(m.state)
    )
    counted = {str(state): int(count) for state, count in rows}
    return {str(state): counted.get(state, 0) for state in states}
