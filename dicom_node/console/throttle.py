"""Slows down who guesses passwords, by address, by name, and by both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["LoginThrottle"]

_WINDOW_S = 300.0
_MOST_KEYS = 4096
# Failures within the window. A name alone allows many: nobody shall be locked out by strangers.
_LIMITS = {"both": 5, "address": 20, "name": 100}


class LoginThrottle:
    """Counts failed logins of the last five minutes.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str, str], deque[float]] = {}

    def wait_s(self, address: str, name: str) -> float:
        """Return for how long no further attempt is looked at; 0: now."""
        now = self._clock()
        with self._lock:
            return max(self._wait_s(key, now) for key in _keys(address, name))

    def failed(self, address: str, name: str) -> None:
        """Count a failure."""
        now = self._clock()
        with self._lock:
            if len(self._failures) > _MOST_KEYS:
                self._forget(now)
            for key in _keys(address, name):
                self._failures.setdefault(key, deque(maxlen=_LIMITS[key[0]])).append(now)

    def succeeded(self, address: str, name: str) -> None:
        """Forget the failures of this name from this address: it was a slip of the finger."""
        with self._lock:
            self._failures.pop(_keys(address, name)[0], None)

    def _wait_s(self, key: tuple[str, str, str], now: float) -> float:
        failures = self._failures.get(key)
        if failures is None or len(failures) < _LIMITS[key[0]]:
            return 0.0
        return max(0.0, failures[0] + _WINDOW_S - now)

    def _forget(self, now: float) -> None:
        for key, failures in list(self._failures.items()):
            if now - failures[-1] > _WINDOW_S:
                del self._failures[key]
        # Still too many: somebody invents names. The counts by address stay.
        if len(self._failures) > _MOST_KEYS:
            self._failures = {k: v for k, v in self._failures.items() if k[0] == "address"}


def _keys(address: str, name: str) -> tuple[tuple[str, str, str], ...]:
    return (("both", address, name), ("address", address, ""), ("name", "", name))
