"""The DIMSE messages a sender needs: C-STORE-RQ, C-ECHO-RQ and their responses (PS3.7).

A command set is always Implicit VR Little Endian and holds a handful of elements, so it is
written and read here directly: building it as a general dataset costs more than sending it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_node.domain import is_legal_uid
from dicom_node.errors import TransientDelivery

__all__ = [
    "NO_DATASET",
    "N_EVENT_REPORT_RQ",
    "Request",
    "Response",
    "c_echo_rq",
    "c_store_rq",
    "n_action_rq",
    "n_event_report_rsp",
    "read_command",
    "read_response",
]

_C_STORE_RQ = 0x0001
_C_ECHO_RQ = 0x0030
_N_ACTION_RQ = 0x0130
N_EVENT_REPORT_RQ = 0x0100
NO_DATASET = 0x0101  # (0000,0800) of a message without data set; any other value: with
_DATASET_FOLLOWS = 0x0001
_PRIORITY_MEDIUM = 0x0000


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0x0000, element, 2, value)


def _ui(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\x00" * (len(value) % 2)  # PS3.5 §9.1: padded to even length by one NULL
    return struct.pack("<HHL", 0x0000, element, len(value)) + value


def _command_set(elements: bytes) -> bytes:
    return struct.pack("<HHLL", 0x0000, 0x0000, 4, len(elements)) + elements


def c_store_rq(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the encoded command set of a C-STORE request (PS3.7 Table 9.3-1)."""
    return _command_set(
        _ui(0x0002, sop_class_uid)
        + _us(0x0100, _C_STORE_RQ)
        + _us(0x0110, message_id)
        + _us(0x0700, _PRIORITY_MEDIUM)
        + _us(0x0800, _DATASET_FOLLOWS)
        + _ui(0x1000, sop_instance_uid)
    )


def c_echo_rq(message_id: int) -> bytes:
    """Return the encoded command set of a C-ECHO request (PS3.7 Table 9.3-12)."""
    return _command_set(
        _ui(0x0002, "1.2.840.10008.1.1")
        + _us(0x0100, _C_ECHO_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, NO_DATASET)
    )


def n_action_rq(
    message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int
) -> bytes:
    """Return the encoded command set of an N-ACTION request (PS3.7 Table 10.3-7)."""
    return _command_set(
        _ui(0x0003, sop_class_uid)
        + _us(0x0100, _N_ACTION_RQ)
        + _us(0x0110, message_id)
        + _us(0x0800, _DATASET_FOLLOWS)
        + _ui(0x1001, sop_instance_uid)
        + _us(0x1008, action_type)
    )


def n_event_report_rsp(request: Request, status: int) -> bytes:
    """Return the encoded command set of an N-EVENT-REPORT response (PS3.7 Table 10.3-2)."""
    return _command_set(
        _ui(0x0002, request.sop_class_uid)
        + _us(0x0100, N_EVENT_REPORT_RQ | 0x8000)
        + _us(0x0120, request.message_id)
        + _us(0x0800, NO_DATASET)
        + _us(0x0900, status)
        + _ui(0x1000, request.sop_instance_uid)
        + _us(0x1002, request.event_type)
    )


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the peer makes of us; what it lacks is 0 or empty."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int
    has_dataset: bool


@dataclass(frozen=True, slots=True)
class Response:
    """What a peer answered.

    Attributes
    ----------
    status : int
        (0000,0900).
    message_id : int
        (0000,0120), the request that is answered.
    comment : str
        (0000,0902) ErrorComment, empty if absent.
    has_dataset : bool
    """

    status: int
    message_id: int
    comment: str
    has_dataset: bool


def read_command(command_set: bytes) -> Request | None:
    """Read an encoded request; None if it is a response.

    Raises
    ------
    TransientDelivery
        The bytes are no command set.
    """
    elements = _elements(command_set)

    def number(element: int) -> int:
        return int.from_bytes(elements.get(element, b"")[:2], "little")

    def uid(element: int) -> str:
        text = elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")
        return text if is_legal_uid(text) else ""

    if number(0x0100) & 0x8000:
        return None
    return Request(
        field=number(0x0100),
        message_id=number(0x0110),
        sop_class_uid=uid(0x0002),
        sop_instance_uid=uid(0x1000),
        event_type=number(0x1002),
        has_dataset=number(0x0800) != NO_DATASET,
    )


def read_response(command_set: bytes) -> Response:
    """Read an encoded response.

    Raises
    ------
    TransientDelivery
        The bytes are no command set, or hold no status.
    """
    elements = _elements(command_set)
    try:
        status, message_id, kind = (
            struct.unpack("<H", elements[element])[0] for element in (0x0900, 0x0120, 0x0800)
        )
    except (KeyError, struct.error) as error:
        raise TransientDelivery("the peer's response lacks status or message ID") from error
    comment = elements.get(0x0902, b"").decode("ascii", "replace").strip(" \x00")
    return Response(status, message_id, comment, kind != NO_DATASET)


def _elements(command_set: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    offset = 0
    while offset + 8 <= len(command_set):
        group, element, length = struct.unpack_from("<HHL", command_set, offset)
        offset += 8
        if group != 0 or offset + length > len(command_set):
            raise TransientDelivery("the peer's response is not a DIMSE command set")
        elements[element] = command_set[offset : offset + length]
        offset += length
    return elements
