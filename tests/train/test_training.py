"""Training: it learns, it goes on exactly after a kill, it stops when the loss is no number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18
from typer.testing import CliRunner

from dicom_node.cli import train as train_cli
from inference.bundle import load_bundle
from inference.domain import DiseaseClass, Training
from inference.patient_net import PatientNetParameters
from inference.slice_net import SliceNet, SliceNetParameters
from inference.windowing import WindowParameters, apply_window, normalize
from support.made_cache import make_cache
from support.ports import free_port
from training.augmentation import augment, resize_crop
from training.cohort import CohortCache
from training.draw import draw_epoch, sample_rng
from training.errors import CacheError, CheckpointError, LossDiverged
from training.export import export_bundle
from training.features import slice_features
from training.joint import train_joint
from training.loop import TrainingProgress
from training.patients import load_slice_net, pad_features, train_patients
from training.recipe import (
    Augmentation,
    JointRecipe,
    PatientRecipe,
    Schedule,
    SliceRecipe,
    Stage,
    parse_stages,
    read_recipe,
    recipe_json,
)
from training.run_folder import read_record
from training.schedule import learning_rate
from training.slice_batches import NO_CLASS, SliceTable, to_input
from training.slice_validation import area_under_curve
from training.slices import train_slices
from training.weak_labels import label_anew

REPOSITORY = Path(__file__).resolve().parents[2]
NET = SliceNetParameters(backbone="resnet18")
SLICES = SliceRecipe(
    net=NET,
    stages=(Stage(32, 5),),
    schedule=Schedule(lr=0.02, kind="cosine"),
    augmentation=Augmentation(flip_rows=0.0, flip_columns=0.0),
    batch=8,
    slices_per_epoch=80,
)
PATIENTS = PatientRecipe(
    net=PatientNetParameters(reduced_size=32, heads=2, head_dim=16),
    stages=(Stage(0, 16),),
    optimizer="adamw",
    schedule=Schedule(lr=0.001, kind="cosine"),
    batch=8,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> CohortCache:
    folder = tmp_path_factory.mktemp("cache")
    return make_cache(folder, slices=8, parts={"train": 4, "validation": 1, "test": 1})


@pytest.fixture(scope="module")
def slice_run(cache: CohortCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_slices(cache, tmp_path_factory.mktemp("runs") / "slices", SLICES, device="cpu")


@pytest.fixture(scope="module")
def patient_run(cache: CohortCache, slice_run: Path) -> Path:
    return train_patients(cache, slice_run, slice_run.with_name("patients"), PATIENTS, device="cpu")


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Learning ---------------------------------------------------------------------------------------


def test_slices_are_learned(slice_run: Path) -> None:
    epochs = metrics_of(slice_run)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3, 4, 5]
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    assert epochs[-1]["slice_auc"] > 0.9
    assert epochs[-1]["accuracy"] > 0.7
    assert list((slice_run / "tensorboard").iterdir())
    record = read_record(slice_run)
    assert read_recipe(record.recipe, SliceRecipe) == SLICES
    assert record.crop.input_size == 32
    state = torch.load(slice_run / "checkpoint.pt", weights_only=True)
    assert state["record"] == record.document()


def test_patients_are_learned_from_the_features_of_serving(
    cache: CohortCache, slice_run: Path, patient_run: Path
) -> None:
    epochs = metrics_of(patient_run)
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"]
    assert epochs[-1]["auc"] > 0.9
    patient = cache.patients_of("validation")[0]
    net = load_slice_net(slice_run)
    found = slice_features(cache, net, patients=[patient], size=32)[patient.patient_id]
    assert found.by_center.shape == (3, patient.count, net.feature_size)
    plane = resize_crop(cache.crops(patient)[0], 32)
    with torch.inference_mode():
        windows = [normalize(apply_window(plane[None], c, 1200.0), WindowParameters())
                   for c in (-700.0, -600.0, -500.0)]  # fmt: skip
        outs = [net(torch.from_numpy(one)) for one in windows]
    expected = torch.stack([out.features[0] for out in outs]).mean(dim=0)
    assert np.allclose(found.features[0], expected, atol=1e-4)
    lesion = np.mean([float(out.lesion_logits.softmax(dim=1)[0, 1]) for out in outs])
    assert found.lesion[0] == pytest.approx(lesion, abs=1e-4)


@pytest.mark.usefixtures("patient_run")
def test_patients_learn_from_one_window_centre_too(
    cache: CohortCache, slice_run: Path, tmp_path: Path
) -> None:
    recipe = replace(PATIENTS, stages=(Stage(0, 2),), centers_hu=(-600.0,))
    before = set((cache.directory / "features").iterdir())
    train_patients(cache, slice_run, tmp_path / "patients", recipe, device="cpu")
    (made,) = set((cache.directory / "features").iterdir()) - before
    shapes = {np.load(file)["centers"].shape[0] for file in made.iterdir()}
    assert shapes == {1}
    record = read_record(tmp_path / "patients")
    assert read_recipe(record.recipe, PatientRecipe).centers_hu == (-600.0,)


def test_slices_are_learned_with_adamw(cache: CohortCache, tmp_path: Path) -> None:
    recipe = replace(SLICES, optimizer="adamw", schedule=Schedule(lr=0.001, kind="cosine"))
    run = train_slices(cache, tmp_path / "slices", recipe, device="cpu")
    assert metrics_of(run)[-1]["loss"] < 0.7 * metrics_of(run)[0]["loss"]
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert "exp_avg" in state["optimizer"]["state"][0]  # AdamW's, which a resumed run goes on with


def test_features_are_kept_by_the_weights_digest(
    cache: CohortCache, slice_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = load_slice_net(slice_run)
    some = cache.patients[:2]
    first = slice_features(cache, net, patients=some, size=32)
    read: list[object] = []
    from training import features

    original = features.read_patient
    monkeypatch.setattr(
        features, "read_patient", lambda *a, **k: read.append(a) or original(*a, **k)
    )
    again = slice_features(cache, net, patients=some, size=32)
    assert not read
    assert all(np.array_equal(first[k].by_center, again[k].by_center) for k in first)
    with torch.no_grad():
        net.class_head.bias[0] += 1
    other = slice_features(cache, net, patients=some, size=32)
    assert len(read) == 6
    assert not np.array_equal(
        other[some[0].patient_id].probabilities, first[some[0].patient_id].probabilities
    )


def test_slice_labels_are_found_where_only_patients_are_labelled(
    cache: CohortCache, tmp_path: Path
) -> None:
    weak = replace(
        cache,
        patients=tuple(
            replace(p, slice_lesion=np.full_like(p.slice_lesion, -1)) if p.label else p
            for p in cache.patients
        ),
    )
    recipe = replace(SLICES, stages=(Stage(32, 5),), weak_warmup=4, weak_interval=1)
    run = train_slices(weak, tmp_path / "run", recipe, device="cpu")
    found = torch.load(run / "checkpoint.pt", weights_only=True)["task"]["lesion"]
    truth, guess = [], []
    for patient, labels in zip(cache.patients_of("train"), found, strict=True):
        if patient.label != DiseaseClass.HEALTHY:
            truth.append(patient.slice_lesion)
            guess.append((labels == 1).numpy())
            assert guess[-1].any()
    # Better than the warm-up, in which every slice counts as lesion.
    share = np.concatenate(truth).mean()
    assert (np.concatenate(truth) == np.concatenate(guess)).mean() > share + 0.15
    assert metrics_of(run)[-1]["weak_positive"] == sum(one.sum() for one in guess)


def test_top_tenth_of_each_patient_stays_positive(cache: CohortCache) -> None:
    patient = cache.patients_of("train")[-1]
    unknown = replace(patient, slice_lesion=np.full(patient.count, -1, np.int8))
    low = np.linspace(0.0, 0.2, patient.count, dtype=np.float32)
    labels = label_anew(unknown, low)
    assert np.flatnonzero(labels == 1).tolist() == [patient.count - 1]
    assert (labels[:-1] == -1).all()
    assert (label_anew(unknown, low + 0.6) == 1).all()


# Exactness --------------------------------------------------------------------------------------

SLOW_RUN = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.cohort import CohortCache
from training.loop import TrainingProgress
from training.recipe import SliceRecipe, read_recipe
from training.slices import train_slices
import json
cache = CohortCache.open(Path(sys.argv[1]))
recipe = read_recipe(json.loads(Path(sys.argv[3]).read_text()), SliceRecipe)
def steps(words, done, total):
    print(words, done, flush=True)
    if words.startswith("epoch 2") and done == 5:
        time.sleep(60)
train_slices(cache, Path(sys.argv[2]), recipe, progress=TrainingProgress(steps), device="cpu")
"""


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(
    cache: CohortCache, tmp_path: Path
) -> None:
    recipe = replace(
        SLICES,
        stages=(Stage(32, 2),),
        slices_per_epoch=48,
        checkpoint_steps=3,
        augmentation=Augmentation.strong(),
    )
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_json(recipe)))
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, cache.directory, killed, tmp_path / "recipe.json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    with child, child.stdout:
        for line in child.stdout:
            if line.startswith("epoch 2/2 5"):
                child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    state = torch.load(killed / "checkpoint.pt", weights_only=True)
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 3)  # mid-epoch
    assert len(metrics_of(killed)) == 1
    train_slices(cache, killed, recipe, device="cpu")
    whole = train_slices(cache, tmp_path / "whole", recipe, device="cpu")
    a, b = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (killed, whole))
    for name in a["net"]:
        assert torch.equal(a["net"][name], b["net"][name]), name
    momenta = [state["optimizer"]["state"] for state in (a, b)]
    assert all(
        torch.equal(momenta[0][k]["momentum_buffer"], momenta[1][k]["momentum_buffer"])
        for k in momenta[1]
    )
    clocks = ("steps_per_s", "validation_s")
    epochs = [
        [{k: v for k, v in epoch.items() if k not in clocks} for epoch in metrics_of(run)]
        for run in (killed, whole)
    ]
    assert epochs[0] == epochs[1]
    assert (killed / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(
    cache: CohortCache, slice_run: Path
) -> None:
    before = (slice_run / "checkpoint.pt").stat().st_mtime_ns
    train_slices(cache, slice_run, SLICES, device="cpu")
    assert (slice_run / "checkpoint.pt").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="another batch: 8, now 16"):
        train_slices(cache, slice_run, replace(SLICES, batch=16), device="cpu")


