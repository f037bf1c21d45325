"""A destination that fails is left alone for a while, then probed by one C-ECHO.

Pure state: the ledger keeps a :class:`Breaker` per destination, the functions here say what it
becomes. Without it, a PACS that is down for a day would be called once per waiting object.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.delivery.retry import backoff_s

__all__ = [
    "BREAKER_TRANSITIONS",
    "Breaker",
    "BreakerEvent",
    "BreakerState",
    "Permission",
    "after_failure",
    "after_success",
    "permission",
]


class BreakerState(enum.StrEnum):
    """Whether a destination is called."""

    CLOSED = "closed"  # it is
    OPEN = "open"  # not before `retry_at`
    HALF_OPEN = "half_open"  # one C-ECHO is under way


class BreakerEvent(enum.StrEnum):
    """What happens to a breaker."""

    FAILURE = "failure"  # one failure below the limit
    LIMIT = "limit"  # the failure that reaches it
    DUE = "due"  # the waiting time is over
    SUCCESS = "success"


class Permission(enum.StrEnum):
    """What a sender may do now."""

    SEND = "send"
    PROBE = "probe"  # C-ECHO first, then tell the breaker
    WAIT = "wait"


_S, _E = BreakerState, BreakerEvent
BREAKER_TRANSITIONS: Mapping[tuple[BreakerState, BreakerEvent], BreakerState] = {
    (_S.CLOSED, _E.SUCCESS): _S.CLOSED,
    (_S.CLOSED, _E.FAILURE): _S.CLOSED,
    (_S.CLOSED, _E.LIMIT): _S.OPEN,
    (_S.OPEN, _E.DUE): _S.HALF_OPEN,
    (_S.OPEN, _E.LIMIT): _S.OPEN,  # an association that was under way when it opened
    (_S.OPEN, _E.SUCCESS): _S.CLOSED,  # likewise
    (_S.HALF_OPEN, _E.DUE): _S.HALF_OPEN,  # the prober was killed: somebody else probes
    (_S.HALF_OPEN, _E.LIMIT): _S.OPEN,
    (_S.HALF_OPEN, _E.SUCCESS): _S.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """One destination's breaker.

    Attributes
    ----------
    failures : int
        Failed associations in a row.
    retry_at : float
        Seconds since the epoch; while OPEN nothing is sent before it, while HALF_OPEN a probe
        that was not answered by then is taken over.
    """

    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    retry_at: float = 0.0


def permission(
    breaker: Breaker, now: float, *, cap_s: float, probe_s: float = 30.0
) -> tuple[Permission, Breaker]:
    """Return what may be done at `now` and the breaker to keep.

    Parameters
    ----------
    now : float
        Seconds since the epoch.
    cap_s : float
        Longest wait there can be: a `retry_at` further ahead comes from a clock that was set
        back, and counts as due.
    probe_s : float
        How long a probe may take before another sender takes it over.
    """
    if breaker.state is BreakerState.CLOSED:
        return Permission.SEND, breaker
    if breaker.retry_at > now and breaker.retry_at - now <= max(cap_s, probe_s):
        return Permission.WAIT, breaker
    state = BREAKER_TRANSITIONS[breaker.state, BreakerEvent.DUE]
    return Permission.PROBE, Breaker(state, breaker.failures, now + probe_s)


def after_success(breaker: Breaker) -> Breaker:
    """Return the breaker after an association (or C-ECHO) that went well."""
    return Breaker(BREAKER_TRANSITIONS[breaker.state, BreakerEvent.SUCCESS])


def after_failure(
    breaker: Breaker, now: float, *, limit: int, first_s: float, cap_s: float, uniform: float
) -> Breaker:
    """Return the breaker after a transient failure of a whole association (or C-ECHO).

    Parameters
    ----------
    limit : int
        Failures in a row that open it.
    first_s, cap_s, uniform : float
        See :func:`dicom_node.delivery.retry.backoff_s`.
    """
    failures = breaker.failures + 1
    tripped = failures >= limit or breaker.state is not BreakerState.CLOSED
    event = BreakerEvent.LIMIT if tripped else BreakerEvent.FAILURE
    state = BREAKER_TRANSITIONS[breaker.state, event]
    if state is BreakerState.CLOSED:
        return Breaker(state, failures)
    rounds = max(failures - limit, 0) + 1
    wait = backoff_s(rounds, first_s=first_s, cap_s=cap_s, uniform=uniform)
    return Breaker(state, failures, now + wait)
