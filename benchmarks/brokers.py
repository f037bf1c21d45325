"""Try the transports of kombu that need no server (and Redis, for comparison) as a broker.

For each: does it cross processes; latency from nudge to start of the task; 1,000 messages; what
becomes of a task whose worker is killed (SIGKILL of the whole process) and of messages waiting
behind it; what a killed publisher leaves; whether two workers start a task twice; leftovers.

    python benchmarks/brokers.py [--only NAME ...] [--nudges 30] [--messages 1000]

Prints a Markdown table; docs/adr/0003-embedded-broker.md quotes it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from celery import Celery

from dicom_node.broker import ANALYSIS_QUEUE, ANALYZE_TASK, make_app, run_worker
from dicom_node.settings import NodeSettings

ENV_PATH = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "ignore"}
SLEEPING_ID = 1_000_000  # a task with this id sleeps, to be killed
POLL_S = 0.1


def app_for(variant: str, folder: Path) -> Celery:
    """The node's own Celery app, with another transport put in."""
    if variant.startswith("redis"):
        url = f"redis://127.0.0.1:{(folder / 'redis.port').read_text()}/0"
        return make_app(NodeSettings(state_dir=folder, broker={"url": url}))
    app = make_app(NodeSettings(state_dir=folder))
    if variant.startswith("embedded"):
        return app
    options: dict[str, object] = {"polling_interval": POLL_S} if "poll" in variant else {}
    app.conf.broker_transport = None
    if variant.startswith("filesystem"):
        for name in ("messages", "control", "processed"):
            (folder / "fs" / name).mkdir(parents=True, exist_ok=True)
        options |= {
            "data_folder_in": str(folder / "fs/messages"),
            "data_folder_out": str(folder / "fs/messages"),
            "control_folder": str(folder / "fs/control"),
            "processed_folder": str(folder / "fs/processed"),
            "store_processed": "stored" in variant,
        }
        app.conf.broker_url = "filesystem://localhost"
    elif variant.startswith("sqlite"):
        app.conf.broker_url = f"sqla+sqlite:///{folder / 'broker.sqlite3'}"
    elif variant.startswith("memory"):
        app.conf.broker_url = "memory://localhost"
    app.conf.broker_transport_options = options
    return app


def work(variant: str, folder: Path) -> None:
    app = app_for(variant, folder)
    record = os.open(folder / "record", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    @app.task(name=ANALYZE_TASK)
    def analyze(row_id: int) -> None:
        os.write(record, f"{row_id} {time.time()} {os.getpid()}\n".encode())
        if row_id >= SLEEPING_ID:
            time.sleep(600)

    run_worker(app, ANALYSIS_QUEUE)


def publish(variant: str, folder: Path, first: int, count: int) -> None:
    """Publish ids; say each on standard output once it is out."""
    app = app_for(variant, folder)
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        for row_id in range(first, first + count):
            app.send_task(ANALYZE_TASK, args=[row_id], producer=producer, ignore_result=True)
            os.write(1, f"{row_id}\n".encode())


class Trial:
    """One transport in a folder of its own."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.folder = Path(tempfile.mkdtemp(prefix="m3lung-broker-"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.next_id = 1
        if variant.startswith("redis"):
            self._start_redis()

    def _start_redis(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (self.folder / "redis.port").write_text(str(port))
        options = f"--port {port} --bind 127.0.0.1 --save '' --dir {self.folder} --appendonly yes"
        self.processes.append(
            subprocess.Popen(
                ["redis-server", *options.replace("''", "").split()], stdout=subprocess.DEVNULL
            )
        )
        time.sleep(1)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker process on the queue."""
        log = (self.folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", self.variant, str(self.folder)],
            env=ENV_PATH, stdout=log, stderr=log,
        )  # fmt: skip
        self.processes.append(process)
        self.worker = process
        return process

    def publisher(self, first: int, count: int) -> subprocess.Popen[bytes]:
        """Start a process that publishes `count` ids from `first` on."""
        return subprocess.Popen(
            [sys.executable, __file__, "--publish", self.variant, str(self.folder), str(first),
             str(count)],
            env=ENV_PATH, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def started(self) -> list[tuple[int, float, int]]:
        """Return (id, time, process) of every start of a task."""
        path = self.folder / "record"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            (int(row), float(at), int(pid)) for row, at, pid in (line.split() for line in lines)
        ]

    def wait_for(self, wanted: set[int], limit_s: float) -> set[int]:
        """Wait until all of `wanted` have started; return those that have not."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            missing = wanted - {row for row, _, _ in self.started()}
            if not missing:
                return set()
            time.sleep(0.02)
        return missing

    def ids(self, count: int) -> range:
        """Return `count` ids that were not used yet."""
        first, self.next_id = self.next_id, self.next_id + count
        return range(first, first + count)

    def files(self) -> int:
        """Count the files that the broker left."""
        own = {"record", "worker.log", "redis.port"}
        return sum(path.is_file() and path.name not in own for path in self.folder.rglob("*"))

    def close(self) -> None:
        """End all processes of the trial and remove its folder."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        shutil.rmtree(self.folder)


def measure(variant: str, nudges: int, messages: int) -> dict[str, str]:
    """Put one transport through everything, each fault in a fresh folder."""
    row: dict[str, str] = {"transport": variant}
    with trial_of(variant) as trial:
        row["crosses processes"] = crosses_processes(trial)
        if row["crosses processes"] != "yes":
            return row
        row |= latency(trial, nudges)
        row |= throughput(trial, messages)
        row["files left"] = str(trial.files())
    for fault in (killed_worker, killed_publisher, two_workers):
        with trial_of(variant) as trial:
            row |= fault(trial)
    return row


@contextlib.contextmanager
def trial_of(variant: str) -> Iterator[Trial]:
    """A trial with one running worker; its processes end and its folder goes afterwards."""
    trial = Trial(variant)
    try:
        trial.start_worker()
        time.sleep(4)
        yield trial
    finally:
        trial.close()


def crosses_processes(trial: Trial) -> str:
    probe = trial.ids(1)
    publisher = trial.publisher(probe[0], 1)
    _, said = publisher.communicate()
    if publisher.returncode:
        return f"no: {said.decode().strip().splitlines()[-1][:75]}"
    return "no" if trial.wait_for(set(probe), 5) else "yes"


def latency(trial: Trial, nudges: int) -> dict[str, str]:
    app = app_for(trial.variant, trial.folder)
    sent: dict[int, float] = {}
    chance = random.Random(1)
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection, auto_declare=False)
        for row_id in trial.ids(nudges):
            time.sleep(chance.uniform(0.2, 1.5))
            sent[row_id] = time.time()
            app.send_task(ANALYZE_TASK, args=[row_id], producer=producer, ignore_result=True)
    trial.wait_for(set(sent), 10)
    took = sorted(at - sent[row] for row, at, _ in trial.started() if row in sent)
    p95 = took[min(len(took) - 1, int(0.95 * len(took)))]
    return {"latency p50 / p95": f"{statistics.median(took) * 1e3:.0f} / {p95 * 1e3:.0f} ms"}


