"""What a message says: text for people, a document for programs, from one list of notices."""

from __future__ import annotations

import datetime as dt
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.ledger.outbox import Notice
from dicom_node.logs import pseudonym
from dicom_node.settings import NodeSettings

__all__ = ["Rendered", "render", "trial_message"]

_UID = re.compile(r"\b(?:2\.25\.[1-9]\d{5,38}|[0-2](?:\.(?:0|[1-9]\d*)){4,})\b")
_SUMMARIES: Mapping[str, tuple[str, str]] = {
    "rejected": ("series cannot be analysed", "series cannot be analysed"),
    "quarantined": ("analysis was set aside", "analyses were set aside"),
    "delivery": ("delivery failed", "deliveries failed"),
    "breaker": ("destination changed its state", "destinations changed their state"),
    "disk": ("word on the disk", "words on the disk"),
    "positive": ("positive reading", "positive readings"),
    "test": ("test", "tests"),
}
_FINDINGS = {"covid19": "COVID-19", "h1n1": "H1N1", "cap": "CAP"}
_OBJECTS = {
    "parked": "parked until somebody changes something",
    "quarantined": "that cannot be sent",
    "expired": "given up after too long",
    "commit_failed": "that nothing proves to be held",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message, ready to go.

    Attributes
    ----------
    token : str
        The same at every attempt: who gets it twice knows it again.
    document : dict
        For a webhook: type, timestamp, data.
    """

    token: str
    subject: str
    text: str
    document: dict[str, Any]


def render(
    notices: Sequence[Notice], settings: NodeSettings, *, token: str, created_at: float
) -> Rendered:
    """Return the message about `notices`."""
    rules = settings.notifications
    told = notices[: rules.most_lines]
    left_out = len(notices) - len(told)
    plain = rules.include_patient_data
    lines = [
        string.Template(rules.line).substitute(
            time=_time(notice.at),
            occasion=notice.occasion,
            words=_words(notice, plain),
            series=_series(notice),
            about=_about(notice, plain),
        )
        for notice in told
    ]
    if left_out:
        lines.append(f"… and {left_out} more; 'm3lung status' shows them")
    summary = _summary(notices)
    fields = {
        "ae_title": settings.ae_title,
        "count": str(len(notices)),
        "summary": summary,
        "lines": "\n".join(lines),
    }
    text = string.Template(rules.body).substitute(fields)
    if any(notice.occasion == "positive" for notice in notices):
        text += f"\n{settings.results.banner}\n"
    subject = string.Template(rules.subject).substitute(fields)
    return Rendered(
        token=token,
        subject=" ".join(subject.split())[:200],
        text=text,
        document={
            "type": "m3lung.notification",
            "timestamp": _time(created_at),
            "data": {
                "node": settings.ae_title,
                "summary": summary,
                "count": len(notices),
                "left_out": left_out,
                "banner": settings.results.banner,
                "events": [_event(notice, plain) for notice in told],
            },
        },
    )


def trial_message(settings: NodeSettings, *, token: str, now: float) -> Rendered:
    """Return a message that says that it is a test."""
    notice = Notice("test", now, {}, "", "", "", "")
    return render([notice], settings, token=token, created_at=now)


def _time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds")


def _summary(notices: Sequence[Notice]) -> str:
    counts = Counter(notice.occasion for notice in notices)
    parts = []
    for occasion, count in counts.items():
        one, many = _SUMMARIES.get(occasion, (occasion, occasion))
        parts.append(f"{count} {one if count == 1 else many}")
    return ", ".join(parts)


def _words(notice: Notice, plain: bool) -> str:
    detail, series = notice.detail, _series(notice)
    reason = str(detail.get("reason", ""))
    if not plain:
        reason = _UID.sub(lambda found: f"uid:{pseudonym(found.group())}", reason)
    destination = str(detail.get("destination", ""))
    if notice.occasion == "rejected":
        return f"series {series} cannot be analysed: {reason}"
    if notice.occasion == "quarantined":
        return f"the analysis of series {series} was set aside: {reason}"
    if notice.occasion == "delivery":
        objects = ", ".join(
            f"{detail[state]} objects {words}"
            for state, words in _OBJECTS.items()
            if detail.get(state)
        )
        return f"results of series {series} to {destination}: {objects}"
    if notice.occasion == "breaker":
        if detail.get("over"):
            return f"destination {destination} answers again"
        return (
            f"destination {destination} failed {detail.get('failures', '')} times in a row and is "
            f"left alone until it answers; try 'm3lung peers test {destination}'"
        )
    if notice.occasion == "disk":
        if detail.get("over"):
            return "there is room on the disk again"
        return (
            f"the disk is nearly full: {detail.get('free_gigabytes')} GB free, "
            f"{detail.get('used_percent')} % used; images will be refused"
        )
    if notice.occasion == "positive":
        finding = _FINDINGS.get(str(detail.get("finding")), str(detail.get("finding")))
        model = "" if detail.get("training") == "site" else f" by a {detail.get('training')} model"
        return f"series {series} was read as {finding}, {detail.get('probability', 0):.0%}{model}"
    return "this is a test; nothing happened"


def _series(notice: Notice) -> str:
    return pseudonym(notice.series_instance_uid) if notice.series_instance_uid else ""


def _about(notice: Notice, plain: bool) -> str:
    if not plain or not notice.series_instance_uid:
        return ""
    return f" (accession number {notice.accession_number}, patient ID {notice.patient_id})"


def _event(notice: Notice, plain: bool) -> dict[str, Any]:
    event: dict[str, Any] = {
        "occasion": notice.occasion,
        "at": _time(notice.at),
        "words": _words(notice, plain),
        "series": _series(notice),
        **{name: value for name, value in notice.detail.items() if name != "reason"},
    }
    if plain and notice.series_instance_uid:
        event["accession_number"] = notice.accession_number
        event["patient_id"] = notice.patient_id
        event["study_instance_uid"] = notice.study_instance_uid
        event["series_instance_uid"] = notice.series_instance_uid
    return event
