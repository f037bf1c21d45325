"""``result.json``: one reading, or why there is none, as a document for programs.

Schema version "1". Fields are added within a version, never renamed or removed;
``docs/result-json.md`` describes each.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.domain import Disposition, ObjectKind
from dicom_node.results.context import Completeness, ResultContext
from dicom_node.results.dicom_file import WrittenObject, sync_directory, write_atomically
from dicom_node.results.lesion_figures import Coverage as FoundCoverage
from dicom_node.results.progress import LobeKey, Progress, progress_of
from dicom_node.results.source import SourceSeries
from inference.domain import DiseaseClass, Findings, ModelIdentity, SliceFindings

__all__ = ["ResultDocument", "analyzed", "not_analyzed", "write_document"]

ClassKey = Literal["healthy", "covid19", "h1n1", "cap"]
Probability = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassProbabilities(_Part):
    """One probability per class; they sum to 1."""

    healthy: Probability
    covid19: Probability
    h1n1: Probability
    cap: Probability


class ClassCounts(_Part):
    """Slices by class."""

    healthy: int
    covid19: int
    h1n1: int
    cap: int


class Patient(_Part):
    """What the patient network says of the whole series."""

    probabilities: ClassProbabilities
    predicted: ClassKey


class Nonparametric(_Part):
    """The second opinion: counting slices, without a patient network."""

    predicted: ClassKey
    counts: ClassCounts
    threshold: float
    agrees: bool | None = Field(description="With patient.predicted; null without one.")


class LesionDistribution(_Part):
    """Shares of the lesion volume; each group sums to 1."""

    right: float
    left: float
    upper: float
    middle: float
    lower: float
    central: float
    peripheral: float
    map: tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="Coronal view in lung coordinates: rows from apex to base, each from the "
        "patient's right to left; mean lesion fraction. Absent in older documents.",
    )


class Lesion(_Part):
    """How much of the lung lies above the model's lesion threshold; an estimate."""

    percent_of_lung: float | None = Field(description="Null where slice spacing is irregular.")
    lung_ml: float | None
    lesion_ml: float | None
    slices: int = Field(description="Slices with lesion above the threshold.")
    threshold: float
    probability: Probability | None = Field(
        default=None,
        description="The greatest lesion probability of a slice with lung; null without any, and "
        "absent in older documents.",
    )
    distribution: LesionDistribution | None = Field(description="Null without any lesion.")


class LungBox(_Part):
    """Half-open rectangle in pixels of the source image."""

    top: int
    left: int
    bottom: int
    right: int


class Slice(_Part):
    """One source image, in anatomical order: the most superior first."""

    sop_instance_uid: str
    frame_number: int | None = Field(description="1-based; null for single-frame images.")
    z_mm: float = Field(description="Position along the slice normal, towards the head.")
    lesion_probability: Probability
    probabilities: ClassProbabilities
    predicted: ClassKey
    lung_box: LungBox
    has_lung: bool
    lung_area_px: int
    lesion_area_px: int


class Model(_Part):
    """Which model read the series."""

    name: str
    version: str
    sha256: str
    trained: bool = Field(description="False: the output has no meaning.")
    training: Literal["untrained", "demonstration", "site"]


class LobeDocument(_Part):
    """One lobe."""

    lobe: LobeKey
    volume_ml: float | None = Field(description="Null where the lobe cannot be told.")
    doubt: str | None = Field(description="Why it cannot be told; null where it can.")


class Lobes(_Part):
    """What M²UNet says."""

    model: Model
    lobes: tuple[LobeDocument, ...]
    severe: bool | None = Field(description="Null for a slice-level reading.")
    severe_probability: Probability | None
    severe_threshold: float
    severe_from_percent: float = Field(description="What severe means: this share of the lungs.")


class Outlines(_Part):
    """What JCS says."""

    model: Model
    positive: bool | None = Field(description="Null for a slice-level reading.")
    positive_words: str
    negative_words: str
    probability: Probability | None = Field(description="Of the slice that decides.")
    positive_slices: int
    allowed_slices: int = Field(description="Positive slices that a negative patient may have.")
    percent_of_lung: float | None
    lesion_ml: float | None
    slice_probability: tuple[Probability, ...] = Field(
        default=(), description="Of each image, in the order of slices."
    )


class Involvement(_Part):
    """Lesions of one model counted in the lobes of M²UNet, in the order of its lobes."""

    lesions_by: str
    lobes_by: str
    percent: tuple[float | None, ...]
    scores: tuple[int | None, ...] = Field(description="CT severity score of each lobe, 0 to 5.")
    total_score: int | None = Field(description="0 to 25; null unless all five can be told.")


class Coverage(_Part):
    """How finely, and how much of the lungs the slices show."""

    slice_spacing_mm: float | None = Field(description="Median; null of a single slice.")
    lung_height_mm: float | None = Field(
        description="From the first slice with lung to the last; null without any."
    )


class Quality(_Part):
    """One statement about the input or the reading."""

    code: str
    text: str


