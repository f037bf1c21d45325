"""DIMSE command sets (PS3.7 §6.3, Annex E): a dozen short elements in implicit VR little endian.

Read by hand, because an illegal UID in a request has to reach the code that answers it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from dicom_node.errors import CannotUnderstand

__all__ = [
    "MAX_COMMAND_BYTES",
    "Command",
    "CommandField",
    "command_pdus",
    "decode_command",
    "encode_response",
]

MAX_COMMAND_BYTES = 16384
_NO_DATASET = 0x0101
_ELEMENT = struct.Struct("<HHL")
_RESPONSE_BIT = 0x8000


class CommandField(enum.IntEnum):
    """PS3.7 table E.1-1, those that are served."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100


@dataclass(frozen=True, slots=True)
class Command:
    """A request. The UIDs are as sent, without padding: possibly empty or illegal."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_dataset: bool
    event_type: int = 0  # of an N-EVENT-REPORT

    @property
    def is_request(self) -> bool:
        """Whether an answer is due (a C-CANCEL wants none)."""
        return not self.field & _RESPONSE_BIT and self.field != 0x0FFF


def decode_command(encoded: bytes) -> Command:
    """Read a command set.

    Raises
    ------
    CannotUnderstand
        It has no whole elements, no command field or no message id.
    """
    values: dict[int, bytes] = {}
    offset = 0
    while offset < len(encoded):
        if offset + 8 > len(encoded):
            raise CannotUnderstand("the command set ends inside an element")
        group, number, length = _ELEMENT.unpack_from(encoded, offset)
        offset += 8
        if group != 0 or length > len(encoded) - offset:
            raise CannotUnderstand("the command set cannot be read")
        values[number] = encoded[offset : offset + length]
        offset += length
    return Command(
        field=_required(values, 0x0100),
        message_id=_required(values, 0x0110),
        sop_class_uid=_uid(values.get(0x0002, values.get(0x0003, b""))),
        sop_instance_uid=_uid(values.get(0x1000, values.get(0x1001, b""))),
        has_dataset=_required(values, 0x0800) != _NO_DATASET,
        event_type=int.from_bytes(values.get(0x1002, b"")[:2], "little"),
    )


def _required(values: dict[int, bytes], number: int) -> int:
    value = values.get(number, b"")
    if len(value) != 2:
        raise CannotUnderstand("the command set lacks a required element")
    return int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("latin-1")


def encode_response(
    command: Command,
    status: int,
    *,
    sop_class_uid: str = "",
    sop_instance_uid: str = "",
    comment: str = "",
    event_type: int | None = None,
) -> bytes:
    """Return the command set of the response to `command` (PS3.7 §9.3).

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        Echoed where legal, else left out: they are optional in a response.
    comment : str
        Error Comment, at most 64 characters of ASCII.
    event_type : int, optional
        Event Type ID of an N-EVENT-REPORT response.
    """
    elements = b"".join(
        (
            _text(0x0002, sop_class_uid, b"\0"),
            _number(0x0100, command.field | _RESPONSE_BIT),
            _number(0x0120, command.message_id),
            _number(0x0800, _NO_DATASET),
            _number(0x0900, status),
            _text(0x0902, comment, b" "),
            _text(0x1000, sop_instance_uid, b"\0"),
            b"" if event_type is None else _number(0x1002, event_type),
        )
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(elements)) + elements


def command_pdus(context_id: int, command_set: bytes, max_pdu_bytes: int) -> bytes:
    """Return a command set as P-DATA-TF PDUs (PS3.8 §9.3.5).

    Parameters
    ----------
    max_pdu_bytes : int
        What the peer announced; a response is about 200 bytes, and it may be less. 0: no limit.
    """
    room = len(command_set)
    if max_pdu_bytes:
        room = min(room, max(max_pdu_bytes - 6, 64))
    pieces = [command_set[start : start + room] for start in range(0, len(command_set), room)]
    pdus = bytearray()
    for number, piece in enumerate(pieces, start=1):
        control = 0x01 | (0x02 if number == len(pieces) else 0)  # a command; its last fragment
        pdus += b"\x04\x00" + (len(piece) + 6).to_bytes(4, "big")
        pdus += (len(piece) + 2).to_bytes(4, "big") + bytes((context_id, control)) + piece
    return bytes(pdus)


def _number(number: int, value: int) -> bytes:
    return _ELEMENT.pack(0, number, 2) + struct.pack("<H", value)


def _text(number: int, text: str, padding: bytes) -> bytes:
    if not text:
        return b""
    value = text.encode("ascii")
    if len(value) % 2:
        value += padding
    return _ELEMENT.pack(0, number, len(value)) + value
