"""Counters from the ledger's journal: how often what happened, since the node counts.

Counting a hundred thousand series at each scrape would be slow, so what lies behind is folded into
sums, once, in the transaction that moves a bookmark past it. A reading adds the few rows that are
not folded yet. So a counter is exact, never goes back, and belongs to no process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import Ledger, tables
from dicom_node.ledger.database import rows_changed
from dicom_node.ledger.tallies import add_counts
from dicom_node.metrics.reasons import reason_word

__all__ = ["ANALYSIS_BUCKETS_S", "DELIVERY_BUCKETS_S", "FOLD_INTERVAL_S", "Totals", "counts_of"]

Key = tuple[str, tuple[str, ...]]

FOLD_INTERVAL_S = 60.0
ANALYSIS_BUCKETS_S = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
DELIVERY_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)

_EVENTS, _INSTANCES = "totals.events", "totals.instances"
# On PostgreSQL a transaction with a lower id may still be under way; none takes so long.
_SETTLED_AFTER_S = 60.0
_MOST_INSTANCES = 200_000  # in one fold


class Totals:
    """The counters that the ledger's rows hold."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._database = ledger.database

    def fold(self, limit: int = 5000) -> int:
        """Fold rows into the sums that are old enough; return how many events."""
        now = self._database.now()
        with self._database.read() as connection:
            before = _positions(connection)
            events = _settled(_events(connection, before[_EVENTS], limit), now)
            upto = _settled_instances(connection, before[_INSTANCES], now)
            counts = _count(events)
            counts.update(_received(connection, before[_INSTANCES], upto))
        after = {_EVENTS: events[-1].id if events else before[_EVENTS], _INSTANCES: upto}
        if after == before:
            return 0
        try:
            with self._database.write() as connection:
                for name in sorted(after):
                    _move(connection, name, before[name], after[name])
                add_counts(self._database, connection, counts)
        except _Overtaken:
            return 0
        return len(events)

    def read(self, connection: sa.Connection) -> Counter[Key]:
        """Return all counters, those that processes count included.

        On PostgreSQL `connection` has to show one moment (REPEATABLE READ): a fold between two
        statements would be counted twice.
        """
        positions = _positions(connection)
        counts = self._ledger.tallies.read(connection)
        counts.update(_count(_events(connection, positions[_EVENTS], None)))
        counts.update(_received(connection, positions[_INSTANCES], None))
        return counts


class _Overtaken(Exception):
    """Somebody else folded the same rows: nothing of ours may stay."""


def _move(connection: sa.Connection, name: str, before: int, after: int) -> None:
    b = tables.bookmarks.c
    moved = connection.execute(
        tables.bookmarks.update().where(b.name == name, b.position == before).values(position=after)
    )
    if not rows_changed(moved):
        raise _Overtaken


def _positions(connection: sa.Connection) -> dict[str, int]:
    b = tables.bookmarks.c
    found = {_EVENTS: 0, _INSTANCES: 0}
    rows = connection.execute(sa.select(b.name, b.position).where(b.name.in_(list(found))))
    return found | {str(name): int(position) for name, position in rows}


def _events(connection: sa.Connection, position: int, limit: int | None) -> list[sa.Row[Any]]:
    e = tables.events.c
    query = sa.select(e.id, e.at, e.kind, e.detail).where(e.id > position).order_by(e.id)
    return [*connection.execute(query.limit(limit))]


def _settled(events: Sequence[sa.Row[Any]], now: float) -> list[sa.Row[Any]]:
    """Return the events up to the first that is too young to be folded."""
    settled = []
    for event in events:
        # What lies in the future was written before the clock was set back.
        if now - _SETTLED_AFTER_S < event.at <= now:
            break
        settled.append(event)
    return settled


def _settled_instances(connection: sa.Connection, position: int, now: float) -> int:
    i = tables.instances.c
    youngest = sa.and_(i.received_at > now - _SETTLED_AFTER_S, i.received_at <= now)
    behind = (i.id > position, i.id <= position + _MOST_INSTANCES)
    first_young = connection.scalar(sa.select(sa.func.min(i.id)).where(*behind, youngest))
    if first_young is not None:
        return int(first_young) - 1
    return int(connection.scalar(sa.select(sa.func.max(i.id)).where(*behind)) or position)


def _received(connection: sa.Connection, position: int, upto: int | None) -> Counter[Key]:
    i = tables.instances.c
    query = sa.select(
        sa.func.count(), sa.func.coalesce(sa.cast(sa.func.sum(i.size_bytes), sa.BigInteger), 0)
    ).where(i.id > position)
    if upto is not None:
        query = query.where(i.id <= upto)
    number, size_bytes = connection.execute(query).one()
    return Counter({("images", ()): int(number), ("bytes", ()): int(size_bytes)})


def _count(events: Sequence[sa.Row[Any]]) -> Counter[Key]:
    counts: Counter[Key] = Counter()
    for event in events:
        for key, number in counts_of(event.kind, event.detail or {}):
            counts[key] += number  # type: ignore[assignment]  # seconds are no integers
    return counts


def counts_of(kind: str, detail: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    """Yield what one event of the journal counts for."""
    if kind == "series_complete":
        yield ("series_completed", (str(detail.get("reason", "")),)), 1
    elif kind in ("series_skipped", "series_rejected"):
        fate = kind.removeprefix("series_")
        yield ("series_set_aside", (fate, reason_word(str(detail.get("reason", ""))))), 1
    elif kind.startswith("analysis_"):
        yield from _analysis(kind.removeprefix("analysis_"), detail)
    elif kind == "delivered" and "seconds" in detail:
        destination = str(detail.get("destination", ""))
        yield from _seconds("delivery", (destination,), detail["seconds"], DELIVERY_BUCKETS_S)
    elif kind == "commitment_reported":
        for outcome in ("committed", "failed"):
            if detail.get(outcome):
                labels = (str(detail.get("destination", "")), outcome)
                yield ("commitments", labels), int(detail[outcome])
    elif kind in ("late_slices", "own_output_returned"):
        yield (kind, ()), int(detail.get("count", 1))
    elif kind == "conflicting_instance":
        yield ("conflicts", ()), 1


def _analysis(event: str, detail: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    ended = {"done": "done", "skipped": "skipped", "rejected": "rejected"}
    ended["exhausted"] = "quarantined"
    if event in ended:
        yield ("analyses", (ended[event],)), 1
    if event == "done" and detail.get("seconds") is not None:
        yield from _seconds("analysis", (), detail["seconds"], ANALYSIS_BUCKETS_S)
    if event in ("rejected", "fail", "lease_expired", "exhausted"):
        # A worker that was killed could not say why.
        known = detail.get("error") or ("unknown" if event in ("rejected", "fail") else "lost")
        yield ("analysis_failures", (str(known)[:48],)), 1


def _seconds(
    name: str, labels: tuple[str, ...], seconds: float, buckets: Sequence[float]
) -> Iterator[tuple[Key, float]]:
    bound = next((f"{bound:g}" for bound in buckets if seconds <= bound), "+Inf")
    yield (f"{name}_seconds", (*labels, bound)), 1
    yield (f"{name}_seconds_sum", labels), float(seconds)
