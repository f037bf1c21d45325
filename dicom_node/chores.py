"""Small jobs beside a process's own work: each again and again, in one thread for all."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import NodeError
from dicom_node.logs import get_logger

__all__ = ["Chores"]

_log = get_logger(__name__)
_LOOK_S = 0.5


class Chores:
    """Runs jobs at their intervals until the work they stand beside is over.

    Parameters
    ----------
    jobs : callable with float
        Each with the seconds between two of its runs.
    """

    def __init__(self, *jobs: tuple[Callable[[], object], float]) -> None:
        self._jobs = jobs
        self._due = [0.0 for _ in jobs]  # monotonic
        self._failing: set[int] = set()
        self._stop = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the jobs beside the caller's work. A job that is under way at the end is left."""
        thread = threading.Thread(target=self._run, name="chores", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for number, (job, interval_s) in enumerate(self._jobs):
                if time.monotonic() >= self._due[number] and not self._stop.is_set():
                    self._do(number, job)
                    self._due[number] = time.monotonic() + interval_s

    def _do(self, number: int, job: Callable[[], object]) -> None:
        try:
            job()
        except (SQLAlchemyError, NodeError, OSError) as error:
            if number not in self._failing:  # the first of a row of failures
                _log.error("chore failed", chore=job.__qualname__, error=type(error).__name__)
            self._failing.add(number)
        except Exception:  # noqa: BLE001  a task's body: one job's fault stops no other
            _log.exception("chore failed unexpectedly", chore=job.__qualname__)
            self._failing.add(number)
        else:
            self._failing.discard(number)
