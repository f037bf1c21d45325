"""Storage commitment: the two data sets that travel, and what a report is answered (PS3.4 Annex J).

We ask (N-ACTION) the PACS to take responsibility for what we sent; it reports (N-EVENT-REPORT) on
the same association, on a later one, or on one that it opens to us. Whoever gets a report, the
sender or the listener, reads and answers it here.

Reports come from the network: they are read by a walk of bounded depth that believes no length.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dicom_node.domain import is_legal_uid
from dicom_node.errors import CannotUnderstand

__all__ = [
    "MAX_REPORT_BYTES",
    "PUSH_MODEL",
    "PUSH_MODEL_INSTANCE",
    "REQUEST_ACTION",
    "CommitmentReport",
    "EventReport",
    "ObjectFailure",
    "ObjectReference",
    "ReportStatus",
    "answer_report",
    "decode_report",
    "encode_request",
    "new_transaction_uid",
]

PUSH_MODEL = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known instance that every request and report names (PS3.4 J.3.5)."""
REQUEST_ACTION = 1
"""Action Type ID of a request (PS3.4 Table J.3-1)."""
MAX_REPORT_BYTES = 8 << 20
"""A report on 20,000 objects has about 3 MB."""

_EVENT_TYPES = (1, 2)  # request successful; request complete, failures exist (PS3.4 Table J.3-3)
_MAX_DEPTH = 8
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSACTION_UID = 0x00081195
_FAILED_SEQUENCE, _COMMITTED_SEQUENCE = 0x00081198, 0x00081199
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _FAILURE_REASON = 0x00081150, 0x00081155, 0x00081197
# PS3.5 §7.1.2: VRs whose length takes four bytes.
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
             b"UV"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """One SOP instance."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ObjectFailure:
    """One SOP instance that the peer does not take responsibility for.

    Attributes
    ----------
    reason : int
        (0008,1197), PS3.3 C.14.1.1; 0x0110 where the peer gives none.
    """

    sop_instance_uid: str
    reason: int


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a peer says of one transaction. Objects it names in neither list stay open."""

    transaction_uid: str
    committed: tuple[ObjectReference, ...]
    failed: tuple[ObjectFailure, ...]


