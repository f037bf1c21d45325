"""Drift: whether scanners, kernels, slices and scores of the last time are like those before."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from dicom_node.console.context import Console, console_of
from dicom_node.console.drift import FEWEST, compare
from dicom_node.console.drift_plot import drift_plot
from dicom_node.console.registry import Page
from dicom_node.console.rendering import render
from dicom_node.ledger.readings import MOST_READINGS, ReadingNumbers
from dicom_node.settings import NodeSettings
from inference.errors import BundleError
from inference.reference import Reference, load_reference

__all__ = ["PAGE"]

router = APIRouter()
PAGE = Page(router, title="Drift", path="/drift", order=35)

_DAY_S = 86400.0
_PERIODS = {
    **{f"d{days}": f"the last {days} days" for days in (7, 30, 90)},
    **{f"n{count}": f"the last {count} readings" for count in (100, 300, 1000)},
}


@router.get("/drift")
def show(request: Request, period: Annotated[str, Query()] = "d30") -> Response:
    """Compare the readings of a period with those before, or with the bundle's reference."""
    console = console_of(request)
    period = period if period in _PERIODS else "d30"
    now, before = _readings(console, period)
    reference, error = _reference(console.settings())
    models = list(dict.fromkeys(item.model_sha256 for item in now))
    fits = reference is not None and models == [reference.model_sha256]
    comparisons = compare(now, before, reference if fits else None)
    return render(
        request,
        "drift.html",
        periods=_PERIODS,
        period=period,
        now_count=len(now),
        before_count=len(before),
        reference=reference if fits else None,
        other_reference=reference is not None and not fits,
        error=error,
        models=len({*models, *(item.model_sha256 for item in before)}),
        comparisons=[(item, drift_plot(item)) for item in comparisons],
        most=MOST_READINGS,
        fewest=FEWEST,
    )


def _readings(console: Console, period: str) -> tuple[list[ReadingNumbers], list[ReadingNumbers]]:
    readings, number = console.readings, int(period[1:])
    if period.startswith("n"):
        return readings.newest(number), readings.newest(number, skip=number)
    # What the clock wrote while it was ahead counts to the present.
    end, length_s = console.ledger.database.now(), number * _DAY_S
    now = readings.between(end - length_s, float("inf"))
    return now, readings.between(end - 2 * length_s, end - length_s)


def _reference(settings: NodeSettings) -> tuple[Reference | None, str]:
    try:
        return load_reference(settings.analysis.bundle_folder), ""
    except BundleError as error:
        return None, str(error)
