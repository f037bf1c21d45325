"""States in words for people, and the tone they are shown in; never by colour alone."""

from __future__ import annotations

from dicom_node.ledger.listing import SeriesStage
from dicom_node.ledger.states import DeliveryState

__all__ = ["KIND_WORDS", "journal_words", "stage_words", "state_tone", "state_words"]

_STAGES = {
    SeriesStage.RECEIVING: ("Receiving", "busy"),
    SeriesStage.QUEUED: ("Queued", "wait"),
    SeriesStage.ANALYSING: ("Analysing", "busy"),
    SeriesStage.DELIVERING: ("Delivering", "busy"),
    SeriesStage.DELIVERED: ("Delivered", "good"),
    SeriesStage.NOT_ANALYSED: ("Not analysed", "quiet"),
    SeriesStage.FAILED: ("Needs attention", "bad"),
}
_DELIVERIES = {
    DeliveryState.WAITING: ("waiting", "wait"),
    DeliveryState.SENT: ("sent", "good"),
    DeliveryState.COMMIT_REQUESTED: ("sent, asked to commit", "good"),
    DeliveryState.COMMITTED: ("committed", "good"),
    DeliveryState.VERIFIED: ("sent, found by C-FIND", "good"),
    DeliveryState.COMMIT_FAILED: ("sent, without proof", "bad"),
    DeliveryState.PARKED: ("parked: refused for good", "bad"),
    DeliveryState.QUARANTINED: ("quarantined: cannot be sent", "bad"),
    DeliveryState.EXPIRED: ("expired: tried for too long", "bad"),
}
PART_WORDS = {
    "listen": "Listener",
    "reconcile": "Reconciler",
    "work": "Analysis worker",
    "deliver": "Delivery worker",
}
KIND_WORDS = {
    "report": "Structured report",
    "summary": "Summary page",
    "segmentation": "Segmentation",
    "key_objects": "Key objects",
    "overlay": "Overlay series",
}
_JOURNAL = {
    "revision_opened": "a new set of images was begun",
    "series_complete": "the series was taken as whole",
    "series_selected": "chosen for analysis",
    "series_skipped": "not chosen for analysis",
    "series_rejected": "cannot be analysed",
    "late_slices": "images came late",
    "instances_restored": "removed images came again",
    "conflicting_instance": "an image with a known UID and other content was set aside",
    "analysis_done": "analysed",
    "analysis_skipped": "the pixels are no chest CT",
    "analysis_rejected": "the pixels cannot be read",
    "analysis_fail": "an attempt failed, another follows",
    "analysis_lease_expired": "the worker was lost, another takes over",
    "analysis_exhausted": "set aside after too many attempts",
    "delivered": "a delivery ended",
    "retry": "somebody asked to try again",
}


def stage_words(stage: SeriesStage | str, part: int = 0) -> str:
    """Return the stage in words; with `part` 1 its tone."""
    return _STAGES[SeriesStage(stage)][part]


def state_words(state: str) -> str:
    """Return the state of a delivery in words."""
    return _DELIVERIES[DeliveryState(state)][0] if state in set(DeliveryState) else state


def state_tone(state: str) -> str:
    """Return the tone of a delivery's state: good, wait, busy, bad or quiet."""
    return _DELIVERIES[DeliveryState(state)][1] if state in set(DeliveryState) else "quiet"


def journal_words(kind: str) -> str:
    """Return a kind of event in words; one that has none says itself."""
    return _JOURNAL.get(kind, kind.replace("_", " "))
