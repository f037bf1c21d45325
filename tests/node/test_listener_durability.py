"""Acknowledged means durable: crashes, full disks, a locked ledger, many at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy.exc import OperationalError

from dicom_node.domain import Receipt, StoredInstance
from dicom_node.errors import CannotUnderstand, DatasetMismatch, LedgerError, OutOfResources
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival
from dicom_node.reception.group_commit import GroupCommit
from dicom_node.reception.status import SOPClassNotSupported, status_of
from dicom_node.spool import Spool, content_digest
from support.listening import Aborted, ListeningNode, RawSender, ct_dataset, encode

SUCCESS, RESOURCES = 0x0000, 0xA700
CRASH_POINTS = (
    "listener.after_open",
    "listener.after_write",
    "listener.after_fsync",
    "listener.after_rename",
    "listener.before_commit",
    "listener.after_commit",
    "listener.before_response",
)


def assert_kept(node: ListeningNode, acknowledged: Mapping[str, str]) -> None:
    """Check {SOP Instance UID: digest} against spool and ledger, byte by byte."""
    held = node.instances()
    for uid, digest in acknowledged.items():
        assert held[uid][0] == digest
        content = (node.spool / held[uid][1]).read_bytes()
        start = 144 + int.from_bytes(content[140:144], "little")
        assert content_digest(ExplicitVRLittleEndian, content[start:]) == digest


def digest_of(dataset: Dataset) -> str:
    return content_digest(ExplicitVRLittleEndian, encode(dataset))


@pytest.mark.slow
def test_a_kill_at_each_crash_point_loses_nothing_acknowledged(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "crash")
    acknowledged: dict[str, str] = {}
    everything: list[Dataset] = []
    for point in CRASH_POINTS:
        node.environment = {"M3LUNG_CRASH_AT": f"{point}:2"}
        node.start()
        sender = node.sender()
        with contextlib.suppress(Aborted, ConnectionError):
            for number in range(5):
                everything.append(ct_dataset(number))
                assert sender.store_dataset(everything[-1]) == SUCCESS
                acknowledged[str(everything[-1].SOPInstanceUID)] = digest_of(everything[-1])
        sender.socket.close()
        assert node.wait_for_death() == -signal.SIGKILL
        node.kill()
        assert_kept(node, acknowledged)
    assert len(acknowledged) == 2 * len(CRASH_POINTS)

    node.environment = {}
    node.start()
    try:
        # The senders try again, as senders do: every instance ends up there, once.
        with node.sender() as sender:
            for dataset in everything:
                assert sender.store_dataset(dataset) == SUCCESS
        assert_kept(node, {str(one.SOPInstanceUID): digest_of(one) for one in everything})
        assert len(list(node.spool.glob("instances/*/*.dcm"))) == len(everything)
        assert node.sql("select count(*) from instances") == [(len(everything),)]
    finally:
        node.stop()


@pytest.mark.slow
def test_kills_at_any_time_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "load")
    acknowledged: dict[str, str] = {}
    chance = random.Random(4711)

    def send(sender: RawSender) -> None:
        try:
            while True:
                dataset = ct_dataset(size=128)
                if sender.store_dataset(dataset) == SUCCESS:
                    acknowledged[str(dataset.SOPInstanceUID)] = digest_of(dataset)
        except (Aborted, ConnectionError):
            sender.socket.close()

    for round_number in range(1, 6):
        node.start()
        threads = [threading.Thread(target=send, args=(node.sender(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) < 12 * round_number and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)  # anywhere between two acknowledgements
        node.kill()
        for thread in threads:
            thread.join()
        assert_kept(node, acknowledged)
    assert len(acknowledged) >= 60


def mounted(directory: Path, size: str) -> bool:
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)]
    return (
        os.geteuid() == 0
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


def test_a_full_disk_is_never_success(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "full")
    if not mounted(node.spool, "6m"):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        node.start()
        acknowledged, refused = {}, 0
        with node.sender() as sender:
            for number in range(20):
                dataset = ct_dataset(number, size=512)
                status, comment = sender.store(
                    encode(dataset), sop_instance_uid=dataset.SOPInstanceUID
                )
                if status == SUCCESS:
                    acknowledged[str(dataset.SOPInstanceUID)] = digest_of(dataset)
                else:
                    assert (status, comment) == (RESOURCES, "the spool cannot be written (ENOSPC)")
                    refused += 1
            assert len(acknowledged) >= 5
            assert refused >= 5
            assert_kept(node, acknowledged)
            assert list((node.spool / "incoming").iterdir()) == []
            # Room again: the same association goes on.
            next(node.spool.glob("instances/*/*.dcm")).unlink()
            assert sender.store_dataset(ct_dataset(size=64)) == SUCCESS
        subprocess.run(["mount", "-o", "remount,ro", str(node.spool)], check=True)
        with node.sender() as sender:
            assert sender.store_dataset(ct_dataset(size=64)) == RESOURCES
    finally:
        node.stop()
        subprocess.run(["umount", str(node.spool)], check=True)


def test_a_kernel_size_limit_is_never_success(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "limit", preexec="ulimit -f 2048")  # blocks of 512 bytes
    node.start()
    try:
        with node.sender() as sender:
            big, small = ct_dataset(size=1024), ct_dataset(size=64)
            assert sender.store_dataset(big) == RESOURCES
            assert sender.store_dataset(small) == SUCCESS
        assert_kept(node, {str(small.SOPInstanceUID): digest_of(small)})
        assert list((node.spool / "incoming").iterdir()) == []
    finally:
        node.stop()


def test_a_ledger_that_cannot_be_written_is_never_success(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "ledger")
    node.start()
    try:
        with node.sender() as sender:
            assert sender.store_dataset(ct_dataset()) == SUCCESS
            node.sql("alter table instances rename to elsewhere")
            status, comment = sender.store(
                encode(refused := ct_dataset()), sop_instance_uid=refused.SOPInstanceUID
            )
            assert (status, comment) == (RESOURCES, "the ledger cannot be written")
            node.sql("alter table elsewhere rename to instances")
            assert sender.store_dataset(refused) == SUCCESS
    finally:
        node.stop()


def test_many_associations_at_once(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "many")
    node.start()
    acknowledged: dict[str, str] = {}
    try:

        def send(number: int) -> None:
            with node.sender() as sender:
                for index in range(15):
                    dataset = ct_dataset(index, series=f"2.25.{100 + number}")
                    assert sender.store_dataset(dataset) == SUCCESS
                    acknowledged[str(dataset.SOPInstanceUID)] = digest_of(dataset)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(acknowledged) == 16 * 15
        assert_kept(node, acknowledged)
    finally:
        node.stop()


def test_two_processes_share_the_port_and_a_dead_one_comes_back(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "two", processes=2)
    node.start()
    try:
        parent = psutil.Process(node.pid)
        first = {child.pid for child in parent.children()}
        assert len(first) == 2
        acknowledged: dict[str, str] = {}
        for number in range(12):  # the kernel spreads connections over both
            with node.sender() as sender:
                dataset = ct_dataset(number)
                assert sender.store_dataset(dataset) == SUCCESS
                acknowledged[str(dataset.SOPInstanceUID)] = digest_of(dataset)
        assert_kept(node, acknowledged)

        os.kill(min(first), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            now = {child.pid for child in parent.children()}
            if len(now) == 2 and min(first) not in now:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the dead process was not started again")
        time.sleep(0.5)
        for _ in range(8):
            assert node.echo_seconds() < 2
        children = parent.children()
    finally:
        node.stop()
    assert not any(child.is_running() for child in children)


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "orphans", processes=2)
    node.start()
    children = psutil.Process(node.pid).children()
    node.kill()
    gone, alive = psutil.wait_procs(children, timeout=8)
    for child in alive:
        child.kill()
    assert not alive
    assert len(gone) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_series(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "memory")
    node.start()
    try:
        process = psutil.Process(node.pid)
        sizes = []
        template = encode(ct_dataset(size=256, SOPInstanceUID="2.25.1000"))
        with node.sender() as sender:
            for number in range(1000):
                name = f"2.25.{1000 + number}"
                encoded = template.replace(b"2.25.1000", name.encode())
                assert sender.store(encoded, sop_instance_uid=name)[0] == SUCCESS
                if number % 100 == 99:
                    sizes.append(process.memory_info().rss)
        assert max(sizes) < 150e6
        assert sizes[-1] - sizes[1] < 5e6, sizes
        assert node.sql("select count(*) from instances") == [(1000,)]
    finally:
        node.stop()


def test_one_large_instance_costs_no_memory(tmp_path: Path) -> None:
    node = ListeningNode(tmp_path / "large")
    node.start()
    try:
        with node.sender() as sender:
            assert sender.store_dataset(ct_dataset(size=64)) == SUCCESS
            before = psutil.Process(node.pid).memory_info().rss
            assert sender.store_dataset(ct_dataset(size=6000)) == SUCCESS  # 72 MB
        assert psutil.Process(node.pid).memory_info().rss - before < 5e6
    finally:
        node.stop()


# -- group commit, by itself -----------------------------------------------------------------------


def arrival(number: int) -> Arrival:
    header = InstanceHeader(
        sop_instance_uid=f"1.2.{number}",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2",
        study_instance_uid="1.2",
        series_instance_uid="1.2",
    )
    digest = f"{number:064x}"
    return Arrival(1, header, StoredInstance(digest, Path("instances", "00", digest), 1))


def at_once() -> None:
    """Make a file durable on a disk that takes no time."""


class SlowIntake:
    """Takes batches and refuses those that hold a poisoned arrival, as a database would."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def open_association(self, *, calling_ae: str, called_ae: str, address: str) -> int:
        return 1

    def close_association(
        self, association_id: int, *, outcome: str, ignored: Mapping[str, int]
    ) -> None:
        pass

    def record_instances(
        self,
        arrivals: Sequence[Arrival],
        *,
        is_kept: Callable[[StoredInstance], bool],
        before_commit: Callable[[], None],
    ) -> list[Receipt]:
        time.sleep(0.05)
        uids = [one.header.sop_instance_uid for one in arrivals]
        if "1.2.13" in uids:
            raise OperationalError("insert", None, Exception("poisoned"))
        before_commit()
        self.batches.append(uids)
        return [Receipt.STORED] * len(arrivals)


