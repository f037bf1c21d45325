"""Series that may soon be read: what a worker looks at that has nothing else to do.

Everything here only reads. A reading made ahead of the evidence is no state of the ledger: it lies
aside as a file, and the ordinary analysis finds it there or not (ADR 0022).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.header import InstanceHeader
from dicom_node.ledger import tables as t
from dicom_node.ledger.analysis_claim import predecessors
from dicom_node.ledger.database import Database
from dicom_node.ledger.revisions import instance_set_digest
from dicom_node.ledger.senders import last_outcome, still_open
from dicom_node.ledger.states import AnalysisState, RevisionState
from dicom_node.ledger.traits import traits_of
from dicom_node.series_traits import SeriesTraits

__all__ = ["HeldInstance", "Prospect", "Prospects", "Standing"]


class Standing(enum.StrEnum):
    """What has become of a series while it was read ahead of the evidence."""

    OPEN = "open"  # nothing: it still receives, or waits for its sisters
    WANTED = "wanted"  # closed as foreseen and selected: its analysis waits for this very reading
    GONE = "gone"  # another set of images, closed otherwise, set aside, or read by now


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """An instance of a series; `path` is relative to the spool."""

    sop_instance_uid: str
    digest: str
    path: str
    header: InstanceHeader


@dataclass(frozen=True, slots=True)
class Prospect:
    """A revision that nobody has selected yet, as it is now.

    Attributes
    ----------
    closing_reason : str or None
        What closed it; None: it still receives.
    association_aborted : bool
        The last association that sent an image ended otherwise than by release.
    instances : tuple of HeldInstance
        Those of earlier revisions included.
    predecessors : tuple of (sop_class_uid, sop_instance_uid, series_instance_uid)
        Reports of an earlier revision that a reading would supersede.
    """

    revision_id: int
    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    closing_reason: str | None
    instance_count: int
    expected_count: int | None
    queried_at: float | None
    opened_at: float
    last_arrival_at: float
    association_aborted: bool
    instances: tuple[HeldInstance, ...]
    predecessors: tuple[tuple[str, str, str], ...]
    traits: SeriesTraits

    @property
    def headers(self) -> list[InstanceHeader]:
        """Of all instances."""
        return [one.header for one in self.instances]

    @property
    def instance_set_digest(self) -> str:
        """Of all instances: what the ledger will write when the revision is closed as it is."""
        return instance_set_digest([(one.sop_instance_uid, one.digest) for one in self.instances])


class Prospects:
    """For analysis workers: looks at what is open, changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, revision_id: int, idle_timeout_s: float) -> Prospect | None:
        """Return a revision with its images; None if it was selected or set aside.

        None, too, where images have gone by retention: they have to come again first.

        Parameters
        ----------
        idle_timeout_s : float
            As of :meth:`~dicom_node.ledger.revisions.Revisions.receiving`.
        """
        r, s, i = t.revisions.c, t.series.c, t.instances.c
        over = ~still_open(self._database.now() - idle_timeout_s)
        query = (
            sa.select(t.revisions, t.series, over.label("over"), last_outcome().label("outcome"))
            .join(t.series, s.id == r.series_id)
            .where(r.id == revision_id, r.state.in_(_UNSELECTED))
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                return None
            held = connection.execute(
                sa.select(i.sop_instance_uid, i.digest, i.path, i.header, i.purged_at)
                .where(i.series_id == row[r.series_id], i.revision_number <= row[r.number])
                .order_by(i.sop_instance_uid)
            ).all()
            if len(held) != row[r.instance_count] or any(one.purged_at for one in held):
                return None
            [traits] = traits_of(connection, [row[r.series_id]]).values()
            earlier = predecessors(connection, row[r.series_id], row[r.number])
        instances = tuple(
            HeldInstance(
                one.sop_instance_uid,
                one.digest,
                one.path,
                InstanceHeader.model_validate(one.header),
            )
            for one in held
        )
        return Prospect(
            revision_id=revision_id,
            series_id=row[r.series_id],
            series_instance_uid=row[s.series_instance_uid],
            study_instance_uid=row[s.study_instance_uid],
            closing_reason=row[r.closing_reason],
            instance_count=row[r.instance_count],
            expected_count=row[r.expected_count],
            queried_at=row[r.queried_at],
            opened_at=row[r.opened_at],
            last_arrival_at=row[r.last_arrival_at],
            association_aborted=bool(row["over"]) and row["outcome"] != "released",
            instances=instances,
            predecessors=earlier,
            traits=traits.settled(one.header for one in instances),
        )

    def unselected(self, study_instance_uid: str) -> list[int]:
        """Return the revisions of a study that receive, or wait for selection."""
        r, s = t.revisions.c, t.series.c
        query = (
            sa.select(r.id)
            .join(t.series, s.id == r.series_id)
            .where(s.study_instance_uid == study_instance_uid, r.state.in_(_UNSELECTED))
            .order_by(r.id)
        )
        with self._database.read() as connection:
            return list(connection.scalars(query))

    def standing(self, prospect: Prospect, closing_reason: str) -> Standing:
        """Say what has become of a revision since `prospect` was read.

        Parameters
        ----------
        closing_reason : str
            What was foreseen to close it.
        """
        r, a = t.revisions.c, t.analyses.c
        open_analysis = sa.exists().where(
            a.revision_id == r.id, a.state.in_([AnalysisState.WAITING, AnalysisState.RUNNING])
        )
        query = sa.select(
            r.state, r.instance_count, r.closing_reason, open_analysis.label("analysis")
        ).where(r.id == prospect.revision_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.instance_count != prospect.instance_count:
            return Standing.GONE
        if row.state == RevisionState.RECEIVING:
            return Standing.OPEN
        if row.closing_reason != closing_reason:
            return Standing.GONE
        if row.state == RevisionState.COMPLETE:
            return Standing.OPEN
        wanted = row.state == RevisionState.SELECTED and row.analysis
        return Standing.WANTED if wanted else Standing.GONE


_UNSELECTED = (RevisionState.RECEIVING, RevisionState.COMPLETE)
