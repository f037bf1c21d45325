"""Whether those who sent images of a series may send more: a word for queries on revisions."""

from __future__ import annotations

import sqlalchemy as sa

from dicom_node.ledger import tables as t

__all__ = ["last_outcome", "still_open"]

_r, _i, _a = t.revisions.c, t.instances.c, t.associations.c


def still_open(alive_since: float) -> sa.ColumnElement[bool]:
    """Return whether an association is open that sent an image of the revision's series.

    Parameters
    ----------
    alive_since : float
        An association without activity since then counts as over: its listener is dead.
    """
    return (
        sa.select(sa.literal(1))
        .where(
            _i.series_id == _r.series_id,
            _i.association_id == _a.id,
            _a.closed_at.is_(None),
            _a.last_activity_at > alive_since,
        )
        .correlate(t.revisions)
        .exists()
    )


def last_outcome() -> sa.ScalarSelect[str]:
    """Return how the last association ended that sent an image of the revision's series."""
    return (
        sa.select(sa.func.coalesce(_a.outcome, "lost"))
        .join(t.instances, _i.association_id == _a.id)
        .where(_i.series_id == _r.series_id)
        .correlate(t.revisions)
        .order_by(_a.id.desc())
        .limit(1)
        .scalar_subquery()
    )
