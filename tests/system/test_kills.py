"""Kill the worker, the broker, the whole node: exactly one result set all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from support.held import assert_exactly_one_result_set
from support.node import Node
from support.orthanc import Orthanc
from support.redis_server import RedisServer

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.slow]


def uid_of(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


@pytest.fixture
def node(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc, redis_server: RedisServer
) -> Iterator[Node]:
    """A node whose parts the test starts, with Redis as its broker and Orthanc as its PACS."""
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc], broker_url=redis_server.url) as made:
        yield made


@pytest.mark.peer("redis")
@pytest.mark.parametrize(
    "crash_point",
    ["worker.after_claim", "worker.in_inference", "worker.after_write", "worker.before_commit"],
)
def test_a_worker_killed_mid_analysis(
    node: Node, crash_point: str, chest_series: list[Path], orthanc: Orthanc
) -> None:
    node.start("listen", "reconcile", "deliver")
    node.start("work", crash_at=crash_point)
    assert node.send(chest_series).returncode == 0
    worker = node.processes["work"]
    node.wait_for(lambda: worker.poll() is not None, "the worker is killed", 90)
    assert worker.returncode == -signal.SIGKILL
    node.start("work")
    status = node.wait_until_delivered(uid_of(chest_series))
    assert status.attempts == 2
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))


def test_a_delivery_killed_after_c_store(
    node: Node, chest_series: list[Path], orthanc: Orthanc
) -> None:
    """The PACS holds an object that the ledger does not know as sent: it is sent again, once."""
    node.start("listen", "reconcile", "work")
    node.start("deliver", crash_at="delivery.after_c_store")
    assert node.send(chest_series).returncode == 0
    sender = node.processes["deliver"]
    node.wait_for(lambda: sender.poll() is not None, "the sender is killed", 90)
    assert orthanc.instance_count() == 1
    node.start("deliver")
    node.wait_until_delivered(uid_of(chest_series))
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))


@pytest.mark.peer("redis")
def test_the_broker_killed_and_emptied(
    node: Node, chest_series: list[Path], redis_server: RedisServer, orthanc: Orthanc
) -> None:
    node.start("listen", "reconcile", "deliver")  # nobody analyses yet: the nudge waits in Redis
    assert node.send(chest_series).returncode == 0
    node.wait_for_state(
        uid_of(chest_series), lambda found: found.analysis_state == "waiting", "queued"
    )
    redis_server.kill()
    redis_server.start()
    redis_server.flush()
    node.start("work")
    node.wait_until_delivered(uid_of(chest_series))
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(chest_series))


def test_receiving_goes_on_without_a_broker(
    node: Node, chest_series: list[Path], redis_server: RedisServer
) -> None:
    redis_server.kill()
    node.start("listen", "reconcile")
    assert node.send(chest_series).returncode == 0
    node.wait_for_state(
        uid_of(chest_series), lambda found: found.analysis_state == "waiting", "selected"
    )
    redis_server.start()
    node.start("work", "deliver")
    node.wait_until_delivered(uid_of(chest_series))


def test_the_embedded_default_survives_a_kill_of_everything(
    tmp_path: Path, orthanc: Orthanc, small_bundle: Path, chest_series: list[Path]
) -> None:
    """`m3lung serve`, SQLite and the embedded broker; the whole group dies mid-analysis."""
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc]) as node:
        node.start("serve")
        assert node.send(chest_series).returncode == 0
        uid = uid_of(chest_series)
        node.wait_for_state(uid, lambda found: found.analysis_state == "running", "analysing")
        children = _children(node.processes["serve"].pid)
        assert len(children) == 4
        node.processes["serve"].kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        node.processes.pop("serve").wait()
        node.start("serve")
        status = node.wait_until_delivered(uid)
        assert status.attempts == 2
        assert_exactly_one_result_set(orthanc, node.ledger_url, uid)


def test_the_parts_end_when_serve_is_killed(tmp_path: Path, small_bundle: Path) -> None:
    with Node(tmp_path / "node", small_bundle) as node:
        node.start("serve")
        children = _children(node.processes["serve"].pid)
        node.kill("serve")
        node.wait_for(
            lambda: not any(Path(f"/proc/{pid}").exists() and _is_ours(pid) for pid in children),
            "the parts have ended",
            20,
        )


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def _is_ours(pid: int) -> bool:
    try:
        return b"dicom_node" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
