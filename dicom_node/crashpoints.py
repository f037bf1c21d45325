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
from collections.abc import Mapping

__all__ = ["CRASH_POINTS", "crash_point"]

CRASH_POINTS: Mapping[str, str] = {
    "listener.after_open": "an empty temporary file",
    "listener.after_write": "a whole file, not synced, without its name",
    "listener.after_rename": "… under its name, neither durable",
    "listener.after_fsync": "… synced, the name not durable",
    "listener.before_commit": "… durable, its row in the ledger not committed",
    "listener.after_commit": "everything durable, no answer decided",
    "listener.before_response": "the answer decided, not sent",
    "listener.in_report": "a commitment report read, not recorded",
    "listener.after_report": "… recorded, not answered",
    "reconciler.after_return": "a dead worker's lease taken back, nobody nudged",
    "reconciler.after_close": "a series closed, not judged",
    "reconciler.after_select": "an analysis ordered, nobody nudged",
    "reconciler.before_nudge": "a nudge noted as sent, not sent",
    "reconciler.after_nudge": "… sent",
    "worker.after_claim": "an analysis claimed, nothing done",
    "worker.in_decode": "about to decode the images",
    "worker.in_inference": "the findings known, nothing written",
    "worker.after_write": "the results written, not recorded",
    "worker.before_commit": "… about to be recorded",
    "delivery.after_c_store": "an object stored by the peer, not recorded",
    "delivery.before_n_action": "a commitment transaction noted, not asked for",
    "delivery.after_n_action": "… asked for, the answer not recorded",
}
"""Every crash point, and what has happened when the process dies there."""

_ARMED, _, _PASSES = os.environ.get("M3LUNG_CRASH_AT", "").partition(":")
_visits = itertools.count()


def crash_point(name: str) -> None:
    """Die here by SIGKILL if the environment armed `name`."""
    if name == _ARMED and next(_visits) >= int(_PASSES or 0):
        os.kill(os.getpid(), signal.SIGKILL)
