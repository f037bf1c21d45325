"""``metrics.json``: what an evaluation found, as a document for programs.

Schema version "1". Shares are in [0, 1]; null where a figure is not defined on this cohort.
Figures by class come in class order: healthy, covid19, h1n1, cap.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Agreement",
    "ArtefactFigures",
    "CalibrationFigures",
    "CohortStatement",
    "Comparison",
    "Difference",
    "EvaluationDocument",
    "Figure",
    "LocalisationFigures",
    "ModelStatement",
    "PatientFigures",
    "SliceFigures",
    "Timing",
    "WorstCase",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Part):
    """A figure with its 95 % bootstrap interval over patients."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ModelStatement(_Part):
    """The bundle."""

    name: str
    version: str
    sha256: str
    training: Literal["untrained", "demonstration", "site"]
    limits: str
    lesion_threshold: float
    trained_on: str | None = Field(description="Its training data in words; null if not stated.")
    trained_on_sha256: str | None = Field(description="Digest of that cohort.")
    calibrated: bool = Field(description="Whether any temperature of the bundle differs from 1.")


class CohortStatement(_Part):
    """Who was read."""

    file: str = Field(description="Name of the cohort's CSV.")
    sha256: str
    split: str = Field(description='"train", "validation", "test", or "all".')
    patients: dict[str, int]
    slices: int = Field(description="All slices of all series.")
    read_slices: int = Field(description="Those with lung, which the network read.")


class PatientFigures(_Part):
    """Table II of the paper for one way of reading patients."""

    figures: dict[str, Figure] = Field(
        description="accuracy, fpe, fne, fdpe, and sensitivity, specificity, auc by class, "
        'as in "auc.covid19". The AUC of the non-parametric rule ranks by its share of slices.'
    )
    confusion: list[list[int]] = Field(description="Rows: true class; columns: predicted class.")


class SliceFigures(_Part):
    """Slice level (Fig. 8 of the paper), slices with lung and a known label."""

    figures: dict[str, Figure] = Field(
        description="auc.<class>: four-way head, slices labelled as in training (normal slices "
        "of patients left out). auc_all.<class>: both heads joined, those slices counted as "
        "healthy. auc.lesion: two-way head, all of them."
    )
    slices: int = Field(description="Slices with lung and a known label.")
    with_lesion: int


class CalibrationFigures(_Part):
    """How far probabilities can be taken at their word."""

    ece: float = Field(description="Expected calibration error, 15 equal bins.")
    brier: float
    negative_log_likelihood: float
    count: int


class ArtefactFigures(_Part):
    """False positives among healthy people with an artefact."""

    patients: int
    fpe: float | None


class LocalisationFigures(_Part):
    """Maps against true masks."""

    patients: int = Field(description="Patients with true lesion.")
    lesion_slices: int
    pointing_game: float | None = Field(description="Share of lesion slices that are hit.")
    pointing_game_patients: float | None = Field(
        description="Share of patients in whom the largest value of the whole volume hits."
    )
    pixel_auc: float | None = Field(description="Pixels of true lung of these patients, pooled.")
    dice_patient: float | None = Field(description="Mean over patients of the volume's Dice.")
    dice_slice: float | None = Field(description="Mean over lesion slices.")
    dice_pooled: float | None = Field(description="Of all pixels of these patients together.")


class Agreement(_Part):
    """Estimated minus true percentage of lung (Bland and Altman, Lancet 1986)."""

    patients: int
    mean_absolute_error: float
    bias: float
    lower_limit: float = Field(description="Bias - 1.96 standard deviations.")
    upper_limit: float


class Difference(_Part):
    """The model minus the other one on the same patients, paired bootstrap."""

    difference: Figure
    p: float | None = Field(description="Two-sided.")


class Comparison(_Part):
    """Against another model on the same patients."""

    against: ModelStatement
    differences: dict[str, Difference]


class WorstCase(_Part):
    """A patient called wrongly, or whose true class got little probability."""

    patient_id: str
    label: str
    predicted: str
    probability_of_label: float


class Timing(_Part):
    """From the files of a series to its findings, on the machine that ran the evaluation."""

    seconds_per_series: float
    engine: str


class EvaluationDocument(_Part):
    """The whole document."""

    schema_version: Literal["1"] = "1"
    software_version: str
    model: ModelStatement
    cohort: CohortStatement
    replicates: int = Field(description="Of the bootstrap.")
    seed: int
    patient: PatientFigures
    nonparametric: PatientFigures
    slices: SliceFigures | None
    calibration_patient: CalibrationFigures
    calibration_slice: CalibrationFigures | None
    calibration_lesion: CalibrationFigures | None
    artefacts: dict[str, ArtefactFigures] = Field(
        description='By artefact; "any" and "none" beside them. Empty without truth.'
    )
    localisation: dict[str, LocalisationFigures] = Field(
        description='"all", a class, or a range of severity such as "1-5 %". Empty without masks.'
    )
    localisation_tolerance_px: float = Field(description="Of a 512-column image.")
    lesion_percentage: Agreement | None
    worst: list[WorstCase]
    comparison: Comparison | None = None
    statements: list[str] = Field(
        description="What could not be measured and why, and what else weakens the figures."
    )
    timing: Timing
