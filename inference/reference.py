"""What a model's readings looked like where it was evaluated: ``reference.json`` of a bundle.

A node compares its own readings with it, to see early that series or scores have shifted. It
stands beside the manifest as the model card does: it changes no prediction, so it is no part of the
model's identity, but names the model that it was made with.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference.domain import DiseaseClass
from inference.errors import BundleError

__all__ = ["MEASURES", "REFERENCE", "Histogram", "Reference", "histogram", "load_reference"]

REFERENCE = "reference.json"
_MOST_BYTES = 1 << 20
_TENTHS = tuple(round(0.1 * step, 1) for step in range(11))
MEASURES: dict[str, tuple[float, ...]] = {
    **{f"probability.{disease.key}": _TENTHS for disease in DiseaseClass},
    "lesion_probability": _TENTHS,
    "lesion_percent": (0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 100.0),
}
"""Numbers that are compared, with the edges of their histograms.

``probability.<class>``: of the patient. ``lesion_probability``: the greatest of a slice.
``lesion_percent``: of the lung.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Histogram(_Frozen):
    """Counts between edges; each bin holds its lower edge, the last one both.

    Attributes
    ----------
    edges : tuple of float
        Ascending, one more than counts.
    counts : tuple of int
    """

    edges: Annotated[tuple[float, ...], Field(min_length=2, max_length=101)]
    counts: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _is_one(self) -> Histogram:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError("edges: has to be one more than counts")
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges: have to ascend")
        return self


class Reference(_Frozen):
    """``reference.json``.

    Attributes
    ----------
    format_version : int
        1.
    model_sha256 : str
        Identity of the model whose readings these are.
    description : str
        On whom, in words.
    series : int
        How many were read.
    measures : dict of str to Histogram
        Some of :data:`MEASURES`, or others, which are left alone.
    categories : dict of str to dict of str to int
        Series by "scanner", "kernel" or "thickness".
    """

    format_version: Literal[1] = 1
    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    series: Annotated[int, Field(ge=0)]
    measures: dict[str, Histogram] = {}
    categories: dict[str, dict[str, Annotated[int, Field(ge=0)]]] = {}


def histogram(values: Iterable[float], edges: tuple[float, ...]) -> Histogram:
    """Count `values`; what lies outside of `edges` counts to the first or the last bin."""
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[min(max(bisect_right(edges, value) - 1, 0), len(counts) - 1)] += 1
    return Histogram(edges=edges, counts=tuple(counts))


def load_reference(bundle: Path) -> Reference | None:
    """Return the reference of the bundle in the folder `bundle`, None if it has none.

    Raises
    ------
    BundleError
        There is one that cannot be read; the message names the field.
    """
    path = bundle / REFERENCE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{REFERENCE} is larger than {_MOST_BYTES} bytes")
        return Reference.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise BundleError(f"{REFERENCE}: {where}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{REFERENCE} cannot be read ({type(error).__name__})") from error
