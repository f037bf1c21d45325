"""The broker through real worker processes: the embedded one and Redis."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.broker import (
    ANALYSIS_QUEUE,
    ANALYZE_TASK,
    DELIVERY_QUEUE,
    Nudger,
    check_broker,
    make_app,
)
from dicom_node.errors import BrokerUnavailable, ConfigurationError
from dicom_node.settings import NodeSettings
from support.ports import free_port
from support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]

# The whole worker: records what it starts; ids from 1000 on sleep, 666 fails with patient data.
WORKER = """
import os, sys, time
from dicom_node.broker import ANALYZE_TASK, DELIVER_TASK, make_app, run_worker
from dicom_node.logs import configure
from dicom_node.settings import NodeSettings

configure("debug")
state_dir, url, queue, record, limit = sys.argv[1:]
app = make_app(NodeSettings(
    state_dir=state_dir, broker={"url": url}, analysis={"time_limit_s": float(limit)},
))
out = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def run(kind, row_id):
    os.write(out, f"{kind} {row_id} begin {type(row_id).__name__}\\n".encode())
    if row_id == 666:
        raise ValueError("Canary^Patient")
    if row_id >= 1000:
        time.sleep(row_id / 1000)
    os.write(out, f"{kind} {row_id} end\\n".encode())

@app.task(name=ANALYZE_TASK)
def analyze(row_id):
    run("analyze", row_id)

@app.task(name=DELIVER_TASK)
def deliver(row_id):
    run("deliver", row_id)

