"""What a STOW-RS answer means for one object, as lookup tables.

Sources: PS3.18 Table 10.5.3-1 (status codes), Table I.2-1 and Table I.2-2 (warning and failure
reasons), RFC 9110 §15. The reasons are those of C-STORE, and so is what they mean here:
:func:`dicom_node.delivery.retry.read_status`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_node.delivery.retry import read_status
from dicom_node.ledger.states import DeliveryEvent

__all__ = ["Other", "StowAnswer", "read_answer"]

_ACCEPTED, _TRANSIENT, _PERMANENT = (
    DeliveryEvent.ACCEPTED,
    DeliveryEvent.TRANSIENT,
    DeliveryEvent.PERMANENT,
)
_SOP_CLASS_NOT_SUPPORTED = 0x0122
_TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
_REFERENCED, _FAILED, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
_SOP_INSTANCE_UID, _WARNING_REASON, _FAILURE_REASON = "00081155", "00081196", "00081197"


class Other(enum.Enum):
    """What may be tried in place of what was refused."""

    NOTHING = "nothing"
    TRANSFER_SYNTAX = "transfer syntax"
    SOP_CLASS = "SOP class"


@dataclass(frozen=True, slots=True)
class StowAnswer:
    """An answer to a request with one object, read.

    Attributes
    ----------
    event : DeliveryEvent
        ACCEPTED, TRANSIENT or PERMANENT.
    words : str
        Empty for a plain success.
    reason : int or None
        Failure Reason (0008,1197) or Warning Reason (0008,1196), None if there is none.
    other : Other
        What may be tried in its place, where the refusal says so.
    concerns_all : bool
        No object would fare better: the address or the credentials are refused.
    """

    event: DeliveryEvent
    words: str = ""
    reason: int | None = None
    other: Other = Other.NOTHING
    concerns_all: bool = False


def _refused(words: str, other: Other = Other.NOTHING) -> StowAnswer:
    return StowAnswer(_PERMANENT, words, other=other)


def _refused_all(words: str) -> StowAnswer:
    return StowAnswer(_PERMANENT, words, concerns_all=True)


def _later(words: str) -> StowAnswer:
    return StowAnswer(_TRANSIENT, words)


# {us}: what the credentials of this peer are called in our environment.
_STATUSES: Mapping[int, StowAnswer] = {
    400: _refused("the peer calls the request malformed"),
    401: _refused_all("the peer does not accept our credentials, or wants some: see {us}"),
    403: _refused_all("the peer does not authorise us to store: see {us}, and the peer's rights"),
    404: _refused_all("nothing is stored at this address: correct stow_url"),
    405: _refused_all("this address takes no POST: correct stow_url"),
    406: _refused_all("the peer gives no answer in application/dicom+json"),
    407: _refused_all("a proxy in between wants credentials"),
    408: _later("the request took the peer too long"),
    410: _refused_all("the address is gone: correct stow_url"),
    413: _refused("the object is larger than the peer takes"),
    415: _refused(
        "the peer does not take this media type or transfer syntax", Other.TRANSFER_SYNTAX
    ),
    425: _later("too early for the peer"),
    429: _later("the peer asks to be called less often"),
    500: _later("processing failure at the peer"),
    501: _refused_all("the peer does not offer STOW-RS"),
    502: _later("the server before the peer cannot reach it"),
    503: _later("the peer is busy or out of resources"),
    504: _later("the server before the peer got no answer from it in time"),
    507: _later("the peer is out of storage"),
}

# By the first digit, what the table above does not list (RFC 9110 §15).
_STATUS_CLASSES: Mapping[int, StowAnswer] = {
    3: _refused_all("the peer names another address: put that into stow_url"),
    4: _refused("the peer refuses the request"),
    5: _later("the peer failed"),
}
# What nobody foresaw is parked where an administrator sees it, never retried for ever.
_UNKNOWN = _refused("the peer answered a status that STOW-RS does not define")

# With one object in the request, and no word about it in the answer.
_UNNAMED: Mapping[int, StowAnswer] = {
    200: StowAnswer(_ACCEPTED, "stored; the answer does not list it"),
    202: _later("the answer does not say what became of the object"),
    409: _refused("the peer refuses the object and gives no reason"),
}


def read_answer(
    status: int, body: bytes, sop_instance_uid: str, *, credentials: str = "[credentials]"
) -> StowAnswer:
    """Return what became of an object.

    Parameters
    ----------
    status : int
        Of HTTP.
    body : bytes
        application/dicom+json, as far as it could be read.
    credentials : str
        What they are called here, for the words.
    """
    if status in _UNNAMED:
        return _of_object(status, _Payload.read(body), sop_instance_uid)
    answer = _STATUSES.get(status) or _STATUS_CLASSES.get(status // 100, _UNKNOWN)
    words = f"{answer.words.format(us=credentials)} (HTTP {status})"
    return StowAnswer(answer.event, words, None, answer.other, answer.concerns_all)


def _of_object(status: int, payload: _Payload, sop_instance_uid: str) -> StowAnswer:
    reason = payload.failed.get(sop_instance_uid)
    stored = sop_instance_uid in payload.stored
    if reason is None and not stored and payload.others:
        reason = payload.others[0]
    if reason is not None:
        return _failed(reason)
    if stored:
        warning = payload.stored[sop_instance_uid]
        if warning is None:
            return StowAnswer(_ACCEPTED)
        # A warning is no failure, whatever its number is.
        return StowAnswer(_ACCEPTED, read_status(warning).words, warning)
    unnamed = _UNNAMED[status]
    return StowAnswer(unnamed.event, f"{unnamed.words} (HTTP {status})")


def _failed(reason: int) -> StowAnswer:
    if reason == _TRANSFER_SYNTAX_NOT_SUPPORTED:
        words = f"the peer does not take the transfer syntax (0x{reason:04X})"
        return StowAnswer(_PERMANENT, words, reason, Other.TRANSFER_SYNTAX)
    meaning = read_status(reason)
    other = Other.SOP_CLASS if reason == _SOP_CLASS_NOT_SUPPORTED else Other.NOTHING
    if reason == 0x0000:  # among the failures, zero says nothing
        return _refused("the peer refuses the object and gives no reason")
    return StowAnswer(meaning.event, meaning.words, reason, other)


@dataclass(slots=True)
class _Payload:
    """A Store Instances Response (PS3.18 §10.5.3.2, Annex I.2): what is missing is empty."""

    stored: dict[str, int | None] = field(default_factory=dict)  # UID → warning reason
    failed: dict[str, int] = field(default_factory=dict)  # UID → failure reason
    others: list[int] = field(default_factory=list)  # failure reasons of nothing that has a UID

    @classmethod
    def read(cls, body: bytes) -> _Payload:
        payload = cls()
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return payload
        for dataset in document if isinstance(document, list) else [document]:
            for item in _items(dataset, _REFERENCED):
                payload.stored[_uid(item)] = _number(item, _WARNING_REASON)
            for item in _items(dataset, _FAILED):
                payload.failed[_uid(item)] = _number(item, _FAILURE_REASON) or 0
            for item in _items(dataset, _OTHER_FAILURES):
                payload.others.append(_number(item, _FAILURE_REASON) or 0)
        return payload


def _values(dataset: Any, tag: str) -> list[Any]:
    element = dataset.get(tag) if isinstance(dataset, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _items(dataset: Any, tag: str) -> Iterator[dict[str, Any]]:
    return (item for item in _values(dataset, tag) if isinstance(item, dict))


def _uid(item: dict[str, Any]) -> str:
    return str(next(iter(_values(item, _SOP_INSTANCE_UID)), ""))


def _number(item: dict[str, Any], tag: str) -> int | None:
    try:
        return int(next(iter(_values(item, tag)))) & 0xFFFF
    except (StopIteration, ValueError, TypeError):
        return None
