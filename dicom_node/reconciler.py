"""The reconciler moves what waits: completion, selection, lost leases, nudges.

Everything it needs is in the ledger, so it may be killed, started again or run twice at any
time. One sweep looks at what is open, never at what is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.anticipation import WORTH_S, Anticipation, looks_complete
from dicom_node.audit import Auditor
from dicom_node.broker import Nudger
from dicom_node.completion import Evidence, StackEvidence, judge, stack_evidence
from dicom_node.crashpoints import crash_point
from dicom_node.errors import BrokerUnavailable, LedgerGone
from dicom_node.ledger import Ledger, OpenRevision
from dicom_node.ledger.quiet import note_held
from dicom_node.logs import get_logger, pseudonym
from dicom_node.pulse import BEAT_INTERVAL_S
from dicom_node.retention import Janitor
from dicom_node.selector import Selector
from dicom_node.settings import NodeSettings, Peer
from dicom_node.source_query import STUDY_ROOT_FIND, QueryFailed, count_instances
from dicom_node.stopwatch import Stopwatch

__all__ = ["Reconciler"]

_log = get_logger(__name__)

SWEEP_INTERVAL_S = 0.5
RENUDGE_AFTER_S = 5.0  # a nudge may be lost with its broker: repeat it
LEDGER_PAUSE_S = 2.0  # before the next try, when the ledger could not be reached


class Reconciler:
    """Sweeps the ledger.

    Parameters
    ----------
    settings : callable
        The settings in force.
    ledger : Ledger
    nudger : Nudger
        Publishes ids; may fail, costs nothing but time then.
    steady : callable
        Seconds on a clock that is never set.
    turned : callable
        Called after each sweep.
    """

    def __init__(
        self,
        settings: Callable[[], NodeSettings],
        ledger: Ledger,
        nudger: Nudger,
        steady: Callable[[], float] = time.monotonic,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._turned = turned
        self._settings = settings
        self._ledger = ledger
        self._nudger = nudger
        self._auditor = Auditor(settings(), "reconcile")
        self._watch = Stopwatch(steady)
        self._steady = steady
        self._began_at = steady()
        self._asking: dict[int, Future[int | None]] = {}
        # What was found out about revisions that wait, so that a sweep reads them once.
        self._evidence: dict[int, tuple[tuple[int, int], StackEvidence]] = {}
        self._selector = Selector(ledger, self._watch)
        self._anticipation = Anticipation(ledger, nudger, steady)
        self._askers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="c-find")
        self._janitor = Janitor(ledger, self._auditor)
        self._tidier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="janitor")
        self._tidying: Future[None] | None = None
        self._tidy_at = 0.0  # monotonic

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set."""
        while not stop.is_set():
            pause_s = SWEEP_INTERVAL_S
            try:
                self.sweep()
                self._turned()
            except (SQLAlchemyError, LedgerGone) as error:
                # The ledger is away or locked. What a sweep leaves undone the next one finds.
                _log.error("ledger unavailable", error=type(error).__name__)
                pause_s = LEDGER_PAUSE_S
            stop.wait(pause_s)
        self._askers.shutdown(wait=False, cancel_futures=True)
        self._tidier.shutdown(wait=True, cancel_futures=True)

    def sweep(self) -> None:
        """Look once at everything that is open."""
        settings = self._settings()
        self._return_lost_leases(settings)
        receiving = self._ledger.revisions.receiving(settings.listener.idle_timeout_s + 5.0)
        self._watch.begin_round()
        listening_s = self._listening_s()
        for revision in receiving:
            self._judge(revision, settings, listening_s)
        _forget_others(self._evidence, receiving)
        for closed in self._selector.sweep(settings):
            if (
                settings.completion.study_settle_s > WORTH_S
                or self._ledger.revisions.study_is_receiving(closed.study_instance_uid)
            ):
                self._anticipation.add(closed.revision_id, 0)
        self._nudge(settings)
        self._tidy(settings)

    # -- retention --------------------------------------------------------------------------------

    def _tidy(self, settings: NodeSettings) -> None:
        """Let the janitor sweep beside this thread, one sweep at a time."""
        if self._tidying is not None and self._tidying.done():
            error = self._tidying.exception()
            if error is not None:
                _log.error("janitor failed", error=type(error).__name__, reason=str(error)[:200])
            self._tidying = None
        if self._tidying is None and time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + settings.retention.sweep_interval_s
            self._tidying = self._tidier.submit(self._janitor.sweep, settings)

    # -- leases and nudges ------------------------------------------------------------------------

    def _return_lost_leases(self, settings: NodeSettings) -> None:
        for analysis_id in self._ledger.analyses.return_expired(settings.analysis.max_attempts):
            _log.warning("analysis lease returned", analysis_id=analysis_id)
            crash_point("reconciler.after_return")
        for shipment_id in self._ledger.shipments.return_expired():
            _log.warning("shipment lease returned", shipment_id=shipment_id)

    def _nudge(self, settings: NodeSettings) -> None:
        now = self._ledger.database.now()
        off_peak, quiet = settings.priorities.is_off_peak(now), settings.quiet(now)
        note_held(self._ledger.database, quiet)
        try:
            for analysis_id in self._ledger.analyses.due(RENUDGE_AFTER_S, off_peak=off_peak):
                crash_point("reconciler.before_nudge")
                self._nudger.analysis(analysis_id)
                crash_point("reconciler.after_nudge")
            for shipment_id in self._ledger.shipments.due(RENUDGE_AFTER_S, quiet=quiet):
                crash_point("reconciler.before_nudge")
                self._nudger.delivery(shipment_id)
                crash_point("reconciler.after_nudge")
            self._anticipation.nudge(settings)  # last: whatever is closed comes first
        except BrokerUnavailable as error:
            # The ledger keeps the work; the next sweep after RENUDGE_AFTER_S tries again.
            _log.warning("broker unavailable", error=str(error))

    # -- completion -------------------------------------------------------------------------------

    def _judge(self, revision: OpenRevision, settings: NodeSettings, listening_s: float) -> None:
        quiet_s, open_s = (min(age_s, listening_s) for age_s in self._ages(revision))
        source = _queryable_source(settings, revision.source_ae)
        if source is not None:
            revision = self._ask_source(revision, source, settings)
        if quiet_s < 0.5 and revision.expected_count is None:
            return  # images are pouring in: nothing to judge yet
        evidence = Evidence(
            received=revision.instance_count,
            first_arrival_at=revision.last_arrival_at + quiet_s - open_s,
            last_arrival_at=revision.last_arrival_at,
            associations_over=revision.associations_over,
            associations_aborted=revision.association_aborted,
            expected_count=revision.expected_count,
            asked_at=revision.queried_at,
        )

        def read_stacks() -> StackEvidence:
            return self._stack_evidence(revision, settings.selection.min_slices)

        now = revision.last_arrival_at + quiet_s
        verdict = judge(evidence, read_stacks, now, settings.completion)
        if verdict.reason is None:
            if (
                settings.analysis.speculative
                and (source is None or not self._may_answer(revision))
                and looks_complete(evidence, read_stacks, quiet_s, settings.completion)
            ):
                self._anticipation.add(revision.revision_id, revision.instance_count)
            if verdict.waiting_for[:256] != revision.waiting_for:
                self._ledger.revisions.note_waiting(revision.revision_id, verdict.waiting_for)
        elif self._ledger.revisions.close(revision, verdict.reason):
            crash_point("reconciler.after_close")
            _log.info(
                "series complete",
                series=pseudonym(revision.series_instance_uid),
                instances=revision.instance_count,
                reason=str(verdict.reason),
            )

    def _may_answer(self, revision: OpenRevision) -> bool:
        """Whether the source is being asked, or will be: its answer would close the series."""
        asked = revision.queried_at is not None and revision.queried_at >= revision.last_arrival_at
        return revision.revision_id in self._asking or not asked

    def _listening_s(self) -> float:
        """Return for how long senders have been heard; while nobody listens, silence says nothing.

        After a power cut the sender of a half series needs its time to come again.
        """
        now = self._ledger.database.now()
        ages_s = [
            self._watch.elapsed_s(("listening", listener.owner), listener.started_at, now)
            for listener in self._ledger.presence.listeners(3 * BEAT_INTERVAL_S)
        ]
        return max(ages_s, default=self._steady() - self._began_at)

    def _ages(self, revision: OpenRevision) -> tuple[float, float]:
        """Return how long a revision is quiet, and open; a clock that is set changes neither."""
        now, key = self._ledger.database.now(), revision.revision_id
        quiet_s = self._watch.elapsed_s(("arrival", key), revision.last_arrival_at, now)
        open_s = self._watch.elapsed_s(("opened", key), revision.opened_at, now)
        return quiet_s, max(quiet_s, open_s)

    def _stack_evidence(self, revision: OpenRevision, min_slices: int) -> StackEvidence:
        """Say what the positions prove; they are read again only when an image has come."""
        seen = (revision.instance_count, min_slices)
        known = self._evidence.get(revision.revision_id)
        if known is None or known[0] != seen:
            headers = self._ledger.revisions.headers(revision.revision_id)
            known = self._evidence[revision.revision_id] = (
                seen,
                stack_evidence(headers, min_slices),
            )
        return known[1]

    def _ask_source(
        self, revision: OpenRevision, source: Peer, settings: NodeSettings
    ) -> OpenRevision:
        """Ask the source PACS in the background how many images there are; note what it said."""
        future = self._asking.get(revision.revision_id)
        if future is None:
            due = (revision.queried_at or 0.0) + settings.completion.query_interval_s
            if revision.associations_over and self._ledger.database.now() >= due:
                self._asking[revision.revision_id] = self._askers.submit(
                    self._count_instances,
                    settings,
                    source,
                    revision.study_instance_uid,
                    revision.series_instance_uid,
                )
            return revision
        if not future.done():
            return revision
        del self._asking[revision.revision_id]
        try:
            expected = future.result()
        except QueryFailed as error:
            _log.warning("source did not answer C-FIND", peer=source.name, error=str(error))
            expected = revision.expected_count
        self._ledger.revisions.note_query(revision.revision_id, expected)
        # What was read before the answer came stays as it is; the next sweep sees the new row.
        return revision

    def _count_instances(
        self, settings: NodeSettings, source: Peer, study_uid: str, series_uid: str
    ) -> int | None:
        self._auditor.queried(
            ae_title=source.ae_title,
            address=source.host,
            sop_class_uid=STUDY_ROOT_FIND,
            study_uid=study_uid,
        )
        return count_instances(settings, source, study_uid, series_uid)


def _forget_others(memory: dict[int, Any], revisions: Sequence[OpenRevision]) -> None:
    """Drop what is remembered of revisions that are not among these."""
    for revision_id in memory.keys() - {revision.revision_id for revision in revisions}:
        del memory[revision_id]


def _queryable_source(settings: NodeSettings, ae_title: str) -> Peer | None:
    """Return the source with this AE title that can be asked by C-FIND, if there is one."""
    for peer in settings.peers:
        if peer.is_source and peer.query and peer.ae_title == ae_title:
            return peer
    return None
