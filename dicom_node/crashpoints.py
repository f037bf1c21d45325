"""Named places in the code where the process can be made to die, to prove that nothing is lost.

``M3LUNG_CRASH_AT=listener.after_rename`` kills the process with SIGKILL the first time it gets
there: no handler runs, no buffer is flushed, exactly as in a power cut of the process. A count
after ``:`` lets it pass so many times first (``listener.after_rename:7``). Without the variable a
crash point costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

__all__ = ["crash_point"]

_ARMED, _, _PASSES = os.environ.get("M3LUNG_CRASH_AT", "").partition(":")
_visits = itertools.count()


def crash_point(name: str) -> None:
    """Die here by SIGKILL if the environment armed `name`."""
    if name == _ARMED and next(_visits) >= int(_PASSES or 0):
        os.kill(os.getpid(), signal.SIGKILL)
