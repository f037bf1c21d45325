"""The paper's figures of merit (Table II) on arrays: pure functions, every one with weights.

A weight is how often a patient (or slice) counts; the bootstrap passes the counts of its draws, so
that resampling costs a sum and not a sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.domain import DiseaseClass

__all__ = [
    "PatientMetrics",
    "RankedScores",
    "auc",
    "confusion",
    "patient_metrics",
    "rank_classes",
    "roc_curve",
]

CLASSES = len(DiseaseClass)

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class PatientMetrics:
    """Table II of the paper; shares in [0, 1], NaN where a share has no denominator.

    Attributes
    ----------
    accuracy : float
        Patients given their own class.
    fpe : float
        Share of the healthy that are given a disease.
    fne : float
        Share of the diseased that are called healthy.
    fdpe : float
        Share of the diseased that are given another disease. ``fne + fdpe`` is the error among
        the diseased: the paper's 4.15 and 1.57 % of 190 patients are 8 and 3, and with 3 of 102
        healthy (2.83 %) they make up its 14 errors in 292.
    sensitivity, specificity, auc : tuple of 4 float
        One class against the rest, in class order.
    """

    accuracy: float
    fpe: float
    fne: float
    fdpe: float
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]
    auc: tuple[float, ...]

    def flat(self) -> dict[str, float]:
        """Every figure under one name: ``accuracy``, …, ``auc.covid19``."""
        figures = {name: getattr(self, name) for name in ("accuracy", "fpe", "fne", "fdpe")}
        for kind in ("sensitivity", "specificity", "auc"):
            for disease, value in zip(DiseaseClass, getattr(self, kind), strict=True):
                figures[f"{kind}.{disease.key}"] = value
        return figures


class RankedScores:
    """Scores of one binary question, sorted once.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
    scores : ndarray of float, shape (n,)
        The larger, the more positive.

    Raises
    ------
    ValueError
        Other shapes, or a score that is not a number.
    """

    def __init__(self, positive: NDArray[np.bool_], scores: Floats) -> None:
        if positive.shape != scores.shape or positive.ndim != 1:
            raise ValueError("there is one score for each label")
        if np.isnan(scores).any():
            raise ValueError("a score is not a number")
        self._order = np.argsort(-scores, kind="stable")
        self._positive = np.asarray(positive[self._order], dtype=np.bool_)
        self._scores = scores[self._order]
        # The last element of each group of equal scores: a curve may only turn there.
        self._ends = np.append(np.flatnonzero(np.diff(self._scores)), len(scores) - 1)
        self._ends = self._ends[self._ends >= 0]

    def curve(self, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """False positives, true positives (summed weights) and scores at each turn, from (0, 0)."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order]
        true = np.cumsum(weight * self._positive)[self._ends]
        false = np.cumsum(weight * ~self._positive)[self._ends]
        scores = np.concatenate([[np.inf], self._scores[self._ends]])
        return np.concatenate([[0.0], false]), np.concatenate([[0.0], true]), scores

    def auc(self, weights: Floats | None = None) -> float:
        """Area under the ROC curve, ties counting half; NaN without both kinds."""
        false, true, _ = self.curve(weights)
        if len(false) < 2 or false[-1] <= 0 or true[-1] <= 0:
            return float("nan")
        return float(np.trapezoid(true, false) / (true[-1] * false[-1]))


def auc(positive: NDArray[np.bool_], scores: Floats, weights: Floats | None = None) -> float:
    """Area under the ROC curve.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
    scores : ndarray of float, shape (n,)
    weights : ndarray of float, shape (n,), or None

    Returns
    -------
    float
        In [0, 1]; NaN without a positive or without a negative.
    """
    return RankedScores(np.asarray(positive, dtype=np.bool_), np.asarray(scores)).auc(weights)


def roc_curve(positive: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats, Floats]:
    """ROC curve with a point for each distinct score.

    Returns
    -------
    false_positive_rate, true_positive_rate, scores : ndarray of float64
        From (0, 0) at an infinite score to (1, 1). Rates are NaN without their denominator.
    """
    ranked = RankedScores(np.asarray(positive, dtype=np.bool_), np.asarray(scores))
    false, true, thresholds = ranked.curve()
    return _rate(false), _rate(true), thresholds


def confusion(labels: Ints, predicted: Ints, weights: Floats | None = None) -> Floats:
    """Confusion matrix.

    Returns
    -------
    ndarray of float64, shape (4, 4)
        Summed weights; rows are the true class, columns the predicted one.
    """
    pairs = np.asarray(labels, dtype=np.intp) * CLASSES + np.asarray(predicted, dtype=np.intp)
    counts = np.bincount(pairs, weights=weights, minlength=CLASSES * CLASSES)
    return counts.reshape(CLASSES, CLASSES).astype(np.float64)


def patient_metrics(
    labels: Ints,
    probabilities: Floats,
    weights: Floats | None = None,
    *,
    predicted: Ints | None = None,
    ranked: tuple[RankedScores, ...] | None = None,
) -> PatientMetrics:
    """Every figure of Table II.

    Parameters
    ----------
    labels : ndarray of int, shape (P,)
        True classes.
    probabilities : ndarray of float, shape (P, 4)
    weights : ndarray of float, shape (P,), or None
        How often each patient counts.
    predicted : ndarray of int, shape (P,), or None
        Where a rule other than the largest probability decides.
    ranked : tuple of 4 RankedScores, or None
        From :func:`rank_classes` on the same patients, to rank them once only.

    Raises
    ------
    ValueError
        Unknown class, other shapes, or a probability that is not a number.
    """
    labels, probabilities = _checked(labels, probabilities)
    if predicted is None:
        predicted = np.argmax(probabilities, axis=1)
    table = confusion(labels, predicted, weights)
    right, total = np.diagonal(table), table.sum()
    actual, called = table.sum(axis=1), table.sum(axis=0)
    healthy = DiseaseClass.HEALTHY
    diseased = total - actual[healthy]
    missed = called[healthy] - right[healthy]
    negatives = total - actual
    ranked = ranked or rank_classes(labels, probabilities)
    return PatientMetrics(
        accuracy=_share(right.sum(), total),
        fpe=_share(actual[healthy] - right[healthy], actual[healthy]),
        fne=_share(missed, diseased),
        fdpe=_share(diseased - missed - (right.sum() - right[healthy]), diseased),
        sensitivity=tuple(_share(right[k], actual[k]) for k in DiseaseClass),
        specificity=tuple(
            _share(negatives[k] - (called[k] - right[k]), negatives[k]) for k in DiseaseClass
        ),
        auc=tuple(scores.auc(weights) for scores in ranked),
    )


def rank_classes(labels: Ints, probabilities: Floats) -> tuple[RankedScores, ...]:
    """Each class against the rest."""
    return tuple(RankedScores(labels == k, probabilities[:, k]) for k in DiseaseClass)


def _checked(labels: Ints, probabilities: Floats) -> tuple[Ints, Floats]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    if labels.ndim != 1 or probabilities.shape != (len(labels), CLASSES):
        raise ValueError(f"one row of {CLASSES} probabilities for each label is needed")
    if len(labels) and not (labels.min() >= 0 and labels.max() < CLASSES):
        raise ValueError("a label is no class")
    return labels, probabilities


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _rate(counts: Floats) -> Floats:
    return counts / counts[-1] if counts[-1] > 0 else np.full_like(counts, np.nan)