os.write(out, b"ready\\n")
run_worker(app, queue)
"""


class Bench:
    """A state directory, a broker and worker processes."""

    def __init__(self, folder: Path, url: str) -> None:
        self.settings = NodeSettings(state_dir=folder / "state", broker={"url": url})
        self.app = make_app(self.settings)
        self.nudger = Nudger(self.app)
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []

    @property
    def lines(self) -> list[str]:
        path = self._folder / "record"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def log(self) -> str:
        return (self._folder / "worker.log").read_text()

    def worker(self, queue: str = ANALYSIS_QUEUE, limit_s: float = 60) -> subprocess.Popen[bytes]:
        ready = self.lines.count("ready")
        arguments = [str(self._folder / "state"), self.settings.broker.url, queue]
        with (self._folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-W", "error::DeprecationWarning:dicom_node", "-c", WORKER,
                 *arguments, str(self._folder / "record"), str(limit_s)],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
            )  # fmt: skip
        self._workers.append(process)
        self.until(lambda: self.lines.count("ready") > ready)
        return process

    def until(self, holds: Callable[[], bool], limit_s: float = 20) -> None:
        end = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < end, f"waited {limit_s} s; record {self.lines}; {self.log}"
            time.sleep(0.02)

    def nudged(self, row_id: int) -> bool:
        """Nudge; return whether the broker took it."""
        try:
            self.nudger.analysis(row_id)
        except BrokerUnavailable:
            return False
        return True

    def began(self, row_id: int, kind: str = "analyze") -> int:
        return sum(line.startswith(f"{kind} {row_id} begin") for line in self.lines)

    def close(self) -> None:
        self.nudger.close()
        for process in self._workers:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "")
    yield bench
    bench.close()


@pytest.fixture
def with_redis(tmp_path: Path, redis_url: str) -> Iterator[Bench]:
    bench = Bench(tmp_path, redis_url)
    yield bench
    bench.close()


@pytest.fixture(params=["embedded", pytest.param("with_redis", marks=pytest.mark.peer("redis"))])
def bench(request: pytest.FixtureRequest) -> Bench:
    return request.getfixturevalue(request.param)


# -- the main job ---------------------------------------------------------------------------------


def test_nudges_reach_the_worker_of_their_queue(bench: Bench) -> None:
    bench.worker(ANALYSIS_QUEUE)
    bench.worker(DELIVERY_QUEUE)
    bench.nudger.analysis(17)
    bench.nudger.delivery(17)
    bench.nudger.delivery(18)
    wanted = ["analyze 17 begin int", "deliver 17 begin int", "deliver 18 begin int"]
    bench.until(lambda: sorted(line for line in bench.lines if "begin" in line) == wanted)


def test_nudges_sent_before_any_worker_wait_for_it(bench: Bench) -> None:
    for row_id in (1, 2, 3):
        bench.nudger.analysis(row_id)
    assert "3 analysis nudges, 0 delivery nudges" in check_broker(bench.app)
    bench.worker()
    bench.until(lambda: "analyze 3 end" in bench.lines)
    assert [line for line in bench.lines if "end" in line] == [
        "analyze 1 end", "analyze 2 end", "analyze 3 end",
    ]  # fmt: skip


def test_two_workers_share_and_start_nothing_twice(bench: Bench) -> None:
    bench.worker()
    bench.worker()
    for row_id in range(1, 101):
        bench.nudger.analysis(row_id)
    bench.until(lambda: sum("end" in line for line in bench.lines) >= 100)
    time.sleep(0.5)
    assert [bench.began(row_id) for row_id in range(1, 101)] == [1] * 100


def test_a_failing_task_stops_nothing_and_tells_no_patient_data(bench: Bench) -> None:
    worker = bench.worker()
    bench.nudger.analysis(666)
    bench.nudger.analysis(5)
    bench.until(lambda: "analyze 5 end" in bench.lines)
    assert worker.poll() is None
    records = [json.loads(line) for line in bench.log.splitlines() if line.startswith("{")]
    failed = [record for record in records if record["event"] == "a task failed"]
    assert failed[0]["exception"][0] == "builtins.ValueError"
    assert "Canary" not in bench.log


# -- faults ---------------------------------------------------------------------------------------


def test_a_killed_worker_loses_no_waiting_nudge(bench: Bench) -> None:
    worker = bench.worker()
    bench.nudger.analysis(60_000)
    bench.until(lambda: bench.began(60_000) == 1)
    bench.nudger.analysis(1)
    bench.nudger.analysis(2)
    worker.kill()
    worker.wait()
    bench.worker()
    bench.until(lambda: {"analyze 1 end", "analyze 2 end"} <= set(bench.lines))


def test_sigterm_finishes_the_task_begun(bench: Bench) -> None:
    worker = bench.worker()
    bench.nudger.analysis(2000)
    bench.until(lambda: bench.began(2000) == 1)
    bench.nudger.analysis(3)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert "analyze 2000 end" in bench.lines
    assert bench.began(3) == 0
    bench.worker()
    bench.until(lambda: bench.began(3) == 1)
    assert bench.began(2000) == 1


def test_a_task_beyond_the_time_limit_ends_its_worker(embedded: Bench) -> None:
    worker = embedded.worker(limit_s=1)
    embedded.nudger.analysis(500)
    embedded.until(lambda: "analyze 500 end" in embedded.lines)
    time.sleep(1.2)  # a task that ended in time must not be counted any longer
    assert worker.poll() is None
    embedded.nudger.analysis(60_000)
    assert worker.wait(timeout=10) == -signal.SIGKILL
    assert "ran too long" in embedded.log


@pytest.mark.peer("redis")
def test_redis_may_be_flushed_killed_and_come_back(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    bench = Bench(tmp_path, redis_server.url)
    try:
        bench.worker()
        bench.nudger.analysis(1)
        bench.until(lambda: bench.began(1) == 1)
        redis_server.flush()
        bench.nudger.analysis(2)
        bench.until(lambda: bench.began(2) == 1)
        redis_server.kill()
        with pytest.raises(BrokerUnavailable):
            bench.nudger.analysis(3)
        redis_server.start()
        bench.until(lambda: bench.nudged(4), 10)
        bench.until(lambda: bench.began(4) >= 1, 30)
    finally:
        bench.close()


@pytest.mark.peer("redis")
@pytest.mark.parametrize("comes_back", ["before the end", "after the end"])
def test_a_redis_that_dies_while_a_task_runs_stops_no_worker(
    tmp_path: Path, redis_server: RedisServer, comes_back: str
) -> None:
    """Its acknowledgement fails: that must not count as a task under way for ever."""
    bench = Bench(tmp_path, redis_server.url)
    try:
        bench.worker()
        bench.nudger.analysis(3000)
        bench.until(lambda: bench.began(3000) == 1)
        redis_server.kill()
        if comes_back == "after the end":
            bench.until(lambda: "analyze 3000 end" in bench.lines)
            bench.until(lambda: "Couldn't ack" in bench.log)
        redis_server.start()
        bench.until(lambda: bench.nudged(4), 30)
        bench.until(lambda: bench.began(4) >= 1, 60)
        # … and so for every further one.
        bench.until(lambda: bench.nudged(5), 30)
        bench.until(lambda: bench.began(5) >= 1, 60)
    finally:
        bench.close()


@pytest.mark.peer("redis")
def test_a_redis_that_hangs_holds_nobody_up(tmp_path: Path, redis_server: RedisServer) -> None:
    nudger = Nudger(make_app(NodeSettings(state_dir=tmp_path, broker={"url": redis_server.url})))
    nudger.analysis(1)
    redis_server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            nudger.analysis(2)
        assert time.monotonic() - began < 5
        began = time.monotonic()
        for row_id in range(100):
            with pytest.raises(BrokerUnavailable, match="a moment ago"):
                nudger.analysis(row_id)
        assert time.monotonic() - began < 0.5
    finally:
        redis_server.resume()
        nudger.close()


def test_a_redis_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    url = f"redis://:very-secret@127.0.0.1:{free_port()}/0"
    app = make_app(NodeSettings(state_dir=tmp_path, broker={"url": url}))
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        Nudger(app).analysis(1)
    with pytest.raises(BrokerUnavailable):
        check_broker(app)
    assert time.monotonic() - began < 5
    assert "very-secret" not in str(caught.value)


@pytest.mark.peer("redis")
def test_a_wrong_password_is_told_without_it(tmp_path: Path, redis_server: RedisServer) -> None:
    url = redis_server.url.replace(redis_server.password, "very-secret")
    nudger = Nudger(make_app(NodeSettings(state_dir=tmp_path, broker={"url": url})))
    with pytest.raises(BrokerUnavailable, match=r"uthentication|WRONGPASS|password") as caught:
        nudger.analysis(1)
    assert "very-secret" not in str(caught.value)
    said = check_broker(make_app(NodeSettings(broker={"url": redis_server.url})))
    assert redis_server.password not in said
    assert str(redis_server.port) in said


def test_the_embedded_broker_without_its_directory(embedded: Bench) -> None:
    embedded.nudger.analysis(1)
    (embedded.settings.root / "broker/messages").rename(embedded.settings.root / "away")
    with pytest.raises(BrokerUnavailable):
        embedded.nudger.analysis(2)
    (embedded.settings.root / "away").rename(embedded.settings.root / "broker/messages")
    embedded.worker()
    embedded.until(lambda: embedded.began(1) == 1)


def test_a_torn_message_is_passed_over(embedded: Bench) -> None:
    messages = embedded.settings.root / "broker/messages"
    for number, text in enumerate(["", "{", "null\n[", "\x00" * 700]):
        (messages / f"{number:020d}_torn.{ANALYSIS_QUEUE}.msg").write_text(text)
    worker = embedded.worker()
    embedded.nudger.analysis(1)
    embedded.until(lambda: "analyze 1 end" in embedded.lines)
    assert worker.poll() is None
    assert list(messages.iterdir()) == []
    assert list((embedded.settings.root / "broker/taken").iterdir()) == []


def test_leftovers_of_killed_processes_are_swept(embedded: Bench) -> None:
    taken = embedded.settings.root / "broker/taken"
    old, fresh = taken / "old.msg", taken / "fresh.msg"
    old.touch()
    fresh.touch()
    os.utime(old, (time.time() - 3600,) * 2)
    make_app(embedded.settings)
    assert list(taken.iterdir()) == [fresh]


# -- what is on the broker, and how it is set up --------------------------------------------------


def test_a_message_holds_one_integer_and_nothing_of_the_patient(embedded: Bench) -> None:
    embedded.nudger.analysis(17)
    (path,) = (embedded.settings.root / "broker/messages").iterdir()
    message = json.loads(path.read_text())
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([17], {})
    headers = {name: value for name, value in message["headers"].items() if value}
    assert set(headers) <= {
        "id", "root_id", "task", "lang", "argsrepr", "kwargsrepr", "origin", "timelimit", "retries",
        "ignore_result", "replaced_task_nesting", "stamps",
    }  # fmt: skip
    assert (headers["task"], headers["argsrepr"]) == (ANALYZE_TASK, "[17]")


def test_only_the_owner_may_look_into_the_embedded_broker(embedded: Bench) -> None:
    folder = embedded.settings.root / "broker"
    for path in (embedded.settings.root, folder, *folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_the_settings_that_keep_work_safe(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0"
    settings = NodeSettings(
        state_dir=tmp_path, broker={"url": url}, analysis={"time_limit_s": 1000}
    )
    conf = make_app(settings).conf
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.result_backend is None
    assert conf.accept_content == ["json"]
    assert conf.task_time_limit == 1000
    assert conf.broker_transport_options["visibility_timeout"] > 2 * 1000
    assert conf.broker_transport_options["unacked_restore_throttle"] == 1
    assert conf.broker_connection_retry_on_startup
    assert not conf.worker_enable_remote_control


@pytest.mark.parametrize("url", ["amqp://localhost", "memory://", "sqla+sqlite:///x", "redis"])
def test_other_brokers_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"broker\.url"):
        make_app(NodeSettings(broker={"url": url}))


def test_no_torch_on_the_way_to_the_broker() -> None:
    code = (
        "import sys, dicom_node.broker, dicom_node.completion, dicom_node.selection; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
