"""Lesions that have been drawn: in the cache, in a batch, and in the loss of the location map."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.domain import DiseaseClass
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters
from inference.volume import load_volume
from support.made_cache import make_cache
from training.augmentation import augment
from training.cohort import CohortCache, build_cache, read_cohort, split_patients
from training.cohort.cache_build import network_view
from training.draw import sample_rng
from training.errors import CacheError
from training.location_loss import location_loss
from training.phantom import Case, write_case
from training.recipe import Augmentation, Schedule, SliceRecipe, Stage
from training.slice_batches import SliceTable, load_slices
from training.slices import train_slices

CROP = CropParameters(input_size=64)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small phantoms of each class with their truth, and the cohort's CSV."""
    folder = tmp_path_factory.mktemp("cases")
    rows = ["patient_id,series_path,label,truth_path"]
    for number in range(8):
        label = list(DiseaseClass)[number % 4]
        case = Case(label, 40 + number, slices=20, slice_mm=12.0, rows=64)
        write_case(case, folder / f"p{number}")
        rows.append(f"p{number},p{number}/series,{label.key},p{number}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_mask_is_cropped_as_its_slice_is(cases: Path) -> None:
    volume = load_volume(sorted((cases / "p1" / "series").glob("*.dcm")))
    lesion = volume.hu > -300  # whatever the slices show tells where it is
    plain = network_view(volume, CROP, lesion)
    assert plain.lesion_shares is not None
    assert 0.2 < (plain.lesion_shares > 127).mean() < 0.9
    assert ((plain.lesion_shares > 127) == (plain.crops > -300)).mean() > 0.97
    turned = replace(
        volume,
        hu=np.ascontiguousarray(volume.hu[:, :, ::-1]),
        orientation=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )
    mirrored = network_view(turned, CROP, np.ascontiguousarray(lesion[:, :, ::-1]))
    assert mirrored.lesion_shares is not None
    apart = np.abs(mirrored.lesion_shares.astype(int) - plain.lesion_shares)
    assert apart.mean() < 3


def test_the_cache_keeps_the_masks_of_a_cohort_with_truth(cases: Path, tmp_path: Path) -> None:
    cohort = read_cohort(cases / "cohort.csv")
    split = split_patients(cohort, fractions=(0.5, 0.5, 0.0))
    build_cache(cohort, split, tmp_path / "cache", CROP, workers=1)
    cache = CohortCache.open(tmp_path / "cache", verify=True)
    for patient in cache.patients:
        assert patient.has_masks
        shares = cache.lesion_shares(patient)
        assert shares.shape == cache.crops(patient).shape
        assert shares.dtype == np.uint8
        truth = json.loads((cases / patient.patient_id / "truth.json").read_text())
        drawn = [truth["slices"][number]["lesion_px"] for number in patient.slice_number]
        for plane, pixels in zip(shares, drawn, strict=True):
            assert pixels > 0 or not plane.any()
            assert plane.any() or pixels < 10  # a few pixels may fall between those of the crop
        if patient.label == DiseaseClass.HEALTHY:
            assert not shares.any()


def test_an_altered_mask_is_found(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", masks=True)
    path = next((cache.directory / "patients").glob("*/lesion.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CacheError, match=r"lesion\.npy"):
        CohortCache.open(cache.directory)


def test_a_mask_moves_with_its_slice() -> None:
    y, x = np.mgrid[0:96, 0:96]
    blob = (np.hypot(y - 30, x - 60) < 14).astype(np.float32)
    moving = replace(Augmentation(), flip_columns=1.0, zoom=0.2, rotate_deg=25.0, shift=0.1)
    for number in range(20):
        plane, _, mask = augment(blob * 100, moving, sample_rng(3, 0, number), blob * 255)
        assert mask is not None
        assert np.abs(plane / 100 - mask / 255).max() < 1e-3


def test_a_batch_brings_the_lesion_at_each_place_of_the_map(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", masks=True)
    patients = cache.patients_of("train")
    table = SliceTable.of(patients, [patient.slice_lesion for patient in patients])
    still = Augmentation(flip_columns=0.0, flip_rows=0.0)
    indices = np.arange(len(table))
    positions = range(len(table))
    common = {"size": 64, "augmentation": still, "seed": 0, "epoch": 0}
    batch = load_slices(cache, patients, table, indices, positions, masks=True, **common)
    assert batch.lesion_share is not None
    assert batch.lesion_share.shape == (len(table), 4, 4)
    shows = batch.lesion_share.amax(dim=(1, 2)) > 0
    assert torch.equal(shows, batch.lesion == 1)
    assert load_slices(cache, patients, table, indices, positions, **common).lesion_share is None
    unknown = make_cache(tmp_path / "other")
    patients = unknown.patients_of("train")
    batch = load_slices(unknown, patients, table, indices, positions, masks=True, **common)
    assert batch.lesion_share is not None
    known = batch.lesion_share.amin(dim=(1, 2)) >= 0
    assert torch.equal(known, batch.label == int(DiseaseClass.HEALTHY))


def loss_by_pairs(score: np.ndarray, share: np.ndarray) -> float:
    outside = [s for plane, drawn in zip(score, share, strict=True) for s in plane[drawn == 0]]
    of_slices = []
    for plane, drawn in zip(score, share, strict=True):
        inside = plane[(drawn >= drawn.max() / 2) & (drawn > 0.05)]
        if len(inside):
            each = [np.mean([np.log1p(np.exp(o - i)) for o in outside]) for i in inside]
            of_slices.append(np.mean(each))
    return float(np.mean(of_slices))


def test_the_loss_of_the_location_map_by_hand() -> None:
    random = np.random.default_rng(1)
    score = random.normal(0, 2, (5, 4, 4))
    share = np.where(random.random((5, 4, 4)) < 0.3, random.random((5, 4, 4)), 0.0)
    share[1], share[2] = 0.0, -1.0  # a healthy slice, and one that nobody has drawn on
    found = location_loss(torch.sigmoid(torch.from_numpy(score))[:, None], torch.from_numpy(share))
    assert float(found) == pytest.approx(loss_by_pairs(score, share), rel=1e-4)
    nothing = location_loss(torch.rand(2, 1, 4, 4), torch.zeros(2, 4, 4))
    assert float(nothing) == 0.0


def test_training_with_masks_teaches_the_map(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", masks=True)
    recipe = SliceRecipe(
        net=SliceNetParameters("resnet18"),
        stages=(Stage(64, 3),),
        schedule=Schedule(lr=0.02, kind="cosine"),
        batch=16,
        mask_weight=1.0,
    )
    train_slices(cache, tmp_path / "run", recipe, device="cpu")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss_location"] for line in lines]
    assert losses[-1] < 0.5 * losses[0] < 1.0
    with pytest.raises(CacheError, match="holds no masks"):
        train_slices(make_cache(tmp_path / "bare"), tmp_path / "other", recipe, device="cpu")
    with pytest.raises(ValueError, match="mode lesion"):
        replace(recipe, net=SliceNetParameters("resnet18", location_mode="predicted"))
