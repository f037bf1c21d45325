"""Fill a ledger with years of series: a thousand of them by hand, the rest as copies of those.

Every thousand is what a thousand series of chest CT studies leave behind: 600 that were skipped,
10 rejected, 390 analysed, their results with one destination, proven by storage commitment; the
images older than a month are purged. What is open at any time does not grow with the years:
:func:`open_work` adds it, the same for every size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from dicom_node.header import InstanceHeader
from dicom_node.ledger import Ledger, tables

__all__ = ["BLOCK", "READY_SERIES", "Opened", "fill", "open_work", "sizes"]

BLOCK = 1000
_DAY_S = 86400.0
_YEARS = 5
_PURGED_S = (_YEARS * 365 - 31) * _DAY_S
_CT = "1.2.840.10008.5.1.4.1.1.2"
_SC = "1.2.840.10008.5.1.4.1.1.7"
_OVERLAYS = 6
_TABLES = [table for table in tables.metadata.sorted_tables if "id" in table.c]
# Text that has to differ between copies.
_NAMES = {
    "series_instance_uid", "study_instance_uid", "accession_number", "patient_id",
    "sop_instance_uid", "digest", "transaction_uid",
}  # fmt: skip
_TIMES = {column.name for table in _TABLES for column in table.c if column.name.endswith("_at")}
READY_SERIES = "2.25.4711"
"""Open, and not quiet for long enough yet: set its time back, and the next sweep closes it."""


def fill(ledger: Ledger, count: int, instances: int) -> None:
    """Put `count` series (thousands of them) with `instances` each into an empty ledger."""
    now = ledger.database.now()
    with ledger.database.write() as connection:
        block = _Block(instances, now - _YEARS * 365 * _DAY_S)
        for table in _TABLES:
            rows = block.rows[table.name]
            for start in range(0, len(rows), 2000):
                connection.execute(table.insert(), rows[start : start + 2000])
        copies = count // BLOCK - 1
        apart_s = _YEARS * 365 * _DAY_S / max(1, copies + 1)
        for number in range(1, copies + 1):
            for table in _TABLES:
                connection.execute(_copy(table, number, block.rows, apart_s))
        if ledger.database.url.get_backend_name() == "postgresql":
            for table in _TABLES:  # the counters know nothing of ids that were given
                connection.execute(
                    sa.text(
                        f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                        f"(SELECT max(id) FROM {table.name}))"
                    )
                )
    with ledger.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.text("ANALYZE"))


def _copy(table: sa.Table, number: int, rows: dict[str, list[Any]], apart_s: float) -> sa.Insert:
    """Return what adds the block's rows of `table` once more, with ids and names of their own."""
    source = table.alias("block")
    columns = []
    for column in table.c:
        value: sa.ColumnElement[Any] = source.c[column.name]
        keys = list(column.foreign_keys)
        if column.primary_key or keys:
            target = keys[0].column.table.name if keys else table.name
            value = value + number * len(rows[target])
        elif column.name in _NAMES:
            # In place of the last digits, so that every name keeps its length.
            stem = sa.func.substr(value, 1, sa.func.length(value) - 6, type_=sa.String)
            value = stem + f"{number:06d}"
        elif column.name in ("purged_at", "removed_at") and number * apart_s > _PURGED_S:
            value = sa.null()
        elif column.name in _TIMES:
            value = value + number * apart_s
        columns.append(value)
    query = sa.select(*columns).where(source.c.id <= len(rows[table.name]))
    return table.insert().from_select([column.name for column in table.c], query)


def _name(kind: int, number: int, extra: int = 0) -> str:
    """Return a UID whose last six digits may be replaced."""
    return f"2.25.9{kind}{number:04d}{extra:04d}000000"


