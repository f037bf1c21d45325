"""The paper's own figures, to be shown beside ours: arXiv 2010.03201v1, Tables II to V.

Its cohort (Table I) is private, so the order of rows can be compared, the figures themselves
cannot. Per cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from inference.domain import DiseaseClass

__all__ = ["COST", "FIGURES", "PublishedCost"]

Figures = Mapping[str, float]


def _whole(accuracy: float, fpe: float, fne: float, fdpe: float) -> dict[str, float]:
    return {"accuracy": accuracy, "fpe": fpe, "fne": fne, "fdpe": fdpe}


def _by_class(*figures: float) -> dict[str, float]:
    """Sensitivity, specificity and AUC of each class in turn, then accuracy, FPE, FNE, FDPE."""
    named = {}
    for place, disease in enumerate(DiseaseClass):
        for kind, value in zip(
            ("sensitivity", "specificity", "auc"), figures[3 * place : 3 * place + 3], strict=True
        ):
            named[f"{kind}.{disease.key}"] = value
    return named | _whole(*figures[12:])


_OURS = _by_class(97.17, 95.86, 98.88, 98.99, 97.49, 99.93, 100, 99.61, 100, 81.19, 100, 97.71,
                  95.21, 2.83, 4.15, 1.57)  # fmt: skip

FIGURES: Mapping[str, Figures] = MappingProxyType(
    {
        # Table II
        "covnet": _by_class(51.92, 96.88, 96.30, 95.88, 80.74, 95.15, 58.33, 94.86, 84.82,
                            60.71, 85.83, 77.89, 68.84, 48.08, 3.13, 18.97),
        "med3d-50": _by_class(69.70, 90.59, 91.44, 75.00, 88.83, 88.22, 93.02, 97.24, 97.70,
                              79.39, 90.96, 92.09, 76.37, 30.30, 9.41, 10.45),
        "med3d-18": _by_class(93.26, 100, 99.99, 95.05, 99.49, 99.81, 92.86, 100, 100,
                              98.16, 93.67, 99.41, 94.52, 6.74, 0.00, 4.62),
        "decovnet": _by_class(99.03, 100, 100, 95.96, 96.04, 98.87, 100, 98.03, 99.85,
                              75.51, 97.93, 96.51, 93.83, 0.96, 0.00, 8.91),
        "head-refined": _OURS,
        # Table IV; its first row is Table V's last
        "slices-coordinates": _whole(94.18, 10.66, 0.00, 3.11),
        "head-max": _whole(92.12, 2.91, 6.15, 4.12),
        "head-single": _whole(93.15, 4.95, 5.32, 2.59),
        "head-multi": _whole(94.18, 2.89, 5.22, 2.04),
        # Table V
        "slices-resnet": _whole(89.04, 22.46, 1.04, 3.65),
        "slices-multitask": _whole(92.12, 13.40, 0.00, 4.74),
        "slices-attention": _whole(93.49, 11.88, 0.00, 3.57),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishedCost:
    """A row of Table III.

    Attributes
    ----------
    input_size : str
        B x C x T x H x W.
    epochs, gpus : int
    hours : float
        About.
    data : str
        Volumes, or slices.
    """

    input_size: str
    epochs: int
    gpus: int
    hours: float
    data: str


COST: Mapping[str, PublishedCost] = MappingProxyType(
    {
        "covnet": PublishedCost("4×3×64×256×256", 110, 4, 2.5, "442 volumes"),
        "med3d-50": PublishedCost("6×1×128×256×256", 220, 6, 4.5, "442 volumes"),
        "med3d-18": PublishedCost("8×1×128×256×256", 220, 4, 4.0, "442 volumes"),
        "decovnet": PublishedCost("16×1×128×256×256", 220, 4, 2.5, "442 volumes"),
        "slices-coordinates": PublishedCost("32×3×1×512×512", 110, 2, 2.0, "70k slices"),
        "head-refined": PublishedCost("16×3072×N×1×1", 90, 1, 0.3, "442 volumes"),
    }
)
