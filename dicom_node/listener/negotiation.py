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
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from dicom_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.listener.contexts import acceptable_contexts, report_contexts
from dicom_node.listener.status import AbortReason, Rejection
from dicom_node.reception.caller import Caller
from dicom_node.settings import NodeSettings, Peer
from dicom_node.storage_commitment import PUSH_MODEL
from dicom_node.tls import mismatch

__all__ = [
    "AcceptedContext",
    "AssociationRequest",
    "Caller",
    "MalformedRequest",
    "Objection",
    "abort_pdu",
    "acceptance",
    "decode_request",
    "objection",
    "proposes_reports_only",
    "recognised",
    "rejection_pdu",
    "release_response_pdu",
    "supported_contexts",
]

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
_PDU_HEADER_BYTES = 6
_VERIFICATION = "1.2.840.10008.1.1"


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


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a caller is not served: for the wire, and in words for logs and audit."""

    rejection: Rejection
    words: str


def objection(
    request: AssociationRequest, caller: Caller, settings: NodeSettings
) -> Objection | None:
    """Return why this caller is not served, None if it is."""
    if not request.protocol_version & 1:
        return Objection(Rejection.PROTOCOL_VERSION, "another version of the DICOM protocol")
    if request.application_context != _APPLICATION_CONTEXT:
        return Objection(Rejection.APPLICATION_CONTEXT, "another application context")
    if request.called_ae not in settings.called_ae_titles:
        return Objection(Rejection.UNKNOWN_CALLED_AE, "called by a title that is not ours")
    titled = _titled(request, settings)
    if not titled:
        if settings.listener.accept_unknown_callers:
            return None
        return Objection(Rejection.UNKNOWN_CALLER, "no enabled source has this calling AE title")
    # Several sources may share a title: one that fits is enough. PS3.8 has no reason of its own
    # for a wrong address or certificate: to us, this is not the application entity of that title.
    words = [_not_it(peer, caller) for peer in titled]
    if None in words:
        return None
    return Objection(Rejection.UNKNOWN_CALLER, "; ".join(filter(None, words)))


def recognised(
    request: AssociationRequest, caller: Caller, settings: NodeSettings
) -> tuple[Peer, ...]:
    """Return the peers that this caller is; more than one where they share a title."""
    return tuple(p for p in _titled(request, settings) if _not_it(p, caller) is None)


def supported_contexts(
    peers: tuple[Peer, ...], settings: NodeSettings
) -> list[PresentationContext]:
    """Return what is accepted of a caller: to store of a source, to report of a destination."""
    contexts: list[PresentationContext] = []
    if settings.listener.accept_unknown_callers or any(peer.is_source for peer in peers):
        contexts += acceptable_contexts(settings.listener.other_storage)
    if any(peer.may_report for peer in peers):
        contexts += report_contexts()
    return contexts


def _titled(request: AssociationRequest, settings: NodeSettings) -> list[Peer]:
    """Return the peers of the calling AE title that may send here, or report here."""
    return [
        peer
        for peer in settings.peers
        if (peer.is_source or peer.may_report) and peer.ae_title == request.calling_ae
    ]


def _not_it(peer: Peer, caller: Caller) -> str | None:
    """Return in words why `caller` cannot be `peer`, whose title it uses; None if it can."""
    if not caller.is_within(peer.addresses):
        return f"{peer.name} does not call from this address"
    if peer.tls and not caller.secure:
        return f"{peer.name} has to call over TLS"
    if caller.secure and not peer.tls:
        return f"{peer.name} calls over TLS, and no certificate is bound to it (tls = true)"
    return mismatch(caller.certificate, peer) if peer.tls else None


def acceptance(
    request: AssociationRequest, supported: list[PresentationContext], max_pdu_bytes: int
) -> tuple[bytes, Mapping[int, AcceptedContext]]:
    """Return the A-ASSOCIATE-AC PDU and the accepted contexts by id.

    The requestor is SCU, or SCP where `supported` says so. No asynchronous operations.

    Raises
    ------
    MalformedRequest
        The proposals cannot be answered.
    """
    asked = request.primitive
    try:
        results, roles = negotiate_as_acceptor(
            asked.presentation_context_definition_list,
            supported,
            _proposed_roles(asked),
        )
        answer = A_ASSOCIATE()
        answer.application_context_name = UID(_APPLICATION_CONTEXT)
        answer.calling_ae_title = _echoed(request.calling_ae)
        answer.called_ae_title = _echoed(request.called_ae)
        answer.result = 0x00
        answer.result_source = 0x01
        answer.presentation_context_definition_results_list = results
        answer.user_information = [*_user_information(max_pdu_bytes), *roles]
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


def _proposed_roles(asked: A_ASSOCIATE) -> dict[UID, tuple[bool, bool]]:
    """Return SOP class → (SCU, SCP) of the role selection items (PS3.7 D.3.3.4)."""
    return {
        item.sop_class_uid: (bool(item.scu_role), bool(item.scp_role))
        for item in asked.user_information
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
    }


def proposes_reports_only(request: AssociationRequest) -> bool:
    """Whether the caller wants to report on storage commitment and to store nothing."""
    proposed = {
        str(context.abstract_syntax)
        for context in request.primitive.presentation_context_definition_list or ()
    }
    return PUSH_MODEL in proposed and proposed <= {PUSH_MODEL, _VERIFICATION}


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
