"""How long ago something happened, though somebody sets the system clock meanwhile.

The ledger's times are those of the system clock, which processes and machines share. A clock that
is set (NTP after an empty battery, a person) makes every image an hour old at once, or one of the
future. A process that looks again and again knows better: between two looks only so much time can
have passed as a clock says that nobody sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

__all__ = ["Stopwatch"]


@dataclass(slots=True)
class _Seen:
    since: float
    elapsed_s: float
    at: float


class Stopwatch:
    """Measures how long ago events were, in rounds.

    Whoever uses it asks in every round for all events that are of interest. The system clock
    counts for what happened before the first round.

    Parameters
    ----------
    steady : callable
        Seconds on a clock that is never set.
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._seen: dict[Hashable, _Seen] = {}
        self._before: dict[Hashable, _Seen] = {}
        self._round_at: float | None = None
        self._last_round_at: float | None = None

    def begin_round(self) -> None:
        """Begin a round; events that the last one did not ask for are forgotten."""
        self._before, self._seen = self._seen, {}
        self._last_round_at, self._round_at = self._round_at, self._steady()

    def elapsed_s(self, event: Hashable, since: float, now: float) -> float:
        """Return how long ago `event` was.

        Parameters
        ----------
        since, now : float
            When it happened, and the present, on the system clock.
        """
        at = self._steady()
        before = self._before.get(event)
        by_clock = max(0.0, now - since)
        if before is not None and before.since == since:
            elapsed = before.elapsed_s + at - before.at
        elif before is not None:  # it happened once more since we looked
            elapsed = min(by_clock, at - before.at)
        elif self._last_round_at is not None:  # the last round would have seen it
            elapsed = min(by_clock, at - self._last_round_at)
        else:
            elapsed = by_clock
        self._seen[event] = _Seen(since, elapsed, at)
        return elapsed
