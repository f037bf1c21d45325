"""Who is asking, what they may do, and whether the form is ours.

A browser holds one cookie with a random token. Before the login it only ties forms to the browser;
the login replaces it by the token of a session, which the ledger knows by its digest. A form's own
token is derived from it (HMAC), so that a form of another site cannot have it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Literal, cast

from fastapi import Depends, Request, Response

from dicom_node.audit.message import EventID, EventType
from dicom_node.console.context import console_of
from dicom_node.console.origin import origin_of
from dicom_node.ledger.console_users import ConsoleRole, ConsoleUser

__all__ = [
    "ADMIN",
    "VIEWER",
    "Forbidden",
    "NotLoggedIn",
    "Visitor",
    "csrf_token",
    "keep_browser_token",
    "record",
    "require_admin",
    "require_own_form",
    "require_viewer",
    "visitor_of",
]

COOKIE = "m3lung_console"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_SAFE = {"GET", "HEAD", "OPTIONS"}


class NotLoggedIn(Exception):
    """Nobody is logged in."""


class Forbidden(Exception):
    """The request is refused; the text says why, for the person."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is asking."""

    user: ConsoleUser
    how: Literal["session", "header", "token"]

    @property
    def name(self) -> str:
        """Of the user."""
        return self.user.name

    @property
    def is_admin(self) -> bool:
        """Whether they may change something."""
        return self.user.role is ConsoleRole.ADMIN


def visitor_of(request: Request) -> Visitor | None:
    """Return who is asking, None for a stranger. Reads the ledger, once per request."""
    if not hasattr(request.state, "visitor"):
        request.state.visitor = _identify(request)
    return cast("Visitor | None", request.state.visitor)


def _identify(request: Request) -> Visitor | None:
    console = console_of(request)
    user: ConsoleUser | None
    if _is_program(request):
        scheme, _, token = request.headers["authorization"].partition(" ")
        user = console.users.of_token(token.strip()) if scheme.lower() == "bearer" else None
        return Visitor(user, "token") if user else None
    named = origin_of(request, console.settings().console).header_user
    if named:
        user = console.users.named(named)
        return Visitor(user, "header") if user else None
    token = request.cookies.get(COOKIE, "")
    user = console.users.of_session(token) if _TOKEN.fullmatch(token) else None
    return Visitor(user, "session") if user else None


def _is_program(request: Request) -> bool:
    """Whether only a token for programs counts: no browser adds this header for a foreign site."""
    path = request.url.path.removeprefix(console_of(request).base)
    return path.startswith("/api/") and "authorization" in request.headers


def require_viewer(request: Request) -> Visitor:
    """Return who is asking.

    Raises
    ------
    NotLoggedIn
    """
    visitor = visitor_of(request)
    if visitor is None:
        raise NotLoggedIn
    return visitor


def require_admin(request: Request) -> Visitor:
    """Return the administrator who is asking.

    Raises
    ------
    NotLoggedIn
    Forbidden
    """
    visitor = require_viewer(request)
    if not visitor.is_admin:
        record(request, f"refused, no administrator: {request.method}", failed=True)
        raise Forbidden("Only administrators may do this.")
    return visitor


VIEWER = Depends(require_viewer)
ADMIN = Depends(require_admin)


# -- forms -----------------------------------------------------------------------------------------


def browser_token(request: Request) -> str:
    """Return the token of this browser; a new one is handed out with the answer."""
    if not hasattr(request.state, "browser_token"):
        token = request.cookies.get(COOKIE, "")
        request.state.is_new_browser = not _TOKEN.fullmatch(token)
        request.state.browser_token = (
            secrets.token_urlsafe(32) if request.state.is_new_browser else token
        )
    return cast("str", request.state.browser_token)


def keep_browser_token(request: Request, response: Response, token: str | None = None) -> None:
    """Put the browser's token into `response` where it is new; `token`: a session's, or ``""``."""
    if token is None:
        token = browser_token(request) if getattr(request.state, "is_new_browser", False) else None
    if token is None:
        return
    console = console_of(request)
    settings = console.settings().console
    response.set_cookie(
        COOKIE,
        token or secrets.token_urlsafe(32),
        path=console.base or "/",
        secure=origin_of(request, settings).secure,
        httponly=True,
        samesite="lax",
    )


def csrf_token(request: Request) -> str:
    """Return what a form of this browser has to carry."""
    mac = hmac.digest(browser_token(request).encode(), b"m3lung console form", hashlib.sha256)
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


async def require_own_form(request: Request) -> None:
    """Let nothing through that changes something and was not sent by a page of this console.

    Raises
    ------
    Forbidden
    """
    if request.method in _SAFE or _is_program(request):
        return
    given = request.headers.get("x-csrf-token")
    if given is None:
        given = str((await request.form()).get("csrf", ""))
    site = request.headers.get("sec-fetch-site", "same-origin")  # old browsers do not say
    own = site in ("same-origin", "none")
    if not own or not hmac.compare_digest(given.encode(), csrf_token(request).encode()):
        raise Forbidden(
            "This form was not sent from this console, or it is too old. "
            "Go back, load the page again and repeat it."
        )


# -- the trail -------------------------------------------------------------------------------------


def record(
    request: Request,
    words: str,
    *,
    user: str | None = None,
    event: EventID = EventID.SECURITY_ALERT,
    kind: EventType | None = EventType.USE_OF_RESTRICTED_FUNCTION,
    action: str = "E",
    failed: bool = False,
    studies: tuple[str, ...] = (),
) -> None:
    """Put what somebody did into the audit trail; `words` hold no patient data."""
    console = console_of(request)
    if user is None:
        visitor = visitor_of(request)
        user = visitor.name if visitor else "unknown"
    console.auditor.console(
        words,
        user=user,
        address=origin_of(request, console.settings().console).address,
        event=event,
        kind=kind,
        action=action,
        failed=failed,
        studies=studies,
    )
