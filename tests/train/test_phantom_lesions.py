"""Each disease shows the distribution that the literature describes."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inference.domain import DiseaseClass
from training.phantom import Case, Family
from training.phantom.artefacts import draw_motion
from training.phantom.patches import (
    CAVITY,
    CONSOLIDATION,
    CRAZY_PAVING,
    EFFUSION,
    GROUND_GLASS,
    NODULE,
)
from training.phantom.shares import Shares

SEEDS = range(60, 67)
SLICES, SLICE_MM, ROWS = 117, 2.0, 96
EVERY = range(0, SLICES, 8)  # thin slices, some of them: quicker than thick ones


@functools.cache
def lesions(label: DiseaseClass) -> list[dict[str, NDArray[np.generic]]]:
    found = []
    for seed in SEEDS:
        case = Case(label, seed, slices=SLICES, slice_mm=SLICE_MM, rows=ROWS, severity_percent=8.0)
        slices = [case.draw(index) for index in EVERY]
        found.append(
            {
                "lesion": np.stack([one.lesion for one in slices]),
                "lobes": np.stack([one.lobes for one in slices]),
                "hu": np.stack([one.hu for one in slices]),
                "pixel_mm": np.float64(case.scanner.pixel_mm),
                "bronchograms": np.bool_(case.has_bronchograms),
            }
        )
    return found


def scored(lesion: NDArray[np.generic]) -> NDArray[np.bool_]:
    return np.asarray((lesion > 0) & (lesion != EFFUSION))


def depth_from_pleura(case: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    planes = (case["lobes"] > 0).astype(np.uint8)
    distance = [
        cv2.distanceTransform(plane, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for plane in planes
    ]
    return np.stack(distance) * np.float32(case["pixel_mm"])


def mean_depth_mm(label: DiseaseClass) -> float:
    return float(
        np.mean([depth_from_pleura(case)[scored(case["lesion"])].mean() for case in lesions(label)])
    )


def share_below_the_middle(label: DiseaseClass) -> float:
    shares = []
    for case in lesions(label):
        mask = scored(case["lesion"])
        heights = np.nonzero(case["lobes"].any(axis=(1, 2)))[0]
        middle = (heights[0] + heights[-1]) / 2
        shares.append((np.nonzero(mask)[0] > middle).mean())
    return float(np.mean(shares))


def lobes_with_lesion(case: dict[str, NDArray[np.generic]]) -> int:
    lobes = case["lobes"][scored(case["lesion"])]
    return int((np.bincount(lobes, minlength=6)[1:] > 0.03 * len(lobes)).sum())


def test_covid19_is_peripheral_low_and_bilateral() -> None:
    assert mean_depth_mm(DiseaseClass.COVID19) < 0.8 * mean_depth_mm(DiseaseClass.H1N1)
    assert share_below_the_middle(DiseaseClass.COVID19) > 0.6
    sides = [
        set(np.unique(case["lobes"][scored(case["lesion"])] > 3))
        for case in lesions(DiseaseClass.COVID19)
    ]
    assert sum(len(side) == 2 for side in sides) > 0.7 * len(SEEDS)


def test_covid19_is_ground_glass_before_consolidation() -> None:
    together = np.concatenate([case["lesion"].ravel() for case in lesions(DiseaseClass.COVID19)])
    counts = np.bincount(together, minlength=7)
    haze = counts[GROUND_GLASS] + counts[CRAZY_PAVING]
    assert haze > 1.5 * counts[CONSOLIDATION] > 0
    assert counts[CRAZY_PAVING] > 0


def test_ground_glass_lets_vessels_show_and_consolidation_hides_them() -> None:
    inside, outside, solid = [], [], []
    for case in lesions(DiseaseClass.COVID19) + lesions(DiseaseClass.CAP):
        lung = (case["lobes"] > 0) & (depth_from_pleura(case) > 4)
        inside.append(case["hu"][lung & (case["lesion"] == GROUND_GLASS)])
        solid.append(case["hu"][lung & (case["lesion"] == CONSOLIDATION)])
        outside.append(case["hu"][lung & (case["lesion"] == 0)])
    haze, healthy, dense = (np.concatenate(one) for one in (inside, outside, solid))
    assert np.median(healthy) + 100 < np.median(haze) < -350
    assert np.percentile(haze, 98) > np.median(haze) + 200  # vessels in it
    assert np.median(dense) > -150


def test_cap_keeps_to_few_lobes_and_h1n1_to_several() -> None:
    few = [lobes_with_lesion(case) for case in lesions(DiseaseClass.CAP)]
    several = [lobes_with_lesion(case) for case in lesions(DiseaseClass.H1N1)]
    assert max(few) <= 2
    assert few.count(1) >= len(SEEDS) / 2
    assert np.mean(several) > np.mean(few) + 0.8


def test_cap_ends_at_the_fissure() -> None:
    """Right across a fissure from consolidation lies healthy lung."""
    for case in lesions(DiseaseClass.CAP):
        mask, lobes = scored(case["lesion"]), case["lobes"]
        ill = set(np.unique(lobes[mask]))
        for other in set(range(1, 6)) - ill:
            assert not mask[lobes == other].any()


def test_cap_has_fluid_and_open_bronchi_in_some_and_others_have_none() -> None:
    wet = [bool((case["lesion"] == EFFUSION).any()) for case in lesions(DiseaseClass.CAP)]
    assert 1 <= sum(wet) <= 6
    assert any(case["bronchograms"] for case in lesions(DiseaseClass.CAP))
    for label in (DiseaseClass.HEALTHY, DiseaseClass.COVID19, DiseaseClass.H1N1):
        assert not any((case["lesion"] == EFFUSION).any() for case in lesions(label))


def test_h1n1_has_consolidation_and_nodules() -> None:
    together = np.concatenate([case["lesion"].ravel() for case in lesions(DiseaseClass.H1N1)])
    counts = np.bincount(together, minlength=7)
    assert counts[NODULE] > 0
    assert counts[CONSOLIDATION] > 0.5 * counts[GROUND_GLASS]
    assert counts[CAVITY] == 0


def test_a_cavity_holds_air_and_is_in_cap_only() -> None:
    cases = (
        Case(DiseaseClass.CAP, seed, slices=117, slice_mm=2.0, rows=96, severity_percent=20.0)
        for seed in range(200, 240)
    )
    case = next(case for case in cases if case.has_cavity)
    slices = [case.draw(index) for index in range(0, 117, 3)]
    air = np.concatenate([one.hu[one.lesion == CAVITY] for one in slices])
    assert len(air) > 10
    assert air.min() < -600
    for label in (DiseaseClass.COVID19, DiseaseClass.H1N1):
        assert not any((one["lesion"] == CAVITY).any() for one in lesions(label))


def test_healthy_people_have_findings_too() -> None:
    moves = set().union(*(draw_motion(seed, Family.TRAINING, Shares()).names for seed in range(60)))
    assert moves == {"pulsation", "breathing", "respiratory_drift"}
    findings = set().union(
        *(Case(DiseaseClass.HEALTHY, seed, rows=64).artefacts for seed in range(14))
    )
    assert findings - moves == {
        "emphysema", "dependent_atelectasis", "scars", "nodules", "uneven_ventilation",
    }  # fmt: skip


def test_findings_do_not_depend_on_the_disease() -> None:
    """Otherwise a network could read the class off them."""
    for seed in (1, 2):
        kinds = {Case(label, seed, rows=64, family=Family.TEST).artefacts for label in DiseaseClass}
        assert len(kinds) == 1


@pytest.mark.parametrize("label", list(DiseaseClass))
def test_lesions_change_nothing_but_lungs(label: DiseaseClass) -> None:
    healthy = Case(DiseaseClass.HEALTHY, 5, slices=SLICES, slice_mm=SLICE_MM, rows=ROWS).draw(60)
    ill = Case(label, 5, slices=SLICES, slice_mm=SLICE_MM, rows=ROWS).draw(60)
    apart = cv2.dilate((healthy.lung | ill.lung).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert np.array_equal(healthy.hu[apart], ill.hu[apart])
