"""The rule of the paper's appendix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.domain import DiseaseClass
from inference.nonparametric import assess, combine


@given(st.lists(st.tuples(st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=4, max_size=4)),
                min_size=1, max_size=40))  # fmt: skip
def test_agrees_with_the_formula(slices):
    lesion = np.array([p for p, _ in slices], dtype=np.float32)
    classes = np.array([np.array(c) / sum(c) for _, c in slices], dtype=np.float32)
    joined = combine(lesion, classes)
    counts = [0, 0, 0, 0]
    for p, c, row in zip(lesion, classes, joined, strict=True):
        expected = [(1 - p) + p * c[0], p * c[1], p * c[2], p * c[3]]
        assert row == pytest.approx(expected, abs=1e-6)
        counts[int(np.argmax(row))] += 1
    found = assess(lesion, classes)
    assert list(found.counts) == counts
    if counts[0] / len(slices) > 0.99:
        assert found.predicted is DiseaseClass.HEALTHY
    else:
        assert found.counts[found.predicted] == max(counts[1:])
        assert found.predicted is not DiseaseClass.HEALTHY


def scores(*wanted: int) -> tuple[np.ndarray, np.ndarray]:
    classes = np.eye(4, dtype=np.float32)[list(wanted)]
    return (np.array(wanted) > 0).astype(np.float32), classes


@pytest.mark.parametrize(("sick", "predicted"), [(0, DiseaseClass.HEALTHY), (1, DiseaseClass.H1N1)])
def test_one_slice_of_100_makes_a_patient(sick, predicted):
    found = assess(*scores(*[0] * (100 - sick), *[2] * sick))
    assert found.predicted is predicted
    assert found.counts == (100 - sick, 0, sick, 0)


def test_one_slice_of_101_does_not():
    assert assess(*scores(*[0] * 100, 3)).predicted is DiseaseClass.HEALTHY


def test_the_largest_disease_wins():
    assert assess(*scores(0, 0, 0, 1, 3, 3)).predicted is DiseaseClass.CAP