class ResultObject(_Part):
    """One written DICOM object; `path` is relative to this document."""

    kind: ObjectKind
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    slot: str = Field(description="Of several objects of one slot, a destination gets one.")
    rank: int = Field(description="Order of preference within the slot, 0 first.")
    path: str
    sha256: str
    size_bytes: int


class Series(_Part):
    """The source series; null where it could not be read."""

    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    frame_of_reference_uid: str | None = None
    series_number: int | None = None
    series_description: str | None = None


class Completed(_Part):
    """Why the series was taken as whole."""

    reason: str
    instance_count: int
    expected_count: int | None


class ResultDocument(_Part):
    """The whole document. Fields without meaning for the disposition are null or empty."""

    schema_version: Literal["1"] = "1"
    disposition: Disposition
    reason: str | None = Field(description="Why not analysed; null for analysed series.")
    series: Series
    completeness: Completed | None = None
    started_at: datetime | None = None
    software_version: str
    banner: str | None = None
    rule: str | None = Field(
        default=None, description="The rule that decided; null outside of a node."
    )
    shadow: bool = Field(default=False, description="True: nothing of it is delivered.")
    patient: Patient | None = None
    nonparametric: Nonparametric | None = None
    lesion: Lesion | None = None
    slices: tuple[Slice, ...] = ()
    model: Model | None = None
    lobes: Lobes | None = Field(default=None, description="M²UNet; null where it does not run.")
    outlines: Outlines | None = Field(default=None, description="JCS; null where it does not run.")
    involvement: tuple[Involvement, ...] = ()
    coverage: Coverage | None = None
    progress: Progress | None = Field(
        default=None, description="Since an earlier study; null outside of a node."
    )
    quality: tuple[Quality, ...] = ()
    statements: tuple[str, ...] = ()
    objects: tuple[ResultObject, ...] = ()
    timing_s: dict[str, float] = Field(default_factory=dict)


def analyzed(
    findings: Findings,
    source: SourceSeries,
    context: ResultContext,
    objects: Iterable[WrittenObject],
    *,
    banner: str,
    timing_s: dict[str, float] | None = None,
) -> ResultDocument:
    """Return the document of a reading.

    Parameters
    ----------
    objects : iterable of WrittenObject
        With paths relative to where the document will lie.
    timing_s : dict of str to float, optional
        Seconds by stage, beside those of the findings.
    """
    return ResultDocument(
        disposition=Disposition.ANALYZED,
        reason=None,
        series=_series(source),
        completeness=_completed(context.completeness),
        started_at=context.analysis_started_at,
        software_version=context.software_version,
        banner=banner,
        patient=_patient(findings),
        nonparametric=_nonparametric(findings),
        lesion=_lesion(findings),
        slices=tuple(_slice(found) for found in findings.slices),
        model=_model(findings.model),
        lobes=_lobes(findings),
        outlines=_outlines(findings),
        involvement=tuple(
            Involvement(
                lesions_by=item.lesions_by.name,
                lobes_by=item.lobes_by.name,
                percent=item.percent,
                scores=item.scores,
                total_score=item.total_score,
            )
            for item in findings.involvement
        ),
        coverage=_coverage(findings),
        progress=progress_of(findings, context.earlier),
        quality=tuple(Quality(code=item.code, text=item.text) for item in findings.quality),
        statements=context.statements,
        objects=_objects(objects),
        timing_s={**findings.timing_s, **(timing_s or {})},
    )


def not_analyzed(
    disposition: Disposition,
    reason: str,
    *,
    software_version: str,
    source: SourceSeries | None = None,
    series_instance_uid: str | None = None,
    context: ResultContext | None = None,
    objects: Iterable[WrittenObject] = (),
    timing_s: dict[str, float] | None = None,
) -> ResultDocument:
    """Return the document of a series that was skipped or rejected.

    Parameters
    ----------
    disposition : Disposition
        ``SKIPPED`` or ``REJECTED``.
    reason : str
        One sentence for a radiologist.
    source : SourceSeries, optional
        Where the headers could be read; else `series_instance_uid` may be known.

    Raises
    ------
    ValueError
        `disposition` is ``ANALYZED``.
    """
    if disposition == Disposition.ANALYZED:
        raise ValueError("an analysed series has findings")
    return ResultDocument(
        disposition=disposition,
        reason=reason,
        series=_series(source) if source else Series(series_instance_uid=series_instance_uid),
        completeness=_completed(context.completeness) if context else None,
        started_at=context.analysis_started_at if context else None,
        software_version=software_version,
        statements=context.statements if context else (),
        objects=_objects(objects),
        timing_s=timing_s or {},
    )


def write_document(document: ResultDocument, path: Path) -> None:
    """Write `document` as UTF-8 JSON, whole or not at all.

    Raises
    ------
    OSError
        No space, or the directory is not writable.
    """
    write_atomically(path, (document.model_dump_json(indent=1) + "\n").encode())
    sync_directory(path.parent)


def _key(disease: DiseaseClass) -> ClassKey:
    keys: tuple[ClassKey, ...] = ("healthy", "covid19", "h1n1", "cap")
    return keys[disease]


