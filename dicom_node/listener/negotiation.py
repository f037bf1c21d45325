"""Association negotiation of the acceptor (PS3.8 §9.3.2 to §9.3.4, PS3.7 Annex D)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, A_RELEASE_RP
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    A_RELEASE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from dicom_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.listener.status import AbortReason, Rejection
from dicom_node.settings import NodeSettings

__all__ = [
    "AcceptedContext",
    "AssociationRequest",
    "MalformedRequest",
    "abort_pdu",
    "acceptance",
    "decode_request",
    "objection",
    "rejection_pdu",
    "release_response_pdu",
]

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
_PDU_HEADER_BYTES = 6


class MalformedRequest(Exception):
    """An A-ASSOCIATE-RQ that cannot be read."""


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """An A-ASSOCIATE-RQ. Titles are as sent, without padding, decoded one byte a character."""

    calling_ae: str
    called_ae: str
    protocol_version: int
    application_context: str
    max_pdu_bytes: int
    primitive: A_ASSOCIATE


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """What one presentation context of an association means."""

    abstract_syntax: str
    transfer_syntax: str


def decode_request(body: bytes) -> AssociationRequest:
    """Read the variable field of an A-ASSOCIATE-RQ PDU.

    Raises
    ------
    MalformedRequest
    """
    if len(body) < 68:
        raise MalformedRequest("shorter than its fixed fields")
    # pynetdicom refuses titles that are not ASCII or blank; ours have to be answered properly.
    called, calling = (_title(body[start : start + 16]) for start in (4, 20))
    readable = body[:4] + b"CALLED".ljust(16) + b"CALLING".ljust(16) + body[36:]
    header = b"\x01\x00" + len(body).to_bytes(4, "big")
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(header + readable)
        primitive = pdu.to_primitive()
        application_context = str(pdu.application_context_name or "")
        maximum = primitive.maximum_length_received or 0
    except Exception as error:  # pynetdicom's decoders raise anything
        raise MalformedRequest(type(error).__name__) from error
    return AssociationRequest(
        calling_ae=calling,
        called_ae=called,
        protocol_version=int.from_bytes(body[:2], "big"),
        application_context=application_context,
        max_pdu_bytes=maximum,
        primitive=primitive,
    )


def _title(field: bytes) -> str:
    return field.decode("latin-1").strip(" \0")


def objection(request: AssociationRequest, settings: NodeSettings) -> Rejection | None:
    """Return why this caller is not served, None if it is."""
    if not request.protocol_version & 1:
        return Rejection.PROTOCOL_VERSION
    if request.application_context != _APPLICATION_CONTEXT:
        return Rejection.APPLICATION_CONTEXT
    if request.called_ae not in settings.called_ae_titles:
        return Rejection.UNKNOWN_CALLED_AE
    known = any(peer.is_source and peer.ae_title == request.calling_ae for peer in settings.peers)
    if not known and not settings.listener.accept_unknown_callers:
        return Rejection.UNKNOWN_CALLER
    return None


def acceptance(
    request: AssociationRequest, supported: list[PresentationContext], max_pdu_bytes: int
) -> tuple[bytes, Mapping[int, AcceptedContext]]:
    """Return the A-ASSOCIATE-AC PDU and the accepted contexts by id.

    Roles stay the default ones: the requestor is SCU. No asynchronous operations.

    Raises
    ------
    MalformedRequest
        The proposals cannot be answered.
    """
    asked = request.primitive
    try:
        results, _ = negotiate_as_acceptor(
            asked.presentation_context_definition_list,
            supported,
        )
        answer = A_ASSOCIATE()
        answer.application_context_name = UID(_APPLICATION_CONTEXT)
        answer.calling_ae_title = _echoed(request.calling_ae)
        answer.called_ae_title = _echoed(request.called_ae)
        answer.result = 0x00
        answer.result_source = 0x01
        answer.presentation_context_definition_results_list = results
        answer.user_information = _user_information(max_pdu_bytes)
        encoded: bytes = A_ASSOCIATE_AC(answer).encode()
    except Exception as error:  # pynetdicom's checks raise anything
        raise MalformedRequest(type(error).__name__) from error
    accepted = {
        context.context_id: AcceptedContext(
            str(context.abstract_syntax), str(context.transfer_syntax[0])
        )
        for context in results
        if context.result == 0x00
    }
    return encoded, accepted


def _echoed(title: str) -> str:
    # Reserved in the answer, "shall not be tested" (PS3.8 table 9-17).
    return title if title.isascii() and title.isprintable() and title.strip() else "UNKNOWN"


def _user_information(max_pdu_bytes: int) -> list[object]:
    maximum = MaximumLengthNotification()
    maximum.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [maximum, implementation, version]


def rejection_pdu(rejection: Rejection) -> bytes:
    """Return an A-ASSOCIATE-RJ PDU."""
    primitive = A_ASSOCIATE()
    primitive.result, primitive.result_source, primitive.diagnostic = rejection.value
    encoded: bytes = A_ASSOCIATE_RJ(primitive).encode()
    return encoded


def release_response_pdu() -> bytes:
    """Return an A-RELEASE-RP PDU."""
    primitive = A_RELEASE()
    primitive.result = "affirmative"
    encoded: bytes = A_RELEASE_RP(primitive).encode()
    return encoded


def abort_pdu(reason: AbortReason) -> bytes:
    """Return an A-ABORT PDU of the service provider."""
    pdu = A_ABORT_RQ()
    pdu.source = 0x02
    pdu.reason_diagnostic = int(reason)
    encoded: bytes = pdu.encode()
    return encoded
