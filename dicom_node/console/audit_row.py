"""A record of the audit trail as a row: who did what, when, and what about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom.uid import UID

__all__ = ["AuditRow", "Participant"]


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody who took part."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One record, whatever is missing in it.

    Attributes
    ----------
    number : str
    at : float or None
        Seconds of the epoch.
    event : str
        Event and its type.
    failed : bool
    asked, others : tuple of Participant
        Who began it, and who else took part.
    about : tuple of str
        In words: what, studies, patients, objects.
    whole : str
        The record as it stands in the trail, indented.
    """

    number: str
    at: float | None
    event: str
    failed: bool
    asked: tuple[Participant, ...]
    others: tuple[Participant, ...]
    about: tuple[str, ...]
    whole: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> AuditRow:
        """Return the row of a record, also of one that somebody spoilt."""
        event = _table(record.get("EventIdentification"))
        names = [str(_table(event.get("EventID")).get("originalText", "The trail itself"))]
        names += [str(kind.get("originalText", "")) for kind in _tables(event.get("EventTypeCode"))]
        people = _tables(record.get("ActiveParticipant"))
        told = [event.get("EventOutcomeDescription")]
        told += [record.get("AuditTrailRepair"), record.get("AuditTrailRetention")]
        objects = _tables(record.get("ParticipantObjectIdentification"))
        about = [str(words) for words in told if words]
        about += [words for item in objects for words in _in_words(item)]
        return cls(
            number=str(record.get("seq", "?"))[:20],
            at=_moment(event.get("EventDateTime")),
            event=": ".join(filter(None, names)),
            failed=str(event.get("EventOutcomeIndicator", "0")) != "0",
            asked=tuple(_participant(one) for one in people if one.get("UserIsRequestor")),
            others=tuple(_participant(one) for one in people if not one.get("UserIsRequestor")),
            about=tuple(about),
            whole=json.dumps(record, indent=2, ensure_ascii=False),
        )


def _participant(one: dict[str, Any]) -> Participant:
    return Participant(str(one.get("UserID", "?")), str(one.get("NetworkAccessPointID", "")))


def _in_words(item: dict[str, Any]) -> list[str]:
    kind = str(_table(item.get("ParticipantObjectIDTypeCode")).get("originalText", "object"))
    found = [f"{kind} {item.get('ParticipantObjectID', '')}"]
    for counted in _tables(_table(item.get("ParticipantObjectDescription")).get("SOPClass")):
        name = UID(str(counted.get("UID", ""))).name
        found.append(f"{counted.get('NumberOfInstances', '?')} × {name}")
    return found


def _moment(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
