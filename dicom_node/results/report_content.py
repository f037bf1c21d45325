"""The content tree of the report: TID 1500 Measurement Report (PS3.16).

::

    Imaging Measurement Report (126000, DCM)
    ├── Language, Observer (device), Procedure reported
    ├── Image Library                    TID 1600: what was read, common attributes once
    ├── Imaging Measurements             TID 1501 groups:
    │   ├── one per class                Finding, Lung + Bilateral, NUM Probability
    │   ├── lung involvement             NUM % of lung, NUM volume
    │   ├── right and left lung          NUM share of the lesion volume
    │   ├── severity, lobes, outlines    of the two other systems, where they run
    │   ├── change since a prior study    NUM difference, NUM value then, with its study's date
    │   └── one per key slice            NUM Probability per class, source image
    └── Qualitative Evaluations          class, second opinion, quality, completeness, banner

Everything stands by value, none of it uses coordinates: so the same tree is legal in the
Comprehensive 3D, Comprehensive and Enhanced SR classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.header_reader import NODE_MODEL_NAME
from dicom_node.results import content_items as sr
from dicom_node.results.codes import DISEASE, Concept
from dicom_node.results.identity import device_uid
from dicom_node.results.key_slices import lesion_slices
from dicom_node.results.measurement_group import measurement_group
from dicom_node.results.progress_report import progress_evaluations, progress_groups
from dicom_node.results.progress_words import progress_sentences
from dicom_node.results.result_set import MANUFACTURER, ResultSet
from dicom_node.results.statements import (
    completeness_statements,
    lesion_sentence,
    quality_sentences,
    second_opinion,
    system_sentences,
)
from dicom_node.results.system_report import system_evaluations, system_groups
from inference.domain import CtVolume, DiseaseClass, Findings, SliceFindings

__all__ = ["measurement_report"]


def measurement_report(findings: Findings, volume: CtVolume, results: ResultSet) -> Dataset:
    """Return the root container of the report."""
    return sr.container(
        Concept.IMAGING_MEASUREMENT_REPORT,
        [
            sr.code(Concept.LANGUAGE, Concept.ENGLISH, sr.HAS_CONCEPT_MOD),
            *_observer(findings, results),
            sr.code(
                Concept.PROCEDURE_REPORTED,
                Concept.CT_UNSPECIFIED_BODY_REGION,
                sr.HAS_CONCEPT_MOD,
            ),
            _image_library(volume, results),
            sr.container(Concept.IMAGING_MEASUREMENTS, _groups(findings, results)),
            sr.container(Concept.QUALITATIVE_EVALUATIONS, _evaluations(findings, results)),
        ],
        relationship=None,
        template="1500",
    )


def _observer(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    """TID 1002 and 1004: a device, namely this model in this node."""
    model = findings.model
    yield sr.code(Concept.OBSERVER_TYPE, Concept.DEVICE, sr.HAS_OBS_CONTEXT)
    yield sr.uid_reference(Concept.DEVICE_OBSERVER_UID, device_uid(model.sha256))
    for name, value in (
        (Concept.DEVICE_OBSERVER_NAME, results.context.ae_title),
        (Concept.DEVICE_OBSERVER_MANUFACTURER, MANUFACTURER),
        (
            Concept.DEVICE_OBSERVER_MODEL_NAME,
            f"{NODE_MODEL_NAME} {results.context.software_version}: {model.name} {model.version}",
        ),
        (Concept.DEVICE_OBSERVER_SERIAL_NUMBER, model.sha256),
    ):
        yield sr.text(name, value, sr.HAS_OBS_CONTEXT)


def _image_library(volume: CtVolume, results: ResultSet) -> Dataset:
    """TID 1600: attributes that all images share stand at the group (TID 1602), once."""
    rows, columns = volume.hu.shape[1:]
    shared = [
        sr.code(Concept.MODALITY, Concept.COMPUTED_TOMOGRAPHY, sr.HAS_ACQ_CONTEXT),
    ]
    if results.source.frame_of_reference_uid:
        shared.append(
            sr.uid_reference(
                Concept.FRAME_OF_REFERENCE_UID,
                results.source.frame_of_reference_uid,
                sr.HAS_ACQ_CONTEXT,
            )
        )
    numbers = [
        (Concept.PIXEL_DATA_ROWS, rows, Concept.PIXELS),
        (Concept.PIXEL_DATA_COLUMNS, columns, Concept.PIXELS),
        (Concept.HORIZONTAL_PIXEL_SPACING, volume.pixel_spacing_mm[1], Concept.MILLIMETER),
        (Concept.VERTICAL_PIXEL_SPACING, volume.pixel_spacing_mm[0], Concept.MILLIMETER),
    ]
    if volume.slice_spacing_mm is not None:
        numbers.append(
            (Concept.SPACING_BETWEEN_SLICES, volume.slice_spacing_mm, Concept.MILLIMETER)
        )
    shared += [sr.number(name, value, unit, sr.HAS_ACQ_CONTEXT) for name, value, unit in numbers]
    images = [
        sr.image(
            reference,
            Concept.SOURCE,
            [sr.number(Concept.IMAGE_POSITION_Z, z, Concept.MILLIMETER, sr.HAS_ACQ_CONTEXT)],
        )
        for reference, z in zip(volume.slices, volume.positions_mm[:, 2], strict=True)
    ]
    group = sr.container(Concept.IMAGE_LIBRARY_GROUP, [*shared, *images])
    return sr.container(Concept.IMAGE_LIBRARY, [group])


def _groups(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    if findings.patient is not None:
        for disease, probability in zip(DiseaseClass, findings.patient.probabilities, strict=True):
            yield _group(
                findings,
                results,
                tracking=f"patient/{disease.key}",
                label=f"Patient: {disease.label}",
                finding=DISEASE[disease],
                side=Concept.BILATERAL,
                content=[sr.number(Concept.PROBABILITY, probability, Concept.NO_UNITS)],
            )
    yield from _involvement(findings, results)
    yield from system_groups(findings, results)
    yield from progress_groups(findings, results)
    for index in _reported_slices(findings, results.options.max_slice_groups):
        yield _slice_group(findings, results, index)


def _involvement(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    """How much of the lung, how large, and on which side."""
    burden = findings.burden
    content = []
    if burden.percent_of_lung is not None:
        content.append(sr.number(Concept.LUNG_INVOLVEMENT, burden.percent_of_lung, Concept.PERCENT))
    if burden.lesion_ml is not None:
        content.append(sr.number(Concept.VOLUME, burden.lesion_ml, Concept.MILLILITER))
    if content:
        yield _group(
            findings,
            results,
            tracking="involvement",
            label="Lung involvement (estimate from the lesion location map)",
            finding=Concept.OPACITY,
            side=Concept.BILATERAL,
            content=content,
        )
    if burden.distribution is not None:
        for side, share in zip(
            (Concept.RIGHT, Concept.LEFT), burden.distribution.right_left, strict=True
        ):
            yield _group(
                findings,
                results,
                tracking=f"involvement/{side.meaning.lower()}",
                label=f"{side.meaning} lung: share of the lesion volume",
                finding=Concept.OPACITY,
                side=side,
                content=[sr.number(Concept.LESION_SHARE, 100.0 * share, Concept.PERCENT)],
            )


def _reported_slices(findings: Findings, limit: int) -> list[int]:
    """Lesion slices, those with the largest lesions if there are too many; superior first.

    A reading without a patient (slices only) reports its slices in any case.
    """
    chosen = lesion_slices(findings)
    if findings.patient is None and not chosen:
        # A report holds one measurement group at least (TID 1500, 1501).
        return list(range(min(max(limit, 1), len(findings.slices))))
    areas = np.array([findings.slices[index].lesion_area_px for index in chosen])
    largest = np.argsort(-areas, kind="stable")[:limit]
    return sorted(chosen[rank] for rank in largest)


def _slice_group(findings: Findings, results: ResultSet, index: int) -> Dataset:
    found = findings.slices[index]
    reference = found.reference
    content = [
        *_slice_probabilities(found),
        sr.code(Concept.SLICE_CLASS, DISEASE[found.predicted]),
        sr.image(reference, Concept.SOURCE_OF_MEASUREMENT),
    ]
    return _group(
        findings,
        results,
        tracking=f"slice/{reference.sop_instance_uid}/{reference.frame_number or 1}",
        label=f"Slice {index + 1} of {len(findings.slices)}",
        finding=Concept.OPACITY,
        side=Concept.BILATERAL,
        content=content,
    )


def _slice_probabilities(found: SliceFindings) -> Iterator[Dataset]:
    """One probability per class and one of any lesion, told apart by a Finding modifier."""
    pairs = [
        (Concept.OPACITY, found.lesion_probability),
        *((DISEASE[d], p) for d, p in zip(DiseaseClass, found.probabilities, strict=True)),
    ]
    for finding, probability in pairs:
        modifier = sr.code(Concept.FINDING, finding, sr.HAS_CONCEPT_MOD)
        yield sr.number(Concept.PROBABILITY, probability, Concept.NO_UNITS, children=[modifier])


def _group(
    findings: Findings,
    results: ResultSet,
    *,
    tracking: str,
    label: str,
    finding: Concept,
    side: Concept,
    content: Iterable[Dataset],
) -> Dataset:
    """A group of the main model about the lungs."""
    return measurement_group(
        [findings.model],
        results,
        tracking=tracking,
        label=label,
        finding=finding,
        site=(Concept.LUNG, side),
        content=content,
    )


def _evaluations(findings: Findings, results: ResultSet) -> Iterator[Dataset]:
    if findings.patient is not None:
        yield sr.code(Concept.PATIENT_CLASS, DISEASE[findings.patient.predicted])
    if findings.nonparametric is not None:
        yield sr.code(Concept.SECOND_CLASS, DISEASE[findings.nonparametric.predicted])
    yield from system_evaluations(findings)
    yield from progress_evaluations(results)
    for sentence in _sentences(findings, results):
        yield sr.text(Concept.COMMENT, sentence)


def _sentences(findings: Findings, results: ResultSet) -> Iterator[str]:
    yield results.options.banner
    if results.training_words:
        yield results.training_words
    yield f"Read by {results.model_words} on {results.started_at:%Y-%m-%d %H:%M:%S}."
    if findings.patient is None:
        yield "Slice-level reading: slices were read one by one, the patient was not classified."
    opinion = second_opinion(findings)
    if opinion:
        yield opinion
    yield lesion_sentence(findings)
    yield from _distribution(findings)
    yield from system_sentences(findings)
    if results.progress is not None:
        yield from progress_sentences(results.progress)
    yield from quality_sentences(findings)
    yield from completeness_statements(results)


def _distribution(findings: Findings) -> Iterator[str]:
    distribution = findings.burden.distribution
    if distribution is None:
        return
    upper, middle, lower = (100 * share for share in distribution.craniocaudal)
    central, peripheral = (100 * share for share in distribution.central_peripheral)
    yield (
        f"Distribution of the lesion volume: upper third {upper:.0f} %, middle third "
        f"{middle:.0f} %, lower third {lower:.0f} %; central {central:.0f} %, "
        f"peripheral {peripheral:.0f} %."
    )
