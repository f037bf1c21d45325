"""What every answer carries and no request may be: security headers, a limit of size.

Plain ASGI, so that streams stay streams.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CONTENT_SECURITY_POLICY", "Armour"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
"""Own scripts and styles from own files only; nothing inline, nothing from elsewhere."""

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MOST_BODY_BYTES = 1 << 20


class _TooLong(Exception):
    pass


class Armour:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def dressed(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                # Pages show patients: they stay in no cache. Static files say otherwise themselves.
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _MOST_BODY_BYTES:
                raise _TooLong
            return message

        refusal = PlainTextResponse("The request is too long.", status_code=413)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > _MOST_BODY_BYTES:
            await refusal(scope, receive, dressed)
            return
        try:
            await self._app(scope, limited, dressed)
        except _TooLong:
            if not started:
                await refusal(scope, receive, dressed)
