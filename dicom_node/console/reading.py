"""The reading that the ledger keeps, ready for templates, whatever version wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.domain import DiseaseClass

__all__ = ["Predicted", "predicted", "whole"]

_LABELS = {disease.key: disease.label for disease in DiseaseClass}
_EMPTY: dict[str, Any] = {
    "disposition": "",
    "patient": None,
    "nonparametric": None,
    "lesion": None,
    "lobes": None,
    "outlines": None,
    "involvement": [],
    "quality": [],
}


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the worklist says of a reading.

    Attributes
    ----------
    mark : str
        What has to stand beside it: that the model is untrained, or a demonstration.
    """

    key: str
    label: str
    probability: float
    mark: str


def predicted(result: Mapping[str, Any] | None) -> Predicted | None:
    """Return the class of the patient, None where there is none."""
    document = whole(result)
    if document is None or not document["patient"]:
        return None
    key = document["patient"]["predicted"]
    return Predicted(
        key=key,
        label=_LABELS[key],
        probability=float(document["patient"]["probabilities"][key]),
        mark=_mark(document["model"]),
    )


def _mark(model: Mapping[str, Any]) -> str:
    if not model["trained"]:
        return "untrained model"
    return "demonstration model" if model.get("training") == "demonstration" else ""


def whole(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a result with all its fields, None for what is none of a reading."""
    if not result or not isinstance(result.get("model"), dict):
        return None
    return {**_EMPTY, **result}