def test_those_who_wait_share_one_commit_and_a_bad_one_fails_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    intake = SlowIntake()
    commit = GroupCommit(spool, intake)
    outcomes: dict[int, object] = {}

    def one(number: int) -> None:
        try:
            outcomes[number] = commit.commit(arrival(number), at_once)
        except OperationalError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n for n, outcome in outcomes.items() if outcome is Receipt.STORED} == set(range(20)) - {
        13
    }
    assert isinstance(outcomes[13], OperationalError)
    assert sorted(uid for batch in intake.batches for uid in batch) == sorted(
        f"1.2.{n}" for n in range(20) if n != 13
    )


class MoodyIntake(SlowIntake):
    """A database that is quick, and refuses a batch or a single one now and then."""

    def record_instances(
        self,
        arrivals: Sequence[Arrival],
        *,
        is_kept: Callable[[StoredInstance], bool],
        before_commit: Callable[[], None],
    ) -> list[Receipt]:
        number = int(arrivals[0].header.sop_instance_uid.rsplit(".", 1)[1])
        if len(arrivals) > 1 and number % 7 == 0:
            raise OperationalError("insert", None, Exception("locked"))
        if number % 10 == 3:
            raise OperationalError("insert", None, Exception("poisoned"))
        before_commit()
        self.batches.append([one.header.sop_instance_uid for one in arrivals])
        return [Receipt.STORED] * len(arrivals)


