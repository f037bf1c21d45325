"""One series: what happened to it, what was found, and where the results are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from dicom_node.audit.message import EventID
from dicom_node.console.access import record as record_in_trail
from dicom_node.console.context import console_of
from dicom_node.console.reading import whole
from dicom_node.console.registry import Page
from dicom_node.console.rendering import is_fragment, render
from dicom_node.console.report_tree import read_report
from dicom_node.console.since import since
from dicom_node.console.slice_plot import distribution_cells, plot, read_document
from dicom_node.console.thumbnails import Layer, Thumbnail
from dicom_node.console.timeline import timeline
from dicom_node.console.words import KIND_WORDS, journal_words
from dicom_node.domain import ObjectKind
from dicom_node.ledger.series_record import (
    DeliveryRecord,
    SeriesRecord,
    instance_paths,
    read_series,
)
from dicom_node.ledger.states import DeliveryState
from dicom_node.status_words import right_now
from inference.domain import DiseaseClass, Lobe

__all__ = ["PAGE", "record_of"]

router = APIRouter()
PAGE = Page(router)

_FAILED = {
    DeliveryState.PARKED,
    DeliveryState.QUARANTINED,
    DeliveryState.EXPIRED,
    DeliveryState.COMMIT_FAILED,
}


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """The written objects of one kind, and how far they are at each destination."""

    words: str
    count: int
    size_bytes: int
    states: dict[str, dict[str, int]]  # destination → state → count


@dataclass(frozen=True, slots=True)
class ThumbnailRow:
    """Pictures of one layer; `source` names its model where there are several."""

    layer: Layer
    words: str
    source: str
    thumbnails: tuple[Thumbnail, ...]


@router.get("/series/{series_id}")
def show(request: Request, series_id: int) -> Response:
    """Show everything about a series; as a fragment, what changes while one looks."""
    record = record_of(request, series_id)
    if is_fragment(request):
        return render(request, "_series.html", **_values(request, record))
    record_in_trail(
        request,
        "series looked at",
        event=EventID.INSTANCES_ACCESSED,
        kind=None,
        action="R",
        studies=(record.row.status.study_instance_uid,),
    )
    return render(request, "series.html", **_values(request, record))


@router.get("/series/{series_id}/thumbnails")
def thumbnails(request: Request, series_id: int) -> Response:
    """Make the small pictures if there are none yet, and show them."""
    console = console_of(request)
    record = record_of(request, series_id)
    analysis_id = record.newest.analysis_id
    settings = console.settings()
    found = []
    if analysis_id is not None:
        overlays: dict[Layer, list[Path]] = {"map": [], "explanation": []}
        for item in record.objects:
            if item.kind == ObjectKind.OVERLAY:
                layer: Layer = "explanation" if _part(item.slot) == "explanation" else "map"
                overlays[layer].append(settings.results_dir / item.path)
        overlays = {layer: sorted(paths) for layer, paths in overlays.items()}
        paths = instance_paths(console.ledger.database, series_id)
        sources = {uid: settings.spool_dir / path for uid, path in paths.items()}
        found = console.thumbnails.of_reading(analysis_id, overlays, sources)
    return render(
        request,
        "_thumbnails.html",
        record=record,
        rows=_thumbnail_rows(found, whole(record.row.status.result)),
        analysis_id=analysis_id,
    )


@router.get("/series/{series_id}/thumbnail/{analysis_id}/{number}/{layer}")
def thumbnail(
    request: Request, series_id: int, analysis_id: int, number: int, layer: Layer
) -> Response:
    """Send one small picture."""
    if analysis_id not in {r.analysis_id for r in record_of(request, series_id).revisions}:
        raise HTTPException(404)
    path = console_of(request).thumbnails.path(analysis_id, number, layer)
    if path is None:
        raise HTTPException(404)
    return FileResponse(
        path, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"}
    )


@router.get("/series/{series_id}/report")
def show_report(request: Request, series_id: int) -> Response:
    """Show the structured report as text: viewers often show none."""
    record = record_of(request, series_id)
    path = _report_path(console_of(request).settings().results_dir, record)
    report = read_report(path) if path else None
    if report is None:
        raise HTTPException(404, "There is no report of this series, or it cannot be read.")
    record_in_trail(
        request,
        "report looked at",
        event=EventID.INSTANCES_ACCESSED,
        kind=None,
        action="R",
        studies=(record.row.status.study_instance_uid,),
    )
    return render(request, "report.html", report=report, status=record.row.status)


def record_of(request: Request, series_id: int) -> SeriesRecord:
    """Read a series.

    Raises
    ------
    HTTPException
        404: there is none of this id.
    """
    record = read_series(console_of(request).ledger.database, series_id)
    if record is None:
        raise HTTPException(404, "There is no such series.")
    return record


def _values(request: Request, record: SeriesRecord) -> dict[str, Any]:
    settings = console_of(request).settings()
    document = read_document(_folder(settings.results_dir, record)) if record.objects else None
    distribution = ((document or {}).get("lesion") or {}).get("distribution") or {}
    result = whole(record.row.status.result)
    change = since(result)
    return {
        "record": record,
        "row": record.row,
        "status": record.row.status,
        "steps": timeline(record, right_now(settings)),
        "result": result,
        "classes": list(DiseaseClass),
        "lobes": list(Lobe),
        "since": change,
        "earlier_id": None if change is None else _series_of(request, change.series_instance_uid),
        "plot": plot(document["slices"]) if document and document.get("slices") else None,
        "cells": distribution_cells(distribution.get("map")),
        "has_report": _report_path(settings.results_dir, record) is not None,
        "groups": _groups(record),
        "destinations": _destinations(record),
        "journal": [(line, journal_words(line.kind)) for line in record.journal],
    }


def _series_of(request: Request, series_instance_uid: str) -> int | None:
    """Return the id of an earlier study's series, None where the ledger knows it no more."""
    if not series_instance_uid:
        return None
    found = console_of(request).ledger.worklist.find(uid=series_instance_uid, limit=1)
    return found[0].series_id if found else None


