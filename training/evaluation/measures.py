"""From predictions to figures: which patients and slices each figure is taken over."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from inference.nonparametric import combine
from training.evaluation.bootstrap import Interval, Statistic, intervals, paired_p_values
from training.evaluation.calibration import (
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
)
from training.evaluation.document import (
    Agreement,
    ArtefactFigures,
    CalibrationFigures,
    Difference,
    Figure,
    LocalisationFigures,
    PatientFigures,
    SliceFigures,
    WorstCase,
)
from training.evaluation.localisation import MapTally, dice, histogram_auc
from training.evaluation.metrics import RankedScores, confusion, patient_metrics, rank_classes
from training.evaluation.predictions import Prediction
from training.evaluation.slice_table import SliceTable

__all__ = [
    "SEVERITIES",
    "agreement",
    "artefact_figures",
    "compare",
    "labels_of",
    "localisation_figures",
    "nonparametric_figures",
    "patient_calibration",
    "patient_figures",
    "probabilities_of",
    "slice_calibration",
    "slice_figures",
    "worst_cases",
]

SEVERITIES = (0.0, 1.0, 5.0, 25.0, 100.0)
"""Edges of the ranges of severity, in percent of lung."""

UNSURE = 0.9

Predictions = Sequence[Prediction]


def patient_figures(predictions: Predictions, replicates: int, seed: int) -> PatientFigures:
    """Table II by the patient network."""
    return _table_two(_patient_statistic(predictions), predictions, _called, replicates, seed)


def nonparametric_figures(predictions: Predictions, replicates: int, seed: int) -> PatientFigures:
    """Table II by counting slices."""
    return _table_two(_counted_statistic(predictions), predictions, _counted, replicates, seed)


def compare(
    ours: Predictions, theirs: Predictions, replicates: int, seed: int
) -> dict[str, Difference]:
    """Every figure of the patient network and of the rule, ours minus theirs.

    The patients are the same, in the same order.
    """
    result = {}
    for prefix, statistic in (
        ("patient", _patient_statistic),
        ("nonparametric", _counted_statistic),
    ):
        found = paired_p_values(
            statistic(ours), statistic(theirs), len(ours), replicates=replicates, seed=seed
        )
        for name, (interval, p) in sorted(found.items()):
            result[f"{prefix}.{name}"] = Difference(difference=_figure(interval), p=p)
    return result


def slice_figures(table: SliceTable, replicates: int, seed: int) -> SliceFigures | None:
    """Slice-level AUC (Fig. 8); None without a slice whose label is known."""
    if not len(table.truth):
        return None
    trained = table.as_trained()
    joined = combine(table.lesion, table.probabilities)
    questions: dict[str, tuple[RankedScores, NDArray[np.intp]]] = {}
    for disease in DiseaseClass:
        questions[f"auc.{disease.key}"] = (
            RankedScores(table.disease[trained] == disease, table.probabilities[trained, disease]),
            table.patient[trained],
        )
        questions[f"auc_all.{disease.key}"] = (
            RankedScores(table.disease == disease, joined[:, disease]),
            table.patient,
        )
    questions["auc.lesion"] = (RankedScores(table.truth == 1, table.lesion), table.patient)

    def statistic(counts: NDArray[np.float64]) -> dict[str, float]:
        return {name: scores.auc(counts[who]) for name, (scores, who) in questions.items()}

    found = intervals(statistic, table.patients, replicates=replicates, seed=seed)
    return SliceFigures(
        figures={name: _figure(interval) for name, interval in found.items()},
        slices=len(table.truth),
        with_lesion=int(np.count_nonzero(table.truth == 1)),
    )


def patient_calibration(predictions: Predictions) -> CalibrationFigures:
    """Of the patient network's probabilities."""
    return _calibration(labels_of(predictions), probabilities_of(predictions))


def slice_calibration(
    table: SliceTable,
) -> tuple[CalibrationFigures | None, CalibrationFigures | None]:
    """Of the four-way head (slices labelled as in training) and of the two-way head."""
    if not len(table.truth):
        return None, None
    trained = table.as_trained()
    four = None
    if trained.any():
        four = _calibration(table.disease[trained], table.probabilities[trained])
    return four, _calibration(table.truth, table.two_way())


def artefact_figures(predictions: Predictions) -> dict[str, ArtefactFigures]:
    """FPE among healthy people with each artefact, with any, and with none."""
    healthy = [p for p in predictions if p.label is DiseaseClass.HEALTHY and p.has_masks]
    if not healthy:
        return {}
    groups: dict[str, list[Prediction]] = {
        "any": [p for p in healthy if p.artefacts],
        "none": [p for p in healthy if not p.artefacts],
    }
    for name in sorted({name for p in healthy for name in p.artefacts}):
        groups[name] = [p for p in healthy if name in p.artefacts]
    return {name: _fpe(group) for name, group in groups.items()}


def localisation_figures(predictions: Predictions) -> dict[str, LocalisationFigures]:
    """Over all patients with true lesion, by class, and by severity."""
    sick = [p for p in predictions if p.tally is not None and p.tally.lesion_slices > 0]
    if not sick:
        return {}
    groups = {"all": sick}
    for disease in DiseaseClass:
        groups[disease.key] = [p for p in sick if p.label is disease]
    for low, high in pairwise(SEVERITIES):
        groups[f"{low:g}-{high:g} %"] = [
            p
            for p in sick
            if p.severity_percent is not None
            and (low < p.severity_percent <= high or p.severity_percent == low == 0)
        ]
    tallies = {
        name: [p.tally for p in group if p.tally is not None] for name, group in groups.items()
    }
    return {name: _localisation(group) for name, group in tallies.items() if group}


