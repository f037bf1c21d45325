"""Lesion percentage and distribution on volumes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from inference.burden import lesion_areas, measure
from inference.domain import CtVolume, SliceReference


def volume_of(
    shape: tuple[int, int, int], *, slice_mm: float | None = 2.0, mirrored: bool = False
) -> CtVolume:
    return CtVolume(
        hu=np.zeros(shape, dtype=np.int16),
        slices=tuple(SliceReference(f"1.{i}", "1.2") for i in range(shape[0])),
        z_mm=-2.0 * np.arange(shape[0]),
        positions_mm=np.zeros((shape[0], 3)),
        orientation=(-1 if mirrored else 1, 0, 0, 0, 1, 0),
        pixel_spacing_mm=(0.5, 1.0),
        slice_spacing_mm=slice_mm,
    )


@pytest.fixture
def lungs() -> np.ndarray:
    mask = np.zeros((30, 80, 100), dtype=bool)
    mask[3:27, 20:60, 10:40] = True
    mask[3:27, 20:60, 60:90] = True
    return mask


def test_percent_and_volumes(lungs):
    lesion = np.zeros(lungs.shape, dtype=np.float16)
    lesion[3:15, :, :50] = 0.9  # the upper half of one lung, and beyond it
    found = measure(volume_of(lungs.shape), lesion, lungs, 0.5)
    assert found.percent_of_lung == pytest.approx(25.0)
    assert found.lung_ml == pytest.approx(lungs.sum() * 0.5 * 1.0 * 2.0 / 1000)
    assert found.lesion_ml == pytest.approx(found.lung_ml / 4)


def test_the_threshold_is_exclusive(lungs):
    lesion = np.full(lungs.shape, 0.5, dtype=np.float16)
    lung_px, lesion_px = lesion_areas(lesion, lungs, 0.5)
    assert lesion_px.sum() == 0
    assert lung_px.tolist() == [0] * 3 + [2 * 40 * 30] * 24 + [0] * 3
    assert lesion_areas(lesion, lungs, 0.49)[1].sum() == lungs.sum()


def test_without_spacing_there_is_no_percentage_but_a_distribution(lungs):
    lesion = lungs.astype(np.float16)
    found = measure(volume_of(lungs.shape, slice_mm=None), lesion, lungs, 0.5)
    assert (found.percent_of_lung, found.lung_ml, found.lesion_ml) == (None, None, None)
    assert found.distribution is not None


def test_without_lesion_there_is_no_distribution(lungs):
    found = measure(volume_of(lungs.shape), np.zeros(lungs.shape, np.float16), lungs, 0.5)
    assert found.percent_of_lung == 0.0
    assert found.distribution is None


def test_without_lung():
    empty = np.zeros((4, 8, 8), dtype=bool)
    found = measure(volume_of(empty.shape), np.ones(empty.shape, np.float16), empty, 0.5)
    assert found.percent_of_lung is None


@pytest.mark.parametrize(("mirrored", "expected"), [(False, (1.0, 0.0)), (True, (0.0, 1.0))])
def test_low_columns_are_the_patients_right_unless_rows_run_the_other_way(
    lungs, mirrored, expected
):
    lesion = np.zeros(lungs.shape, dtype=np.float16)
    lesion[10:12, 20:60, 10:40] = 1
    found = measure(volume_of(lungs.shape, mirrored=mirrored), lesion, lungs, 0.5).distribution
    assert found.right_left == expected
    side = found.map[:, :32] if expected[0] else found.map[:, 32:]
    assert side.sum() == found.map.sum() > 0


def test_thirds_from_apex_to_base(lungs):
    lesion = np.zeros(lungs.shape, dtype=np.float16)
    lesion[4, 30, 20] = lesion[25, 30, 20] = lesion[26, 30, 20] = lesion[15, 30, 20] = 1
    found = measure(volume_of(lungs.shape), lesion, lungs, 0.5).distribution
    assert found.craniocaudal == (0.25, 0.25, 0.5)
    assert found.profile.shape == (30,)
    assert found.profile[4] == pytest.approx(1 / (2 * 40 * 30))


def test_rim_and_core(lungs):
    lesion = np.zeros(lungs.shape, dtype=np.float16)
    lesion[10, 20:23, 10:40] = 1  # along the pleura
    assert measure(volume_of(lungs.shape), lesion, lungs, 0.5).distribution.central_peripheral == (
        0.0, 1.0,
    )  # fmt: skip
    lesion[:] = 0
    lesion[10, 38:42, 22:28] = 1
    found = measure(volume_of(lungs.shape), lesion, lungs, 0.5).distribution
    assert found.central_peripheral == (1.0, 0.0)


def test_the_map_runs_from_apex_to_base(lungs):
    lesion = np.zeros(lungs.shape, dtype=np.float16)
    lesion[3:9] = 1  # the upper quarter of the lungs
    found = measure(volume_of(lungs.shape), lesion, lungs, 0.5).distribution
    assert found.map.shape == (64, 64)
    assert found.map.dtype == np.float32
    assert found.map[:14, :20].min() > 0.9
    assert found.map[18:].max() == 0
    assert found.map[:, 28:36].max() == 0  # mediastinum
    for shares in (found.right_left, found.craniocaudal, found.central_peripheral):
        assert sum(shares) == pytest.approx(1)