def _thumbnail_rows(
    thumbnails: list[Thumbnail], result: dict[str, Any] | None
) -> list[ThumbnailRow]:
    """Return a row for each layer that has pictures; with one only, its model needs no name."""
    main, jcs = ((result or {}).get(name) or {} for name in ("model", "outlines"))
    named: tuple[tuple[Layer, str, str], ...] = (
        ("map", "location map", main.get("name", "")),
        ("explanation", "explanation", (jcs.get("model") or {}).get("name", "")),
    )
    rows = [
        ThumbnailRow(layer, words, source, tuple(one for one in thumbnails if layer in one.layers))
        for layer, words, source in named
    ]
    shown = [row for row in rows if row.thumbnails]
    return [replace(row, source=row.source if len(shown) > 1 else "") for row in shown]


def _part(slot: str) -> str:
    """Return what a further system's series are called: "lobes", "lesions", "explanation"."""
    head, _, tail = slot.partition("/")
    if head == "explanation":
        return head
    return tail if head == ObjectKind.SEGMENTATION else ""


def _report_path(results_dir: Path, record: SeriesRecord) -> Path | None:
    """Return the file of the report that is offered first to a destination."""
    found = [item for item in record.objects if item.kind == ObjectKind.REPORT]
    return results_dir / min(found, key=lambda item: item.rank).path if found else None


def _folder(results_dir: Path, record: SeriesRecord) -> Path:
    """Return where the objects of the newest reading lie: <analysis>/<token>."""
    return results_dir.joinpath(*Path(record.objects[0].path).parts[:2])


def _groups(record: SeriesRecord) -> list[ObjectGroup]:
    series = {item.slot: (item.kind, _part(item.slot)) for item in record.objects}
    groups = []
    for kind, part in dict.fromkeys(series.values()):
        mine = [item for item in record.objects if series[item.slot] == (kind, part)]
        states: dict[str, Counter[str]] = {}
        for delivery in record.deliveries:
            if series.get(delivery.slot) == (kind, part):
                states.setdefault(delivery.destination, Counter())[delivery.state] += 1
        groups.append(
            ObjectGroup(
                words=", ".join(filter(None, (KIND_WORDS.get(kind, kind), part))),
                count=len({item.slot for item in mine}),
                size_bytes=sum(item.size_bytes for item in mine if item.rank == 0),
                states={name: dict(counted) for name, counted in states.items()},
            )
        )
    return groups


@dataclass(frozen=True, slots=True)
class Destination:
    """How far everything is at one destination."""

    name: str
    failed: int
    errors: tuple[tuple[str, int | None], ...]  # words, DIMSE status
    next_attempt_at: float | None


def _destinations(record: SeriesRecord) -> list[Destination]:
    found = []
    for summary in record.row.status.deliveries:
        mine: list[DeliveryRecord] = [
            item for item in record.deliveries if item.destination == summary.destination
        ]
        errors = dict.fromkeys((item.error, item.status) for item in mine if item.error)
        if summary.last_error and not errors:
            errors = {(summary.last_error, None): None}
        waits = any(item.state == DeliveryState.WAITING for item in mine)
        found.append(
            Destination(
                name=summary.destination,
                failed=sum(item.state in _FAILED for item in mine),
                errors=tuple(errors)[:5],
                next_attempt_at=summary.next_attempt_at if waits else None,
            )
        )
    return found
