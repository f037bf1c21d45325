"""Several listener processes on one port: forked, watched, started again when one dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from dicom_node.logs import get_logger

__all__ = ["Supervisor"]

_log = get_logger(__name__)
_POLL_S = 0.2
_RESTART_PAUSE_S = 1.0


class Supervisor:
    """Keeps `count` children running.

    Parameters
    ----------
    child : callable
        Runs in each child until the callable it is given returns True; returns an exit code.
    count : int
    patience_s : float
        How long a child may take to stop before it is killed.
    """

    def __init__(
        self, child: Callable[[Callable[[], bool]], int], count: int, patience_s: float
    ) -> None:
        self._child = child
        self._count = count
        self._patience_s = patience_s
        self._running: dict[int, float] = {}  # pid → when it was started

    def run(self, stop: threading.Event) -> int:
        """Supervise until `stop`; return 0."""
        for _ in range(self._count):
            self._start()
        while not stop.wait(_POLL_S):
            for pid in self._reap():
                started = self._running.pop(pid)
                _log.error("listener_process_died", pid=pid)
                if time.monotonic() - started < _RESTART_PAUSE_S:
                    stop.wait(_RESTART_PAUSE_S)
                if not stop.is_set():
                    self._start()
        self._stop_all()
        return 0

    def _start(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = time.monotonic()
            return
        code = 1
        try:
            over = threading.Event()
            signal.signal(signal.SIGTERM, lambda _number, _frame: over.set())
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's ^C goes to the parent
            code = self._child(lambda: over.is_set() or os.getppid() != parent)
        except BaseException:  # noqa: BLE001  the main of a child: recorded, then out
            _log.exception("listener_process_failed")
        finally:
            os._exit(code)

    def _reap(self) -> list[int]:
        return [pid for pid in self._running if os.waitpid(pid, os.WNOHANG)[0]]

    def _stop_all(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._patience_s
        while self._running and time.monotonic() < deadline:
            for pid in self._reap():
                del self._running[pid]
            time.sleep(0.05)
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
