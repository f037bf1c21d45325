"""Where a series is, in a sentence: the same words on the command line and in the console."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dicom_node.ledger.worklist import DeliverySummary, SeriesStatus
from dicom_node.settings import NodeSettings, Priority, QuietHours
from dicom_node.settings.daily_hours import hours_begin
from dicom_node.under_way import under_way

__all__ = ["ANY_TIME", "Moment", "in_words", "right_now", "waits_for_quiet_hours"]


@dataclass(frozen=True, slots=True)
class Moment:
    """What is so at a moment, and stands in no row of the ledger.

    Attributes
    ----------
    quiet : mapping of destination to QuietHours
        Where it is quiet now.
    off_peak_from : str
        ``HH:MM``, when off-peak series may start; empty: they may now.
    ahead : mapping of series_id to str
        Series that are being read ahead of the evidence, with how far that is.
    """

    quiet: Mapping[str, QuietHours] = field(default_factory=dict)
    off_peak_from: str = ""
    ahead: Mapping[int, str] = field(default_factory=dict)


ANY_TIME = Moment()
"""Nothing is held back, and nothing read ahead."""


def right_now(settings: NodeSettings, now: float | None = None) -> Moment:
    """Return what is so now, or what is held back at `now` (seconds since the epoch, UTC)."""
    now = time.time() if now is None else now
    priorities = settings.priorities
    begins = "" if priorities.is_off_peak(now) else hours_begin(priorities.off_peak_hours, now)
    return Moment(settings.quiet(now), begins, under_way(settings.memos_dir))


def in_words(item: SeriesStatus, moment: Moment = ANY_TIME) -> str:
    """One sentence on where a series is."""
    words = _in_words(item, moment)
    waits = item.state in ("receiving", "complete") or item.analysis_state == "waiting"
    if not waits or item.series_id not in moment.ahead:
        return words
    how_far = moment.ahead[item.series_id]
    return f"{words}; already being read{how_far and ': '}{how_far}"


def _in_words(item: SeriesStatus, moment: Moment) -> str:
    if item.state == "receiving":
        return f"receiving: {item.waiting_for or 'images are arriving'}"
    if item.state in ("complete", "skipped", "rejected", "superseded"):
        words = {
            "complete": "complete, waits for selection",
            "skipped": f"not analysed: {item.reason}",
            "rejected": f"cannot be analysed: {item.reason}",
            "superseded": "superseded by later slices",
        }
        return words[item.state]
    return _analysis_in_words(item, moment)


def _analysis_in_words(item: SeriesStatus, moment: Moment) -> str:
    match item.analysis_state:
        case "waiting":
            again = f", attempt {item.attempts + 1}" if item.attempts else ""
            return f"queued at position {item.queue_position}{_class_in_words(item, moment)}{again}"
        case "running":
            done = f" {item.done} of {item.total}" if item.total else ""
            return f"analysing: {item.stage}{done}"
        case "done":
            return _deliveries_in_words(item, moment)
        case "skipped":
            return f"not analysed: {item.reason}"
        case "rejected":
            return f"cannot be analysed: {item.reason}"
        case _:
            return f"{item.analysis_state}: {item.reason}"


def _class_in_words(item: SeriesStatus, moment: Moment) -> str:
    if item.priority == Priority.OFF_PEAK:
        return f", off-peak from {moment.off_peak_from}" if moment.off_peak_from else ", off-peak"
    return ", urgent" if item.priority == Priority.URGENT else ""


_SENT = ("sent", "commit_requested", "committed", "verified", "commit_failed")
_PROOF = {
    "committed": "committed",
    "verified": "verified",
    "commit_requested": "asked to commit",
    "commit_failed": "without proof",
}


def waits_for_quiet_hours(item: SeriesStatus, delivery: DeliverySummary, moment: Moment) -> str:
    """Return in words for which quiet hours a delivery waits, empty if for none."""
    quiet = moment.quiet.get(delivery.destination)
    if not delivery.states.get("waiting") or quiet is None or not quiet.hold(item.priority):
        return ""
    return f"waits for the end of the quiet hours of {delivery.destination}, {quiet.until}"


def _deliveries_in_words(item: SeriesStatus, moment: Moment) -> str:
    if item.shadow:
        return "analysed in shadow; nothing is delivered"
    if not item.deliveries:
        return "analysed; no destination is configured"
    parts = []
    # Where something is amiss comes first: a narrow column cuts the rest.
    for delivery in sorted(item.deliveries, key=lambda one: not one.last_error):
        total = sum(delivery.states.values())
        sent = sum(delivery.states.get(state, 0) for state in _SENT)
        words = f"{delivery.destination}: {sent} of {total} objects sent"
        words += "".join(
            f", {delivery.states[state]} {said}"
            for state, said in _PROOF.items()
            if state in delivery.states
        )
        if (sent < total or "commit_failed" in delivery.states) and delivery.last_error:
            words += f" ({delivery.last_error})"
        if held := waits_for_quiet_hours(item, delivery, moment):
            words += f", {held}"
        elif sent < total and delivery.next_attempt_at is not None:
            words += f", {_next_attempt(delivery.next_attempt_at - time.time())}"
        parts.append(words)
    return "analysed; " + "; ".join(parts)


def _next_attempt(wait_s: float) -> str:
    """Return when the next attempt is, in one unit: what is due has its turn as soon as it can."""
    if wait_s < 1:
        return "next in turn"
    if wait_s < 100:
        return f"next attempt in {wait_s:.0f} s"
    if wait_s < 100 * 60:
        return f"next attempt in {wait_s / 60:.0f} min"
    return f"next attempt in {wait_s / 3600:.0f} h"
