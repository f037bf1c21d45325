"""The configuration document and its versions: who changed what, compared, and brought back."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response
from starlette.exceptions import HTTPException

from dicom_node.audit.message import EventType
from dicom_node.configuration import Difference, History, Version, difference, masked
from dicom_node.console.access import ADMIN, record
from dicom_node.console.configuration import change_of, document_of, document_state
from dicom_node.console.context import console_of
from dicom_node.console.registry import Page
from dicom_node.console.rendering import go_to, render
from dicom_node.errors import ConfigurationError

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, title="Configuration", path="/configuration", order=50)

# Where the document is, and who started the process: they override nothing.
_NO_FIELDS = ("M3LUNG_CONFIG", "M3LUNG_PARENT_PID")
AS_IT_STANDS = 0  # in place of a version's number
_MOST_LINES = 3000  # beyond, comparing takes longer than a page may

Number = Annotated[int, Query(ge=0, lt=1 << 31)]


@router.get("/configuration")
def show(request: Request) -> Response:
    """Show the versions."""
    state = document_state(request)
    versions = _history(request).versions()
    words = ""
    is_kept = False
    try:
        text = document_of(request).text() if state.path else ""
        is_kept = bool(versions) and _text(versions[0]) == text
    except ConfigurationError as error:
        words = str(error)
    return render(
        request,
        "configuration.html",
        document=state,
        versions=versions,
        is_kept=is_kept,
        words=words,
        # Their names only: that is where secrets come from.
        overridden=sorted(
            name for name in os.environ if name.startswith("M3LUNG_") and name not in _NO_FIELDS
        ),
    )


@router.get("/configuration/difference")
def compare(request: Request, old: Number = AS_IT_STANDS, new: Number = AS_IT_STANDS) -> Response:
    """Show in what two versions differ."""
    return render(
        request,
        "difference.html",
        document=document_state(request),
        old=old,
        new=new,
        difference=_difference(request, old, new),
    )


@router.get("/configuration/versions/{revision}")
def read(request: Request, revision: int) -> Response:
    """Show a whole version, 0: the document as it stands; secrets are masked."""
    return render(
        request,
        "version.html",
        document=document_state(request),
        revision=revision,
        chosen=_version(request, revision) if revision else None,
        lines=masked(_text_of(request, revision)).splitlines(),
    )


@router.get("/configuration/versions/{revision}/restore", dependencies=[ADMIN])
def ask_to_restore(request: Request, revision: int) -> Response:
    """Show what would change, and ask whether it is meant."""
    return _confirm(request, _version(request, revision))


@router.post("/configuration/versions/{revision}/restore", dependencies=[ADMIN])
def restore(
    request: Request,
    revision: int,
    sure: Annotated[str, Form()] = "",
    seen: Annotated[str, Form()] = "",
) -> Response:
    """Bring a version back, as a new one."""
    version = _version(request, revision)
    if sure != "yes":
        return _confirm(request, version)
    words = f"configuration: version {revision} restored"
    try:
        document_of(request).restore(version, change_of(request, words), seen=seen)
    except ConfigurationError as error:
        return _confirm(request, version, words=str(error))
    console_of(request).settings()  # the next page is to show it
    record(request, words, kind=EventType.NETWORK_CONFIGURATION, action="U")
    return go_to(request, "/configuration", said=f"Version {revision} is in force again.")


def _history(request: Request) -> History:
    return History(console_of(request).settings().root)


def _version(request: Request, number: int) -> Version:
    """Return a version.

    Raises
    ------
    HTTPException
        404: it is not kept.
    """
    version = _history(request).version(number) if 0 < number < 1 << 31 else None
    if version is None:
        raise HTTPException(404, "There is no such version, or it is not kept any more.")
    return version


def _text_of(request: Request, number: int) -> str:
    if number == AS_IT_STANDS:
        return document_of(request).text()
    return _text(_version(request, number))


def _text(version: Version) -> str:
    try:
        return version.text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"version {version.number} cannot be read") from error


def _difference(request: Request, old: int, new: int) -> Difference | None:
    """Return in what two versions differ; None: they are too long to be compared here."""
    former, latter = _text_of(request, old), _text_of(request, new)
    if max(former.count("\n"), latter.count("\n")) > _MOST_LINES:
        return None
    return difference(former, latter)


def _confirm(request: Request, version: Version, *, words: str = "") -> Response:
    return render(
        request,
        "restore.html",
        status_code=422 if words else 200,
        document=document_state(request),
        chosen=version,  # "version" is the software's
        difference=_difference(request, AS_IT_STANDS, version.number),
        seen=document_of(request).digest(),
        words=words,
    )
