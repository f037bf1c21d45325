"""What is handed to a worker that claims an analysis, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.domain import ObjectKind
from dicom_node.ledger import tables as t
from dicom_node.ledger.plan import Plan
from dicom_node.settings import Priority

__all__ = ["AnalysisClaim", "NewObject", "predecessors", "read_claim"]


@dataclass(frozen=True, slots=True)
class AnalysisClaim:
    """A leased analysis and all that is needed to do it.

    Attributes
    ----------
    token : int
        Fencing token of this lease.
    instances : tuple of (sop_instance_uid, path)
        The selected stack; paths are relative to the spool.
    digests : mapping of SOP Instance UID to str
        Of the content that was acknowledged.
    frames : mapping of SOP Instance UID to frame numbers
        Of multi-frame instances of which only some frames belong to the stack.
    statements : tuple of str
        What selection left out, in words.
    predecessors : tuple of (sop_class_uid, sop_instance_uid, series_instance_uid)
        Reports of an earlier revision that this reading supersedes.
    plan : Plan
        What its rule decided; how far it was ahead in the queue is no longer of interest.
    """

    analysis_id: int
    token: int
    attempt: int
    series_id: int
    revision_number: int
    series_instance_uid: str
    study_instance_uid: str
    instance_set_digest: str
    instance_count: int
    expected_count: int | None
    closing_reason: str
    instances: tuple[tuple[str, str], ...]
    digests: Mapping[str, str]
    frames: Mapping[str, tuple[int, ...]]
    statements: tuple[str, ...]
    predecessors: tuple[tuple[str, str, str], ...]
    plan: Plan


@dataclass(frozen=True, slots=True)
class NewObject:
    """A written result; `path` is relative to the results directory."""

    kind: ObjectKind
    slot: str
    rank: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: str
    sha256: str
    size_bytes: int


def read_claim(connection: sa.Connection, analysis_id: int) -> AnalysisClaim:
    """Read a leased analysis with the instances of its stack."""
    a, r, s, i = t.analyses.c, t.revisions.c, t.series.c, t.instances.c
    row = (
        connection.execute(
            sa.select(t.analyses, t.revisions, t.series)
            .join(t.revisions, r.id == a.revision_id)
            .join(t.series, s.id == r.series_id)
            .where(a.id == analysis_id)
        )
        .mappings()
        .one()
    )
    selection: dict[str, Any] = row[r.selection] or {}
    kept = {
        instance.sop_instance_uid: instance
        for instance in connection.execute(
            sa.select(i.sop_instance_uid, i.path, i.digest).where(i.series_id == row[r.series_id])
        )
    }
    selected = [kept[uid] for uid in selection.get("sop_instance_uids", [])]
    return AnalysisClaim(
        analysis_id=analysis_id,
        token=row[a.lease_token],
        attempt=row[a.attempts],
        series_id=row[r.series_id],
        revision_number=row[r.number],
        series_instance_uid=row[s.series_instance_uid],
        study_instance_uid=row[s.study_instance_uid],
        instance_set_digest=row[r.instance_set_digest],
        instance_count=row[r.instance_count],
        expected_count=row[r.expected_count],
        closing_reason=row[r.closing_reason],
        instances=tuple((one.sop_instance_uid, one.path) for one in selected),
        digests={one.sop_instance_uid: one.digest for one in selected},
        frames={uid: tuple(numbers) for uid, numbers in selection.get("frames", {}).items()},
        statements=tuple(selection.get("statements", [])),
        predecessors=predecessors(connection, row[r.series_id], row[r.number]),
        plan=Plan(
            rule=row[r.rule],
            priority=Priority(row[a.priority]),
            shadow=row[a.shadow],
            destinations=tuple(row[a.destinations] or ()),
        ),
    )


def predecessors(
    connection: sa.Connection, series_id: int, number: int
) -> tuple[tuple[str, str, str], ...]:
    """Return the reports of the latest earlier revision that was read.

    Each as (SOP Class UID, SOP Instance UID, Series Instance UID).
    """
    a, r, o = t.analyses.c, t.revisions.c, t.objects.c
    rows = connection.execute(
        sa.select(r.number, o.sop_class_uid, o.sop_instance_uid, o.series_instance_uid)
        .join(t.analyses, a.id == o.analysis_id)
        .join(t.revisions, r.id == a.revision_id)
        .where(r.series_id == series_id, r.number < number, o.kind == ObjectKind.REPORT)
        .order_by(r.number.desc(), o.rank)
    ).all()
    return tuple(
        (row.sop_class_uid, row.sop_instance_uid, row.series_instance_uid)
        for row in rows
        if row.number == rows[0].number
    )
