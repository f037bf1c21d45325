"""The same for programs: a read-only JSON API, its schema at ``/api/v1/openapi.json``.

``Authorization: Bearer TOKEN`` with a token of ``m3lung console token NAME``, or a session cookie.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.console.access import VIEWER
from dicom_node.console.context import console_of
from dicom_node.console.node_state import Disk, Model, node_state
from dicom_node.ledger.listing import Cursor, Page, SeriesStage, WorklistRow
from dicom_node.ledger.presence import RunningProcess
from dicom_node.ledger.series_record import (
    DeliveryRecord,
    JournalLine,
    ObjectRecord,
    RevisionRecord,
    read_series,
)
from dicom_node.ledger.signs_of_life import SignsOfLife
from dicom_node.ledger.worklist import DeliverySummary, NodeCounts
from dicom_node.settings import Priority
from dicom_node.status_words import Moment, in_words, right_now

__all__ = ["router"]

router = APIRouter(
    prefix="/api/v1",
    tags=["v1"],
    # The scheme stands in the schema only; who it is, `VIEWER` says.
    dependencies=[VIEWER, Security(HTTPBearer(auto_error=False))],
)


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class SeriesItem(_Answer):
    """One series of the worklist. Times are seconds since the epoch, UTC."""

    series_id: int = Field(description="Of this node; `/series/{series_id}`.")
    series_instance_uid: str
    study_instance_uid: str
    accession_number: str
    patient_id: str
    description: str
    source_ae: str
    stage: SeriesStage
    words: str = Field(description="Where it is, in a sentence.")
    revision: int
    received: int
    expected: int | None
    first_arrival_at: float
    last_arrival_at: float
    closing_reason: str
    reason: str = Field(description="Why it was not analysed; empty otherwise.")
    analysis_state: str | None
    analysis_stage: str
    done: int
    total: int
    queue_position: int | None
    rule: str = Field(description="The rule that decided; empty where none did yet.")
    priority: Priority
    shadow: bool = Field(description="Nothing of it is delivered.")
    started_at: float | None
    finished_at: float | None
    result: dict[str, Any] | None = Field(description="result.json without slices and objects.")
    deliveries: list[DeliverySummary]


class SeriesPage(_Answer):
    """Some series, the newest first."""

    items: list[SeriesItem]
    older: str | None = Field(description="`at` of the next page.")
    newer: str | None = Field(description="`at` of the page before.")


class SeriesDetail(_Answer):
    """Everything about one series; objects and deliveries are those of the newest revision."""

    series: SeriesItem
    revisions: list[RevisionRecord]
    objects: list[ObjectRecord]
    deliveries: list[DeliveryRecord]
    journal: list[JournalLine]
    images_held: int
    conflicts: int


class SystemState(_Answer):
    """The node at a glance."""

    version: str
    ae_title: str
    counts: NodeCounts
    processes: list[RunningProcess]
    signs: SignsOfLife
    disk: Disk
    model: Model


class Search(_Answer):
    """A question that may name a patient: it goes in the body, never in the address."""

    text: str = Field(
        min_length=1, max_length=256, description="Accession number, patient ID, UID."
    )
    stage: SeriesStage | None = None
    at: str | None = None
    limit: int = Field(default=50, ge=1, le=500)


At = Annotated[str | None, Query(description="`older` or `newer` of another page.")]


@router.get("/worklist")
def worklist(
    request: Request,
    stage: SeriesStage | None = None,
    within_s: Annotated[float | None, Query(gt=0)] = None,
    at: At = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> SeriesPage:
    """Series by stage and age, the newest first."""
    page = console_of(request).listing.page(
        stage=stage, within_s=within_s, cursor=_cursor(at), limit=limit
    )
    return _page(request, page)


@router.post("/worklist/search")
def search(request: Request, question: Search) -> SeriesPage:
    """Series by accession number, patient ID, study, series or SOP instance UID."""
    page = console_of(request).listing.page(
        text=question.text.strip(),
        stage=question.stage,
        cursor=_cursor(question.at),
        limit=question.limit,
    )
    return _page(request, page)


@router.get("/series/{series_id}")
def series(request: Request, series_id: int) -> SeriesDetail:
    """One series: revisions, results, deliveries, journal."""
    record = read_series(console_of(request).ledger.database, series_id)
    if record is None:
        raise HTTPException(404, "there is no such series")
    return SeriesDetail(
        series=_item(record.row, _moment(request)),
        revisions=list(record.revisions),
        objects=list(record.objects),
        deliveries=list(record.deliveries),
        journal=list(record.journal),
        images_held=record.images_held,
        conflicts=record.conflicts,
    )


@router.get("/system")
def system(request: Request) -> SystemState:
    """Queues, workers, disk, model, version."""
    console = console_of(request)
    return SystemState.model_validate(node_state(console.settings(), console.ledger))


@router.get("/openapi.json", include_in_schema=False)
def schema(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    cursor = Cursor.parse(text)
    if cursor is None:
        raise HTTPException(422, "at: not a place in the worklist")
    return cursor


def _moment(request: Request) -> Moment:
    return right_now(console_of(request).settings())


def _page(request: Request, page: Page) -> SeriesPage:
    moment = _moment(request)
    return SeriesPage(
        items=[_item(row, moment) for row in page.rows],
        older=str(page.older) if page.older else None,
        newer=str(page.newer) if page.newer else None,
    )


def _item(row: WorklistRow, moment: Moment) -> SeriesItem:
    status = row.status
    same = {
        name: getattr(status, name)
        for name in SeriesItem.model_fields
        if name
        not in ("patient_id", "stage", "words", "analysis_stage", "started_at", "deliveries")
    }
    return SeriesItem(
        **same,
        patient_id=row.patient_id,
        stage=row.stage,
        words=in_words(status, moment),
        analysis_stage=status.stage,
        started_at=row.started_at,
        deliveries=list(status.deliveries),
    )
