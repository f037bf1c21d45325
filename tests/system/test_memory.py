"""A worker out of memory as a whole: killed by the kernel, or refused every further byte."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from support.memory_cgroup import MemoryCgroup
from support.node import Node
from support.orthanc import Orthanc
from support.synthetic_ct import synthetic_series

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("dcmtk"),
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

ROOM = 4 << 20  # bytes beyond what an idle worker holds


@pytest.fixture
def cgroup() -> Iterator[MemoryCgroup]:
    group = MemoryCgroup(f"m3lung-test-{os.getpid()}")
    yield group
    group.remove()


@pytest.fixture
def node(tmp_path: Path, small_bundle: Path, orthanc: Orthanc) -> Iterator[Node]:
    with Node(tmp_path / "node", small_bundle, pacs=[orthanc]) as made:
        made.environment = {"M3LUNG_ANALYSIS__DECODERS": "1"}
        yield made


@pytest.fixture
def large_series(tmp_path: Path) -> list[Path]:
    """Needs some 100 MB to be read, and is the next patient's."""
    made = synthetic_series(
        tmp_path / "large", slices=40, matrix=512, patient_id="LARGE", study="LARGE", seed=1
    )
    return list(made.paths)


def uid_of(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def test_killed_by_the_kernel_three_times_and_set_aside(
    node: Node,
    cgroup: MemoryCgroup,
    chest_series: list[Path],
    large_series: list[Path],
) -> None:
    """The series that needs more than there is stops nobody else."""
    node.start("listen", "reconcile", "deliver")
    uid = uid_of(large_series)
    assert node.send(large_series).returncode == 0
    for attempt in (1, 2, 3):
        node.wait_for_state(uid, lambda found: found.analysis_state == "waiting", "waiting")
        # In the middle of its work it is moved to where there is no memory left.
        node.start("work")
        worker = node.processes["work"]
        node.wait_for_state(
            uid, lambda found, n=attempt: found.attempts == n, "claimed", timeout_s=90
        )  # fmt: skip
        cgroup.limit(ROOM)
        cgroup.take(worker.pid)
        node.wait_for(lambda part=worker: part.poll() is not None, "the kernel killed it", 90)
        assert worker.returncode == -signal.SIGKILL
        cgroup.limit(1 << 40)
    status = node.wait_for_state(
        uid, lambda found: found.analysis_state == "quarantined", "set aside", timeout_s=30
    )
    assert "ended its worker 3 times" in status.reason

    node.start("work")
    assert node.send(chest_series).returncode == 0
    node.wait_until_delivered(uid_of(chest_series))
    retried = node.m3lung("retry", "--uid", uid)
    assert retried.returncode == 0, retried.stderr
    node.wait_until_delivered(uid)


def test_refused_every_further_byte(
    node: Node, chest_series: list[Path], large_series: list[Path]
) -> None:
    """Without memory no judgement of a series: it is given back, and read when there is some."""
    node.start()
    assert node.send(chest_series).returncode == 0
    node.wait_until_delivered(uid_of(chest_series))
    worker = psutil.Process(node.processes["work"].pid)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + ROOM, psutil.RLIM_INFINITY))
    assert node.send(large_series).returncode == 0
    uid = uid_of(large_series)
    status = node.wait_for_state(
        uid,
        lambda found: found.attempts >= 1 and found.analysis_state != "running",
        "the worker gave up",
    )
    assert status.analysis_state == "waiting", status.reason
    if node.processes["work"].poll() is None:
        worker.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    else:
        node.start("work")
    assert node.wait_until_delivered(uid).attempts <= 3
