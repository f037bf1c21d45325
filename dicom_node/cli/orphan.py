"""A child of ``m3lung serve`` does not outlive it, even when `serve` is killed."""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["PARENT_VARIABLE", "end_with_parent"]

PARENT_VARIABLE = "M3LUNG_PARENT_PID"
_GRACE_S = 5.0


def end_with_parent() -> None:
    """End this process when the `serve` that started it is gone; without one, do nothing."""
    expected = os.environ.get(PARENT_VARIABLE, "")
    if expected.isdigit():
        threading.Thread(
            target=_watch, args=(int(expected),), name="orphan-watch", daemon=True
        ).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    # Nothing is lost by ending hard: that is what the ledger is for. A process that lingers would
    # hold the port that the next start needs.
    os.kill(os.getpid(), signal.SIGKILL)
