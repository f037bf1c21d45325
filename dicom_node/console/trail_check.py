"""Whether the audit trail is whole, found out beside the pages: one look at a time, bounded."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from dicom_node.audit import AuditTrail, Verdict, verify

__all__ = ["Check", "TrailCheck"]

_LONGEST_S = 600.0


class _Overdue(Exception):
    pass


@dataclass
class Check:
    """One walk along the chain.

    Attributes
    ----------
    total : int
        Records that the head speaks of; 0 without a head.
    held : int
        Records that hold together so far.
    verdict : Verdict or None
        None while it runs, and where `gave_up` says why there is none.
    """

    began_at: float
    total: int
    held: int = 0
    verdict: Verdict | None = None
    gave_up: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is still under way."""
        return self.verdict is None and not self.gave_up


class TrailCheck:
    """The last check of this process, and the one that runs."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._lock = threading.Lock()
        self._last: Check | None = None

    @property
    def last(self) -> Check | None:
        """The check that runs, or the last one; None before the first."""
        return self._last

    def count(self) -> int:
        """Return how many records the trail has, as its head tells."""
        head = self._trail.read_head()
        return head.seq - head.base_seq + 1 if head else 0

    def start(self, known: tuple[int, str] | None) -> Check:
        """Begin to verify the chain, or return the check that runs already.

        Parameters
        ----------
        known : (int, str) or None
            Number and hash of a record as noted elsewhere: it has to be among them.
        """
        with self._lock:
            if self._last is not None and self._last.runs:
                return self._last
            check = self._last = Check(time.time(), self.count())
        threading.Thread(target=self._run, args=(check, known), daemon=True).start()
        return check

    def _run(self, check: Check, known: tuple[int, str] | None) -> None:
        def looked(count: int) -> None:
            check.held = count
            if time.time() - check.began_at > _LONGEST_S:
                raise _Overdue

        try:
            check.verdict = verify(self._trail, known=known, looked=looked)
        except _Overdue:
            check.gave_up = f"given up after {_LONGEST_S / 60:.0f} min"
        except OSError as error:
            check.gave_up = f"the trail cannot be read: {error.strerror}"
        finally:  # the page has to learn that it is over, whatever ended it
            if check.runs:
                check.gave_up = "the check itself failed; the log of the console says why"
