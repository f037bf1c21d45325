"""Reading a series that looks complete before the evidence is there (ADR 0022).

Whoever does this has nothing else to do, and stops when there is. What comes of it is put aside;
the ordinary analysis finds it if the series is closed with the very same images, for the reason
that was foreseen. Nothing here writes to the ledger.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.completion import ClosingReason, Evidence, foresee, stack_evidence
from dicom_node.errors import LedgerError, SeriesRejected
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Ledger, Prospect, Standing
from dicom_node.ledger.tallies import Tally
from dicom_node.logs import get_logger, pseudonym
from dicom_node.memos import MemoDraft, Memos
from dicom_node.selection import (
    Candidate,
    FrameGeometry,
    SelectedStack,
    choose_series,
    judge_by_rules,
    read_frames,
    select_stack,
)
from dicom_node.settings import NodeSettings, Priority
from dicom_node.worker.assignment import Assignment
from dicom_node.worker.pipeline import Progress
from dicom_node.worker.reader import SeriesReader

__all__ = ["Speculation"]

_log = get_logger(__name__)

LOOK_S = 0.5  # between two looks whether to go on
GRACE_S = 0.5  # after its nudge, for another worker that is free
_POURING_S = 0.5  # since the last image: more are on their way


@dataclass(frozen=True, slots=True)
class _Outlook:
    """A series as it will be read, if it is closed as foreseen."""

    prospect: Prospect
    stack: SelectedStack
    reason: ClosingReason


class _Ended(Exception):
    """The reading is of no use any more, or has to make room."""


class Speculation:
    """Reads ahead, one series at a time.

    Parameters
    ----------
    settings : callable
        The settings in force.
    ledger : Ledger
        Is only read.
    reader : SeriesReader
        The loaded model.
    is_stopping : callable
        Whether this process was told to stop.
    tally : Tally, optional
        Counts readings ahead by what became of them.
    """

    def __init__(
        self,
        settings: Callable[[], NodeSettings],
        ledger: Ledger,
        reader: SeriesReader,
        is_stopping: Callable[[], bool] = lambda: False,
        tally: Tally | None = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._reader = reader
        self._is_stopping = is_stopping
        self._tally = tally or Tally()

    def run(self, revision_id: int) -> None:
        """Read a revision ahead, if it is worth it and nobody has begun to."""
        settings = self._settings()
        if not settings.analysis.speculative or not _has_room(settings):
            return
        outlook = self._outlook(revision_id, settings)
        if outlook is None:
            return
        prospect = outlook.prospect
        assignment = Assignment.of_prospect(
            prospect,
            outlook.stack,
            outlook.reason,
            self._ledger.earlier.than_series(prospect.series_id),
            settings,
        )
        key = self._reader.key(assignment)
        draft = Memos(settings.memos_dir).begin(prospect.series_id, key)
        if draft is None:
            return
        log = _log.bind(series=pseudonym(prospect.series_instance_uid), revision_id=revision_id)
        log.info("series read ahead", foreseen=str(outlook.reason))
        try:
            document, _ = self._reader.read(
                assignment, settings, draft.folder, self._watching(draft, outlook, settings)
            )
            draft.finish(document)
        except _Ended as ended:
            draft.give_up()
            self._tally.count("speculations", str(ended))
            log.info("reading ahead ended", outcome=str(ended))
        except (SQLAlchemyError, LedgerError) as error:
            draft.give_up()
            log.warning("reading ahead ended", outcome=type(error).__name__)
        except Exception as error:  # noqa: BLE001  a task's body
            # The analysis will find the same and say so; its text may hold anything.
            draft.condemn()
            self._tally.count("speculations", "failed")
            log.warning("reading ahead failed", error=type(error).__name__)
        except BaseException:
            draft.condemn()
            raise
        else:
            self._tally.count("speculations", "made")
            log.info("reading put aside")

    # -- whether to begin -------------------------------------------------------------------------

    def _outlook(self, revision_id: int, settings: NodeSettings) -> _Outlook | None:
        """Return what would be read; None where nothing would, or another series of the study."""
        outlook = self._selected(revision_id, settings)
        if outlook is None or settings.selection.series_per_study == "all":
            return outlook
        prospect = outlook.prospect
        study = prospect.study_instance_uid
        if self._ledger.revisions.analysed_sister(study, prospect.series_id) is not None:
            return None
        others = (
            self._selected(other, settings, alone=False)
            for other in self._ledger.prospects.unselected(study)
            if other != revision_id
        )
        best, _ = choose_series(
            [
                Candidate(one.prospect.series_instance_uid, one.stack)
                for one in (outlook, *others)
                if one is not None
            ]
        )
        return outlook if best == prospect.series_instance_uid else None

    def _selected(
        self, revision_id: int, settings: NodeSettings, *, alone: bool = True
    ) -> _Outlook | None:
        """Return a revision as it would be selected now.

        Parameters
        ----------
        alone : bool
            It is to be read; False: it is only compared with the one that is.
        """
        idle_timeout_s = settings.listener.idle_timeout_s + 5.0
        prospect = self._ledger.prospects.read(revision_id, idle_timeout_s)
        if prospect is None:
            return None
        reason = self._foreseen(prospect, settings) if alone else ClosingReason.QUIET_PERIOD
        rule = judge_by_rules(settings.rules, prospect.traits, settings.peers).rule
        if reason is None or rule.action == "skip" or rule.shadow:
            return None  # nobody waits for a shadow
        now = self._ledger.database.now()
        if rule.priority == Priority.OFF_PEAK and not settings.priorities.is_off_peak(now):
            return None
        try:
            stack = select_stack(prospect.headers, settings.selection, _frames(prospect, settings))
        except (SeriesRejected, OSError):
            return None  # the reconciler will say so, when the series is closed
        return _Outlook(prospect, stack, reason)

    def _foreseen(self, prospect: Prospect, settings: NodeSettings) -> ClosingReason | None:
        if prospect.closing_reason is not None:
            return ClosingReason(prospect.closing_reason)
        if 0.0 <= self._ledger.database.now() - prospect.last_arrival_at < _POURING_S:
            return None
        foreseen = foresee(
            Evidence(
                received=prospect.instance_count,
                first_arrival_at=prospect.opened_at,
                last_arrival_at=prospect.last_arrival_at,
                associations_over=True,
                associations_aborted=prospect.association_aborted,
                expected_count=prospect.expected_count,
                asked_at=prospect.queried_at,
            ),
            lambda: stack_evidence(prospect.headers, settings.selection.min_slices),
            settings.completion,
        )
        return None if foreseen is None else foreseen.reason

    # -- whether to go on -------------------------------------------------------------------------

    def _watching(self, draft: MemoDraft, outlook: _Outlook, settings: NodeSettings) -> Progress:
        """Progress that ends the reading when it is of no use or somebody waits."""
        looked_at = float("-inf")  # monotonic

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal looked_at
            draft.beat(f"{stage} {done} of {total}" if total else stage)
            now = time.monotonic()
            if now - looked_at < LOOK_S:
                return
            looked_at = now
            if self._is_stopping():
                raise _Ended("stopped")
            standing = self._ledger.prospects.standing(outlook.prospect, outlook.reason)
            if standing is Standing.GONE:
                raise _Ended("late")
            if standing is Standing.OPEN and self._somebody_waits(settings):
                raise _Ended("preempted")

        return progress

    def _somebody_waits(self, settings: NodeSettings) -> bool:
        return self._ledger.analyses.someone_waits(
            off_peak=settings.priorities.is_off_peak(self._ledger.database.now()),
            nudged_for_s=GRACE_S,
        )


def _has_room(settings: NodeSettings) -> bool:
    """Whether the disk has room for what nobody may need: far more than images are refused at."""
    free = shutil.disk_usage(settings.root).free
    return free > 4 * settings.listener.min_free_bytes


def _frames(
    prospect: Prospect, settings: NodeSettings
) -> Callable[[InstanceHeader], tuple[FrameGeometry, ...]]:
    """Multi-frame instances keep their geometry in functional groups: read them when asked."""
    paths = {one.sop_instance_uid: one.path for one in prospect.instances}

    def frames(header: InstanceHeader) -> tuple[FrameGeometry, ...]:
        return read_frames(settings.spool_dir / paths[header.sop_instance_uid])

    return frames
