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
    "quality": [],
}


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the worklist says of a reading."""

    key: str
    label: str
    probability: float
    is_trained: bool


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
        is_trained=bool(document["model"]["trained"]),
    )


def whole(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a result with all its fields, None for what is none of a reading."""
    if not result or not isinstance(result.get("model"), dict):
        return None
    return {**_EMPTY, **result}
