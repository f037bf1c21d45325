"""A whole node as a process: started, killed, and how long it takes until it serves again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import sqlalchemy as sa
from ledger_history import READY_SERIES
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.doorbell import ask_status
from dicom_node.ledger import open_ledger, tables

__all__ = ["STATUS", "m3lung", "serving_again", "write_config"]

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0
STATUS = "m3lung status --accession (a process; the node runs)"


def serving_again(folder: Path, url: str) -> dict[str, float]:
    """Kill a whole node and start it again; return seconds to the first answer and sweep.

    And how long ``m3lung status`` takes, as a process, while the node runs.
    """
    node = Served(folder, url)
    try:
        node.start()
        node.wait_for(node.answers, "C-ECHO")
        node.wait_for(node.has_swept, "a sweep")
        node.kill()
        node.unsweep()
        began = time.monotonic()
        node.start()
        node.wait_for(node.answers, "C-ECHO")
        seconds = {"C-ECHO": time.monotonic() - began}
        node.wait_for(node.has_swept, "a sweep")
        seconds["swept"] = time.monotonic() - began
        node.wait_for(node.answers_questions, "status is answered")
        asking = [node.seconds_of_status() for _ in range(15)]
    finally:
        node.kill()
    figures = {f"serving again after SIGKILL: {name}": value for name, value in seconds.items()}
    return figures | {STATUS: statistics.median(asking)}


class Served:
    """`m3lung serve` as an administrator starts it."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._process: psutil.Popen | None = None
        write_config(folder, url, self._port)
        self.unsweep()

    def start(self) -> None:
        """Start it."""
        with (self._folder / "log").open("ab") as log:
            self._process = psutil.Popen(
                [*M3LUNG, "serve", "--config", str(self._folder / "node.toml")],
                env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL everything at once."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.Error):
            self._process.suspend()  # it starts nothing meanwhile
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.send_signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process = None

    def answers(self) -> bool:
        """Whether the listener answers C-ECHO."""
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", self._port)):
                return False
        ae = AE("BENCH")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", self._port, ae_title="M3LUNG")
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return bool(status and status.Status == 0)

    def answers_questions(self) -> bool:
        """Whether `m3lung status` is answered by the node."""
        return ask_status(["--config", str(self._folder / "node.toml")]) is not None

    def seconds_of_status(self) -> float:
        """Time `m3lung status` of one study, a process of its own."""
        began = time.perf_counter()
        m3lung(self._folder, "status", "--accession", "A0001000000")
        return time.perf_counter() - began

    def unsweep(self) -> None:
        """Leave a series that the next sweep has to close: its source counts as many images."""
        revisions, series = tables.revisions, tables.series
        mine = sa.select(series.c.id).where(series.c.series_instance_uid == READY_SERIES)
        long_ago = time.time() - 3000.0
        with open_ledger(self._url) as ledger, ledger.database.write() as connection:
            connection.execute(
                revisions.update()
                .where(revisions.c.series_id.in_(mine))
                .values(
                    state="receiving",
                    opened_at=long_ago,
                    last_arrival_at=long_ago,
                    expected_count=revisions.c.instance_count,
                    queried_at=long_ago + 1.0,
                )
            )

    def has_swept(self) -> bool:
        """Whether a sweep has closed what was left to close."""
        with open_ledger(self._url) as ledger:
            [found] = ledger.worklist.find(uid=READY_SERIES)
        return found.state != "receiving"

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for `condition`."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                log = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise TimeoutError(f"not after {PATIENCE_S:g} s: {what}\n{log}")
            time.sleep(0.05)


M3LUNG = [sys.executable, "-m", "dicom_node"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def write_config(folder: Path, url: str, port: int) -> None:
    (folder / "node.toml").write_text(
        f'state_dir = "{folder / "state"}"\nlog_level = "warning"\n[ledger]\nurl = "{url}"\n'
        f"[listener]\nport = {port}\nmin_free_bytes = 0\naccept_unknown_callers = true\n"
    )


def m3lung(folder: Path, *words: str) -> None:
    """Run a verb over the configuration that lies in `folder`."""
    subprocess.run(
        [*M3LUNG, *words, "--config", str(folder / "node.toml")],
        env=ENVIRONMENT, check=True, capture_output=True,
    )  # fmt: skip
