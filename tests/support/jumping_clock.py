"""A system clock that somebody sets while the node runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from support.preloaded import compiled

__all__ = ["JumpingClock"]

_SOURCE = Path(__file__).with_suffix(".c")


class JumpingClock:
    """The system clock of the processes that run in its environment.

    Attributes
    ----------
    environment : dict of str to str
    """

    def __init__(self, directory: Path) -> None:
        library = compiled(_SOURCE, directory)
        self._shift = directory / "shift"
        self.set_by(0)
        self.environment = {"LD_PRELOAD": str(library), "M3LUNG_TEST_CLOCK": str(self._shift)}

    def set_by(self, seconds: int) -> None:
        """Set the clock to true time plus `seconds`."""
        draft = self._shift.with_suffix(".new")
        draft.write_text(str(seconds), encoding="ascii")
        draft.rename(self._shift)

    def error_s(self) -> float:
        """Ask a process how far its clock is off."""
        done = subprocess.run(
            [sys.executable, "-c", "import time; print(time.time())"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout) - time.time()
