"""M²UNet and JCS: they learn, become bundles, and are measured; masks come in from a SEG."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dicom_node.cli import bundle as bundle_cli
from dicom_node.cli import train as train_cli
from inference.domain import DiseaseClass, Lobe
from inference.jcs.bundle import load_jcs
from inference.jcs.network import JcsParameters
from inference.jcs.res2net import Res2NetParameters
from inference.lung_crop import CropParameters
from inference.m2unet.bundle import load_m2unet
from inference.m2unet.network import M2UNetParameters
from inference.volume import load_volume
from support.made_cache import make_cache
from training.cohort import CohortCache, build_cache, read_cohort, split_patients
from training.cohort.drawn_masks import read_masks
from training.errors import CacheError, CheckpointError
from training.phantom import Case, write_case
from training.recipe import Schedule, Stage, read_recipe, recipe_json
from training.schedule import learning_rate
from training.systems.evaluation import evaluate_system, system_of
from training.systems.export import export_jcs, export_m2unet
from training.systems.jcs_training import train_jcs
from training.systems.losses import lobe_loss, segmentation_loss
from training.systems.m2unet_training import train_m2unet
from training.systems.recipe import JcsRecipe, M2UNetRecipe
from training.systems.surface_distance import hausdorff95

CROP = CropParameters(input_size=64)
LOBES = M2UNetRecipe(
    net=M2UNetParameters(base_channels=4, patch_px=32, stride_px=32, hidden=8),
    stages=(Stage(0, 12),),
    schedule=Schedule(lr=0.02, kind="cosine"),
    batch=1,
    bag_slices=3,
    validation_slices=2,
)
PARTS = JcsParameters(
    res2net=Res2NetParameters(blocks=(1, 1, 1, 1), stem_channels=4, width=26, scales=4),
    classifier_px=32,
    vgg_base=4,
    frozen_norms=False,
)


def jcs_recipe(part: str, epochs: int) -> JcsRecipe:
    return replace(
        JcsRecipe.of(part),
        net=PARTS,
        stages=(Stage(0, epochs),),
        schedule=Schedule(lr=0.003, kind="poly"),
        optimizer="adam",
        batch=4,
        slices_per_epoch=24,
        validation_slices=3,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> CohortCache:
    folder = tmp_path_factory.mktemp("cache") / "made"
    parts = {"train": 2, "validation": 1}
    return make_cache(folder, size=64, slices=6, parts=parts, masks=True, lobes=True)


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_m2unet_learns_lobes_and_becomes_a_bundle(cache, tmp_path):
    run = train_m2unet(cache, tmp_path / "run", LOBES)
    lines = history(run)
    assert lines[-1]["lobe_dice"] > 0.3  # chance is 0.1
    assert lines[-1]["loss_lobes"] < 0.7 * lines[0]["loss_lobes"]
    assert 0 <= lines[-1]["severity_auc"] <= 1
    assert train_m2unet(cache, tmp_path / "run", LOBES) == run  # it had ended
    manifest = export_m2unet(run, tmp_path / "bundle", name="lobes", version="1")
    loaded = load_m2unet(tmp_path / "bundle")
    assert loaded.manifest == manifest
    assert manifest.preprocessing.crop.input_size == 64
    assert manifest.training_data.patients["covid19"] == 2
    assert system_of(tmp_path / "bundle") == "m2unet"
    with pytest.raises(CheckpointError, match="m2unet"):
        export_jcs(run, run, tmp_path / "no", name="x", version="1")


def test_m2unet_says_what_a_cohort_lacks(tmp_path):
    bare = make_cache(tmp_path / "bare", size=64, slices=6, parts={"train": 1, "validation": 1})
    with pytest.raises(CacheError, match="lobes are known"):
        train_m2unet(bare, tmp_path / "run", LOBES)
    with pytest.raises(CacheError, match="severe"):
        train_m2unet(bare, tmp_path / "run2", replace(LOBES, lobe_weight=0.0))


def test_jcs_learns_in_three_steps_and_becomes_a_bundle(cache, tmp_path):
    runs = {}
    for part, epochs in (("classification", 4), ("segmentation", 6)):
        runs[part] = train_jcs(cache, tmp_path / part, jcs_recipe(part, epochs))
    assert history(runs["classification"])[-1]["slice_auc"] > 0.6
    lines = history(runs["segmentation"])
    assert lines[-1]["loss"] < lines[0]["loss"]
    with pytest.raises(CheckpointError, match="starts from"):
        train_jcs(cache, tmp_path / "no", jcs_recipe("joint", 1))
    joint = train_jcs(cache, tmp_path / "joint", jcs_recipe("joint", 2), **runs)
    names = {"name": "outlines", "version": "1"}
    apart = export_jcs(*runs.values(), tmp_path / "apart", **names)
    together = export_jcs(*runs.values(), tmp_path / "together", joint=joint, **names)
    assert not apart.architecture.joint
    assert together.architecture.joint
    assert together.positive == ("covid19",)
    one, two = load_jcs(tmp_path / "apart").net, load_jcs(tmp_path / "together").net
    for name, value in one.classifier.state_dict().items():  # it stays as it was
        torch.testing.assert_close(two.classifier.state_dict()[name], value)


def test_the_published_recipes_survive_their_json():
    for part in ("classification", "segmentation", "joint"):
        recipe = JcsRecipe.of(part)
        assert read_recipe(recipe_json(recipe), JcsRecipe) == recipe
    segmentation = JcsRecipe.of("segmentation")
    assert (segmentation.batch, segmentation.optimizer) == (1, "adam")
    assert (segmentation.schedule.lr, segmentation.weight_decay) == (2.5e-5, 1e-4)
    assert read_recipe(recipe_json(M2UNetRecipe()), M2UNetRecipe) == M2UNetRecipe()


def test_poly_falls_to_nothing_at_the_end():
    schedule, stages = Schedule(lr=1.0, kind="poly"), (Stage(0, 10),)
    assert learning_rate(schedule, stages, 0, 0, 4) == 1.0
    assert learning_rate(schedule, stages, 5, 0, 4) == pytest.approx(0.5**0.9)
    assert learning_rate(schedule, stages, 9, 3, 4) == pytest.approx((1 / 40) ** 0.9)


def test_losses_are_smallest_at_the_truth():
    labels = torch.randint(0, 6, (2, 8, 8))
    right = 20.0 * torch.nn.functional.one_hot(labels, 6).movedim(-1, 1).float()
    entropy, dice = lobe_loss(right, labels)
    assert float(entropy) < 1e-3
    assert float(dice) < 1e-3
    assert float(lobe_loss(-right, labels)[1]) > 0.5
    truth = (torch.rand(2, 8, 8) > 0.5).float()
    said = 40 * truth - 20
    assert float(segmentation_loss([said] * 5, truth)) < 1e-3
    assert float(segmentation_loss([-said], truth)) > 10


def test_the_hausdorff_distance_is_that_of_all_pairs():
    random = np.random.default_rng(0)
    a, b = np.zeros((6, 9, 9), bool), np.zeros((6, 9, 9), bool)
    a[1:4, 2:7, 2:6] = True
    b[2:5, 3:8, 1:5] = True
    b &= random.random(b.shape) > 0.1
    spacing = (2.0, 0.5, 0.7)

    def surface(mask: np.ndarray) -> np.ndarray:
        found = []
        for place in np.argwhere(mask):
            for axis in range(3):
                for step in (-1, 1):
                    near = place.copy()
                    near[axis] += step
                    if not (0 <= near[axis] < mask.shape[axis]) or not mask[tuple(near)]:
                        found.append(tuple(place))
        return np.array(sorted(set(found))) * spacing

    one, two = surface(a), surface(b)
    apart = np.linalg.norm(one[:, None] - two[None], axis=2)
    wanted = max(np.percentile(apart.min(axis=1), 95), np.percentile(apart.min(axis=0), 95))
    assert hausdorff95(a, b, spacing) == pytest.approx(wanted)
    assert hausdorff95(a, a, spacing) == 0
    assert np.isnan(hausdorff95(a, np.zeros_like(a), spacing))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with truth, two of each class."""
    folder = tmp_path_factory.mktemp("cases")
    rows = ["patient_id,series_path,label,truth_path"]
    for number in range(8):
        label = list(DiseaseClass)[number % 4]
        severity = {1: 5.0, 2: 5.0, 3: 50.0}.get(number % 4)
        case = Case(
            label, 60 + number, slices=20, slice_mm=12.0, rows=64, severity_percent=severity
        )
        write_case(case, folder / f"p{number}")
        rows.append(f"p{number},p{number}/series,{label.key},p{number}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_lobes_and_severity_of_phantoms_are_cached(cases, tmp_path):
    cohort = read_cohort(cases / "cohort.csv")
    split = split_patients(cohort, fractions=(0.5, 0.5, 0.0))
    build_cache(cohort, split, tmp_path / "cache", CROP, workers=1)
    cache = CohortCache.open(tmp_path / "cache", verify=True)
    for patient in cache.patients:
        assert patient.has_lobes
        truth = json.loads((cases / patient.patient_id / "truth.json").read_text())
        assert patient.severe is truth["severe"]
        lobes, crops = cache.lobes(patient), cache.crops(patient)
        assert lobes.shape == crops.shape
        assert set(np.unique(lobes)) <= set(range(6))
        assert (crops[lobes > 0] < -300).mean() > 0.5
        # as displayed, the patient's right is at the left
        columns = np.arange(64)[None, None]
        right = (lobes > 0) & (lobes <= Lobe.RIGHT_LOWER)
        left = lobes > Lobe.RIGHT_LOWER
        assert (right * columns).sum() / right.sum() < (left * columns).sum() / left.sum()


def test_both_systems_are_measured_and_go_on_where_they_were(cache, cases, tmp_path):
    run = train_m2unet(cache, tmp_path / "lobes", replace(LOBES, stages=(Stage(0, 1),)))
    export_m2unet(run, tmp_path / "m2unet", name="lobes", version="1")
    found = evaluate_system(
        tmp_path / "m2unet", cases / "cohort.csv", tmp_path / "out", replicates=20
    )
    assert found.patients == 8
    assert 0 <= found.figures["dice.mean"].value <= 1
    assert found.figures["severity.auc"].value is not None
    kept = sorted((tmp_path / "out" / "patients").iterdir())
    assert len(kept) == 8
    times = [path.stat().st_mtime_ns for path in kept]
    again = evaluate_system(
        tmp_path / "m2unet", cases / "cohort.csv", tmp_path / "out", replicates=20
    )
    assert again == found
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_masks_come_in_from_a_dicom_seg(cases, tmp_path):
    from support.drawn_seg import write_seg  # highdicom

    series = sorted((cases / "p3" / "series").glob("*.dcm"))
    volume = load_volume(series)
    rows = read_cohort(cases / "cohort.csv").rows
    truth = read_masks(rows[3], volume)
    lesion, lobes = truth.lesion, truth.lobes
    write_seg(tmp_path / "seg.dcm", series, volume, lesion, lobes)
    read = read_masks(replace(rows[3], truth_path=tmp_path / "seg.dcm", severe=True), volume)
    assert read.severe is True
    np.testing.assert_array_equal(read.lesion, lesion)
    np.testing.assert_array_equal(read.lobes, lobes)


def test_the_command_line_trains_makes_and_shows(cache, tmp_path):
    def run(app, *words: str) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    lobes = ["--base-channels", "4", "--patch-px", "32", "--stride-px", "32", "--epochs", "1"]
    run(train_cli.app, "m2unet", "--cohort", cache.directory, "--out", tmp_path / "run", *lobes)
    names = ["--name", "lobes", "--version", "1", "--out", tmp_path / "bundle"]
    run(bundle_cli.app, "make-m2unet", "--run", tmp_path / "run", *names)
    assert "All digests are right" in run(bundle_cli.app, "show", tmp_path / "bundle")
    wrong = CliRunner().invoke(
        train_cli.app,
        ["jcs", "--part", "segmentation", "--cohort", str(cache.directory), "--positive", "flu",
         "--out", str(tmp_path / "no")],
    )  # fmt: skip
    assert wrong.exit_code == 2
    wrong = CliRunner().invoke(
        train_cli.app,
        ["m2unet", "--cohort", str(cache.directory), "--patch-px", "33",
         "--out", str(tmp_path / "no")],
    )  # fmt: skip
    assert wrong.exit_code == 2
