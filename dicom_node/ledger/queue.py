"""The order in which analyses that wait are taken.

One number holds it, written once: when an analysis was queued, less the head start of an urgent one
or plus what an off-peak one stands back (ADR 0015). Who waits comes nearer to the front at one pace
whatever the class, so that nothing waits for ever, and the first is found by an index.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.states import AnalysisState
from dicom_node.settings import Priority

__all__ = ["ORDER", "bring_back", "is_held", "of_the_future", "position", "startable"]

_a = t.analyses.c
ORDER = (_a.queue_at, _a.id)
"""To order by: the first is taken next."""


def startable(now: float, *, off_peak: bool) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of an analysis that may be taken now.

    Parameters
    ----------
    off_peak : bool
        Whether it is an hour for off-peak work.
    """
    conditions: list[sa.ColumnElement[bool]] = [
        _a.state == AnalysisState.WAITING,
        sa.or_(_a.ready_at <= now, _a.created_at > now),
    ]
    if not off_peak:
        # All but off-peak ones are queued by now; these are once they have stood back long enough.
        conditions.append(_a.queue_at <= now)
    return conditions


def position(queue_at: float, analysis_id: int) -> sa.Select[int]:
    """Return the query for the place of an analysis that waits, 1 for the first."""
    return (
        sa.select(sa.func.count())
        .select_from(t.analyses)
        .where(
            _a.state == AnalysisState.WAITING,
            _a.queue_at <= queue_at,
            sa.or_(_a.queue_at < queue_at, _a.id <= analysis_id),
        )
    )


def is_held(now: float) -> sa.ColumnElement[bool]:
    """Return the condition of an analysis that stands back: it is not late."""
    return sa.and_(_a.priority == Priority.OFF_PEAK, _a.queue_at > now)


def of_the_future(now: float) -> sa.Select[tuple[int]]:
    """Return the query for what was queued before the clock was set back."""
    return sa.select(_a.id).where(_a.state == AnalysisState.WAITING, _a.created_at > now)


def bring_back(connection: sa.Connection, ids: Collection[int], now: float) -> None:
    """Take analyses that were queued in the future as queued now: else they stand last."""
    connection.execute(
        t.analyses.update()
        .where(_a.id.in_(ids), _a.state == AnalysisState.WAITING)
        .values(queue_at=now + _a.queue_at - _a.created_at, created_at=now, ready_at=now)
    )
