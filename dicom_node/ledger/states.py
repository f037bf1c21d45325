"""The three state machines of the ledger, as tables.

A pair (state, event) that stands in no table raises :class:`IllegalTransition`. The tests
restate the tables by hand and try every pair.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from dicom_node.errors import IllegalTransition

__all__ = [
    "ANALYSIS_TRANSITIONS",
    "DELIVERY_TRANSITIONS",
    "REVISION_TRANSITIONS",
    "AnalysisEvent",
    "AnalysisState",
    "DeliveryEvent",
    "DeliveryState",
    "RevisionEvent",
    "RevisionState",
    "step",
]


class RevisionState(enum.StrEnum):
    """A series revision: one set of instances that is judged as a whole."""

    RECEIVING = "receiving"
    COMPLETE = "complete"  # closed by evidence, not yet selected
    SELECTED = "selected"  # an analysis exists
    SKIPPED = "skipped"  # not meant to be analysed, with a reason
    REJECTED = "rejected"  # cannot be analysed, with a reason
    SUPERSEDED = "superseded"  # a later revision took its place


class RevisionEvent(enum.StrEnum):
    """What happens to a revision."""

    EVIDENCE = "evidence"
    SELECT = "select"
    SKIP = "skip"
    REJECT = "reject"
    LATE_SLICES = "late_slices"
    REOPEN = "reopen"  # an administrator's retry: select again


class AnalysisState(enum.StrEnum):
    """One reading of one revision by one model."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # the pixels say: not a chest CT
    REJECTED = "rejected"  # the pixels cannot be read
    QUARANTINED = "quarantined"  # killed its worker too often
    SUPERSEDED = "superseded"


class AnalysisEvent(enum.StrEnum):
    """What happens to an analysis."""

    CLAIM = "claim"
    FINISH = "finish"
    SKIP = "skip"
    REJECT = "reject"
    FAIL = "fail"  # may succeed another time
    LEASE_EXPIRED = "lease_expired"
    EXHAUSTED = "exhausted"
    SUPERSEDE = "supersede"
    RETRY = "retry"


class DeliveryState(enum.StrEnum):
    """One object on its way to one destination."""

    WAITING = "waiting"
    SENT = "sent"
    COMMIT_REQUESTED = "commit_requested"
    COMMITTED = "committed"  # the peer took responsibility for it
    VERIFIED = "verified"  # the peer lists it
    COMMIT_FAILED = "commit_failed"  # sent, and nothing proves that the peer holds it
    PARKED = "parked"  # permanent: somebody has to change something
    QUARANTINED = "quarantined"  # the object itself cannot be sent
    EXPIRED = "expired"  # transient for too long


class DeliveryEvent(enum.StrEnum):
    """What happens to a delivery."""

    ACCEPTED = "accepted"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    BAD_OBJECT = "bad_object"
    GIVE_UP = "give_up"
    COMMIT_ASKED = "commit_asked"
    COMMIT_SUCCESS = "commit_success"
    COMMIT_FAILURE = "commit_failure"  # the peer does not hold it: send it again
    COMMIT_UNANSWERED = "commit_unanswered"  # no report in time: ask again
    COMMIT_EXHAUSTED = "commit_exhausted"  # asked and sent often enough
    FOUND = "found"  # by C-FIND
    RETRY = "retry"


_R, _RE = RevisionState, RevisionEvent
REVISION_TRANSITIONS: Mapping[tuple[RevisionState, RevisionEvent], RevisionState] = {
    (_R.RECEIVING, _RE.EVIDENCE): _R.COMPLETE,
    (_R.COMPLETE, _RE.SELECT): _R.SELECTED,
    (_R.COMPLETE, _RE.SKIP): _R.SKIPPED,
    (_R.COMPLETE, _RE.REJECT): _R.REJECTED,
    (_R.COMPLETE, _RE.LATE_SLICES): _R.SUPERSEDED,
    (_R.SELECTED, _RE.LATE_SLICES): _R.SUPERSEDED,
    (_R.SKIPPED, _RE.LATE_SLICES): _R.SUPERSEDED,
    (_R.REJECTED, _RE.LATE_SLICES): _R.SUPERSEDED,
    (_R.SKIPPED, _RE.REOPEN): _R.COMPLETE,
    (_R.REJECTED, _RE.REOPEN): _R.COMPLETE,
}

