"""Connection tests that run beside the pages: one per peer, bounded in number and in time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dicom_node.errors import NodeError
from dicom_node.settings import NodeSettings, Peer

if TYPE_CHECKING:
    from dicom_node.delivery.steps import Step

__all__ = ["TooManyTrials", "Trial", "Trials"]

_MOST_AT_A_TIME = 4
_MOST_KEPT = 256
_LONGEST_S = 90.0
_CONNECT_S = 5.0
_RESPONSE_S = 15.0


class TooManyTrials(NodeError):
    """As many connection tests run already as may; the text is for the person."""


@dataclass
class Trial:
    """One connection test.

    Attributes
    ----------
    peer : Peer
        As it stood in the configuration when the test began.
    steps : list of Step
        That are done; grows while it runs.
    began_at, ended_at : float
        Seconds of the epoch; `ended_at` is None while it runs.
    """

    peer: Peer
    began_at: float
    steps: list[Step] = field(default_factory=list)
    ended_at: float | None = None
    gave_up: str = ""

    @property
    def runs(self) -> bool:
        """Whether more is to come; one that hangs beyond its time is given up."""
        return self.ended_at is None and not self.is_overdue

    @property
    def is_overdue(self) -> bool:
        """Whether its time is over although a step has not come back."""
        return self.ended_at is None and time.time() - self.began_at > _LONGEST_S

    @property
    def failed(self) -> bool:
        """Whether something went wrong, so far."""
        return bool(self.gave_up) or any(step.result == "failed" for step in self.steps)


class Trials:
    """The tests of this process. Nothing of them is kept beyond it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trials: dict[str, Trial] = {}

    def last(self, name: str) -> Trial | None:
        """Return the last test of the peer called `name`."""
        with self._lock:
            return self._trials.get(name)

    def start(self, settings: NodeSettings, peer: Peer) -> Trial:
        """Begin to test `peer`, or return its test that runs already.

        Raises
        ------
        TooManyTrials
        """
        with self._lock:
            trial = self._trials.get(peer.name)
            if trial is not None and trial.runs:
                return trial
            running = sum(other.ended_at is None for other in self._trials.values())
            if running >= _MOST_AT_A_TIME:
                raise TooManyTrials(f"{running} connection tests run already; try again soon.")
            trial = Trial(peer, time.time())
            self._trials.pop(peer.name, None)
            if len(self._trials) >= _MOST_KEPT:
                self._trials.pop(next(iter(self._trials)))
            self._trials[peer.name] = trial
        thread = threading.Thread(
            target=_run, args=(trial, _patient_for_a_moment(settings)), daemon=True
        )
        thread.start()
        return trial


def _patient_for_a_moment(settings: NodeSettings) -> NodeSettings:
    """Return `settings` with timeouts for a person who looks on."""
    delivery = settings.delivery
    shorter = {
        "connect_timeout_s": min(delivery.connect_timeout_s, _CONNECT_S),
        "response_timeout_s": min(delivery.response_timeout_s, _RESPONSE_S),
    }
    return settings.model_copy(update={"delivery": delivery.model_copy(update=shorter)})


def _run(trial: Trial, settings: NodeSettings) -> None:
    # It comes with codecs, which a console needs for nothing else.
    from dicom_node.delivery.connection_test import steps_of

    # A disabled peer is tested as what it will be.
    peer = trial.peer.model_copy(update={"enabled": True})
    whole = False
    try:
        for step in steps_of(settings, peer):
            trial.steps.append(step)
            if time.time() - trial.began_at > _LONGEST_S:
                trial.gave_up = f"given up after {_LONGEST_S:.0f} s"
                break
        whole = True
    finally:  # the page has to learn that it is over, whatever ended it
        if not whole:
            trial.gave_up = "the test itself failed; the log of the console says why"
        trial.ended_at = time.time()
