"""The audit message: codes and parts (PS3.15 A.5.1, A.5.2; codes of PS3.16 CID 400 to 405)."""

from __future__ import annotations

import enum
import getpass
import os
import socket
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "EventID",
    "EventType",
    "Outcome",
    "Role",
    "application",
    "console_user",
    "message",
    "network_peer",
    "person",
    "person_name",
]


class _Code(enum.Enum):
    def coded(self) -> dict[str, str]:
        code, meaning, *scheme = self.value
        return {
            "csd-code": code,
            "codeSystemName": scheme[0] if scheme else "DCM",
            "originalText": meaning,
        }


class EventID(_Code):
    """What happened (CID 400)."""

    APPLICATION_ACTIVITY = ("110100", "Application Activity")
    AUDIT_LOG_USED = ("110101", "Audit Log Used")
    INSTANCES_ACCESSED = ("110103", "DICOM Instances Accessed")
    INSTANCES_TRANSFERRED = ("110104", "DICOM Instances Transferred")
    STUDY_DELETED = ("110105", "DICOM Study Deleted")
    QUERY = ("110112", "Query")
    SECURITY_ALERT = ("110113", "Security Alert")
    USER_AUTHENTICATION = ("110114", "User Authentication")
    # The standard has no event for storage commitment; others may be added (PS3.15 A.5.2).
    COMMITMENT_REPORTED = ("commitment", "Storage Commitment Reported", "99M3LUNG")


class EventType(_Code):
    """Of which kind (CID 401, 403)."""

    APPLICATION_START = ("110120", "Application Start")
    APPLICATION_STOP = ("110121", "Application Stop")
    LOGIN = ("110122", "Login")
    LOGOUT = ("110123", "Logout")
    NODE_AUTHENTICATION = ("110126", "Node Authentication")
    NETWORK_CONFIGURATION = ("110128", "Network Configuration")
    USE_OF_RESTRICTED_FUNCTION = ("110132", "Use of Restricted Function")
    AUDIT_RECORDING_STARTED = ("110134", "Audit Recording Started")


class Role(_Code):
    """What a participant was (CID 402)."""

    APPLICATION = ("110150", "Application")
    DESTINATION = ("110152", "Destination Role ID")
    SOURCE = ("110153", "Source Role ID")


class Outcome(enum.StrEnum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


def message(
    event: EventID,
    action: str,
    outcome: Outcome,
    participants: list[dict[str, Any]],
    *,
    source_id: str,
    types: tuple[EventType, ...] = (),
    words: str = "",
    objects: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return an audit message.

    Parameters
    ----------
    action : str
        C, R, U, D or E: create, read, update, delete, execute.
    participants : list of dict
        As :func:`application`, :func:`network_peer` and :func:`person` make them.
    source_id : str
        AuditSourceID: which node says so.
    words : str
        EventOutcomeDescription; holds no patient data.
    """
    identification: dict[str, Any] = {
        "EventID": event.coded(),
        "EventActionCode": action,
        "EventDateTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": str(outcome),
    }
    if types:
        identification["EventTypeCode"] = [one.coded() for one in types]
    if words:
        identification["EventOutcomeDescription"] = words
    made: dict[str, Any] = {
        "EventIdentification": identification,
        "ActiveParticipant": participants,
        # 4: application server (PS3.15 A.5.2.4)
        "AuditSourceIdentification": {"AuditSourceID": source_id, "AuditSourceTypeCode": "4"},
    }
    if objects:
        made["ParticipantObjectIdentification"] = objects
    return made


def application(part: str, ae_title: str, *, requestor: bool, role: Role) -> dict[str, Any]:
    """Return this process as a participant."""
    return {
        "UserID": f"{part}[{os.getpid()}]",
        "AlternativeUserID": f"AETITLES={ae_title}",
        "UserIsRequestor": requestor,
        "RoleIDCode": [role.coded()],
        "NetworkAccessPointID": socket.gethostname(),
        "NetworkAccessPointTypeCode": "1",
    }


def network_peer(ae_title: str, address: str, *, requestor: bool, role: Role) -> dict[str, Any]:
    """Return another application entity; `ae_title` is empty when it gave none."""
    participant: dict[str, Any] = {
        "UserID": _printable(ae_title) or "unknown",
        "UserIsRequestor": requestor,
        "RoleIDCode": [role.coded()],
        "NetworkAccessPointID": address,
        "NetworkAccessPointTypeCode": "2",
    }
    if ae_title:
        participant["AlternativeUserID"] = f"AETITLES={_printable(ae_title)}"
    return participant


def person_name() -> str:
    """Return who runs this command, as the operating system knows it; who used sudo, if so."""
    return os.environ.get("SUDO_USER") or _user()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry
        return f"uid {os.getuid()}"


def person() -> dict[str, Any]:
    """Return who runs this command as a participant."""
    participant: dict[str, Any] = {
        "UserID": _user(),
        "UserIsRequestor": True,
        "NetworkAccessPointID": socket.gethostname(),
        "NetworkAccessPointTypeCode": "1",
    }
    if "SUDO_USER" in os.environ:
        participant["AlternativeUserID"] = _printable(os.environ["SUDO_USER"])
    return participant


def console_user(name: str, address: str) -> dict[str, Any]:
    """Return who works, or tries to work, in the console from `address`."""
    return {
        "UserID": _printable(name)[:64] or "unknown",
        "UserIsRequestor": True,
        "NetworkAccessPointID": address,
        "NetworkAccessPointTypeCode": "2",
    }


def _printable(text: str) -> str:
    return ascii(text)[1:-1]