def test_nobody_waits_for_ever_and_nobody_is_told_what_is_not_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    intake = MoodyIntake()
    commit = GroupCommit(spool, intake)
    told: dict[int, bool] = {}

    def association(first: int) -> None:
        for number in range(first, first + 40):
            try:
                told[number] = commit.commit(arrival(number), at_once) is Receipt.STORED
            except OperationalError:
                told[number] = False

    threads = [
        threading.Thread(target=association, args=(first,), daemon=True)
        for first in range(0, 640, 40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    recorded = [uid for batch in intake.batches for uid in batch]
    assert len(told) == 640
    assert sorted(recorded) == sorted(f"1.2.{number}" for number, ok in told.items() if ok)
    assert 0 < sum(told.values()) < 640
    # The last one left nobody behind, and the next one finds its way.
    assert commit.commit(arrival(1000), at_once) is Receipt.STORED


@pytest.mark.parametrize("quick", [False, True], ids=["flush first", "flush beside"])
def test_a_file_that_cannot_be_made_durable_is_not_recorded(tmp_path: Path, quick: bool) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    intake = SlowIntake()
    commit = GroupCommit(spool, intake)

    def broken() -> None:
        raise OutOfResources("EIO")

    if quick:  # the disk is known to be
        assert commit.commit(arrival(0), at_once) is Receipt.STORED
        intake.batches.clear()
    with pytest.raises(OutOfResources, match="EIO"):
        commit.commit(arrival(1), broken)
    assert intake.batches == []
    assert commit.commit(arrival(2), at_once) is Receipt.STORED


class WatchedIntake(SlowIntake):
    """Notes when its transactions began and ended."""

    def __init__(self) -> None:
        super().__init__()
        self.open_s: list[float] = []

    def record_instances(
        self,
        arrivals: Sequence[Arrival],
        *,
        is_kept: Callable[[StoredInstance], bool],
        before_commit: Callable[[], None],
    ) -> list[Receipt]:
        began = time.monotonic()
        try:
            before_commit()
        finally:
            self.open_s.append(time.monotonic() - began)
        return [Receipt.STORED] * len(arrivals)


def test_no_transaction_stays_open_for_a_disk_that_has_become_slow(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    intake = WatchedIntake()
    commit = GroupCommit(spool, intake)
    durable = threading.Event()

    def slow() -> None:
        time.sleep(1.0)
        durable.set()

    assert commit.commit(arrival(0), at_once) is Receipt.STORED
    assert commit.commit(arrival(1), slow) is Receipt.STORED
    assert durable.is_set()  # not acknowledged before
    assert len(intake.open_s) == 3  # given up once, and taken up again when the file was durable
    assert max(intake.open_s) < 0.5
    # The disk is known to be slow now: the flush comes before the transaction.
    durable.clear()
    assert commit.commit(arrival(2), slow) is Receipt.STORED
    assert durable.is_set()
    assert len(intake.open_s) == 4


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfResources("x"), 0xA700),
        (DatasetMismatch("x"), 0xA900),
        (CannotUnderstand("x"), 0xC000),
        (SOPClassNotSupported("x"), 0x0122),
        (LedgerError("secret"), 0xA700),
        (OperationalError("secret", None, Exception()), 0xA700),
        (OSError("secret"), 0xA700),
        (MemoryError("secret"), 0xA700),
        (ValueError("secret"), 0xC001),
    ],
)
def test_status_table(error: Exception, status: int) -> None:
    found, comment = status_of(error)
    assert found == status
    assert "secret" not in comment
    assert 0 < len(comment) <= 64
