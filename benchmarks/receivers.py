"""What benchmarks/receive.py sends to: this node's listener, with and without fsync, and others."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

__all__ = ["RECEIVERS", "CarelessListener", "Listener", "Receiver"]

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Receiver(ABC):
    """One receiver as a child process; subclasses say how it starts and what it holds."""

    name = ""
    environment: ClassVar[dict[str, str]] = {}
    """Of the receiver and of who sends to it: DCMTK reads TCP_NODELAY at both ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts it; configuration files are written on the way."""

    @abstractmethod
    def stored(self) -> int:
        """Return how many images it has kept."""

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        """Run it; yields its process id when it accepts connections."""
        command = self.command()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        with (self.directory / "log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, env=environment
            )
        try:
            deadline = time.monotonic() + 120  # a busy machine takes its time
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError((self.directory / "log").read_text())
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Listener(Receiver):
    """The node: everything is durable before it answers."""

    name = "m3lung listener (durable)"
    processes = 1

    def command(self) -> list[str]:
        """Return what starts it."""
        (self.directory / "node.toml").write_text(
            f'state_dir = "{self.directory / "state"}"\nlog_level = "warning"\n'
            f"[listener]\nport = {self.port}\nprocesses = {self.processes}\nmin_free_bytes = 0\n"
            "accept_unknown_callers = true\n"
        )
        return [
            sys.executable, "-m", "dicom_node.listener",
            "--config", str(self.directory / "node.toml"),
        ]  # fmt: skip

    def stored(self) -> int:
        """Return how many images it has kept."""
        return len(list((self.directory / "state/spool/instances").glob("*/*.dcm")))


class CarelessListener(Listener):
    """The same, in a process where nothing waits for the disk. Its answers promise nothing."""

    name = "m3lung listener, fsync a no-op"

    def command(self) -> list[str]:
        """Return what starts it."""
        return [sys.executable, "-c", _CARELESS, *super().command()[3:]]


_CARELESS = """
import os, sys
os.fsync = os.fdatasync = lambda descriptor: None
from dicom_node.ledger import database
prepare = database._prepare_sqlite
def careless(connection, record):
    prepare(connection, record)
    connection.execute("PRAGMA synchronous=OFF")
database._prepare_sqlite = careless
from dicom_node.listener.__main__ import main
sys.exit(main())
"""


class TwoListeners(Listener):
    """Two processes on one port."""

    name = "m3lung listener, 2 processes (durable)"
    processes = 2


class StoreSCP(Receiver):
    """DCMTK's receiver; syncs nothing."""

    name = "DCMTK storescp --fork, as shipped"

    def command(self) -> list[str]:
        """Return what starts it."""
        (self.directory / "out").mkdir()
        return ["storescp", "--fork", "-aet", "M3LUNG", "-od", "out", str(self.port)]

    def stored(self) -> int:
        """Return how many images it has kept."""
        return len(list((self.directory / "out").iterdir()))


class Orthanc(Receiver):
    """A PACS; syncs nothing by default."""

    name = "Orthanc, as shipped"

    def command(self) -> list[str]:
        """Return what starts it."""
        self.http_port = free_port()
        configuration = {
            "StorageDirectory": str(self.directory / "db"),
            "IndexDirectory": str(self.directory / "db"),
            "DicomAet": "M3LUNG",
            "DicomPort": self.port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
        }
        path = self.directory / "orthanc.json"
        path.write_text(json.dumps(configuration))
        return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(path)]

    def stored(self) -> int:
        """Return how many images it has kept."""
        import urllib.request

        url = f"http://127.0.0.1:{self.http_port}/statistics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])


class TunedListener(Listener):
    """The node, and a sender that does not wait for acknowledgements (as the tuned others)."""

    name = "m3lung listener (durable), sender TCP_NODELAY"
    environment: ClassVar[dict[str, str]] = {"TCP_NODELAY": "1"}


class TunedOrthanc(Orthanc):
    """Orthanc at its best: DCMTK's TCP_NODELAY at both ends."""

    name = "Orthanc, TCP_NODELAY at both ends"
    environment: ClassVar[dict[str, str]] = {"TCP_NODELAY": "1"}


RECEIVERS: dict[str, type[Receiver]] = {
    "m3lung": Listener,
    "m3lung-2": TwoListeners,
    "m3lung-tuned": TunedListener,
    "storescp": StoreSCP,
    "orthanc": Orthanc,
    "orthanc-tuned": TunedOrthanc,
}
