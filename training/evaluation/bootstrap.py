"""Bootstrap over patients (paper: with replacement, m = 1000): intervals and p-values.

Patients are what is drawn: a patient's slices stay together, because they are no independent
observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["REPLICATES", "Interval", "draw_counts", "intervals", "paired_p_values"]

REPLICATES = 1000

Counts = NDArray[np.float64]
Statistic = Callable[[Counts], dict[str, float]]
"""Figures by name, of patients that count as often as the array (P,) says."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % percentile interval; None where it is not defined.

    Attributes
    ----------
    value : float or None
        On the patients as they are.
    low, high : float or None
        2.5 and 97.5 percentiles of the replicates in which the figure is defined.
    """

    value: float | None
    low: float | None
    high: float | None


def draw_counts(patients: int, *, replicates: int = REPLICATES, seed: int = 0) -> Counts:
    """How often each patient is drawn.

    Returns
    -------
    ndarray of float64, shape (replicates, patients)
        Rows sum to `patients`. The same arguments give the same draws, so two models are compared
        on the same ones.
    """
    if patients < 1:
        raise ValueError("there are no patients to draw from")
    random = np.random.default_rng(seed)
    equal = np.full(patients, 1.0 / patients)
    return random.multinomial(patients, equal, size=replicates).astype(np.float64)


def intervals(
    statistic: Statistic, patients: int, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, Interval]:
    """Every figure of `statistic` with its interval."""
    value = statistic(np.ones(patients))
    drawn = _replicates(statistic, draw_counts(patients, replicates=replicates, seed=seed))
    return {name: _interval(value[name], drawn[name]) for name in value}


def paired_p_values(
    first: Statistic,
    second: Statistic,
    patients: int,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, tuple[Interval, float | None]]:
    """Difference first - second of each figure on the same patients, and its p-value.

    Returns
    -------
    dict of str to (Interval, float or None)
        Two-sided: twice the smaller share of replicates on either side of no difference, those
        at zero counted on both, one added to each so that no p is zero. None where a figure is
        not defined.
    """
    counts = draw_counts(patients, replicates=replicates, seed=seed)
    ours, theirs = _replicates(first, counts), _replicates(second, counts)
    whole = np.ones(patients)
    value_ours, value_theirs = first(whole), second(whole)
    result = {}
    for name in ours.keys() & theirs.keys():
        difference = ours[name] - theirs[name]
        value = value_ours[name] - value_theirs[name]
        result[name] = (_interval(value, difference), _p_value(difference))
    return result


def _replicates(statistic: Statistic, counts: Counts) -> dict[str, NDArray[np.float64]]:
    rows = [statistic(row) for row in counts]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    if not np.isfinite(value):
        return Interval(None, None, None)
    defined = drawn[np.isfinite(drawn)]
    if not defined.size:
        return Interval(float(value), None, None)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _p_value(difference: NDArray[np.float64]) -> float | None:
    defined = difference[np.isfinite(difference)]
    if not defined.size:
        return None
    below = (np.count_nonzero(defined <= 0) + 1) / (defined.size + 1)
    above = (np.count_nonzero(defined >= 0) + 1) / (defined.size + 1)
    return float(min(1.0, 2 * min(below, above)))
