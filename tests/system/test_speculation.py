"""Reading ahead through the wire: DCMTK sends, Orthanc gets results, the evidence takes long."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from dicom_node.ledger import open_ledger, tables
from support.held import assert_exactly_one_result_set, our_objects
from support.node import PARTS, Node
from support.orthanc import Orthanc
from support.redis_server import RedisServer
from support.synthetic_ct import synthetic_series

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]

EVIDENCE_S = 30.0
SLOW = {
    "M3LUNG_COMPLETION__SETTLE_S": str(EVIDENCE_S),
    "M3LUNG_COMPLETION__QUIET_PERIOD_S": str(EVIDENCE_S + 10),
    "M3LUNG_LISTENER__MIN_FREE_BYTES": "0",
}


def uid_of(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


@pytest.fixture
def node(tmp_path: Path, small_bundle: Path, orthanc: Orthanc) -> Iterator[Node]:
    """A node whose parts the test starts; evidence takes half a minute."""
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc], environment=SLOW) as made:
        yield made


def send(node: Node, files: list[Path]) -> None:
    """Send a series once the workers have loaded their model: before, nobody is idle."""
    wanted = sum(name.partition("-")[0] in {"work", "serve"} for name in node.processes)

    def loaded() -> bool:
        with open_ledger(node.ledger_url) as ledger, ledger.database.read() as connection:
            running = ledger.presence.heard_of(connection, 60.0)
        return sum(one.part == "work" for one in running) >= wanted

    node.wait_for(loaded, "the workers have loaded the model", 120)
    assert node.send(files).returncode == 0


def memos(node: Node) -> list[Path]:
    """The folders of readings put aside, or under way."""
    return sorted((node.directory / "state" / "memos").glob("[0-9]*"))


def whole(node: Node) -> list[Path]:
    return [folder for folder in memos(node) if (folder / "memo.json").exists()]


def times(node: Node, uid: str) -> dict[str, float]:
    """When, in seconds of the ledger, what happened to the newest revision of a series."""
    a, r, s, d, p = (
        tables.analyses.c, tables.revisions.c, tables.series.c, tables.deliveries.c,
        tables.shipments.c,
    )  # fmt: skip
    with open_ledger(node.ledger_url) as ledger, ledger.database.read() as connection:
        row = connection.execute(
            sa.select(r.last_arrival_at, r.closed_at, a.created_at, a.started_at, a.finished_at)
            .join(tables.analyses, a.revision_id == r.id)
            .join(tables.series, s.id == r.series_id)
            .where(s.series_instance_uid == uid)
            .order_by(r.number.desc())
        ).first()
        assert row is not None
        sent_at = connection.scalar(
            sa.select(sa.func.min(d.sent_at))
            .join(tables.shipments, p.id == d.shipment_id)
            .join(tables.analyses, a.id == p.analysis_id)
            .join(tables.revisions, r.id == a.revision_id)
            .join(tables.series, s.id == r.series_id)
            .where(s.series_instance_uid == uid, d.slot == "report")
        )
    return {**row._asdict(), "sent_at": float(sent_at or 0.0)}


def document(node: Node) -> dict[str, Any]:
    """result.json, of which there has to be one."""
    [path] = (node.directory / "state" / "results").rglob("result.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def counted(node: Node) -> dict[str, int]:
    """Readings ahead by their fate, as the processes of a stopped node handed them over."""
    with open_ledger(node.ledger_url) as ledger, ledger.database.read() as connection:
        found = ledger.tallies.read(connection)
    return {labels[0]: int(n) for (name, labels), n in found.items() if name == "speculations"}


def test_the_report_comes_with_the_evidence(
    node: Node, chest_series: list[Path], orthanc: Orthanc
) -> None:
    node.start("serve")
    send(node, chest_series)
    node.wait_for(lambda: bool(whole(node)), "the series is read ahead", EVIDENCE_S + 60)
    status = node.series(uid_of(chest_series))
    assert status is not None
    assert status.state == "receiving"
    assert not our_objects(orthanc), "a result left before the evidence came"
    node.wait_until_delivered(uid_of(chest_series))
    happened = times(node, uid_of(chest_series))
    assert happened["closed_at"] - happened["last_arrival_at"] >= EVIDENCE_S
    began = document(node)["started_at"]
    assert began < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(happened["closed_at"]))
    after_s = happened["sent_at"] - happened["closed_at"]
    print(f"the report was sent {after_s:.2f} s after the evidence")
    assert after_s < 10.0  # two sweeps and the sister's 0.2 s; a busy machine takes its time
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))
    node.stop()
    assert counted(node) == {"made": 1, "used": 1}
    assert not memos(node)


def test_a_late_slice_leaves_one_result_of_the_whole(
    node: Node, chest_series: list[Path], orthanc: Orthanc
) -> None:
    node.start("serve")
    send(node, chest_series[:-1])
    node.wait_for(lambda: bool(whole(node)), "the part is read ahead", EVIDENCE_S + 60)
    assert node.send(chest_series[-1:]).returncode == 0
    node.wait_until_delivered(uid_of(chest_series))
    assert document(node)["completeness"]["instance_count"] == len(chest_series)
    assert len(document(node)["slices"]) == len(chest_series)
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))
    assert not memos(node)


def test_a_worker_killed_while_it_reads_ahead(
    node: Node, chest_series: list[Path], orthanc: Orthanc
) -> None:
    node.start("listen", "reconcile", "deliver")
    node.start("work", crash_at="worker.in_inference")
    send(node, chest_series)
    worker = node.processes["work"]
    node.wait_for(lambda: worker.poll() is not None, "the worker is killed", 90)
    assert worker.returncode == -signal.SIGKILL
    status = node.series(uid_of(chest_series))
    assert status is not None
    assert status.state == "receiving"
    assert len(memos(node)) == 1
    node.start("work")
    status = node.wait_until_delivered(uid_of(chest_series))
    assert status.attempts == 1, "what was lost was no attempt"
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))
    assert not memos(node)


@pytest.mark.parametrize("crash_point", ["worker.after_claim", "worker.before_commit"])
def test_a_worker_killed_while_it_takes_what_was_read_ahead(
    node: Node, chest_series: list[Path], orthanc: Orthanc, crash_point: str
) -> None:
    node.start("listen", "reconcile", "deliver")
    node.start("work", crash_at=crash_point)
    send(node, chest_series)
    worker = node.processes["work"]
    node.wait_for(lambda: worker.poll() is not None, "the worker is killed", 120)
    assert worker.returncode == -signal.SIGKILL
    node.start("work")
    status = node.wait_until_delivered(uid_of(chest_series))
    assert status.attempts == 2
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))
    assert not memos(node)


def test_an_altered_memo_is_not_believed(
    node: Node, chest_series: list[Path], orthanc: Orthanc
) -> None:
    node.start(*PARTS)
    send(node, chest_series)
    node.wait_for(lambda: bool(whole(node)), "the series is read ahead", EVIDENCE_S + 60)
    [folder] = whole(node)
    report = folder / "report-0.dcm"
    content = report.read_bytes()
    report.write_bytes(content.replace(b"NOT FOR DIAGNOSTIC", b"FOR ALL DIAGNOSTIC"))
    assert report.read_bytes() != content
    node.wait_until_delivered(uid_of(chest_series))
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))
    held = b"".join(orthanc.download(instance) for instance in orthanc.instances())
    assert b"FOR ALL DIAGNOSTIC" not in held
    assert "memo not used" in node.log("work").read_text()
    node.stop()
    assert counted(node) == {"made": 1, "discarded": 1}


@pytest.mark.peer("redis")
@pytest.mark.peer("postgresql")
def test_two_of_everything(
    tmp_path: Path,
    small_bundle: Path,
    chest_series: list[Path],
    orthanc: Orthanc,
    redis_server: RedisServer,
    postgresql_url: str,
) -> None:
    """Two workers and two reconcilers, two series: each is read once, a closed one first."""
    parts = ("listen", "reconcile", "reconcile-2", "work", "work-2", "deliver")
    others = list(synthetic_series(tmp_path / "other", slices=24, seed=5, patient_id="P5").paths)
    with Node(
        tmp_path / "node", small_bundle, pacs=[orthanc], ledger_url=postgresql_url,
        broker_url=redis_server.url, parts=parts, environment=SLOW,
    ) as node:  # fmt: skip
        node.start()
        send(node, chest_series)
        send(node, others)
        for files in (chest_series, others):
            node.wait_until_delivered(uid_of(files))
        held = [str(item.SOPInstanceUID) for item in our_objects(orthanc)]
        assert len(held) == len(set(held))
        for files in (chest_series, others):
            happened = times(node, uid_of(files))
            print(f"sent {happened['sent_at'] - happened['closed_at']:.2f} s after the evidence")
        node.stop()
        assert counted(node) == {"made": 2, "used": 2}
        assert not memos(node)