def agreement(predictions: Predictions) -> Agreement | None:
    """Estimated against true percentage of lung; None without both in any patient."""
    pairs = [
        (p.percent_of_lung, p.severity_percent)
        for p in predictions
        if p.percent_of_lung is not None and p.severity_percent is not None
    ]
    if not pairs:
        return None
    error = np.array([estimate - truth for estimate, truth in pairs])
    bias, spread = float(error.mean()), float(error.std(ddof=1)) if len(error) > 1 else 0.0
    return Agreement(
        patients=len(pairs),
        mean_absolute_error=float(np.abs(error).mean()),
        bias=bias,
        lower_limit=bias - 1.96 * spread,
        upper_limit=bias + 1.96 * spread,
    )


def worst_cases(predictions: Predictions, count: int) -> list[WorstCase]:
    """Up to `count` patients whose true class got the least probability, worst first.

    Only those called wrongly, or whose class got less than :data:`UNSURE`.
    """
    doubtful = [
        p for p in predictions if p.predicted is not p.label or p.probabilities[p.label] < UNSURE
    ]
    order = sorted(doubtful, key=lambda p: (float(p.probabilities[p.label]), p.patient_id))
    return [
        WorstCase(
            patient_id=p.patient_id,
            label=p.label.key,
            predicted=p.predicted.key,
            probability_of_label=float(p.probabilities[p.label]),
        )
        for p in order[:count]
    ]


def _patient_statistic(predictions: Predictions) -> Statistic:
    labels, probabilities = labels_of(predictions), probabilities_of(predictions)
    return _statistic(labels, probabilities, np.argmax(probabilities, axis=1))


def _counted_statistic(predictions: Predictions) -> Statistic:
    """The rule gives a class; the share of slices of each class ranks patients for the AUC."""
    counts = np.stack([p.counts for p in predictions]).astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    predicted = np.array([int(p.counted) for p in predictions])
    return _statistic(labels_of(predictions), shares, predicted)


def _statistic(
    labels: NDArray[np.int64], scores: NDArray[np.float64], predicted: NDArray[np.int64]
) -> Statistic:
    ranked = rank_classes(labels, scores)

    def statistic(counts: NDArray[np.float64]) -> dict[str, float]:
        return patient_metrics(labels, scores, counts, predicted=predicted, ranked=ranked).flat()

    return statistic


def _table_two(
    statistic: Statistic,
    predictions: Predictions,
    called: Callable[[Prediction], DiseaseClass],
    replicates: int,
    seed: int,
) -> PatientFigures:
    found = intervals(statistic, len(predictions), replicates=replicates, seed=seed)
    predicted = np.array([int(called(p)) for p in predictions])
    table = confusion(labels_of(predictions), predicted).astype(int).tolist()
    return PatientFigures(
        figures={name: _figure(interval) for name, interval in found.items()}, confusion=table
    )


def _called(prediction: Prediction) -> DiseaseClass:
    return prediction.predicted


def _counted(prediction: Prediction) -> DiseaseClass:
    return prediction.counted


def _calibration(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating]
) -> CalibrationFigures:
    return CalibrationFigures(
        ece=expected_calibration_error(labels, probabilities),
        brier=brier_score(labels, probabilities),
        negative_log_likelihood=negative_log_likelihood(labels, probabilities),
        count=len(labels),
    )


def _fpe(healthy: Predictions) -> ArtefactFigures:
    called = Counter(p.predicted is not DiseaseClass.HEALTHY for p in healthy)
    share = called[True] / len(healthy) if healthy else None
    return ArtefactFigures(patients=len(healthy), fpe=share)


def _localisation(tallies: Sequence[MapTally]) -> LocalisationFigures:
    slices = sum(tally.lesion_slices for tally in tallies)
    lesion = np.sum([tally.lesion_levels for tally in tallies], axis=0)
    other = np.sum([tally.other_levels for tally in tallies], axis=0)
    predicted = sum(tally.predicted_px for tally in tallies)
    true = sum(tally.true_px for tally in tallies)
    both = sum(tally.both_px for tally in tallies)
    return LocalisationFigures(
        patients=len(tallies),
        lesion_slices=slices,
        pointing_game=_defined(sum(tally.hits for tally in tallies) / slices),
        pointing_game_patients=_defined(np.mean([bool(tally.patient_hit) for tally in tallies])),
        pixel_auc=_defined(histogram_auc(lesion, other)),
        dice_patient=_defined(np.mean([tally.dice for tally in tallies])),
        dice_slice=_defined(np.mean(np.concatenate([tally.slice_dice for tally in tallies]))),
        dice_pooled=_defined(dice(predicted, true, both)),
    )


def _defined(value: float | np.floating) -> float | None:
    return float(value) if math.isfinite(value) else None


def _figure(interval: Interval) -> Figure:
    return Figure(value=interval.value, low=interval.low, high=interval.high)


def labels_of(predictions: Predictions) -> NDArray[np.int64]:
    """True classes, shape (patients,)."""
    return np.array([int(p.label) for p in predictions], dtype=np.int64)


def probabilities_of(predictions: Predictions) -> NDArray[np.float64]:
    """Of the patient network, shape (patients, 4)."""
    return np.stack([p.probabilities for p in predictions])
