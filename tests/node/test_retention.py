"""What goes, what stays, and what happens while the disk fills."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_node.audit import Auditor, records
from dicom_node.domain import ObjectKind, StoredInstance
from dicom_node.errors import OutOfResources
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Ledger, NewObject, open_ledger, tables
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.states import DeliveryState
from dicom_node.retention import Janitor, purge
from dicom_node.settings import NodeSettings, RetentionSettings
from dicom_node.spool import Spool
from support.listening import ListeningNode, Rejected, ct_dataset

DAY = 86400.0


class Node:
    """Spool and ledger, filled without a network."""

    def __init__(self, root: Path) -> None:
        self.settings = NodeSettings(state_dir=root)
        self.spool = Spool(self.settings.spool_dir)
        self.spool.prepare()
        self.now = time.time()
        self.ledger: Ledger = open_ledger(self.settings.ledger_url, clock=lambda: self.now)

    def received(self, series: str, size: int = 1000) -> StoredInstance:
        """Receive one instance of `series`."""
        return self.taken(series, generate_uid(), os.urandom(size))

    def taken(self, series: str, uid: str, content: bytes) -> StoredInstance:
        """Receive this very instance, as the listener does."""
        with self.spool.receive(
            sop_class_uid=CTImageStorage,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        ) as file:
            file.write(memoryview(content))
            stored = file.keep()
            file.make_durable()
        header = InstanceHeader(
            sop_instance_uid=uid,
            sop_class_uid=CTImageStorage,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            study_instance_uid="2.25.1",
            series_instance_uid=series,
        )
        association = self.ledger.intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="127.0.0.1"
        )
        self.ledger.intake.record_instances(
            [Arrival(association, header, stored)], is_kept=lambda kept: kept.digest in self.spool
        )
        self.ledger.intake.close_association(association, outcome="released", ignored={})
        return stored

    def ended(self, series: str, state: str, size: int = 1000) -> StoredInstance:
        """Receive a series whose one result is in delivery `state`."""
        stored = self.received(series, size)
        self.end(state)
        return stored

    def end(self, state: str) -> None:
        """Have the one series that receives analysed, its result in delivery `state`."""
        [revision] = self.ledger.revisions.receiving(60)
        assert self.ledger.revisions.close(revision, "quiet_period")
        [completed] = self.ledger.revisions.completed()
        analysis = self.ledger.revisions.select(completed.revision_id, {"sop_instance_uids": []})
        claim = self.ledger.analyses.claim(analysis or 0, this_owner(), 60)
        assert claim is not None
        made = NewObject(
            ObjectKind.OVERLAY, "overlay/1", 0, "1.7", generate_uid(), "2.25.9", "p", "s", 1
        )
        kinds = {"pacs": list(ObjectKind)}
        self.ledger.analyses.finish(claim, result={}, objects=[made], destinations=kinds)
        shipment = sa.select(sa.func.max(tables.shipments.c.id)).scalar_subquery()
        with self.ledger.database.write() as connection:
            connection.execute(
                tables.deliveries.update()
                .where(tables.deliveries.c.shipment_id == shipment)
                .values(state=state, sent_at=self.now)
            )

    def has(self, stored: StoredInstance) -> bool:
        return stored.digest in self.spool

    def policy(self, **retention: object) -> NodeSettings:
        made = RetentionSettings.model_validate(retention)
        return self.settings.model_copy(update={"retention": made})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "state")
    yield made
    made.ledger.close()


# What may go -----------------------------------------------------------------------------------

PROVEN = {DeliveryState.COMMITTED, DeliveryState.VERIFIED}


@pytest.mark.parametrize("state", list(DeliveryState))
def test_only_what_is_proven_goes(node: Node, state: DeliveryState) -> None:
    stored = node.ended("2.25.7", state)
    node.now += 2 * DAY
    purge(node.ledger, node.spool, older_than_s=3 * DAY, without_proof_s=0.0)
    assert node.has(stored)  # too young
    purge(node.ledger, node.spool, older_than_s=DAY, without_proof_s=None)
    assert node.has(stored) is (state not in PROVEN)
    purge(node.ledger, node.spool, older_than_s=DAY, without_proof_s=3 * DAY)
    assert node.has(stored) is (state not in PROVEN)
    # By explicit policy what was accepted goes, too, and nothing else.
    purge(node.ledger, node.spool, older_than_s=DAY, without_proof_s=DAY)
    assert node.has(stored) is (state not in PROVEN | {DeliveryState.SENT})


def test_what_is_received_or_analysed_stays(node: Node) -> None:
    receiving = node.received("2.25.7")
    node.now += 1000 * DAY
    purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=0.0)
    [revision] = node.ledger.revisions.receiving(60)
    node.ledger.revisions.close(revision, "quiet_period")
    purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=0.0)
    [completed] = node.ledger.revisions.completed()
    analysis = node.ledger.revisions.select(completed.revision_id, {"sop_instance_uids": []})
    purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=0.0)
    assert node.ledger.analyses.claim(analysis or 0, this_owner(), 60) is not None
    purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=0.0)
    assert node.has(receiving)


def test_one_destination_without_proof_keeps_the_input(node: Node) -> None:
    stored = node.ended("2.25.7", "committed")
    with node.ledger.database.write() as connection:
        analysis = connection.scalar(sa.select(sa.func.max(tables.analyses.c.id)))
        connection.execute(
            tables.shipments.insert().values(
                analysis_id=analysis, destination="viewer", open=True, ready_at=0, created_at=0
            )
        )
        shipment = connection.scalar(sa.select(sa.func.max(tables.shipments.c.id)))
        connection.execute(
            tables.deliveries.insert().values(shipment_id=shipment, slot="x", state="waiting")
        )
    node.now += DAY
    assert not purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=0.0).instances
    assert node.has(stored)


# What comes again -------------------------------------------------------------------------------


def test_a_purged_image_that_comes_again_is_held_again(node: Node) -> None:
    node.taken("2.25.7", "2.25.70", b"the very same")
    node.end("committed")
    node.now += DAY
    assert purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=None).instances == 1
    stored = node.taken("2.25.7", "2.25.70", b"the very same")
    assert node.has(stored)
    # Old by its first arrival, and an orphan to nobody.
    os.utime(node.spool.path_of(stored.digest), (0, 0))
    node.now += DAY / 2
    janitor = Janitor(node.ledger, second_look_s=0.0)
    for _ in range(2):
        janitor.sweep(node.policy(purge_after_days=0.75), directories=256)
    assert node.has(stored)
    node.now += DAY / 2
    janitor.sweep(node.policy(purge_after_days=0.75))
    assert not node.has(stored)


def test_an_image_that_comes_while_it_is_purged_is_held_or_refused(node: Node) -> None:
    """Whatever the order of the two: what was acknowledged last is there."""
    content = b"the very same"
    stored = node.taken("2.25.7", "2.25.70", content)
    node.end("committed")
    outcomes: Counter[str] = Counter()

    def receive() -> None:
        try:
            node.taken("2.25.7", "2.25.70", content)
        except OutOfResources:
            outcomes["refused"] += 1
        else:
            outcomes["acknowledged"] += 1

    def remove() -> None:
        gone = purge(node.ledger, node.spool, older_than_s=0.0, without_proof_s=None)
        outcomes["purged"] += gone.instances

    for _ in range(150):
        threads = [threading.Thread(target=receive), threading.Thread(target=remove)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with node.ledger.database.read() as connection:
            purged_at = connection.scalar(sa.select(tables.instances.c.purged_at))
        assert node.has(stored) or purged_at is not None, outcomes
    assert outcomes["acknowledged"] > 0
    assert outcomes["purged"] > 0


# The janitor -----------------------------------------------------------------------------------


def test_the_janitor_purges_by_age_only_if_told(node: Node) -> None:
    stored = node.ended("2.25.7", "committed")
    node.now += 40 * DAY
    Janitor(node.ledger).sweep(node.policy())
    assert node.has(stored)
    Janitor(node.ledger).sweep(node.policy(purge_after_days=50))
    assert node.has(stored)
    Janitor(node.ledger).sweep(node.policy(purge_after_days=30))
    assert not node.has(stored)


def test_what_the_janitor_purged_stands_in_the_audit_trail(node: Node) -> None:
    node.ended("2.25.7", "committed")
    node.now += 40 * DAY
    auditor = Auditor(node.settings, "reconcile")
    for _ in range(2):
        Janitor(node.ledger, auditor).sweep(node.policy(purge_after_days=30))
    [record] = records(node.settings.root / "audit")
    event = record["EventIdentification"]
    assert event["EventID"]["originalText"] == "DICOM Study Deleted"
    assert event["EventOutcomeDescription"] == "purged by age: 1 images"
    [study] = record["ParticipantObjectIdentification"]
    assert study["ParticipantObjectID"] == auditor.identifier_of_study("2.25.1")


def orphan(node: Node, age_s: float) -> Path:
    """Write a file that was never committed to the ledger."""
    with node.spool.receive(
        sop_class_uid=CTImageStorage,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    ) as file:
        file.write(memoryview(b"never acknowledged"))
        stored = file.keep()
    path = node.spool.path_of(stored.digest)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_old_files_that_nobody_knows_go_at_the_second_look(node: Node) -> None:
    known = node.received("2.25.7")
    os.utime(node.spool.path_of(known.digest), (0, 0))
    old = orphan(node, 2 * DAY)
    janitor = Janitor(node.ledger, second_look_s=0.2)
    janitor.sweep(node.settings, directories=256)
    assert old.exists()
    time.sleep(0.3)
    janitor.sweep(node.settings, directories=256)
    assert not old.exists()
    assert node.has(known)


def test_young_files_and_those_received_again_stay(node: Node) -> None:
    young = orphan(node, DAY / 2)
    janitor = Janitor(node.ledger, second_look_s=0.0)
    for _ in range(3):
        janitor.sweep(node.settings, directories=256)
    assert young.exists()
    os.utime(young, (0, 0))
    patient = Janitor(node.ledger, second_look_s=0.2)
    patient.sweep(node.settings, directories=256)
    # The same content comes again: another file under the same name, seconds old or with a clock
    # that jumped. What was suspected is not this one.
    again = orphan(node, 2 * DAY)
    assert again == young
    time.sleep(0.3)
    patient.sweep(node.settings, directories=256)
    assert again.exists()


def test_a_file_that_is_received_while_it_is_swept_stays(node: Node) -> None:
    path = orphan(node, 2 * DAY)
    [seen] = [file for number in range(256) for file in node.spool.files(number)]
    content = path.read_bytes()
    orphan(node, 0.0)  # renamed over the file that was seen
    assert not node.spool.remove_file(seen)
    assert path.read_bytes() == content


def test_conflicts_are_known_and_purged_rows_are_not(node: Node) -> None:
    stored = node.ended("2.25.7", "committed")
    conflict = orphan(node, 2 * DAY)
    with node.ledger.database.write() as connection:
        connection.execute(
            tables.conflicts.insert().values(
                sop_instance_uid="1.2.3",
                series_instance_uid="2.25.7",
                digest=conflict.stem,
                path="p",
                association_id=1,
                received_at=0,
            )
        )
    # Killed between the row and the file: the row says gone, the file is there.
    node.now += DAY
    assert len(node.ledger.retention.purge(0.0)) == 1
    os.utime(node.spool.path_of(stored.digest), (0, 0))
    janitor = Janitor(node.ledger, second_look_s=0.0)
    for _ in range(2):
        janitor.sweep(node.settings, directories=256)
    assert not node.has(stored)
    assert conflict.exists()


# The disk fills ----------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,nr_inodes=4000", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, megabytes: int) -> Path:
    path = folder / f"filler-{megabytes}"
    path.write_bytes(b"\1" * (megabytes << 20))
    return path


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def is_let_in(node: ListeningNode) -> bool:
    reason = None
    try:
        with node.sender():
            pass
    except Rejected as error:
        reason = error.reason
    assert reason in (None, (2, 3, 1))  # temporary congestion
    return reason is None


def test_associations_are_refused_before_the_disk_is_full(tmp_path: Path, tmpfs: Path) -> None:
    node = ListeningNode(tmp_path / "node")
    node.state = tmpfs / "state"
    node.write_config(["SENDER"])
    node.config.write_text(
        node.config.read_text().replace(
            "[listener]",
            "[retention]\nhigh_water_percent = 80\nlow_water_percent = 50\n[listener]",
        )
    )
    node.start()
    try:
        with node.sender() as standing:
            assert standing.store_dataset(ct_dataset(1)) == 0
            filler = fill(tmpfs, 20)
            assert eventually(lambda: not is_let_in(node))
            # Who is associated may finish: there is room yet.
            assert standing.store_dataset(ct_dataset(2)) == 0
        assert "above its high-water mark" in node.logged()
        # Below the high-water mark, above the low one: still shut.
        filler.unlink()
        half = fill(tmpfs, 15)
        time.sleep(0.6)
        assert not is_let_in(node)
        half.unlink()
        assert eventually(lambda: is_let_in(node))
        assert len(node.instances()) == 2
    finally:
        node.stop()


def test_inodes_run_out_as_bytes_do(tmpfs: Path) -> None:
    spool = Spool(tmpfs / "spool")
    spool.prepare()
    before = spool.used_percent()
    for number in range(3500):
        (tmpfs / f"{number}").touch()
    assert before < 15
    assert spool.used_percent() > 85


def test_high_water_purges_what_is_proven_and_nothing_else(tmpfs: Path) -> None:
    node = Node(tmpfs / "state")
    oldest = node.ended("2.25.1", "committed", 4 << 20)
    node.now += 10
    unfinished = node.received("2.25.2", 4 << 20)
    settings = node.policy(
        high_water_percent=60, low_water_percent=20, purge_at_high_water=True, purge_after_days=99
    )
    fill(tmpfs, 8)
    assert node.spool.used_percent() > 60
    Janitor(node.ledger).sweep(settings.model_copy(update={"retention": RetentionSettings()}))
    assert node.has(oldest)  # nobody allowed it
    Janitor(node.ledger).sweep(settings)
    assert not node.has(oldest)
    assert node.has(unfinished)  # though the disk is still above the low-water mark
    assert node.spool.used_percent() > 20
    node.ledger.close()
