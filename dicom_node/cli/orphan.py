"""A child of ``m3lung serve`` does not outlive it, even when `serve` is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["PARENT_VARIABLE", "end_with_parent"]

PARENT_VARIABLE = "M3LUNG_PARENT_PID"
_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def end_with_parent() -> None:
    """Have the kernel kill this process when the `serve` that started it is gone.

    Nothing is lost by ending hard, that is what the ledger is for; a part that lingered would
    hold the port that the next start needs. Without a `serve`, or beyond Linux, this does nothing.
    """
    expected = os.environ.get(PARENT_VARIABLE, "")
    if not expected.isdigit() or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(expected):  # it died before we asked
        sys.exit(1)
