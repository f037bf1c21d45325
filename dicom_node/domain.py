"""The node's own nouns: AE titles, peers, received instances.

States and their transitions are in :mod:`dicom_node.ledger.states`.
"""

from __future__ import annotations

import datetime as dt
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "AETitle",
    "Disposition",
    "EarlierReading",
    "EarlierReadings",
    "ObjectKind",
    "Receipt",
    "StoredInstance",
    "comparable_name",
    "is_legal_uid",
]

# PS3.5 §6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash, no control
# characters; leading and trailing spaces do not count.
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")
# PS3.5 §9.1: components of digits without leading zero, 64 characters at most.
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


IMPLEMENTATION_CLASS_UID = "2.25.33521826082056826966195122864988025216"
"""Names this implementation to peers and in files (PS3.7 D.3.3.2): a random UUID, fixed."""

IMPLEMENTATION_VERSION_NAME = "M3LUNG_NODE"
"""At most 16 characters (PS3.7 D.3.3.2)."""


def _ae_title(text: str) -> str:
    stripped = text.strip(" ")
    if not stripped or not _AE_TITLE.fullmatch(stripped):
        raise ValueError(
            "an AE title has 1 to 16 characters of the basic repertoire, no backslash (PS3.5 §6.2)"
        )
    return stripped


AETitle = Annotated[str, AfterValidator(_ae_title)]
"""A legal application entity title, without padding."""


def is_legal_uid(text: str) -> bool:
    """Whether `text` is a UID by PS3.5 §9.1 (digits, no leading zeros, at most 64 characters)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def comparable_name(text: str) -> str:
    """Drop what differs between systems without naming another person: case, padding, carets."""
    groups = (re.sub(r"[\^\s]+", " ", group).strip() for group in text.split("="))
    return "=".join(groups).rstrip("=").casefold()


class Receipt(enum.StrEnum):
    """What became of a received instance. Every one of these is answered 0x0000."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same UID, same digest: no effect, but that it is held once more
    CONFLICT = "conflict"  # same UID, other content: first kept, this one quarantined
    OWN_OUTPUT = "own_output"  # one of our own results came back: loop guard
    IGNORED = "ignored"  # another storage class, taken so that a study-level route goes on


class Disposition(enum.StrEnum):
    """How a series ended, for the reader of a result."""

    ANALYZED = "analyzed"
    SKIPPED = "skipped"
    REJECTED = "rejected"


class ObjectKind(enum.StrEnum):
    """What goes back to the PACS."""

    REPORT = "report"  # SR, TID 1500
    OVERLAY = "overlay"  # one SC per source slice
    SUMMARY = "summary"  # one SC page
    SEGMENTATION = "segmentation"  # SEG, BINARY
    KEY_OBJECTS = "key_objects"  # KOS


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance that lies durably in the spool.

    Attributes
    ----------
    digest : str
        sha256 (hex) over transfer syntax UID and encoded dataset: the identity of the content.
    path : Path
        Relative to the spool's root.
    size_bytes : int
    """

    digest: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class EarlierReading:
    """A reading of an earlier study of the same patient.

    Attributes
    ----------
    study_date : date
    instance_set_digest : str
        Hex digest over the instances that were read.
    result : mapping
        ``result.json`` as the ledger keeps it; empty where it keeps none.
    """

    study_date: dt.date
    study_instance_uid: str
    series_instance_uid: str
    instance_set_digest: str
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EarlierReadings:
    """What was read of a patient before, the newest study first.

    Attributes
    ----------
    readings : tuple of EarlierReading
    reason : str
        Without any, why there is none; a clause for a radiologist, without patient data.
    """

    readings: tuple[EarlierReading, ...] = ()
    reason: str = ""
