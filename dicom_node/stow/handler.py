"""One connection of the STOW-RS port, from its first request to its last.

A request is to the ledger what an association is: it opens with the first instance, ends
*released* when its body was read to the end, *aborted* when it was not.
"""

from __future__ import annotations

from collections.abc import Callable

import h11

from dicom_node.audit import Auditor
from dicom_node.crashpoints import crash_point
from dicom_node.logs import get_logger
from dicom_node.reception.admission import Admission, Visitor
from dicom_node.reception.caller import Caller
from dicom_node.reception.session import Reception, ReceptionSession
from dicom_node.reception.water_marks import shortage
from dicom_node.settings import NodeSettings, Peer
from dicom_node.stow.access import Denied, identify
from dicom_node.stow.body import Body, BrokenBody, TooManyParts
from dicom_node.stow.http import HTTPStream, IllegalRequest, SenderGone, SenderTooSlow
from dicom_node.stow.part import DicomPart
from dicom_node.stow.request import Refusal, StoreRequest, read_request
from dicom_node.stow.response import DICOM_JSON, encode_response, http_status

__all__ = ["RequestHandler"]

_log = get_logger(__name__)
_AGAIN_S = "30"  # after which a sender may come again


class RequestHandler:
    """Serves one connection in the calling thread.

    Parameters
    ----------
    visitor : Visitor
        The connection's place in `admission`: a request takes an association's.
    caller : Caller
        What the connection tells of the other side.
    settings : callable
        Returns the settings that hold now.
    is_stopping : callable
        Whether the node is shutting down.
    """

    def __init__(
        self,
        visitor: Visitor,
        caller: Caller,
        *,
        admission: Admission,
        reception: Reception,
        settings: Callable[[], NodeSettings],
        is_stopping: Callable[[], bool],
        auditor: Auditor,
    ) -> None:
        self._visitor = visitor
        self._caller = caller
        self._admission = admission
        self._reception = reception
        self._settings = settings
        self._is_stopping = is_stopping
        self._auditor = auditor
        self._log = _log.bind(address=caller.address)
        limits = settings().listener
        self._stream = HTTPStream(
            visitor.connection,
            header_timeout_s=limits.handshake_timeout_s,
            block_timeout_s=limits.pdu_timeout_s,
        )

    def serve(self) -> None:
        """Answer requests until the connection ends; raises nothing that a sender can cause."""
        limits = self._settings().listener
        wait_s = limits.handshake_timeout_s
        try:
            while (request := self._stream.next_request(wait_s)) is not None:
                if not self._answer(request) or self._is_stopping():
                    return
                wait_s = limits.idle_timeout_s
        except IllegalRequest as error:
            self._refuse(Refusal(error.error_status_hint, "this is no HTTP request"))
        except (SenderGone, SenderTooSlow) as error:
            self._log.debug("connection_ended", reason=type(error).__name__)

    def _answer(self, request: h11.Request) -> bool:
        """Store what a request holds; return whether another may follow."""
        settings = self._settings()
        try:
            peer = self._identified(request, settings)
            asked = read_request(request, settings.stow)
            self._require_room(settings)
        except Refusal as refusal:
            return self._refuse(refusal)
        try:
            return self._store(asked, peer, settings)
        finally:
            self._admission.dissociate(self._visitor)

    def _identified(self, request: h11.Request, settings: NodeSettings) -> Peer:
        shown = dict(request.headers).get(b"authorization")
        authorization = None if shown is None else shown.decode("latin-1")
        try:
            return identify(settings, self._caller, authorization)
        except Denied as denied:
            self._auditor.refused(f"STOW-RS: {denied.words}", address=self._caller.address)
            challenge = {"WWW_Authenticate": "Bearer"} if denied.status == 401 else {}
            raise Refusal(denied.status, denied.words, **challenge) from denied

    def _require_room(self, settings: NodeSettings) -> None:
        words = shortage(self._reception.spool, self._reception.marks, settings.retention)
        if self._is_stopping():
            words = "the node is stopping"
        if not words and not self._admission.associate(
            self._visitor, settings.listener.max_associations
        ):
            words = "too many associations and requests"
        if words:
            raise Refusal(503, words, Retry_After=_AGAIN_S)

    def _store(self, asked: StoreRequest, peer: Peer, settings: NodeSettings) -> bool:
        session = ReceptionSession(
            self._reception,
            calling_ae=peer.ae_title,
            called_ae=settings.ae_title,
            address=self._caller.address,
            verb="stow",
        )
        body = Body(
            asked.boundary,
            session,
            lambda: DicomPart(
                session,
                study_instance_uid=asked.study_instance_uid,
                refuses_others=settings.listener.other_storage == "refuse",
            ),
        )
        outcome, refusal = "aborted", None
        try:
            self._read(body, settings.stow.max_request_bytes)
            outcome = "released"
        except Refusal as error:
            refusal = error
        finally:
            body.discard()
            self._close(session, outcome)
        if refusal is not None and not body.answers:
            return self._refuse(refusal)
        status = refusal.status if refusal else http_status(body.answers)
        self._reception.tally.count("stow_requests", str(status))
        self._log.info(
            "request_answered",
            status=status,
            reason=refusal.words if refusal else "",
            source=peer.name,
            **session.receipts,
        )
        crash_point("listener.before_response")
        headers = {"Content-Type": DICOM_JSON}
        if status == 503:
            headers["Retry-After"] = _AGAIN_S
        return self._stream.answer(status, encode_response(body.answers), headers)

    def _read(self, body: Body, max_bytes: int) -> None:
        """Read the body of the request into `body`.

        Raises
        ------
        Refusal
            The rest of it is not read.
        """
        total = 0
        try:
            for piece in self._stream.body():
                total += len(piece)
                if total > max_bytes:
                    raise Refusal(413, "the body is larger than this node accepts")
                body.feed(piece)
            body.finish()
        except SenderTooSlow as error:
            raise Refusal(408, "a block of the body did not come in time") from error
        except SenderGone as error:
            raise Refusal(400, "the sender went away") from error
        except TooManyParts as error:
            raise Refusal(413, str(error)) from error
        except BrokenBody as error:
            raise Refusal(400, str(error)) from error
        except IllegalRequest as error:
            raise Refusal(400, "the body breaks HTTP, or ends too early") from error

    def _close(self, session: ReceptionSession, outcome: str) -> None:
        try:
            session.close(outcome)
        except Exception as error:  # noqa: BLE001  the edge: what is stored is stored
            self._log.error("request_not_closed_in_ledger", error=type(error).__name__)
        if session.transfers:
            self._auditor.received(
                list(session.transfers.values()),
                calling_ae=session.calling_ae,
                address=self._caller.address,
                failed=outcome != "released",
            )

    def _refuse(self, refusal: Refusal) -> bool:
        self._reception.tally.count("stow_requests", str(refusal.status))
        self._log.warning("request_refused", status=refusal.status, reason=refusal.words)
        # Why somebody is not known here is for the audit trail.
        told = "" if refusal.status in (401, 403) else f"{refusal.words}\n"
        headers = {"Content-Type": "text/plain; charset=utf-8", **refusal.headers}
        try:
            return self._stream.answer(refusal.status, told.encode(), headers)
        except (SenderGone, h11.LocalProtocolError):
            return False
