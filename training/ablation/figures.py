"""Figures of merit of finished rows: the evaluation's own metrics, intervals and p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.ablation.row_result import RowResult
from training.evaluation.bootstrap import (
    REPLICATES,
    Counts,
    Interval,
    Statistic,
    intervals,
    paired_p_values,
)
from training.evaluation.metrics import patient_metrics, rank_classes

__all__ = ["RowFigures", "measure_rows"]


@dataclass(frozen=True, slots=True)
class RowFigures:
    """A row's figures by name, shares in [0, 1].

    Attributes
    ----------
    figures : mapping of str to Interval
        As :meth:`training.evaluation.metrics.PatientMetrics.flat` names them.
    p_accuracy : float or None
        Of the difference in accuracy to the reference row; None for that row itself.
    """

    figures: Mapping[str, Interval]
    p_accuracy: float | None


def measure_rows(
    results: Mapping[str, RowResult], reference: str, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, RowFigures]:
    """Measure rows that read the same patients.

    Parameters
    ----------
    results : mapping of str to RowResult
    reference : str
        Row that the others are compared with; where it is not among them, nothing is compared.
    replicates, seed : int
        Of the bootstrap (paper: m = 1000).
    """
    measured = {}
    ours = _statistic(results[reference]) if reference in results else None
    for key, result in results.items():
        patients = len(result.labels)
        statistic = _statistic(result)
        found = intervals(statistic, patients, replicates=replicates, seed=seed)
        p = None
        if ours is not None and key != reference:
            compared = paired_p_values(ours, statistic, patients, replicates=replicates, seed=seed)
            p = compared["accuracy"][1]
        measured[key] = RowFigures(found, p)
    return measured


def _statistic(result: RowResult) -> Statistic:
    labels, probabilities, predicted = result.arrays()
    ranked = rank_classes(labels, probabilities)

    def statistic(counts: Counts) -> dict[str, float]:
        metrics = patient_metrics(labels, probabilities, counts, predicted=predicted, ranked=ranked)
        return metrics.flat()

    return statistic
