"""What the two other systems add to the report; nothing where they do not run.

No number without its source: each group names the model that measured, and where lesions of one
model are counted in lobes of another, both.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from dicom_node.results import content_items as sr
from dicom_node.results.codes import LOBE, Concept
from dicom_node.results.measurement_group import measurement_group
from dicom_node.results.result_set import ResultSet
from inference.domain import Findings, LesionSegmentation, LobeInvolvement, LobeSegmentation

__all__ = ["system_evaluations", "system_groups"]

_LUNGS = (Concept.LUNG, Concept.BILATERAL)


def system_groups(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    """Yield the measurement groups of M²UNet and JCS."""
    if findings.lobes is not None:
        yield from _severity(findings.lobes, results)
        yield from _volumes(findings.lobes, results)
    for involved in findings.involvement:
        yield from _lobes(involved, results)
    if findings.segmented is not None:
        yield from _outlines(findings.segmented, results)


def system_evaluations(findings: Findings) -> Iterator[Dataset]:
    """Yield the coded statements: severe or not, positive or not."""
    if findings.lobes is not None and findings.lobes.severe is not None:
        severe = findings.lobes.severe
        yield sr.code(Concept.SEVERITY, Concept.SEVERE if severe else Concept.NOT_SEVERE)
    if findings.segmented is not None and findings.segmented.positive is not None:
        positive = findings.segmented.positive
        yield sr.code(
            Concept.SEGMENTATION_CLASS, Concept.POSITIVE if positive else Concept.NEGATIVE
        )


def _severity(found: LobeSegmentation, results: ResultSet) -> Iterator[Dataset]:
    if found.severe_probability is None:
        return
    yield measurement_group(
        [found.model],
        results,
        tracking="severity",
        label=f"Severe ({found.model.name}): at least {found.severe_from_percent:.0f} % of lungs",
        finding=Concept.SEVERE,
        site=_LUNGS,
        content=[sr.number(Concept.PROBABILITY, found.severe_probability, Concept.NO_UNITS)],
    )


def _volumes(found: LobeSegmentation, results: ResultSet) -> Iterator[Dataset]:
    for item in found.lobes:
        if item.volume_ml is not None:
            volume = float(f"{item.volume_ml:.2g}")  # no false precision
            yield measurement_group(
                [found.model],
                results,
                tracking=f"lobe/{item.lobe.key}/volume",
                label=f"{item.lobe.label}: volume",
                finding=LOBE[item.lobe][0],
                site=LOBE[item.lobe],
                content=[sr.number(Concept.VOLUME, volume, Concept.MILLILITER)],
            )


def _lobes(involved: LobeInvolvement, results: ResultSet) -> Iterator[Dataset]:
    models = [involved.lesions_by, involved.lobes_by]
    source = involved.lesions_by.name
    for (lobe, site), percent, score in zip(
        LOBE.items(), involved.percent, involved.scores, strict=True
    ):
        if percent is None or score is None:
            continue  # a sentence says which lobe cannot be told
        yield measurement_group(
            models,
            results,
            tracking=f"lobe/{lobe.key}/involvement/{source}",
            label=f"{lobe.label}: involvement by {source}",
            finding=Concept.OPACITY,
            site=site,
            content=[
                sr.number(Concept.LUNG_INVOLVEMENT, float(f"{percent:.2g}"), Concept.PERCENT),
                sr.number(Concept.SEVERITY_SCORE, score, Concept.NO_UNITS),
            ],
        )
    if involved.total_score is not None:
        yield measurement_group(
            models,
            results,
            tracking=f"severity score/{source}",
            label=f"CT severity score of five lobes by {source}",
            finding=Concept.OPACITY,
            site=_LUNGS,
            content=[
                sr.number(Concept.TOTAL_SEVERITY_SCORE, involved.total_score, Concept.NO_UNITS)
            ],
        )


def _outlines(found: LesionSegmentation, results: ResultSet) -> Iterator[Dataset]:
    content = []
    if found.probability is not None:
        content.append(sr.number(Concept.PROBABILITY, found.probability, Concept.NO_UNITS))
    content.append(sr.number(Concept.POSITIVE_SLICES, found.positive_slices, Concept.NO_UNITS))
    if found.positive and found.percent_of_lung is not None and found.lesion_ml is not None:
        content += [
            sr.number(Concept.LUNG_INVOLVEMENT, found.percent_of_lung, Concept.PERCENT),
            sr.number(Concept.VOLUME, found.lesion_ml, Concept.MILLILITER),
        ]
    yield measurement_group(
        [found.model],
        results,
        tracking="joint system",
        label=f"{found.positive_words} against {found.negative_words} ({found.model.name})"[:64],
        finding=Concept.OPACITY,
        site=_LUNGS,
        content=content,
    )
