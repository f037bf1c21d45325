"""The DIMSE messages a sender needs: C-STORE-RQ, C-ECHO-RQ and their responses (PS3.7).

A command set is always Implicit VR Little Endian and holds a handful of elements, so it is
written and read here directly: building it as a general dataset costs more than sending it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dicom_node.errors import TransientDelivery

__all__ = ["NO_DATASET", "Response", "c_echo_rq", "c_store_rq", "read_response"]

_C_STORE_RQ = 0x0001
_C_ECHO_RQ = 0x0030
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


def read_response(command_set: bytes) -> Response:
    """Read an encoded response.

    Raises
    ------
    TransientDelivery
        The bytes are no command set, or hold no status.
    """
    elements: dict[int, bytes] = {}
    offset = 0
    while offset + 8 <= len(command_set):
        group, element, length = struct.unpack_from("<HHL", command_set, offset)
        offset += 8
        if group != 0 or offset + length > len(command_set):
            raise TransientDelivery("the peer's response is not a DIMSE command set")
        elements[element] = command_set[offset : offset + length]
        offset += length
    try:
        status, message_id, kind = (
            struct.unpack("<H", elements[element])[0] for element in (0x0900, 0x0120, 0x0800)
        )
    except (KeyError, struct.error) as error:
        raise TransientDelivery("the peer's response lacks status or message ID") from error
    comment = elements.get(0x0902, b"").decode("ascii", "replace").strip(" \x00")
    return Response(status, message_id, comment, kind != NO_DATASET)
