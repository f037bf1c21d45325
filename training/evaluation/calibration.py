"""How far probabilities can be taken at their word, and the one number that mends most of it.

Temperature scaling after Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): the
logits are divided by one temperature, fitted by likelihood on validation patients; no class
changes. Softmax takes away a constant, so the logarithm of a probability serves as its logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINS",
    "Reliability",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "negative_log_likelihood",
    "reliability",
    "scale",
]

BINS = 15
_SMALLEST = 1e-12
_COLDEST, _HOTTEST = 0.02, 50.0
_STEPS = 60  # each shortens the bracket by 0.618: far below any use

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Confidence against truth, in equal bins of the largest probability.

    Attributes
    ----------
    edges : ndarray of float64, shape (bins + 1,)
    count : ndarray of int64, shape (bins,)
    confidence, accuracy : ndarray of float64, shape (bins,)
        Means in the bin; NaN where it is empty.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(labels: Ints, probabilities: Floats, bins: int = BINS) -> Reliability:
    """Bin the largest probability of each row and compare it with how often it was right.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    probabilities : ndarray of float, shape (n, classes)
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (low, high]
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=confidence, minlength=bins) / count
        share = np.bincount(place, weights=right, minlength=bins) / count
    return Reliability(edges, count, mean, share)


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by their counts."""
    table = reliability(labels, probabilities, bins)
    gap = np.abs(table.confidence - table.accuracy)
    filled = table.count > 0
    if not filled.any():
        return float("nan")
    return float(np.sum(gap[filled] * table.count[filled]) / table.count.sum())


def brier_score(labels: Ints, probabilities: Floats) -> float:
    """Mean squared distance to the true class's unit vector, summed over classes: in [0, 2]."""
    truth = np.eye(probabilities.shape[1])[np.asarray(labels, dtype=np.intp)]
    return float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))


def negative_log_likelihood(labels: Ints, probabilities: Floats) -> float:
    """Mean of -log p(true class), natural logarithm; probabilities below 1e-12 count as that."""
    chosen = probabilities[np.arange(len(labels)), np.asarray(labels, dtype=np.intp)]
    return float(-np.mean(np.log(np.clip(chosen.astype(np.float64), _SMALLEST, None))))


def scale(probabilities: Floats, temperature: float) -> NDArray[np.float64]:
    """Softmax of logits divided by `temperature`, from the probabilities at temperature 1."""
    logits = np.log(np.clip(probabilities.astype(np.float64), _SMALLEST, None)) / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    powers = np.exp(logits)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float64)


def fit_temperature(probabilities: Floats, labels: Ints) -> float:
    """Temperature of the highest likelihood; use validation patients only.

    Parameters
    ----------
    probabilities : ndarray of float, shape (n, classes)
        At the present temperature; the result multiplies that one.
    labels : ndarray of int, shape (n,)

    Returns
    -------
    float
        In [0.02, 50]. The likelihood has one maximum over log-temperature in that range, found by
        golden-section search. A validation set without a single error has none inside: then the
        result stays at 1, because any certainty would fit.

    Raises
    ------
    ValueError
        No rows, or other shapes.
    """
    if probabilities.ndim != 2 or len(labels) != len(probabilities) or not len(labels):
        raise ValueError("one row of probabilities for each label is needed")
    if np.all(probabilities.argmax(axis=1) == labels):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = scale(probabilities, float(np.exp(log_temperature)))
        return negative_log_likelihood(labels, scaled)

    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    ratio = (np.sqrt(5.0) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    for _ in range(_STEPS):
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(right)
    return float(np.exp((low + high) / 2))
