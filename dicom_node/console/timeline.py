"""From the first image to the last commitment: what happened to a series, and how long it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dicom_node.completion import ClosingReason
from dicom_node.ledger.series_record import DeliveryRecord, SeriesRecord
from dicom_node.ledger.states import DeliveryState
from dicom_node.settings import Priority
from dicom_node.status_words import ANY_TIME, Moment, in_words, waits_for_quiet_hours

__all__ = ["Step", "timeline"]

_HELD = {
    DeliveryState.SENT,
    DeliveryState.COMMIT_REQUESTED,
    DeliveryState.COMMITTED,
    DeliveryState.VERIFIED,
    DeliveryState.COMMIT_FAILED,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happened, or is happening (`at` None).

    Attributes
    ----------
    took_s : float or None
        Since the step before; None for the first, and for what has no end yet.
    tone : str
        good, busy, wait, bad or quiet.
    """

    title: str
    at: float | None
    words: str = ""
    tone: str = "good"
    took_s: float | None = None


def timeline(record: SeriesRecord, moment: Moment = ANY_TIME) -> list[Step]:
    """Return the steps of the newest revision, the first image first."""
    steps = list(_steps(record, moment))
    before: float | None = None
    timed = []
    for step in steps:
        took = None if step.at is None or before is None else max(0.0, step.at - before)
        timed.append(replace(step, took_s=took))
        before = step.at if step.at is not None else before
    return timed


def _ahead(record: SeriesRecord, moment: Moment) -> Iterator[Step]:
    how_far = moment.ahead.get(record.row.status.series_id)
    if how_far is not None:
        yield Step("Already being read", None, how_far, "busy")


def _steps(record: SeriesRecord, moment: Moment) -> Iterator[Step]:
    status, revision = record.row.status, record.newest
    source = status.source_ae or "an unknown sender"
    yield Step("First image", status.first_arrival_at, f"from {source}")
    if revision.number > 1:
        words = f"images came late: revision {revision.number} took the place of the one before"
        yield Step("Late images", revision.opened_at, words, "wait")
    images = f"{revision.instance_count} images"
    if status.expected is not None:
        stated = f"states {status.expected}" if status.expected else "does not hold the series"
        images += f", the source {stated}"
    if revision.closed_at is None:
        yield Step("Receiving", None, f"{images}; {status.waiting_for or 'more may come'}", "busy")
        yield from _ahead(record, moment)
        return
    yield Step("Last image", revision.last_arrival_at, images)
    reason = ClosingReason(revision.closing_reason) if revision.closing_reason else None
    yield Step(
        "Complete",
        revision.closed_at,
        f"because {reason.text}" if reason else "",
        "good" if reason and reason.is_confirmed else "wait",
    )
    yield from _analysis(record, moment)
    deliveries: list[list[Step]] = []
    for destination in dict.fromkeys(item.destination for item in record.deliveries):
        mine = [item for item in record.deliveries if item.destination == destination]
        deliveries.append(list(_delivery(destination, mine, _held(record, destination, moment))))
    # In the order they happened; what has not, comes last.
    for steps in sorted(deliveries, key=lambda steps: steps[0].at or float("inf")):
        yield from steps


def _analysis(record: SeriesRecord, moment: Moment) -> Iterator[Step]:
    status, revision = record.row.status, record.newest
    if revision.analysis_id is None:
        tone = {"skipped": "quiet", "rejected": "bad"}.get(revision.state, "wait")
        ended = [line.at for line in record.journal if line.kind == f"series_{revision.state}"]
        at = ended[0] if ended and tone != "wait" else None
        title = {"skipped": "Not analysed", "rejected": "Cannot be analysed"}.get(
            revision.state, "Waits for selection"
        )
        yield Step(title, at, status.reason, tone)
        if tone == "wait":
            yield from _ahead(record, moment)
        return
    yield Step("Chosen", revision.queued_at, _how(record))
    attempt = f"attempt {revision.attempts}" if revision.attempts > 1 else ""
    if revision.started_at is not None:
        yield Step("Analysis began", revision.started_at, attempt)
    match revision.analysis_state:
        case "done":
            yield Step("Analysed", revision.finished_at, _when_read(record))
            if status.shadow:
                yield Step("In shadow", None, "nothing is delivered", "quiet")
        case "waiting" | "running":
            waits = revision.analysis_state == "waiting"
            words = in_words(status, replace(moment, ahead={})).capitalize()
            yield Step(words, None, status.reason, "wait" if waits else "busy")
            if waits:
                yield from _ahead(record, moment)
        case "skipped":
            yield Step("Not analysed", revision.finished_at, status.reason, "quiet")
        case _:
            words = in_words(status).partition(":")[0].capitalize()
            yield Step(words, revision.finished_at, status.reason, "bad")


def _when_read(record: SeriesRecord) -> str:
    """Say so where the reading took longer than its analysis: it was made before (ADR 0022)."""
    revision, result = record.newest, record.row.status.result or {}
    if revision.started_at is None or revision.finished_at is None:
        return ""
    reading_s = sum(result.get("timing_s", {}).values())
    ahead = reading_s > revision.finished_at - revision.started_at + 1.0
    return "it had been read ahead of its turn" if ahead else ""


def _how(record: SeriesRecord) -> str:
    status = record.row.status
    words = "for analysis"
    if status.priority != Priority.NORMAL:
        words += f", {status.priority.replace('_', '-')}"
    return words + (f"; rule {status.rule}" if status.rule else "")


def _held(record: SeriesRecord, destination: str, moment: Moment) -> str:
    """Return in words for which quiet hours a destination's results wait."""
    status = record.row.status
    return next(
        (
            waits_for_quiet_hours(status, delivery, moment)
            for delivery in status.deliveries
            if delivery.destination == destination
        ),
        "",
    )


def _delivery(destination: str, deliveries: list[DeliveryRecord], held: str) -> Iterator[Step]:
    total = len(deliveries)
    sent = [item.sent_at for item in deliveries if item.sent_at is not None]
    sent_already = sum(item.state in _HELD for item in deliveries)
    errors = [item.error for item in deliveries if item.error]
    if sent_already < total:
        ended = all(item.state != DeliveryState.WAITING for item in deliveries)
        words = f"{sent_already} of {total} objects" + (f"; {errors[0]}" if errors else "")
        words += f"; {held}" if held else ""
        title = f"Delivery to {destination} failed" if ended else f"Delivering to {destination}"
        yield Step(title, None, words, "bad" if ended else "wait" if held else "busy")
        return
    yield Step(f"Delivered to {destination}", max(sent, default=None), f"{total} objects")
    committed = [item.committed_at for item in deliveries if item.committed_at is not None]
    if any(item.state == DeliveryState.COMMIT_FAILED for item in deliveries):
        yield Step(f"No proof from {destination}", None, errors[0] if errors else "", "bad")
    elif committed and all(item.state == DeliveryState.COMMITTED for item in deliveries):
        yield Step(f"Committed by {destination}", max(committed), f"{total} objects")
    elif all(
        item.state in (DeliveryState.VERIFIED, DeliveryState.COMMITTED) for item in deliveries
    ):
        yield Step(f"Found at {destination}", None, "by C-FIND")
    elif any(item.state == DeliveryState.COMMIT_REQUESTED for item in deliveries):
        yield Step(f"Waits for {destination}", None, "it was asked to commit", "wait")
