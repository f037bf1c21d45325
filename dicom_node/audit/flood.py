"""Keeps one peer that knocks all day from filling the trail: the like is counted for a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

__all__ = ["FloodGate"]

_MOST_KEYS = 1024


class FloodGate:
    """Lets the first event of a kind through, then one per window with the number held back.

    Parameters
    ----------
    window_s : float
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[Hashable, tuple[float, int]] = {}  # key → (let through at, held back)

    def admit(self, key: Hashable) -> int | None:
        """Return how many like `key` were held back since the last that passed; None: hold back."""
        now = self._clock()
        with self._lock:
            if key not in self._seen and len(self._seen) >= _MOST_KEYS:
                self._forget(now)
                if len(self._seen) >= _MOST_KEYS:
                    key = "others"
            at, held = self._seen.get(key, (-self._window_s, 0))
            if now - at < self._window_s:
                self._seen[key] = (at, held + 1)
                return None
            self._seen[key] = (now, 0)
            return held

    def _forget(self, now: float) -> None:
        for key, (at, held) in list(self._seen.items()):
            if not held and now - at >= self._window_s:
                del self._seen[key]

    def held_back(self) -> int:
        """Return how many were held back and not yet told, and forget them."""
        with self._lock:
            count = sum(held for _, held in self._seen.values())
            self._seen.clear()
        return count
