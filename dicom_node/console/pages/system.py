"""The node itself: queues, workers, disk, model, version."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from dicom_node.console.context import console_of
from dicom_node.console.node_state import model_card, node_state
from dicom_node.console.registry import Page
from dicom_node.console.rendering import is_fragment, render

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, title="System", path="/system", order=40)


@router.get("/system")
def show(request: Request) -> Response:
    """Show how the node is; as a fragment, what changes while one looks."""
    console = console_of(request)
    settings = console.settings()
    state = node_state(settings, console.ledger)
    values: dict[str, Any] = {"state": state, "settings_error": console.settings.error}
    if is_fragment(request):
        return render(request, "_system.html", **values)
    return render(request, "system.html", card=model_card(settings), **values)
