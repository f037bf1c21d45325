"""One association of the acceptor, from the first PDU to the last (PS3.8 §9.2, Sta2 to Sta13).

::

    Sta2  await A-ASSOCIATE-RQ ── other PDU ──▶ A-ABORT
      │ rejected ──▶ A-ASSOCIATE-RJ ──▶ Sta13 (await close)
      ▼ accepted: A-ASSOCIATE-AC
    Sta6  P-DATA: command set, dataset, response … ── A-ABORT, close, silence ──▶ aborted
      ▼ A-RELEASE-RQ
    A-RELEASE-RP ──▶ Sta13, released
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dicom_node.audit import Auditor
from dicom_node.crashpoints import crash_point
from dicom_node.domain import Receipt, is_legal_uid
from dicom_node.errors import CannotUnderstand
from dicom_node.listener import negotiation
from dicom_node.listener.command_set import (
    MAX_COMMAND_BYTES,
    Command,
    CommandField,
    command_pdus,
    decode_command,
    encode_response,
)
from dicom_node.listener.pdu_stream import (
    ConnectionClosed,
    IllegalPDU,
    PDUStream,
    PDUType,
    PeerTooSlow,
)
from dicom_node.listener.reports import answer_event
from dicom_node.listener.status import AbortReason, Rejection
from dicom_node.listener.storage import Session, Storage
from dicom_node.logs import get_logger
from dicom_node.reception.admission import Admission, Visitor
from dicom_node.reception.caller import Caller
from dicom_node.reception.kept import Dataset, Refused
from dicom_node.reception.status import SUCCESS, status_of
from dicom_node.reception.water_marks import shortage
from dicom_node.settings import NodeSettings

__all__ = ["AssociationHandler"]

_log = get_logger(__name__)
_UNRECOGNIZED_OPERATION = 0x0211  # PS3.7 C.5.18
_AWAIT_CLOSE_S = 2.0
_IS_COMMAND, _IS_LAST = 0x01, 0x02  # PS3.8 E.2, message control header


class _ProtocolError(Exception):
    """The peer broke the protocol; it gets an A-ABORT."""

    def __init__(self, reason: AbortReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Fragment(NamedTuple):
    """A presentation data value (PS3.8 §9.3.5.1)."""

    context_id: int
    is_command: bool
    is_last: bool
    value: memoryview


@dataclass(slots=True)
class _Message:
    """The DIMSE message that is coming in."""

    context_id: int
    encoded_command: bytearray
    command: Command | None = None
    dataset: Dataset | None = None
    refusal: Exception | None = None


class AssociationHandler:
    """Serves one connection in the calling thread.

    Parameters
    ----------
    stream : PDUStream
    visitor : Visitor
        The connection's place in `admission`.
    settings : callable
        Returns the settings that hold now.
    is_stopping : callable
        Whether the node is shutting down.
    caller : Caller
        What is known of the other side before it speaks DICOM.
    auditor : Auditor
    """

    def __init__(
        self,
        stream: PDUStream,
        visitor: Visitor,
        *,
        admission: Admission,
        storage: Storage,
        settings: Callable[[], NodeSettings],
        is_stopping: Callable[[], bool],
        caller: Caller,
        auditor: Auditor,
    ) -> None:
        self._caller = caller
        self._auditor = auditor
        self._stream = stream
        self._visitor = visitor
        self._admission = admission
        self._storage = storage
        self._settings = settings
        self._is_stopping = is_stopping
        self._log = _log.bind(address=visitor.address)
        self._contexts: Mapping[int, negotiation.AcceptedContext] = {}
        self._max_response_bytes = 0
        self._session: Session | None = None
        self._message: _Message | None = None

    def serve(self) -> None:
        """Run the association to its end; raises nothing that a peer can cause."""
        outcome = "aborted"
        try:
            if not self._establish():
                return
            self._transfer()
            outcome = "released"
        except _ProtocolError as error:
            self._abort(error.reason, str(error))
        except IllegalPDU as error:
            self._abort(AbortReason.UNRECOGNIZED_PDU, str(error))
        except PeerTooSlow:
            self._abort(AbortReason.NOT_SPECIFIED, "too slow or silent")
        except ConnectionClosed as error:
            if self._is_stopping():
                self._abort(AbortReason.NOT_SPECIFIED, "the node is stopping")
            elif self._session is not None:
                self._log.warning("connection_lost", reason=str(error))
        finally:
            self._forget_message()
            self._close_session(outcome)

    # -- Sta2, Sta3: establishment ---------------------------------------------------------------

    def _establish(self) -> bool:
        settings = self._settings()
        limits = settings.listener
        kind, body = self._stream.read(limits.handshake_timeout_s)
        if kind is not PDUType.A_ASSOCIATE_RQ:
            raise _ProtocolError(AbortReason.UNEXPECTED_PDU, f"{kind.name} before association")
        try:
            request = negotiation.decode_request(bytes(body))
        except negotiation.MalformedRequest as error:
            raise _ProtocolError(
                AbortReason.INVALID_PARAMETER, f"unreadable A-ASSOCIATE-RQ ({error})"
            ) from error
        self._log = self._log.bind(
            calling_ae=ascii(request.calling_ae)[1:-1], called_ae=ascii(request.called_ae)[1:-1]
        )
        objection = negotiation.objection(request, self._caller, settings) or self._shortage(
            request, settings
        )
        if objection is not None:
            return self._reject(objection, request.calling_ae)
        return self._accept(request, settings)

    def _shortage(
        self, request: negotiation.AssociationRequest, settings: NodeSettings
    ) -> negotiation.Objection | None:
        # A report takes no space, and may be what lets images go.
        if not negotiation.proposes_reports_only(request):
            words = shortage(self._storage.spool, self._storage.marks, settings.retention)
            if words:
                return negotiation.Objection(Rejection.CONGESTION, words)
        if self._is_stopping():
            return negotiation.Objection(Rejection.CONGESTION, "the node is stopping")
        if not self._admission.associate(self._visitor, settings.listener.max_associations):
            return negotiation.Objection(Rejection.LIMIT_EXCEEDED, "too many associations")
        return None

    def _reject(self, objection: negotiation.Objection, calling_ae: str) -> bool:
        rejection = objection.rejection
        self._log.warning(
            "association_rejected", reason=rejection.name.lower(), words=objection.words
        )
        self._storage.tally.count("associations_refused", rejection.name.lower())
        self._stream.send(negotiation.rejection_pdu(rejection))
        self._auditor.refused(
            f"association rejected: {objection.words} {rejection.value}",
            address=self._visitor.address,
            calling_ae=calling_ae,
        )
        self._stream.wait_for_close(_AWAIT_CLOSE_S)
        return False

    def _accept(self, request: negotiation.AssociationRequest, settings: NodeSettings) -> bool:
        peers = negotiation.recognised(request, self._caller, settings)
        supported = negotiation.supported_contexts(peers, settings)
        max_pdu_bytes = settings.listener.max_pdu_bytes
        try:
            pdu, self._contexts = negotiation.acceptance(request, supported, max_pdu_bytes)
        except negotiation.MalformedRequest as error:
            raise _ProtocolError(
                AbortReason.INVALID_PARAMETER, f"unanswerable proposals ({error})"
            ) from error
        self._max_response_bytes = request.max_pdu_bytes
        self._stream.send(pdu)
        self._session = Session(
            self._storage,
            calling_ae=request.calling_ae,
            called_ae=request.called_ae,
            address=self._visitor.address,
            reporters=frozenset(peer.name for peer in peers if peer.may_report),
            max_resends=settings.commitment.max_resends,
            heard=self._auditor.commitment_reported,
        )
        self._log.info("association_accepted", contexts=len(self._contexts))
        return True

    # -- Sta6: data transfer ---------------------------------------------------------------------

    def _transfer(self) -> None:
        while True:
            kind, body = self._stream.read(self._settings().listener.idle_timeout_s)
            if kind is PDUType.P_DATA_TF:
                for fragment in _fragments(body):
                    self._take(fragment)
            elif kind is PDUType.A_RELEASE_RQ:
                self._stream.send(negotiation.release_response_pdu())
                # The ledger hears of it before the peer has to close: completion starts here.
                self._close_session("released")
                self._stream.wait_for_close(_AWAIT_CLOSE_S)
                return
            elif kind is PDUType.A_ABORT:
                raise ConnectionClosed("aborted by the peer")
            else:
                raise _ProtocolError(
                    AbortReason.UNEXPECTED_PDU, f"{kind.name} in an established association"
                )

    def _take(self, fragment: _Fragment) -> None:
        if fragment.context_id not in self._contexts:
            raise _ProtocolError(
                AbortReason.INVALID_PARAMETER, "data in a context that was not accepted"
            )
        message = self._message
        if message is None:
            message = self._message = _Message(fragment.context_id, bytearray())
        expects_command = message.command is None
        if fragment.context_id != message.context_id or fragment.is_command is not expects_command:
            raise _ProtocolError(AbortReason.UNEXPECTED_PARAMETER, "fragments are out of order")
        if expects_command:
            self._take_command(message, fragment)
        else:
            self._take_dataset(message, fragment)

    def _take_command(self, message: _Message, fragment: _Fragment) -> None:
        message.encoded_command += fragment.value
        if len(message.encoded_command) > MAX_COMMAND_BYTES:
            raise _ProtocolError(AbortReason.INVALID_PARAMETER, "endless command set")
        if not fragment.is_last:
            return
        try:
            message.command = decode_command(bytes(message.encoded_command))
        except CannotUnderstand as error:
            raise _ProtocolError(AbortReason.INVALID_PARAMETER, str(error)) from error
        if message.command.has_dataset:
            message.dataset = self._begin_dataset(message.command, message.context_id)
        else:
            self._answer(message)

    def _begin_dataset(self, command: Command, context_id: int) -> Dataset:
        if command.field not in (CommandField.C_STORE_RQ, CommandField.N_EVENT_REPORT_RQ):
            return Refused(CannotUnderstand("a dataset comes with C-STORE or a report only"))
        assert self._session is not None  # noqa: S101  set when the association was accepted
        try:
            return self._session.begin(command, self._contexts[context_id])
        except Exception as error:  # noqa: BLE001  the DIMSE edge: recorded and answered
            return Refused(error)

    def _take_dataset(self, message: _Message, fragment: _Fragment) -> None:
        assert message.dataset is not None  # noqa: S101  a command without dataset was answered
        try:
            message.dataset.write(fragment.value)
        except Exception as error:  # noqa: BLE001  the DIMSE edge: recorded and answered
            # The sender hears of it when it has finished: there is no answer in mid-dataset.
            message.dataset.discard()
            message.dataset = Refused(error)
        if fragment.is_last:
            self._answer(message)

    # -- responses -------------------------------------------------------------------------------

    def _answer(self, message: _Message) -> None:
        command = message.command
        assert command is not None  # noqa: S101
        if command.field == CommandField.C_ECHO_RQ:
            response = encode_response(
                command, SUCCESS, sop_class_uid=_legal(command.sop_class_uid)
            )
        elif command.field == CommandField.C_STORE_RQ:
            response = self._store(command, message.dataset)
        elif command.field == CommandField.N_EVENT_REPORT_RQ:
            response = answer_event(command, message.dataset)
        else:
            response = encode_response(command, _UNRECOGNIZED_OPERATION)
        self._forget_message()
        if command.is_request:
            self._stream.send(command_pdus(message.context_id, response, self._max_response_bytes))

    def _store(self, command: Command, dataset: Dataset | None) -> bytes:
        started = time.perf_counter()
        assert self._session is not None  # noqa: S101
        try:
            receipt = (dataset or Refused(CannotUnderstand("C-STORE without a dataset"))).finish()
        except Exception as error:  # noqa: BLE001  the DIMSE edge: recorded and answered
            status, comment = status_of(error)
            self._session.note_answer("refused", status)
            # The type of an unforeseen error only: its text may quote what the peer sent.
            self._log.warning(
                "instance_refused",
                status=f"0x{status:04X}",
                comment=comment,
                error=type(error).__name__,
            )
        else:
            status, comment = SUCCESS, ""
            self._session.note_answer(receipt, status)
            if receipt is Receipt.STORED:
                self._log.debug("instance_stored", ms=round(1e3 * (time.perf_counter() - started)))
            else:
                self._log.debug("instance_taken", receipt=str(receipt))
        crash_point("listener.before_response")
        return encode_response(
            command,
            status,
            sop_class_uid=_legal(command.sop_class_uid),
            sop_instance_uid=_legal(command.sop_instance_uid),
            comment=comment,
        )

    # -- the end ---------------------------------------------------------------------------------

    def _abort(self, reason: AbortReason, text: str) -> None:
        self._log.warning("association_aborted", reason=text)
        try:
            self._stream.send(negotiation.abort_pdu(reason))
            self._stream.wait_for_close(_AWAIT_CLOSE_S, end_ours=True)
        except (ConnectionClosed, PeerTooSlow):
            pass

    def _forget_message(self) -> None:
        if self._message is not None and self._message.dataset is not None:
            self._message.dataset.discard()
        self._message = None

    def _close_session(self, outcome: str) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close(outcome)
        except Exception as error:  # noqa: BLE001  the DIMSE edge: nobody is left to answer
            self._log.error("association_not_closed_in_ledger", error=type(error).__name__)
        self._log.info(f"association_{outcome}", **session.receipts)
        if session.transfers:
            self._auditor.received(
                list(session.transfers.values()),
                calling_ae=session.calling_ae,
                address=self._visitor.address,
                failed=outcome != "released",
            )


def _fragments(body: memoryview) -> Iterator[_Fragment]:
    """Split the variable field of a P-DATA-TF PDU (PS3.8 §9.3.5)."""
    offset = 0
    while offset < len(body):
        length = int.from_bytes(body[offset : offset + 4], "big")
        start, offset = offset + 4, offset + 4 + length
        if length < 2 or offset > len(body):
            raise _ProtocolError(AbortReason.INVALID_PARAMETER, "a fragment has no legal length")
        context_id, control = body[start], body[start + 1]
        yield _Fragment(
            context_id,
            bool(control & _IS_COMMAND),
            bool(control & _IS_LAST),
            body[start + 2 : offset],
        )


def _legal(uid: str) -> str:
    return uid if is_legal_uid(uid) else ""
