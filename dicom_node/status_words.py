"""Where a series is, in a sentence: the same words on the command line and in the console."""

from __future__ import annotations

import time

from dicom_node.ledger.worklist import SeriesStatus

__all__ = ["in_words"]


def in_words(item: SeriesStatus) -> str:
    """One sentence on where a series is."""
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
    return _analysis_in_words(item)


def _analysis_in_words(item: SeriesStatus) -> str:
    match item.analysis_state:
        case "waiting":
            again = f", attempt {item.attempts + 1}" if item.attempts else ""
            return f"queued at position {item.queue_position}{again}"
        case "running":
            done = f" {item.done} of {item.total}" if item.total else ""
            return f"analysing: {item.stage}{done}"
        case "done":
            return _deliveries_in_words(item)
        case "skipped":
            return f"not analysed: {item.reason}"
        case "rejected":
            return f"cannot be analysed: {item.reason}"
        case _:
            return f"{item.analysis_state}: {item.reason}"


_SENT = ("sent", "commit_requested", "committed", "verified", "commit_failed")
_PROOF = {
    "committed": "committed",
    "verified": "verified",
    "commit_requested": "asked to commit",
    "commit_failed": "without proof",
}


def _deliveries_in_words(item: SeriesStatus) -> str:
    if not item.deliveries:
        return "analysed; no destination is configured"
    parts = []
    for delivery in item.deliveries:
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
        if sent < total and delivery.next_attempt_at is not None:
            wait = max(0.0, delivery.next_attempt_at - time.time())
            words += f", next attempt in {wait:.0f} s"
        parts.append(words)
    return "analysed; " + "; ".join(parts)
