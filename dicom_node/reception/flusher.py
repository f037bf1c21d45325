"""Makes files durable: in the thread that brings one, or beside what that thread does meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Flusher"]

_QUICK_S = 0.005
_WEIGHT = 0.2  # of the newest duration


class Flusher:
    """Runs what makes a file durable, and knows how long it usually takes."""

    def __init__(self) -> None:
        self._usual_s = math.inf  # nothing is known yet
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="flush")

    @property
    def is_quick(self) -> bool:
        """Whether the disk answers within 5 ms, so that a transaction may stay open for it."""
        return self._usual_s < _QUICK_S

    def run(self, make_durable: Callable[[], None]) -> None:
        """Run it here."""
        began = time.monotonic()
        make_durable()
        took_s = time.monotonic() - began
        usual_s = took_s if math.isinf(self._usual_s) else self._usual_s
        self._usual_s = usual_s + _WEIGHT * (took_s - usual_s)

    def start(self, make_durable: Callable[[], None]) -> Future[None]:
        """Run it beside the caller."""
        return self._beside.submit(self.run, make_durable)
