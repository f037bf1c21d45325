"""The worklist: where every series is, live."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import StreamingResponse

from dicom_node.audit.message import EventID
from dicom_node.console.access import ADMIN, record, require_viewer
from dicom_node.console.context import console_of
from dicom_node.console.registry import Page
from dicom_node.console.rendering import go_to, is_fragment, render
from dicom_node.ledger.listing import Cursor, SeriesStage

__all__ = ["PAGE", "PERIODS"]

router = APIRouter()
PAGE = Page(router, title="Worklist", path="/", order=10)

PERIODS = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0, "month": 30 * 86400.0}
_LONGEST_TEXT = 256


@router.get("/")
def show(request: Request, stage: str = "", period: str = "", at: str = "") -> Response:
    """Show the newest series, or those of a stage and period."""
    return _page(request, "", stage, period, at)


@router.post("/")
def search(
    request: Request,
    text: Annotated[str, Form(max_length=_LONGEST_TEXT)] = "",
    stage: Annotated[str, Form()] = "",
    period: Annotated[str, Form()] = "",
    at: Annotated[str, Form()] = "",
) -> Response:
    """Search. By POST, so that no accession number or patient ID gets into an address."""
    text = text.strip()
    if text:
        record(request, "worklist searched", event=EventID.QUERY, kind=None)
    return _page(request, text, stage, period, at)


@router.get("/live")
async def live(request: Request) -> Response:
    """Send what changes, as long as the browser listens."""
    is_admin = require_viewer(request).is_admin
    again = "last-event-id" in request.headers
    return StreamingResponse(
        console_of(request).live.listen(is_admin=is_admin, again=again),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


@router.post("/series/{series_id}/retry", dependencies=[ADMIN])
def retry(
    request: Request,
    series_id: int,
    destination: Annotated[str, Form()] = "",
    back: Annotated[str, Form()] = "",
) -> Response:
    """Try again what ended without success; with `destination`, its deliveries alone."""
    console = console_of(request)
    rows = console.listing.rows([series_id])
    if not rows:
        return render(request, "error.html", status_code=404, words="There is no such series.")
    done = console.ledger.worklist.retry(series_id, destination or None)
    if done:
        words = f"retry: {'; '.join(done)}"
        record(request, words, studies=(rows[0].status.study_instance_uid,))
    said = f"{'; '.join(done).capitalize()}." if done else "There is nothing to try again."
    if is_fragment(request):
        row = console.listing.rows([series_id])[0]
        return render(request, "_row.html", row=row)
    return go_to(request, f"/series/{series_id}" if back == "series" else "/", said=said)


def _page(request: Request, text: str, stage: str, period: str, at: str) -> Response:
    console = console_of(request)
    chosen = SeriesStage(stage) if stage in set(SeriesStage) else None
    cursor = Cursor.parse(at) if at else None
    page = console.listing.page(
        text=text, stage=chosen, within_s=PERIODS.get(period), cursor=cursor
    )
    return render(
        request,
        "_list.html" if is_fragment(request) else "worklist.html",
        page=page,
        text=text,
        stage=chosen or "",
        stages=list(SeriesStage),
        period=period if period in PERIODS else "",
        periods=list(PERIODS),
        at=at if cursor else "",
        counts=console.listing.counts(),
        has_peers=bool(console.settings().peers),
    )
