"""A server program that belongs to a test: started, waited for, ended by its own pid."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Server"]


class Server:
    """One child process with its log in a file.

    Parameters
    ----------
    command : sequence of str
    log : Path
        Takes stdout and stderr; quoted when the program does not come up.
    ready : callable
        Returns when the program answers, raises TimeoutError when it does not in time.
    stop_signal : signal.Signals
        What asks the program to end in an orderly way.
    user : str, optional
        Run as this user (needs root): some programs refuse to run as root.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        ready: Callable[[], object],
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        self._ready = ready
        self._stop_signal = stop_signal
        self._user = user
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when the program answers."""
        assert not self.is_running, f"{self.command[0]} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                cwd=self._cwd,
            )
        try:
            self._ready()
        except BaseException as error:
            ended = self._process.poll()
            self.kill()
            tail = self.log.read_text(errors="replace")[-2000:]
            state = "did not answer" if ended is None else f"ended with {ended}"
            raise RuntimeError(f"{self.command[0]} {state}; its log ends:\n{tail}") from error

    def stop(self, *, timeout_s: float = 15.0) -> None:
        """End in an orderly way, by force after `timeout_s`; no effect when it is not running."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            self._process.send_signal(signal.SIGCONT)  # a paused one would not hear it
            try:
                self._process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: as a crash or a power cut would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
