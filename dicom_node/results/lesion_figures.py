"""The figures of a reading that another one of the same patient is compared with.

Made of findings, or of what the ledger keeps of an earlier reading: the two are held against each
other field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.domain import Findings, ModelIdentity

__all__ = ["Coverage", "Involved", "LesionFigures", "Reader"]


@dataclass(frozen=True, slots=True)
class Reader:
    """Which model gave a figure; the digest decides, name and version are for people."""

    name: str
    version: str
    sha256: str

    @classmethod
    def of(cls, model: ModelIdentity) -> Reader:
        """Of findings."""
        return cls(model.name, model.version, model.sha256)

    @classmethod
    def of_document(cls, model: Mapping[str, Any]) -> Reader:
        """Of the ``model`` of ``result.json``."""
        return cls(str(model["name"]), str(model["version"]), str(model["sha256"]))

    @property
    def words(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How finely, and how much of the lungs the slices show.

    Attributes
    ----------
    slice_spacing_mm : float or None
        Median distance of neighbours; None of a single slice.
    lung_height_mm : float or None
        From the first slice with lung to the last, both with their share; None without any.
    """

    slice_spacing_mm: float | None
    lung_height_mm: float | None

    @classmethod
    def of(cls, findings: Findings) -> Coverage:
        """Of findings."""
        z = np.array([found.z_mm for found in findings.slices])
        lung = np.array([found.z_mm for found in findings.slices if found.has_lung])
        if len(z) < 2:
            return cls(None, None)
        spacing = float(np.median(np.abs(np.diff(z))))
        height = float(np.ptp(lung)) + spacing if len(lung) else None
        return cls(spacing, height)


@dataclass(frozen=True, slots=True)
class Involved:
    """Lesions of one model in the lobes of M²UNet: per cent of each lobe, and the total score."""

    lesions_by: str
    percent: tuple[float | None, ...]
    total_score: int | None


@dataclass(frozen=True, slots=True)
class LesionFigures:
    """One reading.

    Attributes
    ----------
    reader : Reader
        The main model.
    percent : float or None
        Of the lung, by the main model; None where slice spacing is irregular.
    coverage : Coverage or None
        None of readings of before it was kept.
    lobes_by, outlined_by : Reader or None
        M²UNet and JCS, None where they did not run.
    severe, positive : bool or None
        What those two say of the patient.
    involvement : tuple of Involved
        One for each system that locates lesions.
    outlined_percent : float or None
        Of the lung, by JCS.
    """

    reader: Reader
    percent: float | None
    coverage: Coverage | None
    lobes_by: Reader | None = None
    severe: bool | None = None
    involvement: tuple[Involved, ...] = ()
    outlined_by: Reader | None = None
    positive: bool | None = None
    outlined_percent: float | None = None

    @classmethod
    def of(cls, findings: Findings) -> LesionFigures:
        """Of findings."""
        lobes, outlines = findings.lobes, findings.segmented
        return cls(
            reader=Reader.of(findings.model),
            percent=findings.burden.percent_of_lung,
            coverage=Coverage.of(findings),
            lobes_by=None if lobes is None else Reader.of(lobes.model),
            severe=None if lobes is None else lobes.severe,
            involvement=tuple(
                Involved(item.lesions_by.name, item.percent, item.total_score)
                for item in findings.involvement
            ),
            outlined_by=None if outlines is None else Reader.of(outlines.model),
            positive=None if outlines is None else outlines.positive,
            outlined_percent=None if outlines is None else outlines.percent_of_lung,
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> LesionFigures | None:
        """Of ``result.json``, of any version that wrote one; None of what holds no reading."""
        model, lesion = document.get("model"), document.get("lesion")
        if not model or not lesion:
            return None
        lobes, outlines = document.get("lobes") or {}, document.get("outlines") or {}
        coverage = document.get("coverage")
        return cls(
            reader=Reader.of_document(model),
            percent=lesion.get("percent_of_lung"),
            coverage=None
            if not coverage
            else Coverage(coverage["slice_spacing_mm"], coverage["lung_height_mm"]),
            lobes_by=Reader.of_document(lobes["model"]) if lobes else None,
            severe=lobes.get("severe"),
            involvement=tuple(
                Involved(item["lesions_by"], tuple(item["percent"]), item["total_score"])
                for item in document.get("involvement") or ()
            ),
            outlined_by=Reader.of_document(outlines["model"]) if outlines else None,
            positive=outlines.get("positive"),
            outlined_percent=outlines.get("percent_of_lung"),
        )
