"""What a peer's answer means for a delivery, as lookup tables, and how long to wait.

Sources: PS3.4 Table B.2-1 (C-STORE status), PS3.7 Annex C (general status), PS3.8 Table 9-21
(A-ASSOCIATE-RJ).
"""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.errors import (
    DeliveryError,
    PermanentDelivery,
    TransientDelivery,
    UnsendableObject,
)
from dicom_node.ledger.states import DeliveryEvent

__all__ = [
    "EVENT_OF_ERROR",
    "Answer",
    "backoff_s",
    "event_of_error",
    "read_status",
    "rejection",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """A C-STORE status, read.

    Attributes
    ----------
    event : DeliveryEvent
        ACCEPTED, TRANSIENT or PERMANENT.
    words : str
        Empty for a plain success; a warning's or failure's meaning otherwise.
    """

    event: DeliveryEvent
    words: str


_ACCEPTED, _TRANSIENT, _PERMANENT = (
    DeliveryEvent.ACCEPTED,
    DeliveryEvent.TRANSIENT,
    DeliveryEvent.PERMANENT,
)

# Exact codes first; a code that is not here is looked up in _STATUS_CLASSES.
_STATUSES: dict[int, Answer] = {
    0x0000: Answer(_ACCEPTED, ""),
    0x0001: Answer(_ACCEPTED, "stored; the peer requests an unnamed attention"),
    0x0107: Answer(_ACCEPTED, "stored; warning: attribute list error"),
    0x0110: Answer(_TRANSIENT, "processing failure at the peer"),
    0x0111: Answer(_ACCEPTED, "the peer holds this SOP instance already"),
    0x0116: Answer(_ACCEPTED, "stored; warning: attribute value out of range"),
    0x0117: Answer(_PERMANENT, "the peer calls the SOP instance UID invalid"),
    0x0122: Answer(_PERMANENT, "the peer does not store this SOP class"),
    0x0124: Answer(_PERMANENT, "the peer does not authorise us to store"),
    0x0210: Answer(_TRANSIENT, "the peer saw the message ID twice"),
    0x0211: Answer(_PERMANENT, "the peer does not recognise C-STORE"),
    0x0212: Answer(_PERMANENT, "the peer calls an argument of the request mistyped"),
    0x0213: Answer(_TRANSIENT, "the peer has reached a resource limit"),
    0xB000: Answer(_ACCEPTED, "stored; warning: the peer coerced data elements"),
    0xB006: Answer(_ACCEPTED, "stored; warning: the peer discarded elements"),
    0xB007: Answer(_ACCEPTED, "stored; warning: data set does not match SOP class"),
}

# (mask, value) -> meaning, in this order.
_STATUS_CLASSES: tuple[tuple[int, int, Answer], ...] = (
    (0xFF00, 0xA700, Answer(_TRANSIENT, "the peer is out of resources")),
    (0xFF00, 0xA900, Answer(_PERMANENT, "the peer says: data set does not match SOP class")),
    (0xF000, 0xB000, Answer(_ACCEPTED, "stored with a warning")),
    (0xF000, 0xC000, Answer(_PERMANENT, "the peer cannot understand the object")),
)

# What nobody foresaw is parked where an administrator sees it, never retried for ever.
_UNKNOWN_STATUS = Answer(_PERMANENT, "the peer answered a status that DICOM does not define")


def read_status(status: int) -> Answer:
    """Return what the C-STORE `status` means, its code in the words.

    Parameters
    ----------
    status : int
        (0000,0900), 0 to 0xFFFF.
    """
    answer = _STATUSES.get(status)
    if answer is None:
        answer = next(
            (found for mask, value, found in _STATUS_CLASSES if status & mask == value),
            _UNKNOWN_STATUS,
        )
    if not answer.words:
        return answer
    return Answer(answer.event, f"{answer.words} (0x{status:04X})")


@dataclass(frozen=True, slots=True)
class _Rejection:
    event: DeliveryEvent | None  # None: the peer's own word (result) decides
    words: str


# (source, reason) of an A-ASSOCIATE-RJ. {us}: our AE title, {them}: the peer's.
_REJECTIONS: dict[tuple[int, int], _Rejection] = {
    (1, 1): _Rejection(
        None,
        "the peer gives no reason; often it does not know our AE title {us} or our address: "
        "look at its list of known AE titles and its log",
    ),
    (1, 2): _Rejection(_PERMANENT, "the peer does not speak the DICOM application context"),
    (1, 3): _Rejection(
        _PERMANENT, "the peer does not know our AE title {us}: add it there, with our address"
    ),
    (1, 7): _Rejection(
        _PERMANENT,
        "the peer is not called {them}: correct ae_title of this peer here, "
        "or the peer's own AE title there",
    ),
    (2, 1): _Rejection(None, "the peer's association service gives no reason"),
    (2, 2): _Rejection(_PERMANENT, "the peer speaks another version of the DICOM protocol"),
    (3, 1): _Rejection(_TRANSIENT, "the peer is busy for the moment (temporary congestion)"),
    (3, 2): _Rejection(
        _TRANSIENT, "the peer has reached its limit of associations: raise it there if it persists"
    ),
}
_UNKNOWN_REJECTION = _Rejection(None, "the peer gives a reason that DICOM does not define")


def rejection(result: int, source: int, reason: int, *, us: str, them: str) -> DeliveryError:
    """Return the error for an A-ASSOCIATE-RJ; its text says what an administrator has to do.

    Parameters
    ----------
    result : int
        1 rejected-permanent, 2 rejected-transient.
    source, reason : int
        PS3.8 Table 9-21.
    us, them : str
        Calling and called AE title.
    """
    found = _REJECTIONS.get((source, reason), _UNKNOWN_REJECTION)
    words = found.words.format(us=us, them=them)
    text = f"association rejected: {words} (result {result}, source {source}, reason {reason})"
    event = found.event or (_TRANSIENT if result == 2 else _PERMANENT)
    return TransientDelivery(text) if event is _TRANSIENT else PermanentDelivery(text)


EVENT_OF_ERROR: dict[type[DeliveryError], DeliveryEvent] = {
    TransientDelivery: DeliveryEvent.TRANSIENT,
    PermanentDelivery: DeliveryEvent.PERMANENT,
    UnsendableObject: DeliveryEvent.BAD_OBJECT,
}


def event_of_error(error: DeliveryError) -> DeliveryEvent:
    """Return the event of the nearest class of `error` that the table lists.

    Raises
    ------
    TypeError
        The class stands outside the three branches of :class:`DeliveryError`.
    """
    for kind in type(error).__mro__:
        if kind in EVENT_OF_ERROR:
            return EVENT_OF_ERROR[kind]
    raise TypeError(f"{type(error).__name__} belongs to no retry class")


def backoff_s(attempts: int, *, first_s: float, cap_s: float, uniform: float) -> float:
    """Return how long to wait after the `attempts`-th failed attempt, in seconds.

    The delay doubles from `first_s` to `cap_s`; jitter takes up to half of it away, so that
    deliveries that failed together do not come back together.

    Parameters
    ----------
    attempts : int
        Failed attempts so far, at least 1.
    uniform : float
        A random number of [0, 1); given from outside so that the function stays pure.
    """
    # 2**63 s is beyond any cap, and the exponent of a week of attempts must not overflow a float.
    delay = min(cap_s, first_s * 2.0 ** min(max(attempts, 1) - 1, 63))
    return delay * (1.0 - 0.5 * uniform)
