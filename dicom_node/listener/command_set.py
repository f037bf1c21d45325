"""DIMSE command sets (PS3.7 §6.3, Annex E): a dozen short elements in implicit VR little endian.

Read by hand, because an illegal UID in a request has to reach the code that answers it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from dicom_node.errors import CannotUnderstand

__all__ = ["MAX_COMMAND_BYTES", "Command", "CommandField", "decode_command", "encode_response"]

MAX_COMMAND_BYTES = 16384
_NO_DATASET = 0x0101
_ELEMENT = struct.Struct("<HHL")
_RESPONSE_BIT = 0x8000


class CommandField(enum.IntEnum):
    """PS3.7 table E.1-1, those that are served."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030


@dataclass(frozen=True, slots=True)
class Command:
    """A request. The UIDs are as sent, without padding: possibly empty or illegal."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_dataset: bool

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
) -> bytes:
    """Return the command set of the response to `command` (PS3.7 §9.3).

    Parameters
    ----------
    sop_class_uid, sop_instance_uid : str
        Echoed where legal, else left out: they are optional in a response.
    comment : str
        Error Comment, at most 64 characters of ASCII.
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
        )
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(elements)) + elements


def _number(number: int, value: int) -> bytes:
    return _ELEMENT.pack(0, number, 2) + struct.pack("<H", value)


def _text(number: int, text: str, padding: bytes) -> bytes:
    if not text:
        return b""
    value = text.encode("ascii")
    if len(value) % 2:
        value += padding
    return _ELEMENT.pack(0, number, len(value)) + value
