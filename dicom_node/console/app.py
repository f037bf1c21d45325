"""The application: pages, their guard, errors in words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from dicom_node import __version__
from dicom_node.audit import Auditor
from dicom_node.console import api
from dicom_node.console.access import ADMIN, VIEWER, Forbidden, NotLoggedIn, require_own_form
from dicom_node.console.armour import Armour
from dicom_node.console.context import Console, console_of
from dicom_node.console.live import Live
from dicom_node.console.registry import discover
from dicom_node.console.rendering import STATIC, is_fragment, make_templates, render
from dicom_node.console.throttle import LoginThrottle
from dicom_node.console.thumbnails import Thumbnails
from dicom_node.console.trail_check import TrailCheck
from dicom_node.console.trials import Trials
from dicom_node.errors import ConfigurationError, LedgerError
from dicom_node.ledger import Ledger
from dicom_node.ledger.changes import Changes
from dicom_node.ledger.console_users import ConsoleUsers
from dicom_node.ledger.listing import Listing
from dicom_node.ledger.readings import Readings
from dicom_node.settings import SettingsSource
from dicom_node.status_words import in_words, right_now
from dicom_node.under_way import under_way

__all__ = ["make_app"]


def make_app(source: SettingsSource, ledger: Ledger, auditor: Auditor | None = None) -> FastAPI:
    """Return the console as an ASGI application.

    Parameters
    ----------
    source : SettingsSource
    ledger : Ledger
        Stays the caller's, who closes it.
    """
    settings = source()
    base = settings.console.base_path
    templates = make_templates(base)
    templates.filters["in_words"] = lambda item: in_words(item, right_now(source()))
    listing = Listing(ledger.database)
    auditor = auditor or Auditor(settings, "console")
    console = Console(
        settings=source,
        ledger=ledger,
        users=ConsoleUsers(ledger.database),
        listing=listing,
        readings=Readings(ledger.database),
        auditor=auditor,
        templates=templates,
        pages=discover(),
        live=Live(
            Changes(ledger.database),
            listing,
            lambda name, values: templates.get_template(name).render(values),
            lambda: under_way(source().memos_dir),
        ),
        throttle=LoginThrottle(),
        thumbnails=Thumbnails(settings.root / "console" / "thumbnails"),
        trials=Trials(),
        trail_check=TrailCheck(auditor.trail),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        console.live.close()

    app = FastAPI(
        title="m3lung-node console",
        version=__version__,
        summary="What the node knows of its series. Read-only.",
        openapi_url=None,  # served to whoever is logged in: see `api`
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        dependencies=[Depends(require_own_form)],
    )
    app.state.console = console
    for page in console.pages:
        app.include_router(
            page.router,
            prefix=base,
            dependencies=[] if page.public else [ADMIN if page.admin else VIEWER],
            include_in_schema=False,
        )
    app.include_router(api.router, prefix=base)
    app.mount(f"{base}/static", _Static(directory=STATIC), name="static")
    app.add_middleware(Armour)
    _answer_errors(app)
    return app


class _Static(StaticFiles):
    """Files that carry their digest in the address: kept for a year."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if scope["query_string"].startswith(b"v="):
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        else:
            response.headers["Cache-Control"] = "no-cache"
        return response


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(NotLoggedIn)
    def not_logged_in(request: Request, _error: Exception) -> Response:
        base = console_of(request).base
        if _is_api(request):
            return JSONResponse(
                {"detail": "not logged in"}, 401, headers={"WWW-Authenticate": "Bearer"}
            )
        login = f"{base}/login"
        if is_fragment(request):
            return Response(status_code=401, headers={"HX-Redirect": login})
        here = request.url.path.removeprefix(base)
        if request.method == "GET" and here not in ("", "/"):
            login += f"?next={quote(here)}"
        return Response(status_code=303, headers={"Location": login})

    @app.exception_handler(Forbidden)
    def forbidden(request: Request, error: Exception) -> Response:
        return _said(request, 403, str(error))

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  what it is registered for
        words = "There is no such page." if error.status_code == 404 else str(error.detail)
        return _said(request, error.status_code, words)

    @app.exception_handler(RequestValidationError)
    def not_understood(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  what it is registered for
        # The places only: what was entered may name a patient.
        places = sorted({str(item["loc"][-1]) for item in error.errors()})
        return _said(request, 422, f"Not understood: {', '.join(places)}.")

    @app.exception_handler(ConfigurationError)
    def refused_entry(request: Request, error: Exception) -> Response:
        return _said(request, 422, str(error))

    @app.exception_handler(LedgerError)
    @app.exception_handler(SQLAlchemyError)
    def no_ledger(request: Request, _error: Exception) -> Response:
        # Without asking who it is, which would need the ledger.
        words = "The ledger does not answer at the moment. Try again soon."
        if _is_api(request):
            return JSONResponse({"detail": words}, 503)
        request.state.visitor = None
        return _said(request, 503, words)


def _said(request: Request, status_code: int, words: str) -> Response:
    if _is_api(request):
        return JSONResponse({"detail": words}, status_code)
    return render(request, "error.html", status_code=status_code, words=words)


def _is_api(request: Request) -> bool:
    return request.url.path.removeprefix(console_of(request).base).startswith("/api/")
