"""The system clock is set while the node runs: an hour ahead, two hours back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.audit import AuditTrail, verify
from dicom_node.stopwatch import Stopwatch
from support.held import assert_exactly_one_result_set
from support.jumping_clock import JumpingClock
from support.node import Node
from support.orthanc import Orthanc

AHEAD, BACK = 3600, -7200


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    return JumpingClock(tmp_path / "clock")


@pytest.fixture
def node(
    tmp_path: Path, small_bundle: Path, orthanc: Orthanc, clock: JumpingClock
) -> Iterator[Node]:
    with Node(
        tmp_path / "node", small_bundle, pacs=[orthanc], environment=clock.environment
    ) as made:
        # Long enough for a slow machine: what closes a series here is evidence, or a jump.
        config = made.config.read_text()
        made.config.write_text(config.replace("quiet_period_s = 6.0", "quiet_period_s = 60.0"))
        yield made


def uid_of(files: list[Path]) -> str:
    return str(dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)


def assert_read_once(node: Node, orthanc: Orthanc, files: list[Path]) -> None:
    status = node.wait_until_delivered(uid_of(files))
    assert (status.revision, status.received) == (1, len(files))
    assert status.closing_reason == "released_and_gap_free"
    assert_exactly_one_result_set(orthanc, node.ledger_url, uid_of(files))
    assert verify(AuditTrail(node.directory / "state" / "audit")).ok


def test_the_clock_of_a_process_can_be_set(clock: JumpingClock) -> None:
    assert abs(clock.error_s()) < 30
    clock.set_by(BACK)
    assert abs(clock.error_s() - BACK) < 30


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("jump", [AHEAD, BACK])
def test_set_while_a_series_arrives(
    node: Node, clock: JumpingClock, orthanc: Orthanc, chest_series: list[Path], jump: int
) -> None:
    """Half of the series is no older for it, and is not read by itself."""
    node.start()
    assert node.send(chest_series[:12]).returncode == 0
    time.sleep(1.5)
    clock.set_by(jump)
    time.sleep(2.0)
    assert node.send(chest_series[12:]).returncode == 0
    assert_read_once(node, orthanc, chest_series)


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("jump", [AHEAD, BACK])
def test_set_while_a_series_is_read(
    node: Node, clock: JumpingClock, orthanc: Orthanc, chest_series: list[Path], jump: int
) -> None:
    node.start()
    assert node.send(chest_series).returncode == 0
    node.wait_for_state(
        uid_of(chest_series), lambda found: found.analysis_state == "running", "analysing"
    )
    clock.set_by(jump)
    assert_read_once(node, orthanc, chest_series)


@pytest.mark.slow
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
def test_set_back_while_work_waits(
    node: Node, clock: JumpingClock, orthanc: Orthanc, chest_series: list[Path]
) -> None:
    """What was to be done now is not to be done in two hours."""
    node.start("listen", "reconcile")
    orthanc.kill()
    assert node.send(chest_series).returncode == 0
    uid = uid_of(chest_series)
    node.wait_for_state(uid, lambda found: found.analysis_state == "waiting", "queued")
    clock.set_by(BACK)
    node.start("work", "deliver")
    node.wait_for_state(
        uid,
        lambda found: any(item.last_error for item in found.deliveries),
        "the destination does not answer",
    )
    clock.set_by(2 * BACK)
    orthanc.start()
    assert_read_once(node, orthanc, chest_series)


# -- the stopwatch, by itself ----------------------------------------------------------------------


def test_time_passes_as_the_steady_clock_says() -> None:
    steady = Clock()
    watch = Stopwatch(steady)
    watch.begin_round()
    assert watch.elapsed_s("a", since=5000.0, now=5007.0) == 7.0  # before the first round
    for now in (5008.0, 9999.0, 1.0):  # the system clock goes, jumps ahead, jumps back
        steady.now += 1.0
        watch.begin_round()
        last = watch.elapsed_s("a", since=5000.0, now=now)
    assert last == 10.0


def test_what_is_new_is_no_older_than_the_last_round() -> None:
    steady = Clock()
    watch = Stopwatch(steady)
    watch.begin_round()
    watch.elapsed_s("a", since=5000.0, now=5000.5)
    steady.now += 0.5
    watch.begin_round()
    assert watch.elapsed_s("b", since=5000.7, now=8600.0) == 0.5  # began, and the clock was set
    assert watch.elapsed_s("a", since=5000.8, now=8600.0) == 0.5  # happened once more
    steady.now += 2.0
    watch.begin_round()
    assert watch.elapsed_s("b", since=5000.7, now=8602.0) == 2.5
    assert watch.elapsed_s("a", since=5000.8, now=1.0) == 2.5
    assert watch.elapsed_s("c", since=8601.5, now=8602.0) == 0.5  # an honest clock is believed
    assert watch.elapsed_s("d", since=9000.0, now=8602.0) == 0.0


def test_what_nobody_asks_for_is_forgotten() -> None:
    steady = Clock()
    watch = Stopwatch(steady)
    for _ in range(2):
        watch.begin_round()
        watch.elapsed_s("a", since=0.0, now=100.0)
        steady.now += 1.0
    watch.begin_round()
    steady.now += 1.0
    watch.begin_round()
    assert watch.elapsed_s("a", since=0.0, now=200.0) == 1.0
