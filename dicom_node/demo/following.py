"""What became of the series, read from the ledger until every delivery has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dicom_node.ledger import Ledger
from dicom_node.ledger import tables as t
from dicom_node.ledger.states import AnalysisState, DeliveryState, RevisionState
from dicom_node.ledger.worklist import SeriesStatus

__all__ = ["SentObject", "Timing", "has_ended", "sent_objects", "snapshots", "timing"]

_ENDED_REVISION = {RevisionState.SKIPPED, RevisionState.REJECTED}
_UNENDED_ANALYSIS = {AnalysisState.WAITING, AnalysisState.RUNNING}
_SENT = (
    DeliveryState.SENT,
    DeliveryState.COMMIT_REQUESTED,
    DeliveryState.COMMITTED,
    DeliveryState.VERIFIED,
)


@dataclass(frozen=True, slots=True)
class SentObject:
    """An object that the ledger calls sent.

    Attributes
    ----------
    kind : str
        :class:`dicom_node.domain.ObjectKind`.
    path : Path
        Relative to the node's folder of results.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: Path


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each stage of one series took, in seconds; None where it did not happen.

    Attributes
    ----------
    receive : float
        First to last image.
    wait : float or None
        Last image to the analysis: completion, selection, queue, and loading the model.
    analyse, deliver : float or None
    """

    receive: float
    wait: float | None
    analyse: float | None
    deliver: float | None


def _series_status(ledger: Ledger, series_instance_uids: Iterable[str]) -> list[SeriesStatus]:
    """Return the state of each series that has arrived."""
    found = (ledger.worklist.find(uid=uid, limit=1) for uid in series_instance_uids)
    return [status for statuses in found for status in statuses]


def has_ended(status: SeriesStatus, images: int) -> bool:
    """Whether nothing more will happen to a series of `images` images by itself.

    A delivery that is tried again later has not ended.
    """
    if status.received < images:
        return False
    if status.state in _ENDED_REVISION:
        return True
    if status.state != RevisionState.SELECTED or status.analysis_state is None:
        return False
    if status.analysis_state != AnalysisState.DONE:
        return status.analysis_state not in _UNENDED_ANALYSIS
    return all(DeliveryState.WAITING not in delivery.states for delivery in status.deliveries)


def sent_objects(ledger: Ledger, series_id: int) -> list[SentObject]:
    """Return what was sent for the newest analysis of a series."""
    d, p, o = t.deliveries.c, t.shipments.c, t.objects.c
    query = (
        sa.select(o.kind, o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid, o.path)
        .join(t.deliveries, d.object_id == o.id)
        .join(t.shipments, p.id == d.shipment_id)
        .where(p.analysis_id == _newest_analysis(series_id), d.state.in_(_SENT))
        .order_by(o.id)
    )
    with ledger.database.read() as connection:
        return [SentObject(*row[:4], Path(row[4])) for row in connection.execute(query)]


def timing(ledger: Ledger, status: SeriesStatus) -> Timing:
    """Return how long the stages of a series took, by the ledger's clock."""
    a, d, p = t.analyses.c, t.deliveries.c, t.shipments.c
    with ledger.database.read() as connection:
        analysis = connection.execute(
            sa.select(a.id, a.started_at, a.finished_at).where(
                a.id == _newest_analysis(status.series_id)
            )
        ).first()
        sent_at = connection.scalar(
            sa.select(sa.func.max(d.sent_at))
            .join(t.shipments, p.id == d.shipment_id)
            .where(p.analysis_id == _newest_analysis(status.series_id))
        )
    began, ended = (analysis.started_at, analysis.finished_at) if analysis else (None, None)
    return Timing(
        receive=status.last_arrival_at - status.first_arrival_at,
        wait=_between(status.last_arrival_at, began),
        analyse=_between(began, ended),
        deliver=_between(ended, sent_at),
    )


def _newest_analysis(series_id: int) -> sa.ScalarSelect[int]:
    a, r = t.analyses.c, t.revisions.c
    return (
        sa.select(a.id)
        .join(t.revisions, r.id == a.revision_id)
        .where(r.series_id == series_id)
        .order_by(r.number.desc(), a.run.desc())
        .limit(1)
        .scalar_subquery()
    )


def _between(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else second - first


def snapshots(ledger: Ledger, images: dict[str, int]) -> Iterator[list[SeriesStatus]]:
    """Yield the state of the series again and again; the last one is where all have ended.

    Parameters
    ----------
    images : dict of str to int
        Images sent, by SeriesInstanceUID.
    """
    while True:
        found = _series_status(ledger, images)
        yield found
        ended = [has_ended(status, images[status.series_instance_uid]) for status in found]
        if len(ended) == len(images) and all(ended):
            return