class _Block:
    """The rows of a thousand series that ended."""

    def __init__(self, instances: int, began: float) -> None:
        self._began = began
        self._instances = instances
        self.rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in _TABLES}
        for number in range(BLOCK):
            self._series(number)

    def _add(self, table: str, **values: Any) -> int:
        rows = self.rows[table]
        rows.append({"id": len(rows) + 1, **values})
        return len(rows)

    def _series(self, number: int) -> None:
        at = self._began + number
        study = number // 4
        association = self._add(
            "associations",
            calling_ae="CT1", called_ae="M3LUNG", address="10.0.0.7",
            opened_at=at, last_activity_at=at + 30, closed_at=at + 31, outcome="released",
            ignored=None,
        )  # fmt: skip
        series = self._add(
            "series",
            series_instance_uid=_name(1, number), study_instance_uid=_name(2, study),
            accession_number=f"A{study:04d}000000", patient_id=f"P{study:04d}000000",
            modality="CT", description="Thorax 1.0 Br40", source_ae="CT1",
            first_arrival_at=at, last_arrival_at=at + 30, removed_at=at + 30 * _DAY_S,
        )  # fmt: skip
        uids = [_name(3, number, index) for index in range(self._instances)]
        for index, uid in enumerate(uids):
            self._add(
                "instances",
                series_id=series, revision_number=1, sop_instance_uid=uid,
                digest=f"{number:027x}{index:031x}000000", path=f"instances/{index:02x}/{'f' * 64}",
                size_bytes=526_000, header=_header(number, index, uid),
                association_id=association, received_at=at,
                purged_at=at + 30 * _DAY_S,
            )  # fmt: skip
        fate = "skipped" if number % 100 < 60 else "rejected" if number % 100 == 60 else "selected"
        reason = "" if fate == "selected" else "another series of the study is better suited"
        revision = self._add(
            "revisions",
            series_id=series, number=1, state=fate, instance_count=self._instances, opened_at=at,
            last_arrival_at=at + 30, expected_count=self._instances, queried_at=at + 32,
            waiting_for="", closed_at=at + 35, closing_reason="count_confirmed",
            instance_set_digest="0" * 64, reason=reason,
            selection={"sop_instance_uids": uids} if fate == "selected" else None,
        )  # fmt: skip
        for kind in ("revision_opened", "series_complete", f"series_{fate}"):
            self._add("events", at=at, series_id=series, kind=kind, detail={"reason": reason})
        if fate == "selected":
            self._analysed(number, series, revision, at)

    def _analysed(self, number: int, series: int, revision: int, at: float) -> None:
        analysis = self._add(
            "analyses",
            revision_id=revision, run=1, state="done", attempts=1, lease_token=1, lease_owner=None,
            lease_expires_at=None, ready_at=at, nudged_at=at, created_at=at, started_at=at,
            queue_at=at,
            finished_at=at + 60, stage="results", done=1, total=1, reason="", result=_RESULT,
        )  # fmt: skip
        shipment = self._add(
            "shipments",
            analysis_id=analysis, destination="pacs", open=False, lease_token=2, lease_owner=None,
            lease_expires_at=None, ready_at=at, nudged_at=None, attempts=0, created_at=at,
            last_error="",
        )  # fmt: skip
        commitment = self._add(
            "commitments",
            shipment_id=shipment, transaction_uid=_name(4, number), destination="pacs",
            state="reported", requested_at=at, status=0, error="", reported_at=at,
        )  # fmt: skip
        slots = [f"overlay/{index:03d}" for index in range(_OVERLAYS)]
        for index, slot in enumerate(["report", "summary", "segmentation", "key_objects", *slots]):
            uid = _name(5, number, index)
            made = self._add(
                "objects",
                analysis_id=analysis, kind=slot.split("/")[0], slot=slot, rank=0, sop_class_uid=_SC,
                sop_instance_uid=uid, series_instance_uid=_name(6, number),
                path=f"{analysis}/1/{slot}.dcm", sha256="0" * 64, size_bytes=400_000,
            )  # fmt: skip
            delivery = self._add(
                "deliveries",
                shipment_id=shipment, slot=slot, state="committed", object_id=made, attempts=1,
                status=0, error="", sent_at=at, resends=0, proofs=1, proof_due_at=None,
            )  # fmt: skip
            self._add(
                "commitment_items",
                commitment_id=commitment, delivery_id=delivery, sop_class_uid=_SC,
                sop_instance_uid=uid, sending=1, outcome="committed", failure_reason=None,
            )  # fmt: skip
        for kind in ("analysis_done", "delivered", "commitment_reported"):
            self._add("events", at=at, series_id=series, kind=kind, detail={"committed": 10})


