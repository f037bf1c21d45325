"""Logging in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from dicom_node.audit.message import EventID, EventType
from dicom_node.console import passwords
from dicom_node.console.access import COOKIE, keep_browser_token, record, visitor_of
from dicom_node.console.context import console_of
from dicom_node.console.origin import origin_of
from dicom_node.console.registry import Page
from dicom_node.console.rendering import duration, go_to, render
from dicom_node.ledger.console_users import ConsoleUser

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, public=True)


@router.get("/login")
def show(request: Request, next: str = "/") -> Response:
    """Show the form; on a new node, how the first user is made."""
    if visitor_of(request) is not None:
        return go_to(request, "/")
    return _form(request, next)


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Check name and password and begin a session."""
    console = console_of(request)
    settings = console.settings().console
    address = origin_of(request, settings).address
    name = name.strip()
    wait_s = console.throttle.wait_s(address, name)
    if wait_s > 0:
        _record_login(request, "login refused: too many failures", name, failed=True)
        words = f"Too many failed attempts. Try again in {duration(wait_s)}."
        response = _form(request, next, words=words, name=name, status_code=429)
        response.headers["Retry-After"] = str(int(wait_s) + 1)
        return response
    user = _user_of(request, name, password)
    if user is None:
        console.throttle.failed(address, name)
        _record_login(request, "login failed", name, failed=True)
        words = "Name and password do not fit together."
        return _form(request, next, words=words, name=name, status_code=401)
    console.throttle.succeeded(address, name)
    token = console.users.begin_session(user, settings.session_hours * 3600.0)
    _record_login(request, f"login as {user.role}", user.name)
    response = go_to(request, _own_path(next))
    keep_browser_token(request, response, token)
    return response


@router.post("/logout")
def log_out(request: Request) -> Response:
    """End the session."""
    visitor = visitor_of(request)
    if visitor is not None and visitor.how == "session":
        console_of(request).users.end_session(request.cookies.get(COOKIE, ""))
        record(
            request,
            "logout",
            event=EventID.USER_AUTHENTICATION,
            kind=EventType.LOGOUT,
        )
    response = go_to(request, "/login")
    keep_browser_token(request, response, "")
    return response


def _user_of(request: Request, name: str, password: str) -> ConsoleUser | None:
    user = console_of(request).users.named(name)
    # Checked for a user who does not exist as well: the time tells nothing.
    is_right = passwords.check(user.password_hash if user else "", password)
    return user if is_right else None


def _form(
    request: Request, path: str, *, words: str = "", name: str = "", status_code: int = 200
) -> Response:
    console = console_of(request)
    return render(
        request,
        "login.html",
        status_code=status_code,
        next=_own_path(path),
        words=words,
        name=name,
        is_new=not console.users.any_admin(),
        config=str(console.settings.path or ""),
    )


def _own_path(path: str) -> str:
    """Return `path` if it leads into this console, else the first page: no open redirect."""
    plain = path.startswith("/") and not path.startswith("//")
    return path if plain and path.isprintable() and "\\" not in path else "/"


def _record_login(request: Request, words: str, name: str, *, failed: bool = False) -> None:
    record(
        request,
        words,
        user=name or "unknown",
        event=EventID.USER_AUTHENTICATION,
        kind=EventType.LOGIN,
        failed=failed,
    )
