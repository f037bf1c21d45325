"""What must be true after every fault: compared with what the senders saw and the PACS holds."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import sqlalchemy as sa

from dicom_node.ledger import open_ledger, tables
from dicom_node.ledger.states import AnalysisState, DeliveryState
from dicom_node.ledger.worklist import SeriesStatus
from dicom_node.spool import content_digest
from support.node import Node
from support.orthanc import Orthanc

__all__ = ["Verdict", "judge", "unfinished"]

_PROVEN = [DeliveryState.COMMITTED, DeliveryState.VERIFIED]
_AT_THE_PACS = [DeliveryState.SENT, DeliveryState.COMMIT_REQUESTED, *_PROVEN]


@dataclass(slots=True)
class Verdict:
    """What went wrong, in words; all lists empty where nothing did."""

    acknowledged: int = 0
    objects: int = 0
    lost: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.altered or self.doubled or self.stuck)


def unfinished(node: Node) -> list[str]:
    """Series that are not yet at their end, with where they stand."""
    return [words for words, has_ended in _standing(node) if not has_ended]


def _standing(node: Node) -> list[tuple[str, bool]]:
    """Series without a reading whose delivery is proven, and whether they have ended so."""
    with open_ledger(node.ledger_url) as ledger:
        found = ledger.worklist.find(limit=100_000)
        with ledger.database.read() as connection:
            # Of readings that later slices superseded, too.
            open_shipments = connection.execute(
                sa.select(tables.shipments.c.id, tables.shipments.c.last_error).where(
                    tables.shipments.c.open.is_(True)
                )
            ).all()
    series = [
        (
            f"{status.series_instance_uid}: {status.state}, analysis {status.analysis_state}, "
            f"deliveries {[item.states for item in status.deliveries]} {status.reason}",
            _has_ended(status),
        )
        for status in found
        if not _is_delivered(status)
    ]
    shipments = [(f"shipment {row.id}: open, {row.last_error}", False) for row in open_shipments]
    return series + shipments


def _has_ended(status: SeriesStatus) -> bool:
    if status.state in ("skipped", "rejected"):
        return True
    if status.state != "selected":
        return False
    return status.analysis_state in ("skipped", "rejected", "quarantined")


def _is_delivered(status: SeriesStatus) -> bool:
    return (
        status.state == "selected"
        and status.analysis_state == "done"
        and bool(status.deliveries)
        and all(set(item.states) <= set(_PROVEN) for item in status.deliveries)
    )


def judge(node: Node, pacs: Orthanc, acknowledged: Mapping[str, Path]) -> Verdict:
    """Compare senders, spool, ledger and PACS.

    Parameters
    ----------
    acknowledged : mapping of SOP Instance UID to the file that was sent
    """
    verdict = Verdict(acknowledged=len(acknowledged))
    # Every series is a good one: an end without a reading is as bad as none.
    verdict.stuck = [words for words, _ in _standing(node)]
    t = tables
    with open_ledger(node.ledger_url) as ledger, ledger.database.read() as connection:
        kept = {
            row.sop_instance_uid: row.path
            for row in connection.execute(
                sa.select(t.instances.c.sop_instance_uid, t.instances.c.path)
            )
        }
        done = connection.execute(
            sa.select(t.analyses.c.revision_id, sa.func.count())
            .where(t.analyses.c.state == AnalysisState.DONE)
            .group_by(t.analyses.c.revision_id)
            .having(sa.func.count() > 1)
        ).all()
        sent = {
            row.sop_instance_uid: row.path
            for row in connection.execute(
                sa.select(t.objects.c.sop_instance_uid, t.objects.c.path)
                .join(t.deliveries, t.deliveries.c.object_id == t.objects.c.id)
                .where(t.deliveries.c.state.in_(_AT_THE_PACS))
            )
        }
    verdict.doubled += [f"revision {row.revision_id} was read twice" for row in done]
    state = node.directory / "state"
    for uid, source in acknowledged.items():
        path = state / "spool" / kept[uid] if uid in kept else None
        if path is None or not path.is_file():
            verdict.lost.append(uid)
        elif _content(path) != _content(source):
            verdict.altered.append(uid)
    _judge_pacs(verdict, pacs, {uid: state / "results" / path for uid, path in sent.items()})
    return verdict


def _judge_pacs(verdict: Verdict, pacs: Orthanc, sent: Mapping[str, Path]) -> None:
    held: dict[str, str] = {}
    for instance in pacs.instances():
        content = pacs.download(instance)
        item = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        uid = str(item.SOPInstanceUID)
        if uid in held:
            verdict.doubled.append(uid)
        held[uid] = _dataset(content)
    verdict.objects = len(held)
    verdict.lost += [f"object {uid} is not in the PACS" for uid in sent.keys() - held.keys()]
    verdict.doubled += [f"object {uid} is not the ledger's" for uid in held.keys() - sent.keys()]
    verdict.altered += [
        f"object {uid}" for uid in sent.keys() & held.keys()
        if held[uid] != _dataset(sent[uid].read_bytes())
    ]  # fmt: skip


def _content(path: Path) -> str:
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    return content_digest(syntax, content[start:])


def _dataset(content: bytes) -> str:
    """Digest of a Part 10 file behind its File Meta Information."""
    start = 144 + int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[start:]).hexdigest()