class ReportStatus:
    """What a report is answered (PS3.7 §10.1.1.1.8)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_EVENT_TYPE = 0x0113
    INVALID_ARGUMENT = 0x0115  # a transaction that we never asked this peer for
    INVALID_INSTANCE = 0x0117
    MISTYPED_ARGUMENT = 0x0212


def new_transaction_uid() -> str:
    """Return a Transaction UID that nobody had before (PS3.5 §B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def encode_request(
    transaction_uid: str, references: Sequence[ObjectReference], *, implicit_vr: bool
) -> bytes:
    """Return the Action Information of a request, little endian (PS3.4 Table J.3-2)."""
    items = b"".join(
        struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
        for item in (
            _uid(_SOP_CLASS_UID, one.sop_class_uid, implicit_vr)
            + _uid(_SOP_INSTANCE_UID, one.sop_instance_uid, implicit_vr)
            for one in references
        )
    )
    head = b"\x08\x00\x99\x11" + (b"" if implicit_vr else b"SQ\0\0") + struct.pack("<L", len(items))
    return _uid(_TRANSACTION_UID, transaction_uid, implicit_vr) + head + items


def _uid(tag: int, uid: str, implicit_vr: bool) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit_vr:
        return head + struct.pack("<L", len(value)) + value
    return head + b"UI" + struct.pack("<H", len(value)) + value


def decode_report(data: bytes, *, implicit_vr: bool) -> CommitmentReport:
    """Read the Event Information of a report, little endian (PS3.4 Table J.3-3).

    Raises
    ------
    CannotUnderstand
        Truncated, nested too deeply, or without a legal Transaction UID.
    """
    if len(data) > MAX_REPORT_BYTES:
        raise CannotUnderstand("the report is larger than this node reads")
    walk = _Walk(data, implicit_vr)
    transaction_uid = ""
    committed: list[ObjectReference] = []
    failed: list[ObjectFailure] = []
    for tag, start, stop in walk.elements(0, len(data)):
        if tag == _TRANSACTION_UID:
            transaction_uid = _text(data[start:stop])
        elif tag == _COMMITTED_SEQUENCE:
            committed.extend(
                ObjectReference(_text(item[_SOP_CLASS_UID]), _text(item[_SOP_INSTANCE_UID]))
                for item in walk.items(start, stop)
            )
        elif tag == _FAILED_SEQUENCE:
            for item in walk.items(start, stop):
                reason = item[_FAILURE_REASON]
                failed.append(
                    ObjectFailure(
                        _text(item[_SOP_INSTANCE_UID]),
                        int.from_bytes(reason, "little") if len(reason) == 2 else 0x0110,
                    )
                )
    if not is_legal_uid(transaction_uid):
        raise CannotUnderstand("the report has no legal Transaction UID")
    return CommitmentReport(transaction_uid, tuple(committed), tuple(failed))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


class _Walk:
    """Steps through an encoded data set; every length is checked against what is there."""

    def __init__(self, data: bytes, implicit_vr: bool) -> None:
        self._data = data
        self._implicit_vr = implicit_vr

    def elements(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield tag, first and last byte of each element's value in [`offset`, `end`)."""
        while offset < end:
            tag, start, stop, offset = self._element(offset, end, 0)
            yield tag, start, stop

    def items(self, offset: int, end: int) -> Iterator[dict[int, bytes]]:
        """Yield what each item of a sequence says of one object; what it lacks is empty."""
        while offset < end:
            tag, length = self._tag_and_length(offset, end)
            offset += 8
            if tag != _ITEM:
                raise CannotUnderstand("a sequence holds something that is not an item")
            if length == _UNDEFINED:
                behind = self._behind_item(offset, end, 1)
                stop = behind - 8
            else:
                behind = stop = _bounded(offset, length, end)
            item = {_SOP_CLASS_UID: b"", _SOP_INSTANCE_UID: b"", _FAILURE_REASON: b""}
            for inner, start, last in self.elements(offset, stop):
                if inner in item:
                    item[inner] = self._data[start:last]
            yield item
            offset = behind

    def _tag_and_length(self, offset: int, end: int) -> tuple[int, int]:
        if offset + 8 > end:
            raise CannotUnderstand("the report ends inside an element")
        group, element, length = struct.unpack_from("<HHL", self._data, offset)
        return group << 16 | element, length

    def _element(self, offset: int, end: int, depth: int) -> tuple[int, int, int, int]:
        """Return tag, first and last byte of the value, and where the next element begins."""
        tag, length = self._tag_and_length(offset, end)
        start = offset + 8
        if not self._implicit_vr and tag >> 16 != 0xFFFE:
            vr = self._data[offset + 4 : offset + 6]
            if vr in _LONG_VRS:
                if offset + 12 > end:
                    raise CannotUnderstand("the report ends inside an element")
                (length,) = struct.unpack_from("<L", self._data, offset + 8)
                start = offset + 12
            else:
                (length,) = struct.unpack_from("<H", self._data, offset + 6)
        if length == _UNDEFINED:
            behind = self._behind_sequence(start, end, depth + 1)
            return tag, start, behind - 8, behind
        stop = _bounded(start, length, end)
        return tag, start, stop, stop

    def _behind_sequence(self, offset: int, end: int, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise CannotUnderstand("the report is nested too deeply")
        while True:
            tag, length = self._tag_and_length(offset, end)
            offset += 8
            if tag == _SEQUENCE_END:
                return offset
            if tag != _ITEM:
                raise CannotUnderstand("a sequence holds something that is not an item")
            if length == _UNDEFINED:
                offset = self._behind_item(offset, end, depth)
            else:
                offset = _bounded(offset, length, end)

    def _behind_item(self, offset: int, end: int, depth: int) -> int:
        while True:
            tag, _ = self._tag_and_length(offset, end)
            if tag == _ITEM_END:
                return offset + 8
            *_, offset = self._element(offset, end, depth)


def _bounded(offset: int, length: int, end: int) -> int:
    if length > end - offset:
        raise CannotUnderstand("an element is longer than the report")
    return offset + length


@dataclass(frozen=True, slots=True)
class EventReport:
    """An N-EVENT-REPORT request as it came (PS3.7 §10.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    dataset: bytes
    implicit_vr: bool


def answer_report(event: EventReport, take: Callable[[CommitmentReport], bool]) -> int:
    """Hand a report on and return the DIMSE status of the answer.

    Parameters
    ----------
    take : callable
        Makes the report's content durable; False: no such transaction was asked of this peer.
        What it raises passes through: the caller answers PROCESSING_FAILURE.
    """
    if event.sop_class_uid != PUSH_MODEL or event.sop_instance_uid != PUSH_MODEL_INSTANCE:
        return ReportStatus.INVALID_INSTANCE
    if event.event_type not in _EVENT_TYPES:
        return ReportStatus.NO_SUCH_EVENT_TYPE
    try:
        report = decode_report(event.dataset, implicit_vr=event.implicit_vr)
    except CannotUnderstand:
        return ReportStatus.MISTYPED_ARGUMENT
    return ReportStatus.SUCCESS if take(report) else ReportStatus.INVALID_ARGUMENT