def throughput(trial: Trial, messages: int) -> dict[str, str]:
    wanted = set(trial.ids(messages))
    began = time.time()
    trial.publisher(min(wanted), messages).wait()
    published = time.time() - began
    missing = trial.wait_for(wanted, 120)
    last = max((at for row, at, _ in trial.started() if row in wanted), default=began)
    said = f"{published:.1f} s out, {last - began:.1f} s in"
    return {f"{messages} messages": said + (f", {len(missing)} never" if missing else "")}


def killed_publisher(trial: Trial) -> dict[str, str]:
    """SIGKILL a publisher in full flow, ten times; everything it said was out must arrive."""
    said: set[int] = set()
    chance = random.Random(2)
    for _ in range(10):
        publisher = trial.publisher(trial.ids(5000)[0], 5000)
        assert publisher.stdout is not None
        publisher.stdout.readline()
        time.sleep(chance.uniform(0.01, 0.2))
        publisher.kill()
        lines = publisher.stdout.read().splitlines()
        said.update(int(line) for line in lines if line)
        publisher.wait()
    missing = trial.wait_for(said, 60)
    alive = "worker lives" if trial.worker.poll() is None else "worker died"
    return {"publisher killed 10×": f"{len(missing)} of {len(said)} lost, {alive}"}


def killed_worker(trial: Trial) -> dict[str, str]:
    """SIGKILL the worker in a task, with five messages waiting behind, and start another."""
    worker = trial.worker
    trial.publisher(SLEEPING_ID, 1).wait()
    trial.wait_for({SLEEPING_ID}, 10)
    behind = set(trial.ids(5))
    trial.publisher(min(behind), 5).wait()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    killed_at = time.time()
    trial.start_worker()
    missing = trial.wait_for(behind, 20)
    again: list[float] = []
    while time.time() < killed_at + 30 and not again:
        again = [at for row, at, _ in trial.started() if row == SLEEPING_ID and at > killed_at]
        time.sleep(0.2)
    running = f"again after {again[0] - killed_at:.0f} s" if again else "not again in 30 s"
    return {"worker killed: running / waiting": f"{running} / {5 - len(missing)} of 5 kept"}


def two_workers(trial: Trial) -> dict[str, str]:
    """Two workers at once on 500 messages: how many start twice, how many never."""
    workers = [trial.worker, trial.start_worker()]
    time.sleep(4)
    wanted = set(trial.ids(500))
    trial.publisher(min(wanted), 500).wait()
    missing = trial.wait_for(wanted, 30)
    starts = collections.Counter(row for row, _, _ in trial.started() if row in wanted)
    twice = sum(count > 1 for count in starts.values())
    shares = collections.Counter(pid for row, _, pid in trial.started() if row in wanted)
    dead = sum(process.poll() is not None for process in workers)
    said = f"{twice} twice, {len(missing)} never, shares {sorted(shares.values())}"
    return {"two workers, 500 messages": said + (f", {dead} worker died" if dead else "")}


VARIANTS = (
    "memory",
    "filesystem",
    "filesystem, poll 0.1",
    "filesystem, poll 0.1, stored",
    "sqlite",
    "sqlite, poll 0.1",
    "embedded (filesystem, atomic, poll 0.1)",
    "redis (AOF, for comparison)",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="starts of names of transports")
    parser.add_argument("--nudges", type=int, default=30)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--publish", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], Path(options.work[1]))
    if options.publish:
        variant, folder, first, count = options.publish
        return publish(variant, Path(folder), int(first), int(count))
    rows = []
    for variant in VARIANTS:
        if not variant.startswith(tuple(options.only)):
            continue
        if variant.startswith("redis") and shutil.which("redis-server") is None:
            continue
        rows.append(measure(variant, options.nudges, options.messages))
        print(rows[-1], file=sys.stderr, flush=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row.get(name, "–") for name in columns) + " |")
    return None


if __name__ == "__main__":
    main()
