"""Protocol data units of the DICOM upper layer, encoded and decoded (PS3.8 §9.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from dicom_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.errors import TransientDelivery

__all__ = ["P_DATA", "associate_rq", "decoded_ac", "fragments", "gathered", "pdvs"]

P_DATA = 4
_APPLICATION_CONTEXT = UID("1.2.840.10008.3.1.1.1")
_OUR_MAX_PDU = 65536  # we receive responses only
_WRITE_BYTES = 1 << 20  # PDUs are gathered to about this much per write
# What pynetdicom's decoder raises on bytes that are no PDU.
_BROKEN_PDU = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    struct.error,
)


def associate_rq(calling: str, called: str, contexts: list[Any]) -> bytes:
    """Return an encoded A-ASSOCIATE-RQ that proposes `contexts` (PS3.8 §9.3.2)."""
    maximum_length = MaximumLengthNotification()
    maximum_length.maximum_length_received = _OUR_MAX_PDU
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive = A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.calling_ae_title = calling
    primitive.called_ae_title = called
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = [maximum_length, implementation, version]
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def decoded_ac(pdu_bytes: bytes) -> Any:
    """Return pynetdicom's A-ASSOCIATE primitive of an encoded A-ASSOCIATE-AC.

    Raises
    ------
    TransientDelivery
        It cannot be read.
    """
    pdu: Any = A_ASSOCIATE_AC()
    try:
        pdu.decode(pdu_bytes)
        return pdu.to_primitive()
    except _BROKEN_PDU as error:
        raise TransientDelivery("the peer's A-ASSOCIATE-AC cannot be read") from error


def fragments(context_id: int, source: BinaryIO, size: int, control: int) -> Iterator[bytes]:
    """Yield P-DATA-TF PDUs of `source`, one PDV of at most `size` bytes each (PS3.8 Annex E).

    Parameters
    ----------
    control : int
        Message control header of all fragments but the last: 0x01 command, 0x00 data set. The
        last one's has bit 0x02 besides.
    """
    fragment = source.read(size)
    while True:
        following = source.read(size)
        header = control if following else control | 0x02
        length = len(fragment)
        yield (
            struct.pack(">BBLLBB", P_DATA, 0, length + 6, length + 2, context_id, header) + fragment
        )
        if not following:
            return
        fragment = following


def gathered(pdus: Iterable[bytes]) -> Iterator[bytes]:
    """Join PDUs into writes of about one MiB: one system call for most objects."""
    waiting: list[bytes] = []
    size = 0
    for pdu in pdus:
        waiting.append(pdu)
        size += len(pdu)
        if size >= _WRITE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def pdvs(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (message control header, fragment) of a P-DATA-TF's body.

    Raises
    ------
    TransientDelivery
        The lengths do not add up.
    """
    offset = 0
    while offset + 6 <= len(body):
        (length,) = struct.unpack_from(">L", body, offset)
        if length < 2 or offset + 4 + length > len(body):
            raise TransientDelivery("the peer's P-DATA-TF cannot be read")
        yield body[offset + 5], body[offset + 6 : offset + 4 + length]
        offset += 4 + length
