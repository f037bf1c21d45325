"""The slices of a reading as a drawing: probability of each class from head to feet.

Coordinates only; the template draws them as SVG. Colours are those of Okabe and Ito, which the
colour-blind can tell apart, and every line has a dash pattern and a name of its own besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.domain import DiseaseClass

__all__ = ["MapCell", "Plot", "Trace", "distribution_cells", "plot", "read_document"]

WIDTH, HEIGHT = 720.0, 220.0
_MOST_DOCUMENT_BYTES = 32 << 20
_MOST_CELLS = 32  # of an edge of the distribution map


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of the plot; `points` are SVG's."""

    key: str
    label: str
    points: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One slice: where it is, and what is said of it on hovering."""

    x: float
    width: float
    number: int
    words: str
    lesion_height: float
    has_lung: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """The whole drawing, in a box of ``width`` x ``height``."""

    width: float
    height: float
    traces: tuple[Trace, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class MapCell:
    """One cell of the distribution map; `level` 0 (nothing) to 8 (the most)."""

    x: int
    y: int
    level: int


def read_document(folder: Path) -> dict[str, Any] | None:
    """Return ``result.json`` of a reading, None where there is none, or none that is legible."""
    path = folder / "result.json"
    try:
        if path.stat().st_size > _MOST_DOCUMENT_BYTES:
            return None
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def plot(slices: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return the drawing of the slices of ``result.json``; None for less than two."""
    if len(slices) < 2:
        return None
    step = WIDTH / len(slices)
    centres = [round((index + 0.5) * step, 2) for index in range(len(slices))]
    traces = tuple(
        Trace(
            key=disease.key,
            label=disease.label,
            points=" ".join(
                f"{x},{round((1 - float(item['probabilities'][disease.key])) * HEIGHT, 2)}"
                for x, item in zip(centres, slices, strict=True)
            ),
        )
        for disease in DiseaseClass
    )
    return Plot(WIDTH, HEIGHT, traces, tuple(_mark(i, item, step) for i, item in enumerate(slices)))


def _mark(index: int, item: Mapping[str, Any], step: float) -> Mark:
    values = item["probabilities"]
    words = ", ".join(f"{disease.label} {values[disease.key]:.2f}" for disease in DiseaseClass)
    lung, lesion = int(item["lung_area_px"]), int(item["lesion_area_px"])
    share = lesion / lung if lung else 0.0
    return Mark(
        x=round(index * step, 2),
        width=round(step, 3),
        number=index + 1,
        words=f"Slice {index + 1}: {words}; lesion {100 * share:.0f} % of the lung"
        if item["has_lung"]
        else f"Slice {index + 1}: no lung found",
        lesion_height=round(min(share, 1.0) * 40.0, 2),
        has_lung=bool(item["has_lung"]),
    )


def distribution_cells(rows: Sequence[Sequence[float]] | None) -> tuple[MapCell, ...]:
    """Return the cells of the coronal lesion map that hold something; levels relative to the most.

    Parameters
    ----------
    rows : sequence of sequence of float, or None
        From apex to base, each from the patient's right to left.
    """
    if not rows:
        return ()
    most = max(max(row) for row in rows)
    if most <= 0:
        return ()
    step = max(1, -(-len(rows) // _MOST_CELLS))
    cells = []
    for y in range(0, len(rows), step):
        for x in range(0, len(rows[y]), step):
            block = [value for row in rows[y : y + step] for value in row[x : x + step]]
            level = round(8 * (sum(block) / len(block)) / most)
            if level:
                cells.append(MapCell(x // step, y // step, level))
    return tuple(cells)