def _header(number: int, index: int, uid: str) -> dict[str, Any]:
    header = InstanceHeader(
        sop_instance_uid=uid,
        sop_class_uid=_CT,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        study_instance_uid=_name(2, number // 4),
        series_instance_uid=_name(1, number),
        frame_of_reference_uid=_name(7, number),
        patient_id=f"P{number // 4:04d}",
        patient_name="Bench^Mark",
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        manufacturer="SIEMENS",
        series_description="Thorax 1.0 Br40",
        instance_number=index + 1,
        rows=512,
        columns=512,
        slice_thickness_mm=1.0,
        image_position=(-200.0, -200.0, float(index)),
        image_orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing=(0.75, 0.75),
        has_pixel_data=True,
    )
    return header.model_dump(mode="json", exclude_defaults=True)


_RESULT = {"findings": [{"code": "c" * 40, "value": 0.123456}] * 30}  # about 2 kB


class Opened:
    """Today's work: what an administrator finds on a busy afternoon.

    Twenty series of 300 images receive, with a gap that makes them wait; four more are whole and
    wait for a sister of their study; analyses wait, and shipments that a PACS does not take.

    Attributes
    ----------
    analyses : list of int
        Ids of analyses that wait.
    """

    def __init__(self, connection: sa.Connection, now: float) -> None:
        self._connection = connection
        self._now = now
        self.analyses: list[int] = []

    def make(self, receiving: int = 20, waiting: int = 50, undelivered: int = 30) -> None:
        """Add it."""
        for number in range(receiving):
            self._revision(f"2.25.81{number}", "receiving", 300)
        self._revision(READY_SERIES, "receiving", 300)
        for number in range(4):
            self._revision(f"2.25.80{number}", "complete", 300, study="2.25.810.0")
        for number in range(waiting):
            self.analyses.append(self._analysis(f"2.25.82{number}", "waiting"))
        for number in range(undelivered):
            self._shipment(self._analysis(f"2.25.83{number}", "done"), number)

    def _insert(self, table: sa.Table, **values: Any) -> int:
        return int(
            self._connection.execute(table.insert().values(**values)).inserted_primary_key[0]
        )

    def _revision(self, uid: str, state: str, instances: int = 10, study: str = "") -> int:
        then = self._now - 10.0
        association = self._insert(
            tables.associations, calling_ae="CT1", called_ae="M3LUNG", address="10.0.0.7",
            opened_at=then, last_activity_at=then, closed_at=then, outcome="released",
        )  # fmt: skip
        series = self._insert(
            tables.series, series_instance_uid=uid, study_instance_uid=study or f"{uid}.0",
            accession_number=uid[-9:], patient_id=uid[-9:], modality="CT", description="Thorax",
            source_ae="CT1", first_arrival_at=then, last_arrival_at=then,
        )  # fmt: skip
        uids = [f"{uid}.{index}" for index in range(1, instances + 1)]
        places = [index if state == "complete" else index + 10 * (index > 150)
                  for index in range(instances)]  # fmt: skip
        self._connection.execute(
            tables.instances.insert(),
            [
                {
                    "series_id": series, "revision_number": 1, "sop_instance_uid": instance,
                    "digest": instance.replace(".", "").rjust(64, "a"),
                    "path": "instances/00/none.dcm", "size_bytes": 526_000,
                    "header": _header(0, place, instance), "association_id": association,
                    "received_at": then,
                }
                for instance, place in zip(uids, places, strict=True)
            ],
        )  # fmt: skip
        return self._insert(
            tables.revisions, series_id=series, number=1, state=state, instance_count=len(uids),
            opened_at=then, last_arrival_at=then, closed_at=then, instance_set_digest="0" * 64,
            closing_reason="quiet_period", selection={"sop_instance_uids": uids},
        )  # fmt: skip

    def _analysis(self, uid: str, state: str) -> int:
        now = self._now
        return self._insert(
            tables.analyses, revision_id=self._revision(uid, "selected"), run=1, state=state,
            ready_at=now, created_at=now, nudged_at=now, queue_at=now,
        )  # fmt: skip

    def _shipment(self, analysis: int, number: int) -> None:
        now = self._now
        shipment = self._insert(
            tables.shipments, analysis_id=analysis, destination="viewer", open=True,
            ready_at=now + 3600, created_at=now,
        )  # fmt: skip
        for slot in range(10):
            made = self._insert(
                tables.objects, analysis_id=analysis, kind="overlay", slot=f"{slot}", rank=0,
                sop_class_uid=_SC, sop_instance_uid=f"2.25.84{number}.{slot}",
                series_instance_uid=f"2.25.84{number}", path="p", sha256="0" * 64, size_bytes=1,
            )  # fmt: skip
            self._insert(
                tables.deliveries, shipment_id=shipment, slot=f"{slot}", state="waiting",
                object_id=made,
            )  # fmt: skip


def open_work(ledger: Ledger) -> Opened:
    """Add today's work to a filled ledger."""
    with ledger.database.write() as connection:
        made = Opened(connection, ledger.database.now())
        made.make()
    return made


def sizes(ledger: Ledger) -> Iterator[tuple[str, int]]:
    """Yield each table's rows."""
    with ledger.database.read() as connection:
        for table in _TABLES:
            query = sa.select(sa.func.count()).select_from(table)
            yield table.name, connection.scalar(query) or 0
