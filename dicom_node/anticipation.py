"""Which series look complete though the evidence is not there yet: an idle worker may read them.

Part of the reconciler's sweep. It only nudges: what comes of it is the worker's affair, and nothing
hangs on it (ADR 0022).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dicom_node.broker import Nudger
from dicom_node.completion import ClosingReason, Evidence, StackEvidence, foresee
from dicom_node.ledger import Ledger
from dicom_node.settings import CompletionSettings, NodeSettings

__all__ = ["WORTH_S", "Anticipation", "looks_complete"]

WORTH_S = 1.5  # less time than that until a series is closed is not worth a start
_PAUSE_S = 2.0  # of a sender whose association is open
_MOMENT_S = 0.5  # after the association is over
_AGAIN_AFTER_S = 5.0  # a nudge may be lost, or find every worker busy


def looks_complete(
    evidence: Evidence,
    read_stacks: Callable[[], StackEvidence],
    quiet_s: float,
    settings: CompletionSettings,
) -> bool:
    """Say whether a series is worth reading before it is closed.

    It looks complete when a stack without gaps stands still for a moment; one with gaps, which only
    time can close, when nothing has come for ``settle_s``.

    Parameters
    ----------
    read_stacks : callable
        As of :func:`~dicom_node.completion.judge`.
    quiet_s : float
        Since the last image.
    """
    if quiet_s < (_MOMENT_S if evidence.associations_over else _PAUSE_S):
        return False
    foreseen = foresee(evidence, read_stacks, settings)
    if foreseen is None:
        return False
    if foreseen.reason is ClosingReason.QUIET_PERIOD and quiet_s < settings.settle_s:
        return False
    # A sender that only pauses closes nothing before its association is over, or time is.
    end_s = foreseen.quiet_s if evidence.associations_over else settings.quiet_period_s
    return end_s - quiet_s > WORTH_S


class Anticipation:
    """Nudges idle workers to read ahead.

    Parameters
    ----------
    ledger : Ledger
    nudger : Nudger
    steady : callable
        Seconds on a clock that is never set.
    """

    def __init__(
        self, ledger: Ledger, nudger: Nudger, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._nudger = nudger
        self._steady = steady
        self._found: set[tuple[int, int]] = set()
        self._nudged: dict[tuple[int, int], float] = {}

    def add(self, revision_id: int, instance_count: int) -> None:
        """Note, in this sweep, a revision that may be read ahead."""
        self._found.add((revision_id, instance_count))

    def nudge(self, settings: NodeSettings) -> None:
        """Nudge for what was noted, unless a closed series waits for a worker.

        Raises
        ------
        BrokerUnavailable
        """
        found, self._found = self._found, set()
        self._nudged = {key: at for key, at in self._nudged.items() if key in found}
        now = self._steady()
        due = sorted(key for key in found if now - self._nudged.get(key, -1e9) >= _AGAIN_AFTER_S)
        if not due or not settings.analysis.speculative:
            return
        off_peak = settings.priorities.is_off_peak(self._ledger.database.now())
        if self._ledger.analyses.someone_waits(off_peak=off_peak):
            return
        for key in due:
            self._nudged[key] = now
            self._nudger.speculation(key[0])
