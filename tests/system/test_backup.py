"""A node is saved while it works and goes on elsewhere: nothing lost, nothing twice at the PACS."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom import dcmread

from dicom_node.ledger import open_ledger, tables
from support.held import assert_exactly_one_result_set
from support.node import Node
from support.orthanc import Orthanc
from support.peers import require_peer
from support.postgresql_cluster import PostgresqlCluster
from support.synthetic_ct import synthetic_series

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]


@pytest.fixture(
    params=[
        ("sqlite", "sqlite"),
        pytest.param(("postgresql", "postgresql"), marks=pytest.mark.peer("postgresql")),
        pytest.param(("sqlite", "postgresql"), marks=pytest.mark.peer("postgresql")),
    ],
    ids="-to-".join,
)
def urls(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Ledgers of the node that is saved and of the one that goes on; empty: SQLite."""
    kinds = request.param
    if "postgresql" not in kinds:
        yield "", ""
        return
    require_peer("postgresql")
    cluster: PostgresqlCluster = request.getfixturevalue("postgresql_cluster")
    with cluster.database() as first, cluster.database() as second:
        yield (first if kinds[0] == "postgresql" else "", second)


def uid_of(series: list[Path]) -> str:
    return str(dcmread(series[0], stop_before_pixels=True).SeriesInstanceUID)


def many_series(folder: Path, count: int) -> list[list[Path]]:
    return [
        list(
            synthetic_series(
                folder / str(number),
                slices=24,
                seed=number,
                study=f"study-{number}",
                patient_id=f"P{number}",
                accession_number=f"A{number}",
            ).paths
        )
        for number in range(count)
    ]


def backup(node: Node, folder: Path, *options: str) -> dict[str, object]:
    done = node.m3lung("backup", "--out", str(folder), "--json", *options)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_backup_under_load_goes_on_elsewhere(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc, urls: tuple[str, str]
) -> None:
    """Series arrive, are read and sent while the backup is made; then the machine is gone."""
    present, next_url = urls
    series = many_series(tmp_path / "series", 6)
    folder = tmp_path / "backup"
    with Node(tmp_path / "old", small_bundle, pacs=[orthanc], ledger_url=present) as node:
        node.start()
        for paths in series[:2]:
            assert node.send(paths).returncode == 0
        node.wait_until_delivered(uid_of(series[0]))

        sent: list[int] = []
        sender = threading.Thread(
            target=lambda: sent.extend(node.send(paths).returncode for paths in series[2:])
        )
        sender.start()
        node.wait_for(
            lambda: node.series(uid_of(series[2])) is not None, "the third series arrives", 60
        )
        manifest = backup(node, folder)
        assert manifest["missing"] == 0
        sender.join()
        assert sent == [0] * 4
        # The old node goes on for a while, as it would until somebody moves it.
        node.wait_until_delivered(uid_of(series[2]))
        node.kill()

    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert sums.returncode == 0, sums.stdout + sums.stderr

    # A series that the backup holds in part is not closed before its sender's turn has come.
    other = Node(tmp_path / "new", small_bundle, pacs=[orthanc], ledger_url=next_url, quiet_s=60.0)
    with other:
        restored = other.m3lung("restore", str(folder))
        assert restored.returncode == 0, restored.stderr
        other.start()
        # Senders send again what the backup is older than; what it has is a duplicate.
        for paths in series:
            assert other.send(paths).returncode == 0
        for paths in series:
            other.wait_until_delivered(uid_of(paths), 240)
        other.stop()
        assert other.m3lung("audit", "verify").returncode == 0
        with open_ledger(other.ledger_url) as ledger:
            counts = ledger.worklist.counts()
        assert set(counts.analyses) == {"done"}
    held = orthanc.sop_instance_uids()
    # The PACS holds each object of the one result set of each series, and no other object.
    assert held == _sent(other.ledger_url)


def _sent(url: str) -> set[str]:
    o, d = tables.objects.c, tables.deliveries.c
    query = sa.select(o.sop_instance_uid).join(tables.deliveries, d.object_id == o.id)
    with open_ledger(url) as ledger, ledger.database.read() as connection:
        return set(connection.scalars(query))


def test_waiting_work_goes_on_with_its_images(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc
) -> None:
    """Received, not yet read; and read, not yet sent: both end once, without a second sending."""
    read, waiting = many_series(tmp_path / "series", 2)
    folder = tmp_path / "backup"
    with Node(tmp_path / "old", small_bundle, pacs=[orthanc]) as node:
        node.start("listen", "reconcile", "work")
        assert node.send(read).returncode == 0
        node.wait_for_state(uid_of(read), lambda s: s.analysis_state == "done", "read")
        node.kill("work")
        assert node.send(waiting).returncode == 0
        node.wait_for_state(uid_of(waiting), lambda s: s.analysis_state == "waiting", "waiting")
        backup(node, folder)
        # Only the images that are still needed.
        assert len(list((folder / "spool").rglob("*.dcm"))) == len(waiting)
        node.kill()
        shutil.rmtree(tmp_path / "old" / "state")

    with Node(tmp_path / "new", small_bundle, pacs=[orthanc]) as other:
        told = other.m3lung("restore", str(folder))
        assert told.returncode == 0, told.stderr
        assert f"{len(read)} images are not in the backup" in told.stdout
        other.start("listen", "reconcile", "work", "deliver")
        for paths in (read, waiting):
            other.wait_until_delivered(uid_of(paths))
        status = other.series(uid_of(waiting))
        assert status is not None
        assert status.attempts == 1
        # What is sent again after its images went is held again, and nothing is read twice.
        assert other.send(read).returncode == 0
        assert other.send(read).returncode == 0
        status = other.series(uid_of(read))
        assert status is not None
        assert (status.revision, status.analysis_state) == (1, "done")
        other.stop()


def test_the_saved_configuration_is_put_where_none_is(tmp_path: Path, small_bundle: Path) -> None:
    with Node(tmp_path / "old", small_bundle) as node:
        assert node.m3lung("check").returncode == 3  # makes a ledger
        backup(node, tmp_path / "backup")
    config = tmp_path / "elsewhere" / "node.toml"
    other = Node(tmp_path / "unused", small_bundle)
    other.config = config
    done = other.m3lung("restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stderr
    assert config.read_text() == node.config.read_text()
    # A relative state directory is relative to its document.
    assert (config.parent / "state" / "ledger.sqlite3").is_file()
    assert config.stat().st_mode & 0o077 == 0


def test_results_of_the_restored_node_are_those_of_the_ledger(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    """One series, delivered before the backup: the restored node sends nothing again."""
    uid = uid_of(chest_series)
    with Node(tmp_path / "old", small_bundle, pacs=[orthanc]) as node:
        node.start()
        assert node.send(chest_series).returncode == 0
        node.wait_until_delivered(uid)
        backup(node, tmp_path / "backup", "--images", "all")
        node.kill()
    changes = orthanc.get("/changes?last")["Last"]
    with Node(tmp_path / "new", small_bundle, pacs=[orthanc]) as other:
        assert other.m3lung("restore", str(tmp_path / "backup")).returncode == 0
        other.start()
        assert other.send(chest_series).returncode == 0
        other.wait_until_delivered(uid)
        other.stop()
        assert_exactly_one_result_set(orthanc, other.ledger_url, uid)
    assert [
        change["ChangeType"]
        for change in orthanc.get(f"/changes?since={changes}")["Changes"]
        if change["ChangeType"] == "NewInstance"
    ] == []
