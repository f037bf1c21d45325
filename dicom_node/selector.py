"""What becomes of a series that is whole: which rule decides, which stack is read, or why none is.

Part of the reconciler's sweep. Everything it needs is in the ledger; what it remembers saves
reading the same headers again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from dicom_node.crashpoints import crash_point
from dicom_node.errors import SeriesRejected, SeriesSkipped
from dicom_node.header import InstanceHeader
from dicom_node.ledger import CompletedRevision, Ledger, Plan
from dicom_node.logs import get_logger, pseudonym
from dicom_node.selection import (
    Candidate,
    FrameGeometry,
    SelectedStack,
    choose_series,
    judge_by_rules,
    read_frames,
    select_stack,
)
from dicom_node.settings import NodeSettings, Peer, Rule, SelectionSettings
from dicom_node.stopwatch import Stopwatch

__all__ = ["Selector"]

_log = get_logger("dicom_node.reconciler")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A series that may be read: its stack, and the rule that says how."""

    revision: CompletedRevision
    stack: SelectedStack
    rule: Rule


@dataclass(frozen=True, slots=True)
class _Asked:
    """The settings that a choice was made by."""

    selection: SelectionSettings
    rules: tuple[Rule, ...]
    peers: tuple[Peer, ...]


class Selector:
    """Selects, skips or rejects revisions that are closed.

    Parameters
    ----------
    ledger : Ledger
    watch : Stopwatch
        The sweep's; its rounds are the caller's.
    """

    def __init__(self, ledger: Ledger, watch: Stopwatch) -> None:
        self._ledger = ledger
        self._watch = watch
        # What was found out about revisions that wait for their sisters.
        self._known: dict[int, tuple[_Asked, _Chosen]] = {}

    def sweep(self, settings: NodeSettings) -> list[CompletedRevision]:
        """Look at every revision that is closed and not selected yet.

        Returns
        -------
        list of CompletedRevision
            Those that could be read and wait for their sisters.
        """
        waiting: list[CompletedRevision] = []
        revisions = self._ledger.revisions.completed()
        by_study: dict[str, list[CompletedRevision]] = {}
        for revision in revisions:
            by_study.setdefault(revision.study_instance_uid, []).append(revision)
        for study_instance_uid, members in by_study.items():
            chosen = self._readable(members, settings)
            if settings.selection.series_per_study == "all":
                for item in chosen:
                    self._analyse(item, settings)
            elif not chosen:
                continue
            elif not self._study_has_settled(study_instance_uid, members, settings):
                waiting += [item.revision for item in chosen]
            else:
                # A shadow takes no other series' place: of that nothing would be delivered.
                self._choose([item for item in chosen if not item.rule.shadow], settings)
                self._choose([item for item in chosen if item.rule.shadow], settings)
        for revision_id in self._known.keys() - {item.revision_id for item in revisions}:
            del self._known[revision_id]
        return waiting

    def _readable(
        self, revisions: list[CompletedRevision], settings: NodeSettings
    ) -> list[_Chosen]:
        """Return the series that may be read; set those aside that are not."""
        found = []
        for revision in revisions:
            rule = ""
            series = pseudonym(revision.series_instance_uid)
            try:
                known = self._remembered(revision, settings)
                if known is None:
                    headers = self._ledger.revisions.headers(revision.revision_id)
                    decided = self._rule(revision, headers, settings)
                    rule = decided.name
                    known = self._stack(revision, headers, decided, settings)
                found.append(known)
            except OSError as error:
                # The disk does not give an instance: the others go on, this one when it does.
                words = errno.errorcode.get(error.errno or 0, "?")
                _log.error("series not readable now", series=series, error=words)
            except SeriesSkipped as error:
                self._ledger.revisions.skip(revision.revision_id, error.reason, rule)
                _log.info("series skipped", series=series, reason=error.reason)
            except SeriesRejected as error:
                self._ledger.revisions.reject(revision.revision_id, error.reason, rule)
                _log.warning("series rejected", series=series, reason=error.reason)
        return found

    def _rule(
        self, revision: CompletedRevision, headers: list[InstanceHeader], settings: NodeSettings
    ) -> Rule:
        traits = self._ledger.traits.settle(revision.series_id, headers)
        return judge_by_rules(settings.rules, traits, settings.peers).rule

    def _remembered(self, revision: CompletedRevision, settings: NodeSettings) -> _Chosen | None:
        asked, chosen = self._known.get(revision.revision_id, (None, None))
        return chosen if asked == _asked(settings) else None

    def _stack(
        self,
        revision: CompletedRevision,
        headers: list[InstanceHeader],
        rule: Rule,
        settings: NodeSettings,
    ) -> _Chosen:
        """Select the stack of a series, and remember it.

        Raises
        ------
        SeriesSkipped
            By its rule, or because of what its headers say.
        SeriesRejected
        """
        if rule.action == "skip":
            raise SeriesSkipped(f"{rule.reason.strip()} (rule {rule.name})")
        self._require_all(revision, len(headers))
        stack = select_stack(headers, settings.selection, self._frame_reader(settings))
        chosen = _Chosen(revision, stack, rule)
        self._known[revision.revision_id] = (_asked(settings), chosen)
        return chosen

    def _require_all(self, revision: CompletedRevision, count: int) -> None:
        """Late slices of a series that was read long ago: the others have to come again, too."""
        removed = self._ledger.revisions.removed(revision.revision_id)
        if removed:
            raise SeriesRejected(
                f"{removed} of the {count} images of this series were removed by retention; send "
                "the whole series again, then use 'm3lung retry'"
            )

    def _frame_reader(
        self, settings: NodeSettings
    ) -> Callable[[InstanceHeader], tuple[FrameGeometry, ...]]:
        """Multi-frame instances keep their geometry in functional groups: read them when asked."""

        def frames(header: InstanceHeader) -> tuple[FrameGeometry, ...]:
            path = self._ledger.revisions.path(header.sop_instance_uid)
            return read_frames(settings.spool_dir / path)

        return frames

    def _study_has_settled(
        self, study_instance_uid: str, members: list[CompletedRevision], settings: NodeSettings
    ) -> bool:
        """Whether sister series had their chance: none receives, and a moment has passed."""
        closed_at = max(member.closed_at for member in members)
        now = self._ledger.database.now()
        waited = self._watch.elapsed_s(("closed", study_instance_uid), closed_at, now)
        if waited >= settings.completion.maximum_wait_s:
            return True
        if waited < settings.completion.study_settle_s:
            return False
        return not self._ledger.revisions.study_is_receiving(study_instance_uid)

    def _choose(self, chosen: list[_Chosen], settings: NodeSettings) -> None:
        """One series per study: the best one, unless a sister was analysed before."""
        eligible = []
        for item in chosen:
            revision = item.revision
            sister = self._ledger.revisions.analysed_sister(
                revision.study_instance_uid, revision.series_id, shadow=item.rule.shadow
            )
            if sister is None:
                eligible.append(item)
            else:
                self._ledger.revisions.skip(
                    revision.revision_id,
                    "another series of this study has been analysed already; one series per "
                    "study is analysed",
                    item.rule.name,
                )
        if not eligible:
            return
        _, reasons = choose_series(
            [Candidate(item.revision.series_instance_uid, item.stack) for item in eligible]
        )
        for item in eligible:
            reason = reasons.get(item.revision.series_instance_uid)
            if reason is None:
                self._analyse(item, settings)
            else:
                self._ledger.revisions.skip(item.revision.revision_id, reason, item.rule.name)

    def _analyse(self, chosen: _Chosen, settings: NodeSettings) -> None:
        rule, stack = chosen.rule, chosen.stack
        analysis_id = self._ledger.revisions.select(
            chosen.revision.revision_id,
            {
                "sop_instance_uids": list(stack.sop_instance_uids),
                "frames": {uid: list(numbers) for uid, numbers in stack.frames.items()},
                "statements": list(stack.statements),
            },
            Plan(
                rule=rule.name,
                priority=rule.priority,
                behind_s=settings.priorities.behind_s(rule.priority),
                shadow=rule.shadow,
                destinations=rule.destinations,
            ),
        )
        if analysis_id is not None:
            crash_point("reconciler.after_select")
            _log.info(
                "series selected",
                series=pseudonym(chosen.revision.series_instance_uid),
                analysis_id=analysis_id,
                slices=len(stack.sop_instance_uids),
                rule=rule.name,
            )


def _asked(settings: NodeSettings) -> _Asked:
    return _Asked(settings.selection, settings.rules, settings.peers)
