"""The audit trail, for administrators: the newest first, filtered, and whether it is whole."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response

from dicom_node.audit import Filter, leaf
from dicom_node.audit.message import EventID
from dicom_node.console.access import record
from dicom_node.console.audit_row import AuditRow
from dicom_node.console.context import console_of
from dicom_node.console.registry import Page
from dicom_node.console.rendering import go_to, is_fragment, render

__all__ = ["PAGE"]

router = APIRouter()
# Who did what is nobody's business but theirs who have to answer for it.
PAGE = Page(router, title="Audit", path="/audit", order=60, admin=True)

_ROWS = 50
_LONGEST_TEXT = 64
_NOTED = re.compile(r"([0-9]{1,15}):([0-9a-fA-F]{64})")
_OUTCOMES = {"": None, "ok": False, "failed": True}


@router.get("/audit")
def show(
    request: Request,
    event: str = "",
    outcome: str = "",
    peer: str = "",
    day: str = "",
    at: str = "",
    more: str = "",
) -> Response:
    """Show the newest records, those of a filter, or those before a place."""
    asked = {"event": event, "outcome": outcome, "peer": peer[:_LONGEST_TEXT], "day": day}
    return _page(request, asked, at=at, is_more=bool(more))


@router.get("/audit/check")
def check(request: Request) -> Response:
    """Show how far the check of the chain is."""
    if not is_fragment(request):
        return go_to(request, "/audit")
    return render(request, "_trail_check.html", **_check_values(request))


@router.post("/audit/check")
def begin_check(request: Request, known: Annotated[str, Form()] = "") -> Response:
    """Begin to verify the chain; with `known`, also against what was noted elsewhere."""
    known = known.strip()
    noted = _NOTED.fullmatch(known)
    if known and not noted:
        words = "a number, a colon and 64 hexadecimal digits, as it was shown another day"
        if is_fragment(request):
            values = _check_values(request, known=known, fault=words)
            return render(request, "_trail_check.html", **values)
        return _page(request, {}, known=known, fault=words)
    record(
        request, "verification of the audit trail begun", event=EventID.AUDIT_LOG_USED,
        kind=None, action="R",
    )  # fmt: skip
    console_of(request).trail_check.start((int(noted[1]), noted[2].lower()) if noted else None)
    if is_fragment(request):
        return render(request, "_trail_check.html", **_check_values(request, known=known))
    return go_to(request, "/audit#check")


def _page(
    request: Request,
    asked: dict[str, str],
    *,
    at: str = "",
    is_more: bool = False,
    known: str = "",
    fault: str = "",
) -> Response:
    console = console_of(request)
    wanted, day_fault = _filter(asked)
    found = leaf(console.auditor.trail.folder, wanted, place=at, limit=_ROWS)
    if not is_more:  # the rest of one look is no other look
        record(
            request, f"audit trail read, {len(found.records)} records",
            event=EventID.AUDIT_LOG_USED, kind=None, action="R",
        )  # fmt: skip
    query = {name: value for name, value in asked.items() if value}
    values: dict[str, Any] = {
        "rows": [AuditRow.of(item) for item in found.records],
        "found": found,
        "asked": {"event": "", "outcome": "", "peer": "", "day": "", **asked},
        "at": at,
        "is_more": is_more,
        "older": urlencode({**query, "at": found.older}),
        "newest": urlencode(query),
        "day_fault": day_fault,
    }
    if is_fragment(request):
        return render(request, "_audit_rows.html" if is_more else "_audit_list.html", **values)
    return render(
        request,
        "audit.html",
        status_code=422 if day_fault or fault else 200,
        events=[(one.value[0], one.value[1]) for one in EventID],
        titles=sorted({peer.ae_title for peer in console.settings().peers}),
        enabled=console.settings().audit.enabled,
        **values,
        **_check_values(request, known=known, fault=fault),
    )


def _filter(asked: dict[str, str]) -> tuple[Filter, str]:
    """Return what is wanted, and what is wrong with the day."""
    event = next((one for one in EventID if one.value[0] == asked.get("event")), None)
    since = until = None
    fault = ""
    if asked.get("day"):
        try:
            day = date.fromisoformat(asked["day"])
            # A day of the node's clock, which the page shows its times by; some have 23 hours.
            since = datetime.combine(day, datetime.min.time()).timestamp()
            until = datetime.combine(day + timedelta(days=1), datetime.min.time()).timestamp()
        except (ValueError, OverflowError, OSError):
            fault = "a day is written as 2026-03-05"
    failed = _OUTCOMES.get(asked.get("outcome", ""))
    return Filter(event, failed, asked.get("peer", ""), since, until), fault


def _check_values(request: Request, *, known: str = "", fault: str = "") -> dict[str, Any]:
    checks = console_of(request).trail_check
    return {"check": checks.last, "count": checks.count(), "known": known, "known_fault": fault}
