"""A program that belongs to us: started, waited for, ended by its own pid."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dicom_node.delivery.upper_layer import Association, Sender
from dicom_node.errors import DeliveryError, NodeError

__all__ = ["Child", "ChildFailed", "find_program", "free_port", "wait_for_echo"]

_STOP_S = 10.0  # nothing of a demo is worth a longer wait
_VERIFICATION = ("1.2.840.10008.1.1", "1.2.840.10008.1.2")


class ChildFailed(NodeError):
    """A program did not come up, or ended by itself."""


class Child:
    """One child process with its log in a file; a context manager that ends it.

    Parameters
    ----------
    name : str
        For messages.
    command : sequence of str
    log : Path
        Takes both output streams.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_without_our_settings(),
                start_new_session=True,  # Ctrl-C is for us; we end it in order
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it: in order, by force when that takes too long or a second Ctrl-C comes."""
        process = self._process
        if process is None:
            return
        parts = _children(process.pid)
        process.send_signal(signal.SIGTERM)  # does nothing when it has ended
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            _kill_what_is_left(parts)

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    def require_alive(self) -> None:
        """Raise ChildFailed if it has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ChildFailed(f"{self.name} ended with code {code}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def wait_for_echo(child: Child, calling: str, called: str, port: int, timeout_s: float) -> None:
    """Return when `child` answers C-ECHO on `port` of the loopback interface.

    Raises
    ------
    ChildFailed
        It ended, or does not answer in time; the text holds why.
    """
    deadline = time.monotonic() + timeout_s
    sender = Sender(calling, connect_timeout_s=2.0, response_timeout_s=5.0)
    while True:
        child.require_alive()
        try:
            with Association.request(sender, "127.0.0.1", port, called, [_VERIFICATION]) as peer:
                peer.c_echo()
                return
        except DeliveryError as error:
            if time.monotonic() > deadline:
                raise ChildFailed(
                    f"{child.name} did not answer C-ECHO within {timeout_s:g} s: {error}"
                ) from error
        time.sleep(0.1)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(name: str) -> str | None:
    """Return where program `name` is; Debian keeps servers off the path of ordinary users."""
    places = [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(places))


def _children(pid: int) -> dict[int, str]:
    """Return the children of process `pid`, each with its start time (Linux; else none)."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return {}
    return {int(child): _start_time(int(child)) for child in listed}


def _start_time(pid: int) -> str:
    """Return what tells a process from a later one with the same id, empty if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # from field 3 of proc(5) on
    return "" if fields[0] == "Z" else fields[19]


def _kill_what_is_left(parts: dict[int, str]) -> None:
    for pid, started in parts.items():
        if started and _start_time(pid) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while any(started and _start_time(pid) == started for pid, started in parts.items()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _without_our_settings() -> dict[str, str]:
    """The demo's node obeys the demo's document alone, whatever M3LUNG_… variables say."""
    return {name: value for name, value in os.environ.items() if not name.startswith("M3LUNG_")}
