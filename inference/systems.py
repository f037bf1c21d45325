"""The two other systems beside the main one: loaded together, read after one crop.

Rules where systems disagree: each keeps its own number, with its name; a quality statement says
what does not fit together. Nothing is averaged, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inference.domain import (
    CtVolume,
    Findings,
    LesionSegmentation,
    LobeInvolvement,
    LobeSegmentation,
    QualityCode,
    QualityStatement,
    Training,
    lesion_pixels,
)
from inference.engine import DeviceName, Precision
from inference.jcs.reader import LesionReader
from inference.lobe_involvement import involvement
from inference.lung_crop import CropParameters, LungCrop
from inference.m2unet.reader import LobeReader
from inference.system_runner import require_same_crop

__all__ = ["OtherFindings", "OtherSystems", "disagreements", "involved_lobes"]

Progress = Callable[[str, int, int], None]

_POINTS_APART = 10.0  # percent of the lung, between two systems' lesions


@dataclass(frozen=True)
class OtherFindings:
    """What the other systems say; None of one that does not run."""

    lobes: LobeSegmentation | None = None
    segmented: LesionSegmentation | None = None


@dataclass(frozen=True)
class OtherSystems:
    """The other systems that this node runs. Make them with :meth:`load`.

    Attributes
    ----------
    lobes : LobeReader or None
        M²UNet.
    lesions : LesionReader or None
        JCS.
    """

    lobes: LobeReader | None = None
    lesions: LesionReader | None = None

    @classmethod
    def load(
        cls,
        crop: CropParameters,
        *,
        m2unet: Path | None = None,
        jcs: Path | None = None,
        device: DeviceName = "auto",
        precision: Precision = "auto",
        batch: int = 8,
    ) -> OtherSystems:
        """Load the bundles that are named.

        Parameters
        ----------
        crop : CropParameters
            Of the main model, which all share.

        Raises
        ------
        BundleError, DeviceError
        """
        lobes = lesions = None
        if m2unet is not None:
            lobes = LobeReader.load(m2unet, device=device, precision=precision, batch=batch)
            manifest = lobes.bundle.manifest
            require_same_crop(crop, manifest.preprocessing.crop, manifest.name)
        if jcs is not None:
            lesions = LesionReader.load(jcs, device=device, precision=precision, batch=batch)
            outlines = lesions.bundle.manifest
            require_same_crop(crop, outlines.preprocessing.crop, outlines.name)
        return cls(lobes, lesions)

    def read(
        self, volume: CtVolume, crop: LungCrop, *, whole: bool, progress: Progress | None
    ) -> OtherFindings:
        """Read one series with all of them."""
        return OtherFindings(
            None
            if self.lobes is None
            else self.lobes.read(volume, crop, whole=whole, progress=progress),
            None
            if self.lesions is None
            else self.lesions.read(volume, crop, whole=whole, progress=progress),
        )


def involved_lobes(findings: Findings) -> tuple[LobeInvolvement, ...]:
    """Involvement of the lobes by each system that locates lesions, the main one first."""
    lobes, segmented = findings.lobes, findings.segmented
    if lobes is None:
        return ()
    threshold = findings.model.lesion_threshold
    own = lesion_pixels(findings.lesion_map, findings.lung_mask, threshold)
    found = [involvement(lobes, own, findings.model)]
    if segmented is not None:
        found.append(involvement(lobes, segmented.mask, segmented.model))
    return tuple(found)


def disagreements(findings: Findings) -> tuple[QualityStatement, ...]:
    """What the systems say that does not fit together, and which lobes cannot be told."""
    untrained = [
        model.name for model in findings.models[1:] if model.training is Training.UNTRAINED
    ]
    found = [
        QualityStatement(
            QualityCode.UNTRAINED_MODEL, f"{name} is untrained: what it says means nothing."
        )
        for name in untrained
    ]
    said = [*_of_class(findings), *_of_extent(findings), *_of_severity(findings)]
    found += [QualityStatement(QualityCode.SYSTEMS_DISAGREE, text) for text in said]
    if findings.lobes is not None:
        for lobe in findings.lobes.lobes:
            if not lobe.is_told:
                text = f"{lobe.lobe.label} cannot be told: {lobe.doubt}."
                found.append(QualityStatement(QualityCode.LOBES_UNCERTAIN, text))
    return tuple(found)


def _of_class(findings: Findings) -> list[str]:
    segmented, patient = findings.segmented, findings.patient
    if segmented is None or patient is None or segmented.positive is None:
        return []
    among = segmented.positive_words.split(", ")
    main = patient.predicted.label
    if segmented.positive == (main in among):
        return []
    words = segmented.positive_words if segmented.positive else f"not {segmented.positive_words}"
    return [
        f"{segmented.model.name} reads {words} ({segmented.positive_slices} positive slices), "
        f"{findings.model.name} reads {main}."
    ]


def _of_extent(findings: Findings) -> list[str]:
    segmented = findings.segmented
    if segmented is None or not segmented.positive:
        return []  # it outlines nothing in a negative patient: that is said above
    one, other = findings.burden.percent_of_lung, segmented.percent_of_lung
    if one is None or other is None or abs(one - other) < _POINTS_APART:
        return []
    return [
        f"{findings.model.name} finds {one:.0f} % of the lung involved, "
        f"{segmented.model.name} {other:.0f} %."
    ]


def _of_severity(findings: Findings) -> list[str]:
    lobes, measured = findings.lobes, findings.burden.percent_of_lung
    if lobes is None or lobes.severe is None or measured is None:
        return []
    if lobes.severe == (measured >= lobes.severe_from_percent):
        return []
    words = "severe" if lobes.severe else "not severe"
    return [
        f"{lobes.model.name} reads {words}, where severe means at least "
        f"{lobes.severe_from_percent:.0f} % of the lung; {findings.model.name} finds "
        f"{measured:.0f} %."
    ]
