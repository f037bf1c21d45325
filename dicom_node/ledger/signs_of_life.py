"""When each part of the node last did something, as its rows tell."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database
from dicom_node.ledger.states import AnalysisState

__all__ = ["Lease", "SignsOfLife", "signs_of_life"]


@dataclass(frozen=True, slots=True)
class Lease:
    """Somebody works on something.

    Attributes
    ----------
    host, pid : str
        Of the worker.
    words : str
        On what, and how far.
    expires_at : float
        Unless the worker renews it before.
    """

    host: str
    pid: str
    words: str
    since: float | None
    expires_at: float


@dataclass(frozen=True, slots=True)
class SignsOfLife:
    """Times of the ledger's clock; None: never."""

    last_image_at: float | None
    last_closed_at: float | None
    last_analysis_at: float | None
    last_sent_at: float | None
    last_commitment_at: float | None
    leases: tuple[Lease, ...]


def signs_of_life(database: Database) -> SignsOfLife:
    """Read them; every question has its index or looks at the newest rows only."""
    s, r, a, p, d, c = (
        t.series.c, t.revisions.c, t.analyses.c, t.shipments.c, t.deliveries.c, t.commitments.c,
    )  # fmt: skip

    def newest(column: sa.ColumnElement[float | None], key: sa.Column[int]) -> float | None:
        # Of the last thousand rows: the very latest is among them, and no index is needed.
        some = sa.select(column.label("at")).order_by(key.desc()).limit(1000).subquery()
        return connection.scalar(sa.select(sa.func.max(some.c.at)))

    with database.read() as connection:
        running = connection.execute(
            sa.select(
                a.id, a.lease_owner, a.lease_expires_at, a.started_at, a.stage, a.done, a.total
            )
            .where(a.state == AnalysisState.RUNNING)
            .order_by(a.id)
        ).all()
        sending = connection.execute(
            sa.select(p.id, p.lease_owner, p.lease_expires_at, p.destination)
            .where(p.open.is_(True), p.lease_owner.is_not(None))
            .order_by(p.id)
        ).all()
        leases = [
            _lease(
                row.lease_owner,
                f"analysis {row.id}: {row.stage}"
                + (f" {row.done} of {row.total}" if row.total else ""),
                row.started_at,
                row.lease_expires_at,
            )
            for row in running
        ]
        leases += [
            _lease(row.lease_owner, f"delivery to {row.destination}", None, row.lease_expires_at)
            for row in sending
        ]
        return SignsOfLife(
            last_image_at=connection.scalar(sa.select(sa.func.max(s.last_arrival_at))),
            last_closed_at=newest(r.closed_at, r.id),
            last_analysis_at=newest(a.finished_at, a.id),
            last_sent_at=newest(d.sent_at, d.id),
            last_commitment_at=newest(c.reported_at, c.id),
            leases=tuple(leases),
        )


def _lease(owner: str | None, words: str, since: float | None, expires_at: float | None) -> Lease:
    # host | boot | namespace | pid | start time: see `leases.this_owner`
    parts = (owner or "").split("|")
    return Lease(
        host=parts[0] or "unknown",
        pid=parts[-2] if len(parts) >= 2 else "",
        words=words,
        since=since,
        expires_at=expires_at or 0.0,
    )