def test_foreign_or_damaged_folders_are_refused(cache: CohortCache, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="holds no run"):
        train_slices(cache, tmp_path, SLICES, device="cpu")
    run = tmp_path / "run"
    short = replace(SLICES, stages=(Stage(32, 1),), slices_per_epoch=8)
    train_slices(cache, run, short, device="cpu")
    content = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        train_slices(cache, run, short, device="cpu")


def test_a_diverged_loss_names_its_step_and_keeps_the_last_checkpoint(
    cache: CohortCache, tmp_path: Path
) -> None:
    recipe = replace(SLICES, stages=(Stage(32, 1, 0.01), Stage(32, 2, 1e30)), slices_per_epoch=32)
    with pytest.raises(LossDiverged, match="epoch 2, step") as caught:
        train_slices(cache, tmp_path / "run", recipe, device="cpu")
    assert caught.value.epoch == 2
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["position"]["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["net"].values())
    best = load_file(tmp_path / "run" / "best.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in best.values())


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training.cohort import CohortCache
from training.recipe import SliceRecipe, read_recipe
from training.slices import train_slices
recipe = read_recipe(json.loads(Path(sys.argv[3]).read_text()), SliceRecipe)
train_slices(CohortCache.open(Path(sys.argv[1])), Path(sys.argv[2]), recipe, device="cpu")
"""


def test_two_processes_train_together(cache: CohortCache, tmp_path: Path) -> None:
    # One batch norm statistic per process: with `micro_batch` one process sees the same.
    recipe = replace(SLICES, stages=(Stage(32, 1),), slices_per_epoch=32, micro_batch=4)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_json(recipe)))
    (tmp_path / "train.py").write_text(TWO_PROCESSES)
    together = tmp_path / "together"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--master-addr", "127.0.0.1", "--master-port", str(free_port())),
            *(tmp_path / "train.py", cache.directory, together, tmp_path / "recipe.json"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    alone = train_slices(cache, tmp_path / "alone", recipe, device="cpu")
    a, b = metrics_of(together), metrics_of(alone)
    assert len(a) == len(b) == 1
    assert a[0]["loss"] == pytest.approx(b[0]["loss"], rel=0.05)
    weights = [load_file(run / "best.safetensors") for run in (together, alone)]
    assert weights[0].keys() == weights[1].keys()


# Starting weights, joint training, export -------------------------------------------------------


def test_starts_from_imagenet_and_from_another_run(
    cache: CohortCache, slice_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), file)
    frozen = replace(SLICES, stages=(Stage(32, 1, 1e-12),), slices_per_epoch=8)
    run = train_slices(cache, tmp_path / "imagenet", frozen, device="cpu", imagenet=file)
    state = torch.load(file, weights_only=True)
    assert torch.allclose(load_file(run / "best.safetensors")["layer1.0.conv1.weight"],
                          state["layer1.0.conv1.weight"], atol=1e-6)  # fmt: skip
    assert read_record(run).start.keys() == {"imagenet"}
    run = train_slices(cache, tmp_path / "further", frozen, device="cpu", start_from=slice_run)
    first = load_file(slice_run / "best.safetensors")
    assert torch.allclose(load_file(run / "best.safetensors")["class_head.weight"],
                          first["class_head.weight"], atol=1e-6)  # fmt: skip
    other = replace(frozen, net=SliceNetParameters(backbone="resnet34"))
    with pytest.raises(CheckpointError, match="do not fit"):
        train_slices(cache, tmp_path / "wrong", other, device="cpu", start_from=slice_run)


def test_joint_training_and_export(
    cache: CohortCache, slice_run: Path, patient_run: Path, tmp_path: Path
) -> None:
    recipe = JointRecipe(
        stages=(Stage(0, 1),),
        schedule=Schedule(lr=0.002),
        batch=4,
        slices_per_patient=4,
        patients_per_epoch=4,
    )
    run = train_joint(cache, slice_run, patient_run, tmp_path / "joint", recipe, device="cpu")
    epochs = metrics_of(run)
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]
    last = metrics_of(patient_run)
    best = max(last, key=lambda epoch: epoch["score"])
    assert epochs[0]["validation_loss"] == pytest.approx(best["validation_loss"], abs=1e-3)
    state = torch.load(run / "checkpoint.pt", weights_only=True)["net"]
    before = load_file(slice_run / "best.safetensors")
    assert not torch.equal(state["slice_net.stem.0.weight"], before["stem.0.weight"])
    # Batch norm kept its statistics.
    assert torch.equal(state["slice_net.stem.1.running_mean"], before["stem.1.running_mean"])
    for number, joint in enumerate((None, run)):
        out = tmp_path / f"bundle{number}"
        manifest = export_bundle(
            slice_run, patient_run, out, name="toy", version="1", joint=joint,
            training=Training.DEMONSTRATION, metrics={"accuracy": 1.0},
        )  # fmt: skip
        bundle = load_bundle(out)
        assert bundle.identity.training == Training.DEMONSTRATION
        assert "not for clinical use" in manifest.limits
        assert manifest.preprocessing.crop.input_size == 32
        assert manifest.training_data is not None
        assert manifest.training_data.patients == {d.key: 4 for d in DiseaseClass}
        weights = before if joint is None else load_file(run / "best.safetensors")
        name = "stem.0.weight" if joint is None else "slice_net.stem.0.weight"
        assert torch.allclose(bundle.slice_net.state_dict()["stem.0.weight"],
                              weights[name], atol=1e-3)  # fmt: skip


def test_runs_that_do_not_belong_together_are_refused(
    cache: CohortCache, slice_run: Path, patient_run: Path, tmp_path: Path
) -> None:
    short = replace(SLICES, stages=(Stage(32, 1),), slices_per_epoch=8, seed=9)
    other = train_slices(cache, tmp_path / "other", short, device="cpu")
    with pytest.raises(CheckpointError, match="another run"):
        export_bundle(other, patient_run, tmp_path / "b", name="x", version="1")
    with pytest.raises(CheckpointError, match="not of slices"):
        train_patients(cache, patient_run, tmp_path / "p", PATIENTS, device="cpu")


# Pieces -----------------------------------------------------------------------------------------


def test_balanced_draw_takes_each_class_equally_and_everybody_in_turn() -> None:
    groups = [0] * 50 + [1] * 6 + [2] * 13
    seen: Counter[int] = Counter()
    for epoch in range(6):
        batches = draw_epoch(groups, 30, 8, seed=1, epoch=epoch, balanced=True)
        assert [len(batch) for batch in batches] == [8, 8, 8, 8]
        drawn = np.concatenate(batches)
        shares = Counter(groups[i] for i in drawn)
        assert max(shares.values()) - min(shares.values()) <= 1
        seen.update(drawn.tolist())
    # Each class goes round: nobody is drawn twice more often than another of the class.
    for members in (range(50), range(50, 56), range(56, 69)):
        counts = [seen[i] for i in members]
        assert max(counts) - min(counts) <= 1
    again = draw_epoch(groups, 30, 8, seed=1, epoch=3, balanced=True)
    assert all(
        map(np.array_equal, again, draw_epoch(groups, 30, 8, seed=1, epoch=3, balanced=True))
    )
    other = np.concatenate(draw_epoch(groups, 30, 8, seed=2, epoch=3, balanced=True))
    assert not np.array_equal(np.concatenate(again), other)
    plain = np.concatenate(draw_epoch(groups, 0, 1, seed=1, epoch=0, balanced=False))
    assert sorted(plain) == list(range(69))


def test_normal_slices_of_patients_are_dropped_or_train_the_lesion_head(
    cache: CohortCache,
) -> None:
    patients = cache.patients_of("train")
    lesion = [patient.slice_lesion for patient in patients]
    table = SliceTable.of(patients, lesion)
    assert set(table.label[table.lesion == 0]) == {0}
    assert set(table.label[table.lesion == 1]) == {1, 2, 3}
    more = SliceTable.of(patients, lesion, normal_slices=True)
    assert len(more) == sum(patient.count for patient in patients)
    extra = more.label == NO_CLASS
    assert extra.sum() == len(more) - len(table)
    assert (more.lesion[extra] == 0).all()


def test_augmentation_is_a_function_of_seed_epoch_and_position() -> None:
    plane = np.random.default_rng(0).normal(-700, 200, (64, 64)).astype(np.float32)
    strong = replace(Augmentation.strong(), motion=1.0)
    first, center, _ = augment(plane, strong, sample_rng(1, 2, 3))
    again, same, _ = augment(plane, strong, sample_rng(1, 2, 3))
    assert np.array_equal(first, again)
    assert center == same
    assert -700 <= center <= -500
    other, *_ = augment(plane, strong, sample_rng(1, 2, 4))
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
    assert first.shape == plane.shape
    off = Augmentation(flip_columns=0.0, flip_rows=0.0)
    assert np.array_equal(augment(plane, off, sample_rng(0, 0, 0))[0], plane)
    mirrored = augment(plane, replace(off, flip_columns=1.0), sample_rng(0, 0, 0))[0]
    assert np.array_equal(mirrored, plane[:, ::-1])


def test_the_network_sees_the_window_of_serving() -> None:
    hu = np.random.default_rng(0).uniform(-1024, 400, (2, 32, 32)).astype(np.float32)
    clipped = torch.from_numpy(np.clip(hu, -1024, 100))
    seen = to_input(clipped, torch.tensor([-700.0, -500.0]), WindowParameters())
    for row, center in enumerate((-700.0, -500.0)):
        expected = normalize(apply_window(hu[row : row + 1], center, 1200.0), WindowParameters())
        assert np.allclose(seen[row].numpy(), expected[0], atol=1e-5)


def test_smaller_inputs_are_resized_by_area() -> None:
    crop = np.arange(64, dtype=np.int16).reshape(8, 8)
    assert np.allclose(resize_crop(crop, 4), crop.reshape(4, 2, 4, 2).mean(axis=(1, 3)), atol=0.51)
    assert np.array_equal(resize_crop(crop, 8), crop)


def test_schedules() -> None:
    paper = (Stage(0, 110),)
    rates = [learning_rate(Schedule(), paper, epoch, 0, 10) for epoch in (0, 39, 40, 80, 109)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.0001, 0.0001])
    patients = [learning_rate(Schedule(lr=0.001, step_epochs=30), (Stage(0, 90),), e, 0, 1)
                for e in (29, 30, 60)]  # fmt: skip
    assert patients == pytest.approx([1e-3, 1e-4, 1e-5])
    stages = parse_stages("128:2,512:1:0.5")
    assert stages == (Stage(128, 2), Stage(512, 1, 0.5))
    assert learning_rate(Schedule(), stages, 2, 0, 4) == pytest.approx(0.5)
    assert learning_rate(Schedule(), stages, 2, 3, 4) < 0.1
    warm = Schedule(lr=1.0, warmup_steps=10)
    assert learning_rate(warm, paper, 0, 4, 100) == pytest.approx(0.5)
    for wrong in ("128", "100:3", "128:0", "128:2:-1"):
        with pytest.raises(ValueError, match="stage"):
            parse_stages(wrong)


def test_default_recipes_are_the_papers() -> None:
    slices, patients = SliceRecipe(), PatientRecipe()
    assert (slices.batch, slices.stages, slices.schedule.lr) == (32, (Stage(0, 110),), 0.01)
    assert (slices.momentum, slices.weight_decay) == (0.9, 5e-4)
    assert slices.augmentation.center_hu == (-700.0, -500.0)
    assert slices.net == SliceNetParameters()
    assert (patients.batch, patients.stages, patients.schedule.lr) == (16, (Stage(0, 90),), 0.001)
    assert read_recipe(recipe_json(patients), PatientRecipe) == patients
    with pytest.raises(CheckpointError, match="batch"):
        read_recipe({"batch": "many"}, SliceRecipe)


def test_padding_marks_what_is_valid() -> None:
    features, valid = pad_features([np.ones((2, 5), np.float32), np.ones((4, 5), np.float32)])
    assert features.shape == (2, 4, 5)
    assert valid.tolist() == [[True, True, False, False], [True] * 4]


def test_area_under_curve_counts_pairs() -> None:
    truth = np.array([0, 0, 1, 1, 1])
    score = np.array([0.1, 0.5, 0.5, 0.9, 0.05], np.float32)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[2:] for n in score[:2]]
    assert area_under_curve(truth, score) == pytest.approx(np.mean(pairs))
    assert area_under_curve(truth[:2], score[:2]) == 0.5


def test_sizes_beyond_the_cache_and_batches_that_cannot_be_shared(
    cache: CohortCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CacheError, match="64 px, less than 128"):
        train_slices(cache, tmp_path / "run", replace(SLICES, stages=(Stage(128, 1),)))


def test_the_command_trains_all_three(cache: CohortCache, tmp_path: Path) -> None:
    runner = CliRunner()
    common = ["--cohort", str(cache.directory), "--device", "cpu", "--threads", "1"]
    slices, patients, joint = (str(tmp_path / name) for name in ("s", "p", "j"))
    result = runner.invoke(
        train_cli.app,
        ["slices", *common, "--out", slices, "--backbone", "resnet18", "--stages", "32:2",
         "--slices-per-epoch", "16", "--batch", "8", "--augment", "strong", "--lr", "0.005"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "epoch 2" in result.output
    assert "slice_auc" in result.output
    recipe = read_recipe(read_record(Path(slices)).recipe, SliceRecipe)
    assert recipe.augmentation == Augmentation.strong()
    result = runner.invoke(
        train_cli.app,
        ["patients", *common, "--slices", slices, "--out", patients, "--epochs", "2",
         "--batch", "4"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    result = runner.invoke(
        train_cli.app,
        ["joint", *common, "--slices", slices, "--patients", patients, "--out", joint,
         "--epochs", "1", "--batch", "4", "--slices-per-patient", "4",
         "--patients-per-epoch", "4"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    result = runner.invoke(
        train_cli.app, ["slices", *common, "--out", slices, "--epochs", "1", "--stages", "32:1"]
    )
    assert result.exit_code == 2


def test_progress_reports_steps_and_epochs(cache: CohortCache, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    epochs: list[dict[str, float]] = []
    recipe = replace(SLICES, stages=(Stage(32, 2),), slices_per_epoch=16)
    progress = TrainingProgress(lambda *at: steps.append(at), epochs.append)
    began = time.monotonic()
    train_slices(cache, tmp_path / "run", recipe, device="cpu", progress=progress)
    assert time.monotonic() - began < 60
    assert steps == [("epoch 1/2", 1, 2), ("epoch 1/2", 2, 2), ("epoch 2/2", 1, 2),
                     ("epoch 2/2", 2, 2)]  # fmt: skip
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]


def test_a_lesion_head_is_optional(cache: CohortCache, tmp_path: Path) -> None:
    net = SliceNetParameters("resnet18", multitask=False, attention=False, coordinates=False)
    recipe = replace(SLICES, net=net, stages=(Stage(32, 1),), slices_per_epoch=16)
    run = train_slices(cache, tmp_path / "run", recipe, device="cpu")
    assert metrics_of(run)[0]["loss_lesion"] == 0
    features = slice_features(cache, load_slice_net(run), patients=cache.patients[:1], size=32)
    found = next(iter(features.values()))
    assert np.allclose(found.lesion, 1 - found.probabilities[:, 0], atol=1e-6)
    assert isinstance(load_slice_net(run), SliceNet)
