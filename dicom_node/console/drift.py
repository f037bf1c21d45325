"""Whether what is read now looks like before: scanners, kernels, slices, and the scores.

Compared by the population stability index (PSI), the sum over all bins of the difference of the
shares times the logarithm of their ratio. Usual limits are 0.1 and 0.25. Few series give a large
index by chance alone, so what chance gives in one case of a hundred counts as "like before".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dicom_node.ledger.readings import ReadingNumbers
from inference.domain import DiseaseClass
from inference.reference import MEASURES, Reference, histogram

__all__ = ["Comparison", "Share", "compare", "stability_index"]

FEWEST = 30  # series on either side; with less nothing is said
_LITTLE, _MUCH = 0.1, 0.25
_MOST_CATEGORIES = 8
_Z_99 = 2.326  # of the standard normal distribution
_NOT_STATED = "not stated"

_LABELS = {disease.key: disease.label for disease in DiseaseClass}
_TITLES = {
    "scanner": "Scanner",
    "kernel": "Convolution kernel",
    "thickness": "Slice thickness",
    **{f"probability.{key}": f"Probability of {label}" for key, label in _LABELS.items()},
    "lesion_probability": "Lesion probability (greatest of a slice)",
    "lesion_percent": "Lesion, percent of the lung",
}


@dataclass(frozen=True, slots=True)
class Share:
    """One bin: its name, and the share of series in it, now and before, 0 to 1."""

    name: str
    now: float
    before: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One trait or score, now and before.

    Attributes
    ----------
    verdict : str
        "like before", "a little shifted", "shifted", or "too few to say".
    tone : str
        good, wait, bad or quiet.
    words : str
        What changed most.
    index : float or None
        The population stability index; None with too few series.
    """

    key: str
    title: str
    verdict: str
    tone: str
    words: str
    index: float | None
    count_now: int
    count_before: int
    shares: tuple[Share, ...]


def compare(
    now: Sequence[ReadingNumbers],
    before: Sequence[ReadingNumbers],
    reference: Reference | None = None,
) -> list[Comparison]:
    """Compare readings with those before, or with the reference of the bundle where it has one.

    Parameters
    ----------
    reference : Reference or None
        What it does not hold is compared with `before`.
    """
    found = []
    for key, of_reading in _CATEGORIES.items():
        counts = Counter(of_reading(item) for item in now)
        known = Counter(of_reading(item) for item in before)
        if reference is not None and reference.categories.get(key):
            known = Counter(reference.categories[key])
        found.append(_comparison(key, *_categories(counts, known)))
    for key, edges in MEASURES.items():
        values, former = _values(now, key), _values(before, key)
        given = None if reference is None else reference.measures.get(key)
        then = given or histogram(former, edges)
        present = histogram(values, then.edges)
        names = [f"{low:g} to {high:g}" for low, high in pairwise(then.edges)]
        found.append(_comparison(key, names, present.counts, then.counts))
    return found


def stability_index(now: Sequence[int], before: Sequence[int]) -> float:
    """Return the PSI of two counts over the same bins; half a series is added to each bin."""
    bins = len(now)
    total_now, total_before = sum(now) + 0.5 * bins, sum(before) + 0.5 * bins
    found = 0.0
    for one, other in zip(now, before, strict=True):
        share, former = (one + 0.5) / total_now, (other + 0.5) / total_before
        found += (share - former) * math.log(share / former)
    return found


def by_chance(bins: int, count_now: int, count_before: int) -> float:
    """Return the PSI that two samples of one population exceed in one case of a hundred.

    It is nearly distributed as chi squared with ``bins - 1`` degrees of freedom times
    ``1/n + 1/m``; the quantile is Wilson and Hilferty's approximation.
    """
    degrees = bins - 1
    if degrees < 1:
        return 0.0
    part = 2.0 / (9.0 * degrees)
    quantile = degrees * (1.0 - part + _Z_99 * math.sqrt(part)) ** 3
    return quantile * (1.0 / count_now + 1.0 / count_before)


def _comparison(
    key: str, names: Sequence[str], now: Sequence[int], before: Sequence[int]
) -> Comparison:
    count_now, count_before = sum(now), sum(before)
    shares = tuple(
        Share(name, one / max(1, count_now), other / max(1, count_before))
        for name, one, other in zip(names, now, before, strict=True)
    )
    index: float | None = None
    verdict, tone, words = "too few to say", "quiet", ""
    if min(count_now, count_before) >= FEWEST:
        index = stability_index(now, before)
        filled = sum(bool(one or other) for one, other in zip(now, before, strict=True))
        chance = by_chance(filled, count_now, count_before)
        if index > max(_MUCH, chance):
            verdict, tone = "shifted", "bad"
        elif index > max(_LITTLE, chance):
            verdict, tone = "a little shifted", "wait"
        else:
            verdict, tone = "like before", "good"
        most = max(shares, key=lambda share: abs(share.now - share.before))
        if tone != "good":
            words = f"{most.name}: {100 * most.now:.0f} % now, {100 * most.before:.0f} % before"
    return Comparison(
        key, _TITLES[key], verdict, tone, words, index, count_now, count_before, shares
    )


def _categories(
    now: Mapping[str, int], before: Mapping[str, int]
) -> tuple[list[str], list[int], list[int]]:
    """Return the most frequent names, the rest as one, and the counts of both."""
    both = Counter(now) + Counter(before)
    names = [name for name, _ in sorted(both.items(), key=lambda item: (-item[1], item[0]))]
    kept, rest = names[:_MOST_CATEGORIES], names[_MOST_CATEGORIES:]
    counts = [[side.get(name, 0) for name in kept] for side in (now, before)]
    if rest:
        kept = [*kept, "others"]
        for side, found in zip((now, before), counts, strict=True):
            found.append(sum(side.get(name, 0) for name in rest))
    return kept, counts[0], counts[1]


def _scanner(item: ReadingNumbers) -> str:
    parts = (item.traits.manufacturer, item.traits.model)
    return " ".join(part for part in parts if part) or _NOT_STATED


def _thickness(item: ReadingNumbers) -> str:
    found = item.traits.thickness_mm
    return _NOT_STATED if found is None else f"{round(found, 2):g} mm"


_CATEGORIES: Mapping[str, Callable[[ReadingNumbers], str]] = {
    "scanner": _scanner,
    "kernel": lambda item: item.traits.kernel or _NOT_STATED,
    "thickness": _thickness,
}


def _values(readings: Sequence[ReadingNumbers], key: str) -> list[float]:
    kind, _, disease = key.partition(".")
    found: list[float | None]
    if kind == "probability":
        found = [item.probabilities.get(disease) for item in readings]
    elif kind == "lesion_probability":
        found = [item.lesion_probability for item in readings]
    else:
        found = [item.lesion_percent for item in readings]
    return [value for value in found if value is not None]