_A, _AE = AnalysisState, AnalysisEvent
ANALYSIS_TRANSITIONS: Mapping[tuple[AnalysisState, AnalysisEvent], AnalysisState] = {
    (_A.WAITING, _AE.CLAIM): _A.RUNNING,
    (_A.WAITING, _AE.SUPERSEDE): _A.SUPERSEDED,
    (_A.RUNNING, _AE.FINISH): _A.DONE,
    (_A.RUNNING, _AE.SKIP): _A.SKIPPED,
    (_A.RUNNING, _AE.REJECT): _A.REJECTED,
    (_A.RUNNING, _AE.FAIL): _A.WAITING,
    (_A.RUNNING, _AE.LEASE_EXPIRED): _A.WAITING,
    (_A.RUNNING, _AE.EXHAUSTED): _A.QUARANTINED,
    (_A.RUNNING, _AE.SUPERSEDE): _A.SUPERSEDED,
    (_A.SKIPPED, _AE.RETRY): _A.WAITING,
    (_A.REJECTED, _AE.RETRY): _A.WAITING,
    (_A.QUARANTINED, _AE.RETRY): _A.WAITING,
}

_D, _DE = DeliveryState, DeliveryEvent
DELIVERY_TRANSITIONS: Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (_D.WAITING, _DE.ACCEPTED): _D.SENT,
    (_D.WAITING, _DE.TRANSIENT): _D.WAITING,
    (_D.WAITING, _DE.PERMANENT): _D.PARKED,
    (_D.WAITING, _DE.BAD_OBJECT): _D.QUARANTINED,
    (_D.WAITING, _DE.GIVE_UP): _D.EXPIRED,
    (_D.SENT, _DE.COMMIT_ASKED): _D.COMMIT_REQUESTED,
    (_D.SENT, _DE.COMMIT_SUCCESS): _D.COMMITTED,  # the report to a request of before
    (_D.SENT, _DE.COMMIT_FAILURE): _D.WAITING,
    (_D.SENT, _DE.COMMIT_EXHAUSTED): _D.COMMIT_FAILED,
    (_D.SENT, _DE.FOUND): _D.VERIFIED,
    (_D.COMMIT_REQUESTED, _DE.COMMIT_SUCCESS): _D.COMMITTED,
    (_D.COMMIT_REQUESTED, _DE.COMMIT_FAILURE): _D.WAITING,
    (_D.COMMIT_REQUESTED, _DE.COMMIT_UNANSWERED): _D.SENT,
    (_D.COMMIT_REQUESTED, _DE.COMMIT_EXHAUSTED): _D.COMMIT_FAILED,
    (_D.VERIFIED, _DE.COMMIT_SUCCESS): _D.COMMITTED,  # a report that came late
    (_D.COMMIT_FAILED, _DE.COMMIT_SUCCESS): _D.COMMITTED,
    (_D.COMMIT_FAILED, _DE.RETRY): _D.WAITING,
    (_D.PARKED, _DE.RETRY): _D.WAITING,
    (_D.QUARANTINED, _DE.RETRY): _D.WAITING,
    (_D.EXPIRED, _DE.RETRY): _D.WAITING,
}

_State = TypeVar("_State", bound=enum.StrEnum)
_Event = TypeVar("_Event", bound=enum.StrEnum)


def step(table: Mapping[tuple[_State, _Event], _State], state: _State, event: _Event) -> _State:
    """Return the state that follows `state` on `event`.

    Raises
    ------
    IllegalTransition
        `table` does not list the pair.
    """
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransition(f"{type(state).__name__} {state} does not allow {event}") from None
