"""Disks that fail: EIO, a failing fsync, no inodes left, a ledger that is locked or taken away."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.errors import LedgerMissing
from dicom_node.ledger import open_ledger
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import NodeSettings
from dicom_node.spool import content_digest
from inference.decoder_pool import DecoderPool
from inference.errors import DiskFailed
from inference.pixel_file import Plane
from inference.pixels import Rescale
from support.enhanced_ct import enhanced
from support.failing_disk import FailingDisk
from support.held import assert_exactly_one_result_set
from support.listening import ListeningNode, ct_dataset, encode
from support.node import Node
from support.orthanc import Orthanc
from support.synthetic_ct import synthetic_series

SUCCESS, RESOURCES = 0x0000, 0xA700
LEDGER_REFUSES = "the ledger cannot be written"


class Told:
    """What a sender was told: the digests of acknowledged instances."""

    def __init__(self, node: ListeningNode) -> None:
        self.node = node
        self.acknowledged: dict[str, str] = {}

    def store(self, sender, size: int = 64) -> tuple[int, str]:
        dataset = ct_dataset(len(self.acknowledged), size=size)
        uid, encoded = str(dataset.SOPInstanceUID), encode(dataset)
        status, comment = sender.store(encoded, sop_instance_uid=uid)
        if status == SUCCESS:
            self.acknowledged[uid] = content_digest(ExplicitVRLittleEndian, encoded)
        return status, comment

    def assert_kept(self) -> None:
        """Everything acknowledged lies in spool and ledger, byte by byte, and nothing is torn."""
        held = self.node.instances()
        for uid, digest in self.acknowledged.items():
            assert held[uid][0] == digest
            content = (self.node.spool / held[uid][1]).read_bytes()
            start = 144 + int.from_bytes(content[140:144], "little")
            assert content_digest(ExplicitVRLittleEndian, content[start:]) == digest
        assert list((self.node.spool / "incoming").iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path) -> FailingDisk:
    return FailingDisk(tmp_path / "disk")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[ListeningNode]:
    node = ListeningNode(tmp_path / "node")
    yield node
    node.stop()


# -- the spool -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        ("open", errno.EIO, "/spool/incoming/"),
        ("write", errno.EIO, "/spool/incoming/"),
        ("write", errno.EDQUOT, "/spool/incoming/"),
        ("rename", errno.EIO, "/spool/instances/"),
        ("fsync", errno.EIO, ".dcm"),
        ("fsyncdir", errno.EIO, "/spool/instances/"),  # the name is not durable
    ],
)
def test_a_spool_that_fails_is_never_success(
    listening: ListeningNode, disk: FailingDisk, call: str, error: int, part: str
) -> None:
    listening.environment = disk.environment
    listening.start()
    told = Told(listening)
    with listening.sender() as sender:
        assert told.store(sender)[0] == SUCCESS
        disk.fail(call, error, part)
        words = f"the spool cannot be written ({errno.errorcode[error]})"
        assert [told.store(sender) for _ in range(3)] == [(RESOURCES, words)] * 3
        disk.heal()
        assert told.store(sender)[0] == SUCCESS  # the same association goes on
    told.assert_kept()
    assert len(listening.instances()) == len(told.acknowledged) == 2


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_ledger_whose_disk_fails_is_never_success(
    listening: ListeningNode, disk: FailingDisk, call: str
) -> None:
    listening.environment = disk.environment
    listening.start()
    told = Told(listening)
    with listening.sender() as sender:
        assert told.store(sender)[0] == SUCCESS
        disk.fail(call, errno.EIO, "/ledger.sqlite3")
        assert [told.store(sender) for _ in range(3)] == [(RESOURCES, LEDGER_REFUSES)] * 3
        disk.heal()
        assert told.store(sender)[0] == SUCCESS
    listening.kill()
    listening.environment = {}
    listening.start()
    told.assert_kept()
    assert len(told.acknowledged) == 2


def test_no_inode_left_is_never_success(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "node")
    node.spool.mkdir(parents=True)
    # The spool's own directories take 259.
    options = "size=64m,mode=0700,nr_inodes=270"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(node.spool)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        node.write_config(["SENDER"])
        with node.config.open("a") as config:
            config.write("[retention]\nhigh_water_percent = 100\nlow_water_percent = 100\n")
        node.start()
        told = Told(node)
        with node.sender() as sender:
            answers = [told.store(sender) for _ in range(20)]
            refused = [answer for answer in answers if answer[0] != SUCCESS]
            assert len(told.acknowledged) >= 3
            assert len(refused) >= 5
            assert set(refused) == {(RESOURCES, "the spool cannot be written (ENOSPC)")}
            told.assert_kept()
            uid, (_, path) = next(iter(node.instances().items()))
            (node.spool / path).unlink()
            del told.acknowledged[uid]
            assert told.store(sender)[0] == SUCCESS
        told.assert_kept()
    finally:
        node.stop()
        subprocess.run(["umount", str(node.spool)], check=True)


# -- the ledger ------------------------------------------------------------------------------------


def test_a_locked_ledger_is_waited_for_and_then_refused(listening: ListeningNode) -> None:
    listening.start()
    told = Told(listening)
    with (
        listening.sender(timeout_s=60.0) as sender,
        closing(
            sqlite3.connect(listening.state / "ledger.sqlite3", isolation_level=None, timeout=30)
        ) as other,
    ):
        assert told.store(sender)[0] == SUCCESS
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert told.store(sender) == (RESOURCES, LEDGER_REFUSES)
        assert 25 < time.monotonic() - began < 45
        other.execute("ROLLBACK")
        assert told.store(sender)[0] == SUCCESS
    told.assert_kept()


def test_a_ledger_taken_away_is_never_success(listening: ListeningNode, tmp_path: Path) -> None:
    """SQLite writes on into a deleted file and says that all is well."""
    listening.start()
    told = Told(listening)
    files = [listening.state / f"ledger.sqlite3{suffix}" for suffix in ("", "-wal", "-shm")]
    with listening.sender() as sender:
        assert told.store(sender)[0] == SUCCESS
        for path in files:
            path.rename(tmp_path / path.name)
        assert [told.store(sender) for _ in range(3)] == [(RESOURCES, LEDGER_REFUSES)] * 3
        assert not files[0].exists(), "an empty ledger lies where ours was"
        for path in files:
            (tmp_path / path.name).rename(path)
        assert told.store(sender)[0] == SUCCESS
        # Another one in its place is not ours either.
        with closing(sqlite3.connect(files[0])) as present:
            present.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(files[0], tmp_path / "copy")
        files[0].unlink()
        shutil.copyfile(tmp_path / "copy", files[0])
        assert told.store(sender) == (RESOURCES, LEDGER_REFUSES)
        assert told.store(sender)[0] == SUCCESS  # opened anew
    listening.kill()
    listening.start()
    told.assert_kept()


def test_no_empty_ledger_is_made_beside_acknowledged_images(
    listening: ListeningNode, tmp_path: Path
) -> None:
    """A disk that is not mounted at the start: images would be taken, and the old ones disowned."""
    listening.start()
    told = Told(listening)
    with listening.sender() as sender:
        assert told.store(sender)[0] == SUCCESS
    listening.stop()
    ledger = listening.state / "ledger.sqlite3"
    ledger.rename(tmp_path / "ledger")
    for verb in ("listen", "reconcile", "serve", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", verb, "--config", str(listening.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 1, verb
        assert "the spool holds images that were acknowledged" in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
        assert not ledger.exists(), verb
    (tmp_path / "ledger").rename(ledger)
    listening.start()
    told.assert_kept()


def test_an_empty_database_is_not_taken_for_the_ledger_of_a_full_spool(
    postgresql_url: str, tmp_path: Path
) -> None:
    settings = NodeSettings(state_dir=tmp_path, ledger={"url": postgresql_url})
    folder = settings.spool_dir / "instances" / "00"
    folder.mkdir(parents=True)
    image = folder / f"{'0' * 64}.dcm"
    image.touch()
    with pytest.raises(LedgerMissing, match="acknowledged"):
        open_node_ledger(settings)
    image.unlink()
    open_node_ledger(settings).close()  # the first start
    image.touch()
    open_node_ledger(settings).close()


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
def test_a_node_outlives_the_absence_of_its_ledger(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc]) as node:
        node.start()
        before = synthetic_series(tmp_path / "before", slices=22, matrix=128, patient_id="B")
        assert node.send(before.paths).returncode == 0
        node.wait_until_delivered(before.series_instance_uid)  # all parts are up
        for instance in orthanc.instances():
            orthanc.delete(instance)
        state = node.directory / "state"
        names = ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm")
        for name in names:
            (state / name).rename(tmp_path / name)
        assert node.send(chest_series).returncode != 0
        time.sleep(3.0)
        assert not (state / names[0]).exists()
        for name in reversed(names):
            (tmp_path / name).rename(state / name)
        assert node.send(chest_series).returncode == 0
        uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
        node.wait_until_delivered(uid)
        assert_exactly_one_result_set(orthanc, node.ledger_url, uid)
        assert {name for name, part in node.processes.items() if part.poll() is not None} == set()


@pytest.mark.peer("postgresql")
def test_a_server_that_does_not_wait_for_its_disk_is_told_to(postgresql_url: str) -> None:
    """Its default would lose the last half second of acknowledged images with a power cut."""
    engine = sa.create_engine(postgresql_url)
    with engine.connect() as plain:
        assert plain.scalar(sa.text("SHOW synchronous_commit")) == "off"
    engine.dispose()
    with open_ledger(postgresql_url) as ledger:
        for _ in range(2):  # a session that is used again keeps it
            with ledger.database.write() as connection:
                assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"


# -- what was acknowledged, and can or cannot be read later ----------------------------------------


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
def test_a_disk_that_does_not_give_an_image_is_asked_again(
    tmp_path: Path,
    small_bundle: Path,
    orthanc: Orthanc,
    chest_series: list[Path],
    disk: FailingDisk,
) -> None:
    """EIO says nothing about the image: the series is not rejected, and read when it can be."""
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc]) as node:
        node.start("listen", "reconcile", "deliver")
        node.environment = disk.environment
        disk.fail("read", errno.EIO, "/spool/instances/")
        node.start("work")
        assert node.send(chest_series).returncode == 0
        status = node.wait_for_state(
            uid, lambda found: found.attempts == 1 and found.analysis_state == "waiting", "tried"
        )
        assert "DiskFailed" in status.reason
        disk.heal()
        status = node.wait_until_delivered(uid)
        assert status.attempts == 2
        assert_exactly_one_result_set(orthanc, node.ledger_url, uid)


@pytest.mark.slow
@pytest.mark.peer("dcmtk")
def test_a_reconciler_outlives_a_disk_that_does_not_give_an_image(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path], disk: FailingDisk
) -> None:
    """Frames of an enhanced CT are read before anybody analyses it."""
    path = enhanced(chest_series, tmp_path / "ct.dcm")
    uid = str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
    with Node(tmp_path / "node", small_bundle) as node:
        node.start("listen")
        node.environment = disk.environment
        disk.fail("read", errno.EIO, "/spool/instances/")
        node.start("reconcile")
        assert node.send([path]).returncode == 0
        node.wait_for_state(uid, lambda found: found.state == "complete", "complete")
        log = node.log("reconcile")
        node.wait_for(lambda: log.read_text().count("series not readable now") > 2, "tried", 60)
        disk.heal()
        node.wait_for_state(uid, lambda found: found.analysis_state == "waiting", "selected")
        assert node.processes["reconcile"].poll() is None


def test_a_decoder_tells_a_failing_disk_from_a_bad_file(
    tmp_path: Path, chest_series: list[Path]
) -> None:
    good, failing = chest_series[0], tmp_path / "eio.dcm"
    shutil.copyfile(good, failing)
    header = dcmread(good, stop_before_pixels=True)
    planes = [Plane(0, "x", header.Rows, header.Columns, Rescale(1.0, -1024.0), None)]
    with DecoderPool(1, module="support.failing_reader") as pool:
        with pytest.raises(DiskFailed):
            next(pool(failing, planes))
        [hu] = [np.array(plane) for plane in pool(good, planes)]
        assert hu.shape == (header.Rows, header.Columns)


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
def _tear(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1000] ^= 0x10  # of one pixel: no decoder could notice
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_tear, _flip_a_bit])
def test_a_file_damaged_after_its_acknowledgement(
    tmp_path: Path,
    small_bundle: Path,
    orthanc: Orthanc,
    chest_series: list[Path],
    damage: Callable[[Path], None],
) -> None:
    """No reading is made of half an image or another; sent once more, the series is read."""
    uid = str(dcmread(chest_series[0], stop_before_pixels=True).SeriesInstanceUID)
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc]) as node:
        node.start("listen", "reconcile", "deliver")
        assert node.send(chest_series).returncode == 0
        node.wait_for_state(uid, lambda found: found.analysis_state == "waiting", "waiting")
        torn = sorted((node.directory / "state" / "spool" / "instances").glob("*/*.dcm"))[7]
        damage(torn)
        node.start("work")
        status = node.wait_for_state(
            uid, lambda found: found.analysis_state == "rejected", "set aside"
        )
        assert "incomplete" in status.reason
        assert orthanc.instance_count() == 0
        assert node.send(chest_series).returncode == 0
        retried = node.m3lung("retry", "--uid", uid)
        assert retried.returncode == 0, retried.stderr
        node.wait_until_delivered(uid)
        assert_exactly_one_result_set(orthanc, node.ledger_url, uid)
