"""The routes, and what is refused before a byte of the body is read."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dicom_node.audit import Auditor
from dicom_node.crashpoints import crash_point
from dicom_node.domain import is_legal_uid
from dicom_node.logs import get_logger
from dicom_node.reception.caller import Caller
from dicom_node.reception.session import Reception, ReceptionSession
from dicom_node.reception.water_marks import shortage
from dicom_node.settings import NodeSettings, Peer, SettingsSource
from dicom_node.stow.access import Denied, identify
from dicom_node.stow.body import Body, BrokenBody, TooManyParts
from dicom_node.stow.parts import DicomPart
from dicom_node.stow.response import DICOM_JSON, encode_response, http_status
from dicom_node.stow.transfer import Disconnected, TooLarge, TooSlow, receive_body

__all__ = ["make_app"]

_log = get_logger(__name__)
_MAX_BOUNDARY = 70  # RFC 2046 §5.1.1
_AGAIN_S = "30"  # after which a sender may come again
_CLOSE = {"Connection": "close"}


class _Refusal(Exception):
    """An answer without any instance."""

    def __init__(self, status: int, words: str, **headers: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def make_app(
    source: SettingsSource, reception: Reception, auditor: Auditor, executor: ThreadPoolExecutor
) -> Starlette:
    """Return the service as an ASGI application.

    Parameters
    ----------
    executor : ThreadPoolExecutor
        Its threads wait for the disk: one for each request that may be under way.
    """
    store = _Store(source, reception, auditor, executor)
    base = source().stow.base_path
    return Starlette(
        routes=[
            Route(f"{base}/studies", store.answer, methods=["POST"]),
            Route(f"{base}/studies/{{study}}", store.answer, methods=["POST"]),
        ]
    )


class _Store:
    def __init__(
        self,
        source: SettingsSource,
        reception: Reception,
        auditor: Auditor,
        executor: ThreadPoolExecutor,
    ) -> None:
        self._source = source
        self._reception = reception
        self._auditor = auditor
        self._executor = executor
        self._under_way = 0

    async def answer(self, request: Request) -> Response:
        """Store what a request holds (PS3.18 §10.5)."""
        caller = _caller(request)
        settings = self._source()
        try:
            peer = await self._identified(settings, caller, request)
            boundary = _boundary(request)
            study = _study(request)
            _look_at_size(request, settings)
            await self._require_room(settings)
        except _Refusal as refusal:
            return self._refuse(refusal, caller)
        self._under_way += 1
        try:
            return await self._store(request, settings, peer, caller, boundary, study)
        finally:
            self._under_way -= 1

    async def _identified(self, settings: NodeSettings, caller: Caller, request: Request) -> Peer:
        try:
            return identify(settings, caller, request.headers.get("authorization"))
        except Denied as denied:
            words = f"STOW-RS refused: {denied.words}"
            await self._in_thread(self._auditor.refused, words, address=caller.address)
            challenge = {"WWW_Authenticate": 'Bearer realm="m3lung-node"'}
            raise _Refusal(
                denied.status, denied.words, **(challenge if denied.status == 401 else {})
            ) from denied

    async def _require_room(self, settings: NodeSettings) -> None:
        if self._under_way >= settings.stow.max_requests:
            raise _Refusal(503, "too many requests", Retry_After="5")
        words = await self._in_thread(
            shortage, self._reception.spool, self._reception.marks, settings.retention
        )
        if words:
            raise _Refusal(503, words, Retry_After=_AGAIN_S)

    async def _store(
        self,
        request: Request,
        settings: NodeSettings,
        peer: Peer,
        caller: Caller,
        boundary: bytes,
        study: str,
    ) -> Response:
        session = ReceptionSession(
            self._reception,
            calling_ae=peer.ae_title,
            called_ae=settings.ae_title,
            address=caller.address,
            verb="stow",
        )
        body = Body(
            boundary,
            session,
            lambda: DicomPart(
                session,
                study_instance_uid=study,
                refuses_others=settings.listener.other_storage == "refuse",
            ),
            max_parts=settings.stow.max_parts,
        )
        outcome, refusal = "aborted", None
        try:
            await receive_body(request.receive, body, settings.stow, self._executor)
            outcome = "answered"
        except Disconnected:
            refusal = _Refusal(400, "the sender went away")
        except TooSlow:
            refusal = _Refusal(408, "a block did not come in time")
        except TooLarge:
            refusal = _Refusal(413, "the body is larger than this node accepts")
        except TooManyParts as error:
            refusal = _Refusal(413, str(error))
        except BrokenBody as error:
            refusal = _Refusal(400, str(error))
        finally:
            # Also when this task is cancelled, since the node stops.
            await asyncio.shield(self._in_thread(self._end, body, session, peer, caller, outcome))
        if refusal is not None and not body.answers:
            return self._refuse(refusal, caller)
        status = refusal.status if refusal else http_status(body.answers)
        self._reception.tally.count("stow_requests", str(status))
        _log.info(
            f"request_{outcome}",
            status=status,
            reason=refusal.words if refusal else "",
            source=peer.name,
            **session.receipts,
        )
        await self._in_thread(crash_point, "listener.before_response")
        headers = dict(_CLOSE) if refusal else {}
        if status == 503:
            headers["Retry-After"] = _AGAIN_S
        return Response(
            encode_response(body.answers), status, headers=headers, media_type=DICOM_JSON
        )

    def _end(
        self, body: Body, session: ReceptionSession, peer: Peer, caller: Caller, outcome: str
    ) -> None:
        body.abandon()
        try:
            session.close(outcome)
        except Exception as error:  # noqa: BLE001  the edge: what is stored is stored
            _log.error("request_not_closed_in_ledger", error=type(error).__name__)
        if session.transfers:
            self._auditor.received(
                list(session.transfers.values()),
                calling_ae=peer.ae_title,
                address=caller.address,
                failed=outcome != "answered",
            )

    def _refuse(self, refusal: _Refusal, caller: Caller) -> Response:
        self._reception.tally.count("stow_requests", str(refusal.status))
        _log.warning(
            "request_refused", status=refusal.status, reason=refusal.words, address=caller.address
        )
        told = "" if refusal.status in (401, 403) else refusal.words
        return PlainTextResponse(told, refusal.status, headers={**refusal.headers, **_CLOSE})

    async def _in_thread(self, function: Any, *arguments: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*arguments, **named))


def _caller(request: Request) -> Caller:
    host = request.client.host if request.client else ""
    certificate = request.scope.get("state", {}).get("certificate")
    return Caller(host, secure=request.url.scheme == "https", certificate=certificate)


def _boundary(request: Request) -> bytes:
    """Return the boundary of a body that can be read here."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    inner = options.get(b"type", b"").lower()
    if kind.lower() != b"multipart/related" or inner != b"application/dicom":
        raise _Refusal(415, 'only multipart/related; type="application/dicom" is stored here')
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _Refusal(415, "the body has a content encoding")
    accepted = request.headers.get("accept", "*/*").lower()
    if not any(kind in accepted for kind in ("*/*", "application/*", "json")):
        raise _Refusal(406, f"the answer is {DICOM_JSON}")
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise _Refusal(400, "the content type names no boundary of 1 to 70 characters")
    return boundary


def _study(request: Request) -> str:
    study = str(request.path_params.get("study", ""))
    if study and not is_legal_uid(study):
        raise _Refusal(400, "the address names no legal Study Instance UID")
    return study


def _look_at_size(request: Request, settings: NodeSettings) -> None:
    size = 0
    with contextlib.suppress(ValueError):  # what is no number is refused before
        size = int(request.headers.get("content-length", "0"))
    if size > settings.stow.max_request_bytes:
        raise _Refusal(413, "the body is larger than this node accepts")
