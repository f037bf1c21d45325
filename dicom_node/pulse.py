"""A process's pulse: every few seconds it tells the ledger that it runs, and what it counted.

That spares every process an HTTP port of its own: whoever watches the node reads the ledger
(docs/adr, "one exporter reads the ledger"). A thread that beats proves little, so a loop tells of
its turns beside it: a listener that accepts, a reconciler that sweeps.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import LedgerError
from dicom_node.ledger import Ledger
from dicom_node.ledger.tallies import Tally
from dicom_node.logs import get_logger

__all__ = ["BEAT_INTERVAL_S", "Pulse"]

_log = get_logger(__name__)
BEAT_INTERVAL_S = 10.0


class Pulse:
    """Beats for one process.

    Parameters
    ----------
    ledger : Ledger
    part : str
        What the process is: ``listen``, ``reconcile``, ``work``, ``deliver``.
    tally : Tally, optional
        What it counts; handed over at each beat.
    interval_s : float
        Between two beats.
    """

    def __init__(
        self,
        ledger: Ledger,
        part: str,
        tally: Tally | None = None,
        *,
        interval_s: float = BEAT_INTERVAL_S,
    ) -> None:
        self._ledger = ledger
        self._part = part
        self.tally = tally or Tally()
        self._interval_s = interval_s
        self._started_at = ledger.database.now()
        self._turned: float | None = None  # monotonic
        self._stop = threading.Event()
        self._is_unheard = False

    def turn(self) -> None:
        """Note that the process's loop came round."""
        self._turned = time.monotonic()

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Beat in a thread beside the caller's work; say good-bye at its end."""
        thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(self._interval_s)
            self.beat()
            with contextlib.suppress(SQLAlchemyError, LedgerError, OSError):
                self._ledger.presence.leave()

    def beat(self) -> None:
        """Tell the ledger once; what it cannot take now is told the next time."""
        now, turned = self._ledger.database.now(), self._turned
        counts = self.tally.take()
        try:
            self._ledger.presence.beat(
                self._part,
                started_at=self._started_at,
                turned_at=None if turned is None else now - (time.monotonic() - turned),
                counts=counts,
            )
        except (SQLAlchemyError, LedgerError, OSError) as error:
            self.tally.give_back(counts)
            if not self._is_unheard:
                _log.warning("no pulse in the ledger", error=type(error).__name__)
            self._is_unheard = True
        else:
            self._is_unheard = False

    def _run(self) -> None:
        wait_s = min(1.0, self._interval_s)  # until its loop has come round
        while not self._stop.wait(wait_s):
            self.beat()
            wait_s = self._interval_s
