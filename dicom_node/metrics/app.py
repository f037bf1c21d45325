"""``/metrics``, ``/healthz``, ``/readyz``: one answer for each, behind WSGI or ASGI.

Needs no web framework, so that the exporter runs where no console is installed; a console may
mount either face.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from dicom_node.ledger import Ledger
from dicom_node.metrics.exposition import NodeCollector
from dicom_node.metrics.health import HealthFinding, health, readiness
from dicom_node.metrics.reading import Reader
from dicom_node.settings import NodeSettings

__all__ = ["Answer", "MetricsApp"]

Message = MutableMapping[str, Any]
_PATHS = ("/metrics", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: HTTPStatus
    content_type: str
    body: bytes


class MetricsApp:
    """Answers who watches the node; may be called from several threads.

    Parameters
    ----------
    settings : callable
        The settings in force; with an attribute ``error``, what is wrong with the document.
    ledger : Ledger
        Only read.
    """

    def __init__(self, settings: Callable[[], NodeSettings], ledger: Ledger) -> None:
        self._settings = settings
        self._reader = Reader(ledger)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(
            NodeCollector(settings, self._reader, lambda: str(getattr(settings, "error", "")))
        )

    def answer(self, path: str, accept: str = "") -> Answer:
        """Return the answer to a GET of `path`."""
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return Answer(HTTPStatus.OK, content_type, encode(self._registry))
        if path in ("/healthz", "/readyz"):
            settings = self._settings()
            reading = self._reader.read(settings.metrics.cache_s)
            look = health if path == "/healthz" else readiness
            return _told(look(reading, settings, self._reader.error))
        words = f"there is {', '.join(_PATHS)}\n"
        return Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", words.encode())

    def wsgi(
        self, environ: dict[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer as a WSGI application (PEP 3333)."""
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            answer = _NOT_ALLOWED
        else:
            answer = self.answer(environ.get("PATH_INFO", ""), environ.get("HTTP_ACCEPT", ""))
        status = f"{answer.status.value} {answer.status.phrase}"
        start_response(status, list(_headers(answer).items()))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]

    async def asgi(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer as an ASGI application; looks at the ledger in a thread."""
        import asyncio

        if scope["type"] != "http":
            return
        if scope["method"] not in ("GET", "HEAD"):
            answer = _NOT_ALLOWED
        else:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            named = dict(scope["headers"])
            accept = named.get(b"accept", b"").decode("latin-1")
            answer = await asyncio.to_thread(self.answer, path, accept)
        headers = [
            (name.lower().encode(), value.encode()) for name, value in _headers(answer).items()
        ]
        await send(
            {"type": "http.response.start", "status": answer.status.value, "headers": headers}
        )
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})


_NOT_ALLOWED = Answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", b"only GET\n")


def _headers(answer: Answer) -> dict[str, str]:
    return {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }


def _told(findings: list[HealthFinding]) -> Answer:
    ok = all(finding.ok for finding in findings)
    document = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
    return Answer(
        HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE,
        "application/json",
        json.dumps(document, indent=1).encode() + b"\n",
    )
