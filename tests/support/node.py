"""A node of one test: the real processes, started as an administrator would start them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from dicom_node.ledger import open_ledger
from dicom_node.ledger.worklist import SeriesStatus
from support.orthanc import Orthanc
from support.peers import program
from support.ports import free_port

__all__ = ["Node"]

PARTS = ("listen", "reconcile", "work", "deliver")


class Node:
    """Processes of a node over one configuration.

    Parameters
    ----------
    directory : Path
        Configuration, state and logs.
    bundle : Path
        Model bundle; tests use a small untrained one.
    pacs : sequence of Orthanc
        Destinations, called ``pacs``, ``pacs2``, …; the first is asked by C-FIND when `query`.
    ledger_url, broker_url : str
        Empty: the embedded defaults.
    lease_s : float
        Of analyses and deliveries.
    quiet_s : float
        After which time alone closes a series.
    peer_options, sections : str
        Further lines of TOML: for each destination, and for the whole document.
    parts : sequence of str
        What runs: ``listen``, and ``listen-2`` where there is a second one, on a port of its own.
    port : int, optional
        Of the first listener.
    environment : mapping of str to str
        Further variables of every process.
    """

    ae_title = "M3LUNG"

    def __init__(
        self,
        directory: Path,
        bundle: Path,
        *,
        pacs: Sequence[Orthanc] = (),
        ledger_url: str = "",
        broker_url: str = "",
        query: bool = False,
        retry_s: float = 0.5,
        lease_s: float = 120.0,
        quiet_s: float = 6.0,
        peer_options: str = "",
        sections: str = "",
        parts: Sequence[str] = PARTS,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.parts = tuple(parts)
        self.port = port or free_port()
        self.ports = {name: free_port() for name in parts if name.startswith("listen-")}
        self.environment = dict(environment or {})
        self.config = directory / "node.toml"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        destinations = "\n".join(
            f'[[peers]]\nname = "pacs{number or ""}"\nae_title = "{peer.ae_title}"\n'
            f'host = "127.0.0.1"\nport = {peer.dicom_port}\nquery = {str(query).lower()}\n'
            f"{peer_options}\n"
            for number, peer in enumerate(pacs)
        )
        self.config.write_text(
            f"""
ae_title = "{self.ae_title}"
state_dir = "state"
[listener]
port = {self.port}
[ledger]
url = "{ledger_url}"
[broker]
url = "{broker_url}"
[analysis]
bundle = "{bundle}"
lease_s = {lease_s}
[completion]
settle_s = 1.0
quiet_period_s = {quiet_s}
study_settle_s = 0.2
[delivery]
lease_s = {lease_s}
retry_first_s = {retry_s}
retry_cap_s = {4 * retry_s}
breaker_failures = 1
[console]
enabled = false
[[peers]]
name = "scanner"
ae_title = "STORESCU"
port = 104
roles = ["source"]
{destinations}
{sections}
"""
        )
        self.ledger_url = ledger_url or f"sqlite:///{directory / 'state' / 'ledger.sqlite3'}"

    # -- processes ----------------------------------------------------------------------------

    def start(self, *names: str, crash_at: str = "") -> None:
        """Start parts, or ``serve`` (default: all parts); `crash_at` arms a crash point in them."""
        for name in names or self.parts:
            present = self.processes.get(name)
            assert present is None or present.poll() is not None, f"{name} runs already"
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.environment}
            if crash_at:
                environment["M3LUNG_CRASH_AT"] = crash_at
            if name in self.ports:
                environment["M3LUNG_LISTENER__PORT"] = str(self.ports[name])
            verb = name.partition("-")[0]
            with self.log(name).open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "dicom_node", verb, "--config", str(self.config)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        for name in names or self.parts:
            if name.startswith(("listen", "serve")):
                port = self.ports.get(name, self.port)
                self.wait_for(
                    lambda port=port: self.answers(port), f"{name} answers C-ECHO", 60.0
                )  # fmt: skip

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def answers(self, port: int | None = None) -> bool:
        """Whether the listener answers DCMTK's echoscu."""
        command = [
            str(program("echoscu")), "-aet", "STORESCU", "-aec", self.ae_title, "-to", "2",
            "127.0.0.1", str(port or self.port),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def kill(self, *names: str) -> None:
        """SIGKILL parts (default: everything that runs), all before any is waited for."""
        killed = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in killed:
            process.kill()
        for process in killed:
            process.wait()

    def stop(self) -> None:
        """End everything in order; by force what does not end."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def m3lung(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb over this configuration; the caller looks at the result."""
        return subprocess.run(
            [sys.executable, "-m", "dicom_node", *words, "--config", str(self.config)],
            capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "COLUMNS": "200", **self.environment},
        )  # fmt: skip

    # -- sending and looking --------------------------------------------------------------------

    def send(self, files: Iterable[Path], *options: str) -> subprocess.CompletedProcess[str]:
        """Send with DCMTK's storescu; the caller looks at the result."""
        paths = [str(path) for path in files]
        command = [
            str(program("storescu")), "-aet", "STORESCU", "-aec", self.ae_title, *options,
            "127.0.0.1", str(self.port), *paths,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    def series(self, uid: str) -> SeriesStatus | None:
        """Where the ledger says the series is."""
        try:
            with open_ledger(self.ledger_url) as ledger:
                found = ledger.worklist.find(uid=uid)
        except sqlite3.OperationalError:
            return None
        return found[0] if found else None

    def wait_for_state(
        self, uid: str, wanted: Callable[[SeriesStatus], bool], what: str, timeout_s: float = 120.0
    ) -> SeriesStatus:
        """Wait until the series is as `wanted`; return it."""
        found: list[SeriesStatus] = []

        def look() -> bool:
            status = self.series(uid)
            if status is not None and wanted(status):
                found.append(status)
            return bool(found)

        self.wait_for(look, what, timeout_s, lambda: str(self.series(uid)))
        return found[0]

    def wait_until_delivered(self, uid: str, timeout_s: float = 180.0) -> SeriesStatus:
        """Wait until every object of the series' newest reading is at every destination."""
        return self.wait_for_state(uid, _delivered, "all results are delivered", timeout_s)

    def wait_for(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout_s: float,
        detail: Callable[[], str] = str,
    ) -> None:
        """Wait for `condition`; fail with the ends of the logs."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not after {timeout_s:g} s: {what}\n{detail()}\n{self.logs()}")
            time.sleep(0.2)

    def logs(self) -> str:
        """The end of each log."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.directory.glob("*.log"))
        )


_HELD = {"sent", "commit_requested", "committed", "verified"}


def _delivered(status: SeriesStatus) -> bool:
    return (
        status.analysis_state == "done"
        and bool(status.deliveries)
        and all(set(item.states) <= _HELD for item in status.deliveries)
    )
