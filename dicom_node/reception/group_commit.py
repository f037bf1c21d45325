"""Durable acknowledgement, for all associations together.

Each association makes its own file and name durable, side by side with the others: the disk takes
their flushes together. Then whoever comes first commits to the ledger for everybody who waits,
and hands over to the first of those who came meanwhile: sixty share the cost of one commit.

Where nobody is at it and the disk is quick, the file is flushed beside the statements of its own
transaction, whose commit waits for it. A slow disk would keep the ledger's lock from others for
too long: there, and when a flush takes longer than it used to, the flush comes first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from dicom_node.crashpoints import crash_point
from dicom_node.domain import Receipt
from dicom_node.ledger import Arrival
from dicom_node.logs import get_logger
from dicom_node.reception.flusher import Flusher
from dicom_node.reception.intake import Intake
from dicom_node.spool import Spool

__all__ = ["GroupCommit"]

_MAX_BATCH = 256
_LONGEST_S = 0.05  # that a transaction is kept open for a flush
_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """An arrival and the thread that sleeps until it is settled, or until it is its turn to lead.

    A lock of its own for each: nobody wakes but for a reason, and those who are done do not stand
    in the way of the next commit.
    """

    arrival: Arrival
    flush: Future[None] | None = None
    receipt: Receipt | None = None
    error: BaseException | None = None
    _asleep: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._asleep.acquire()

    @property
    def is_settled(self) -> bool:
        return self.receipt is not None or self.error is not None

    def sleep(self) -> None:
        self._asleep.acquire()

    def wake(self) -> None:
        self._asleep.release()


class _SlowFlush(Exception):
    """A file is not durable yet; the transaction must not wait any longer."""


class GroupCommit:
    """Makes arrivals durable, in batches.

    Parameters
    ----------
    spool : Spool
        Holds the files under their names already.
    intake : Intake
        The ledger.
    """

    def __init__(self, spool: Spool, intake: Intake) -> None:
        self._spool = spool
        self._intake = intake
        self._flusher = Flusher()
        self._lock = threading.Lock()  # of the two below, held for a moment only
        self._queue: deque[_Waiting] = deque()
        self._somebody_leads = False

    def commit(self, arrival: Arrival, make_durable: Callable[[], None]) -> Receipt:
        """Return when `arrival` is durable in spool and ledger.

        Parameters
        ----------
        arrival : Arrival
        make_durable : callable
            Returns when the arrival's file and name are on the disk. It may be called in another
            thread, but never after this method has ended.

        Raises
        ------
        Exception
            Whatever spool or ledger raised: the arrival must not be acknowledged.
        """
        mine = _Waiting(arrival)
        if self._flusher.is_quick and not self._somebody_leads:
            mine.flush = self._flusher.start(make_durable)
        else:
            self._flusher.run(make_durable)
        try:
            return self._commit(mine)
        finally:
            if mine.flush is not None:
                wait([mine.flush])

    def _commit(self, mine: _Waiting) -> Receipt:
        with self._lock:
            self._queue.append(mine)
            is_first = not self._somebody_leads
            self._somebody_leads = True
        if not is_first:
            mine.sleep()
        if not mine.is_settled:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.receipt is not None  # noqa: S101  settled without error
        return mine.receipt

    def _lead(self, mine: _Waiting) -> None:
        """Commit for `mine`, which is the first in the queue, and for those behind it."""
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]
        try:
            self._settle(batch)
        except BaseException as error:
            for waiting in batch:
                if not waiting.is_settled:
                    waiting.error = error
            raise
        finally:
            with self._lock:
                heir = self._queue[0] if self._queue else None
                self._somebody_leads = heir is not None
            if heir is not None:
                heir.wake()
            for waiting in batch:
                if waiting is not mine:
                    waiting.wake()

    def _settle(self, batch: list[_Waiting]) -> None:
        try:
            self._record(batch)
        except Exception as error:  # noqa: BLE001  handed to the threads that wait
            if len(batch) == 1:
                batch[0].error = error
                return
            # One arrival that the ledger cannot take must not cost its neighbours.
            _log.warning("batch_refused", size=len(batch), error=type(error).__name__)
            for waiting in batch:
                try:
                    self._record([waiting])
                except Exception as own_error:  # noqa: BLE001  handed to the thread that waits
                    waiting.error = own_error

    def _record(self, batch: list[_Waiting]) -> None:
        flushes = [waiting.flush for waiting in batch if waiting.flush is not None]
        try:
            receipts = self._write(batch, flushes)
        except _SlowFlush:
            wait(flushes)
            receipts = self._write(batch, flushes)
        crash_point("listener.after_commit")
        for waiting, receipt in zip(batch, receipts, strict=True):
            waiting.receipt = receipt

    def _write(self, batch: list[_Waiting], flushes: Sequence[Future[None]]) -> list[Receipt]:
        def before_commit() -> None:
            if wait(flushes, _LONGEST_S).not_done:
                raise _SlowFlush
            for flush in flushes:
                flush.result()
            crash_point("listener.before_commit")

        return self._intake.record_instances(
            [waiting.arrival for waiting in batch],
            is_kept=lambda stored: stored.digest in self._spool,
            before_commit=before_commit,
        )
