"""Durable acknowledgement, for all associations together.

Whoever comes first commits for everybody who waits: one fsync per directory and one ledger
transaction for the batch. A single association pays no hop to another thread; sixty share the
cost of one commit.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from dicom_node.crashpoints import crash_point
from dicom_node.domain import Receipt
from dicom_node.ledger import Arrival
from dicom_node.listener.intake import Intake
from dicom_node.logs import get_logger
from dicom_node.spool import Spool

__all__ = ["GroupCommit"]

_MAX_BATCH = 256
_log = get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    arrival: Arrival
    receipt: Receipt | None = None
    error: BaseException | None = None

    @property
    def is_settled(self) -> bool:
        return self.receipt is not None or self.error is not None


class GroupCommit:
    """Makes arrivals durable, in batches.

    Parameters
    ----------
    spool : Spool
        Holds the files already; their names are made durable here.
    intake : Intake
        The ledger.
    """

    def __init__(self, spool: Spool, intake: Intake) -> None:
        self._spool = spool
        self._intake = intake
        self._queue: deque[_Waiting] = deque()
        self._leading = threading.Lock()

    def commit(self, arrival: Arrival) -> Receipt:
        """Return when `arrival` is durable in spool and ledger.

        Raises
        ------
        Exception
            Whatever spool or ledger raised: the arrival must not be acknowledged.
        """
        mine = _Waiting(arrival)
        self._queue.append(mine)
        while not mine.is_settled:
            with self._leading:
                if not mine.is_settled:
                    self._lead()
        if mine.error is not None:
            raise mine.error
        assert mine.receipt is not None  # noqa: S101  settled without error
        return mine.receipt

    def _lead(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _MAX_BATCH))]
        try:
            self._make_durable(batch)
        except Exception as error:  # noqa: BLE001  handed to the threads that wait
            if len(batch) == 1:
                batch[0].error = error
                return
            # One arrival that the ledger cannot take must not cost its neighbours.
            _log.warning("batch_refused", size=len(batch), error=type(error).__name__)
            for waiting in batch:
                try:
                    self._make_durable([waiting])
                except Exception as own_error:  # noqa: BLE001  handed to the thread that waits
                    waiting.error = own_error

    def _make_durable(self, batch: list[_Waiting]) -> None:
        self._spool.sync_directories(waiting.arrival.stored for waiting in batch)
        crash_point("listener.before_commit")
        receipts = self._intake.record_instances([waiting.arrival for waiting in batch])
        crash_point("listener.after_commit")
        for waiting, receipt in zip(batch, receipts, strict=True):
            waiting.receipt = receipt