def _probabilities(values: tuple[float, float, float, float]) -> ClassProbabilities:
    healthy, covid19, h1n1, cap = (min(max(float(value), 0.0), 1.0) for value in values)
    return ClassProbabilities(healthy=healthy, covid19=covid19, h1n1=h1n1, cap=cap)


def _patient(findings: Findings) -> Patient | None:
    patient = findings.patient
    if patient is None:
        return None
    return Patient(
        probabilities=_probabilities(patient.probabilities), predicted=_key(patient.predicted)
    )


def _nonparametric(findings: Findings) -> Nonparametric | None:
    second, first = findings.nonparametric, findings.patient
    if second is None:
        return None
    healthy, covid19, h1n1, cap = second.counts
    return Nonparametric(
        predicted=_key(second.predicted),
        counts=ClassCounts(healthy=healthy, covid19=covid19, h1n1=h1n1, cap=cap),
        threshold=second.threshold,
        agrees=None if first is None else first.predicted == second.predicted,
    )


def _lesion(findings: Findings) -> Lesion:
    burden = findings.burden
    found = burden.distribution
    distribution = None
    if found is not None:
        (right, left), (upper, middle, lower) = found.right_left, found.craniocaudal
        central, peripheral = found.central_peripheral
        distribution = LesionDistribution(
            right=right,
            left=left,
            upper=upper,
            middle=middle,
            lower=lower,
            central=central,
            peripheral=peripheral,
            map=tuple(tuple(round(float(value), 4) for value in row) for row in found.map),
        )
    return Lesion(
        percent_of_lung=burden.percent_of_lung,
        lung_ml=burden.lung_ml,
        lesion_ml=burden.lesion_ml,
        slices=sum(item.lesion_area_px > 0 for item in findings.slices),
        threshold=findings.model.lesion_threshold,
        probability=max(
            (_slice(item).lesion_probability for item in findings.slices if item.has_lung),
            default=None,
        ),
        distribution=distribution,
    )


def _slice(found: SliceFindings) -> Slice:
    box = found.lung_box
    return Slice(
        sop_instance_uid=found.reference.sop_instance_uid,
        frame_number=found.reference.frame_number,
        z_mm=found.z_mm,
        lesion_probability=min(max(float(found.lesion_probability), 0.0), 1.0),
        probabilities=_probabilities(found.probabilities),
        predicted=_key(found.predicted),
        lung_box=LungBox(top=box.top, left=box.left, bottom=box.bottom, right=box.right),
        has_lung=found.has_lung,
        lung_area_px=found.lung_area_px,
        lesion_area_px=found.lesion_area_px,
    )


def _lobes(findings: Findings) -> Lobes | None:
    found = findings.lobes
    if found is None:
        return None
    keys: tuple[LobeKey, ...] = (
        "right_upper", "right_middle", "right_lower", "left_upper", "left_lower",
    )  # fmt: skip
    return Lobes(
        model=_model(found.model),
        lobes=tuple(
            LobeDocument(
                lobe=keys[item.lobe - 1], volume_ml=item.volume_ml, doubt=item.doubt or None
            )
            for item in found.lobes
        ),
        severe=found.severe,
        severe_probability=found.severe_probability,
        severe_threshold=found.severe_threshold,
        severe_from_percent=found.severe_from_percent,
    )


def _outlines(findings: Findings) -> Outlines | None:
    found = findings.segmented
    if found is None:
        return None
    return Outlines(
        model=_model(found.model),
        positive=found.positive,
        positive_words=found.positive_words,
        negative_words=found.negative_words,
        probability=found.probability,
        positive_slices=found.positive_slices,
        allowed_slices=found.allowed_slices,
        percent_of_lung=found.percent_of_lung,
        lesion_ml=found.lesion_ml,
        slice_probability=tuple(
            min(max(float(value), 0.0), 1.0) for value in found.slice_probability
        ),
    )


def _coverage(findings: Findings) -> Coverage:
    found = FoundCoverage.of(findings)
    return Coverage(slice_spacing_mm=found.slice_spacing_mm, lung_height_mm=found.lung_height_mm)


def _model(model: ModelIdentity) -> Model:
    return Model(
        name=model.name,
        version=model.version,
        sha256=model.sha256,
        trained=model.training != "untrained",
        training=model.training.value,
    )


def _series(source: SourceSeries) -> Series:
    return Series(
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=source.series_instance_uid,
        frame_of_reference_uid=source.frame_of_reference_uid or None,
        series_number=source.series_number,
        series_description=source.series_description or None,
    )


def _completed(completeness: Completeness) -> Completed:
    return Completed(
        reason=completeness.reason,
        instance_count=completeness.instance_count,
        expected_count=completeness.expected_count,
    )


def _objects(objects: Iterable[WrittenObject]) -> tuple[ResultObject, ...]:
    return tuple(
        ResultObject(
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            series_instance_uid=item.series_instance_uid,
            slot=item.slot,
            rank=item.rank,
            path=item.path.as_posix(),
            sha256=item.sha256,
            size_bytes=item.size_bytes,
        )
        for item in objects
    )
