"""The lung crop against scikit-image, and the lung mask against anatomy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure, morphology
from skimage.morphology import footprint_rectangle

from inference.anatomy import require_chest, require_lung
from inference.domain import BoundingBox, CtVolume, SliceReference
from inference.errors import NotAChestCt
from inference.lung_crop import (
    CropParameters,
    airway_and_lung,
    bounding_box,
    crop_lungs,
    crop_to_input,
)
from inference.volume import load_volume
from support.synthetic_ct import chest_hu

PAPER = CropParameters()


# --- the reference: the steps written down with scikit-image and scipy


def reference_mask(hu: np.ndarray, parameters: CropParameters) -> np.ndarray:
    element = footprint_rectangle((parameters.scaled(parameters.kernel_rows, hu.shape[1]), 1))
    body = hu >= parameters.threshold_hu
    outline = reference_outline(body)
    air = ~morphology.opening(body, element)
    labels = measure.label(air, connectivity=2)
    border = np.unique(np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inside = air & ~np.isin(labels, border) & outline
    holes = outline & ~body
    if inside.sum() < 0.75 * holes.sum():
        inside |= holes
    return morphology.opening(inside, element)


def reference_outline(body: np.ndarray) -> np.ndarray:
    """The body part that encloses most, its holes filled. Its outside is 4-connected."""
    labels = measure.label(body, connectivity=2)
    best = np.zeros_like(body)
    for part in measure.regionprops(labels):
        if part.area_bbox > best.sum():
            filled = ndimage.binary_fill_holes(labels == part.label)
            if filled.sum() > best.sum():
                best = filled
    return best


def reference_box(mask: np.ndarray, margin: int) -> tuple[int, int, int, int] | None:
    if not mask.any():
        return None
    top, left, bottom, right = measure.regionprops(mask.astype(int))[0].bbox
    rows, columns = mask.shape
    return (
        max(0, top - margin), max(0, left - margin),
        min(rows, bottom + margin), min(columns, right + margin),
    )  # fmt: skip


def assert_agrees(hu: np.ndarray, parameters: CropParameters) -> None:
    mask, expected = airway_and_lung(hu, parameters), reference_mask(hu, parameters)
    assert np.array_equal(mask, expected)
    margin = parameters.scaled(parameters.margin_px, hu.shape[1])
    box = bounding_box(mask, margin)
    assert (box and box.as_tuple()) == reference_box(expected, margin)


@pytest.mark.parametrize("matrix", [96, 256, 512])
def test_agrees_with_scikit_image_on_synthetic_slices(matrix):
    for plane in chest_hu(5, matrix=matrix, lesion=True):
        assert airway_and_lung(plane, PAPER).any()
        assert_agrees(plane, PAPER)


@pytest.mark.parametrize("kernel_rows", [1, 2, 3, 7, 8, 9])
def test_elements_of_even_and_odd_height_agree(kernel_rows):
    noise = np.random.default_rng(1).normal(-300, 400, (512, 512))
    hu = ndimage.gaussian_filter(noise, 3) * 4 + 900
    hu[:, :3] = -1000
    assert_agrees(hu.astype(np.int16), CropParameters(kernel_rows=kernel_rows))


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["covid/P001", "cap/cap001", "normal/normal001"])
def test_agrees_with_scikit_image_on_real_slices(series, folder):
    volume = load_volume(series(f"covid-ct-md/{folder}"))
    for plane in volume.hu[::6]:
        assert_agrees(plane, PAPER)


@pytest.mark.real_data
def test_agrees_with_scikit_image_on_other_vendors(series, real_data):
    files = [*series("lung-pet-ct-dx/siemens_A0002_B40f"), *series("covid-19-ny-sbu")]
    files += series("lung-pet-ct-dx/philips_A0001_5mm_part")
    for path in files:
        if "coronal" not in path.name:
            assert_agrees(load_volume([path]).hu[0], PAPER)


# --- what the steps are for


def two_lungs(matrix: int = 128) -> np.ndarray:
    hu = np.full((matrix, matrix), -1000, dtype=np.int16)
    hu[20:110, 10:118] = 40
    hu[35:95, 20:55] = -850
    hu[35:95, 73:108] = -850
    return hu


def test_a_table_is_no_wall_for_the_lungs():
    hu = two_lungs(512)
    hu[140:144] = 200  # a thin table from border to border below the body
    hu[160:164] = 200
    expected = np.zeros(hu.shape, dtype=bool)
    expected[35:95, 20:55] = expected[35:95, 73:108] = True
    assert np.array_equal(airway_and_lung(hu, PAPER), expected)


def test_a_hollow_table_is_no_lung():
    hu = two_lungs(512)
    hu[150:185, 20:200] = 300
    hu[160:175, 40:180] = -950
    assert not airway_and_lung(hu, PAPER)[150:].any()


def test_a_chest_wall_thinner_than_the_element_does_not_lose_the_lungs():
    hu = two_lungs(512)
    hu[20:31] = -1000  # four rows of wall are left above the lungs; the element has eight
    mask = airway_and_lung(hu, PAPER)
    assert mask[40:90, 25:50].all()
    assert mask[40:90, 78:103].all()


def test_sizes_scale_with_the_matrix():
    assert PAPER.scaled(8, 512) == 8
    assert PAPER.scaled(8, 1024) == 16
    assert PAPER.scaled(10, 256) == 5
    assert PAPER.scaled(8, 16) == 1


@pytest.mark.parametrize("value", [-1024, 40])
@pytest.mark.parametrize("shape", [(8, 8), (1, 64), (512, 512)])
def test_empty_slices_have_no_lung(value, shape):
    crop = crop_lungs(np.full((3, *shape), value, dtype=np.int16), (0.7, 0.7), PAPER)
    assert not crop.has_lung.any()
    assert not crop.mask.any()
    for box in crop.boxes:
        assert box.as_tuple() == (0, 0, *shape)


# --- the stack


def stack(areas: list[int]) -> np.ndarray:
    """Slices of 256 x 256 with two lungs of the given half height, 0 for none."""
    hu = np.full((len(areas), 256, 256), -1000, dtype=np.int16)
    hu[:, 20:236, 20:236] = 40
    noise = np.random.default_rng(0).normal(-850, 30, hu.shape).astype(np.int16)
    for index, half in enumerate(areas):
        for left in (40, 140):
            window = (index, slice(128 - half, 128 + half), slice(left, left + 70))
            hu[window] = noise[window]
    return hu


def test_slices_without_lung_take_the_box_between_their_neighbours():
    crop = crop_lungs(stack([0, 40, 0, 60, 0, 0]), (1.5, 1.5), PAPER)
    assert crop.has_lung.tolist() == [False, True, False, True, False, False]
    tops = [box.top for box in crop.boxes]
    margin = PAPER.scaled(10, 256)
    assert tops == [128 - 40 - margin] * 2 + [128 - 50 - margin] + [128 - 60 - margin] * 3


def test_without_any_lung_the_box_is_the_body():
    crop = crop_lungs(stack([0, 0]), (1.5, 1.5), PAPER)
    margin = PAPER.scaled(10, 256)
    assert crop.boxes[0].as_tuple() == (20 - margin, 20 - margin, 236 + margin, 236 + margin)


def test_gas_is_no_lung():
    hu = stack([40, 40, 40, 0, 0])
    hu[2:, 150:220, 60:130] = np.random.default_rng(0).normal(-985, 12, (3, 70, 70))
    crop = crop_lungs(hu, (1.5, 1.5), PAPER)
    assert crop.has_lung.tolist() == [True, True, True, False, False]
    assert not crop.mask[3:].any()


def test_a_lesion_inside_the_lung_counts_as_lung_the_liver_does_not():
    hu = stack([60, 60, 60])
    hu[1, 120:132, 60:72] = 30  # a consolidation, 18 mm
    hu[2, 100:150, 150:200] = 60  # the dome of the liver, 75 mm
    mask = crop_lungs(hu, (1.5, 1.5), PAPER).mask
    assert mask[1, 120:132, 60:72].all()
    assert not mask[2, 110:140, 160:190].any()


def test_the_lungs_do_not_grow_together():
    mask = crop_lungs(stack([60]), (1.5, 1.5), PAPER).mask[0]
    assert measure.label(mask).max() == 2


def test_progress_reaches_the_end():
    calls: list[tuple[str, int, int]] = []
    crop_lungs(stack([40, 40]), (1.5, 1.5), PAPER, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("crop", 4, 4)


def test_the_crop_is_resized_to_the_input():
    plane = np.add.outer(np.arange(100), np.arange(100)).astype(np.int16)
    small = CropParameters(input_size=32)
    resized = crop_to_input(plane, BoundingBox(10, 20, 74, 84), small)
    assert resized.shape == (32, 32)
    assert resized.dtype == np.int16
    # the mean of each 2 x 2 block
    assert resized[0, 0] == pytest.approx(10 + 20 + 1, abs=1)
    assert resized[-1, -1] == pytest.approx(73 + 83 - 1, abs=1)
    assert np.array_equal(crop_to_input(plane, BoundingBox(0, 0, 32, 32), small), plane[:32, :32])


# --- chest or not


def volume_of(hu: np.ndarray, pixel_mm: float, slice_mm: float | None) -> CtVolume:
    count = len(hu)
    step = slice_mm or 1.0
    return CtVolume(
        hu=hu,
        slices=tuple(SliceReference(f"1.{i}", "1.2") for i in range(count)),
        z_mm=-np.arange(count) * step,
        positions_mm=np.zeros((count, 3)),
        orientation=(1, 0, 0, 0, 1, 0),
        pixel_spacing_mm=(pixel_mm, pixel_mm),
        slice_spacing_mm=slice_mm,
    )


def check(hu: np.ndarray, pixel_mm: float, slice_mm: float | None) -> None:
    volume = volume_of(hu, pixel_mm, slice_mm)
    require_chest(volume, crop_lungs(volume.hu, volume.pixel_spacing_mm, PAPER))


def test_a_chest_is_a_chest():
    check(chest_hu(24, matrix=256), 400 / 256, 10.0)
    check(chest_hu(24, matrix=256), 400 / 256, None)


@pytest.mark.parametrize(("slice_mm", "words"), [(1.0, "0.5 litres"), (40.0, "litres")])
def test_lungs_of_an_impossible_volume_are_none(slice_mm, words):
    with pytest.raises(NotAChestCt, match=words):
        check(chest_hu(24, matrix=256), 400 / 256, slice_mm)


def test_one_lung_is_none():
    hu = stack([60] * 24)
    hu[:, :, 140:] = np.where(hu[:, :, 140:] < -500, 40, hu[:, :, 140:])
    # with something at the other side, too small for a lung
    hu[10, 120:140, 200:220] = -850
    with pytest.raises(NotAChestCt, match="two air-filled lungs"):
        check(hu, 1.5, 8.0)


@pytest.mark.real_data
def test_a_head_is_no_chest(real_data):
    volume = load_volume(
        sorted((real_data / "non-chest-negatives").glob("dcm_qa_ct_ge_head_?.dcm"))
    )
    crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, PAPER)
    with pytest.raises(NotAChestCt):
        require_lung(volume, crop)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "litres", "with_lung"),
    [("covid/P001", (5.5, 7), (130, 148)), ("cap/cap001", (5, 7), (140, 158)),
     ("normal/normal001", (3, 4.2), (120, 140))],
)  # fmt: skip
def test_real_lungs_have_the_volume_of_lungs(
    series: Callable, folder: str, litres: tuple[float, float], with_lung: tuple[int, int]
):
    volume = load_volume(series(f"covid-ct-md/{folder}"))
    crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, PAPER)
    require_chest(volume, crop)
    assert litres[0] < crop.mask.sum() * volume.voxel_ml / 1000 < litres[1]
    assert with_lung[0] <= crop.has_lung.sum() <= with_lung[1]
    # the lungs are one run of slices, but for the tips of the recesses
    changes = np.flatnonzero(np.diff(crop.has_lung.astype(int)))
    assert len(changes) <= 4


@pytest.mark.real_data
def test_radiologists_infected_slices_all_have_lung(cap001, real_data):
    """cap001's chest wall is thinner than the opening element in a tenth of its slices."""
    crop = crop_lungs(cap001.hu, cap001.pixel_spacing_mm, PAPER)
    assert crop.has_lung[12:140].all()
