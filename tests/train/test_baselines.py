"""The rivals: shapes and sizes as in their papers, and each learns what can be learnt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference.windowing import WindowParameters, apply_window, normalize
from support.made_cache import make_cache
from training.baselines import RIVALS, BaselineRecipe, predict_baseline, train_baseline
from training.baselines.covnet import CovNet
from training.baselines.decovnet import DeCovNet
from training.baselines.med3d import Med3D
from training.baselines.rival_task import RivalTask
from training.baselines.volumes import VolumeParameters, lung_air, network_input, resample_volume
from training.cohort import CohortCache
from training.errors import CheckpointError, LossDiverged
from training.processes import Processes
from training.recipe import Schedule

ALONE = Processes(0, 1, torch.device("cpu"), torch.float32)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these tests ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> CohortCache:
    return make_cache(tmp_path_factory.mktemp("rivals") / "cache")


@pytest.fixture(scope="module")
def diffuse_cache(tmp_path_factory: pytest.TempPathFactory) -> CohortCache:
    return make_cache(tmp_path_factory.mktemp("diffuse") / "cache", diffuse=True)


def tiny(name: str, **changes: object) -> BaselineRecipe:
    channels = RIVALS[name].channels
    recipe = BaselineRecipe(
        VolumeParameters(channels, slices=4, size=24), epochs=8, batch=8, micro_batch=4,
        schedule=Schedule(lr=1e-3, kind="cosine"), backbone="resnet18",
    )  # fmt: skip
    return replace(recipe, **changes)  # type: ignore[arg-type]


def conv_norm(inputs: int, outputs: int, kernel: int) -> int:
    """Weights of a convolution without bias and of the batch norm after it."""
    return inputs * outputs * kernel + 2 * outputs


def med3d_size(blocks: tuple[int, ...], expansion: int) -> int:
    total, inputs = conv_norm(1, 64, 343), 64
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True)):
        outputs = width * expansion
        for index in range(count):
            if expansion == 1:
                total += conv_norm(inputs, width, 27) + conv_norm(width, width, 27)
            else:
                total += conv_norm(inputs, width, 1) + conv_norm(width, width, 27)
                total += conv_norm(width, outputs, 1)
            if index == 0 and (inputs != outputs or stage == 1):
                total += conv_norm(inputs, outputs, 1)
            inputs = outputs
    return total + inputs * 4 + 4


def decovnet_size(channels: int) -> int:
    def block(inputs: int, inner: int, outputs: int) -> int:
        main = conv_norm(inputs, inner, 3) + conv_norm(inner, inner, 9)
        return main + conv_norm(inner, outputs, 1) + conv_norm(inputs, outputs, 1)

    total = conv_norm(channels, 16, 5 * 7 * 7) + block(16, 16, 64) + block(64, 32, 128)
    total += (128 * 64 * 27 + 64) + (64 * 32 * 27 + 32) + (32 * 32 * 27 + 32)
    return total + 32 * 4 + 4


RESNET50 = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's published count without its FC


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("covnet", RESNET50 + 2048 * 4 + 4),
        ("med3d-18", med3d_size((2, 2, 2, 2), 1)),
        ("med3d-50", med3d_size((3, 4, 6, 3), 4)),
        ("decovnet", decovnet_size(1)),
    ],
)
def test_has_the_papers_size_and_takes_the_papers_input(name: str, size: int) -> None:
    rival = RIVALS[name]
    recipe = BaselineRecipe.of_paper(name)
    with torch.device("meta"):
        net = rival.make(recipe.volume.input_channels, recipe.backbone).eval()
        volumes = torch.zeros(
            rival.batch, rival.channels, recipe.volume.slices, recipe.volume.size,
            recipe.volume.size,
        )  # fmt: skip
        assert net(volumes).shape == (rival.batch, 4)
    assert sum(weight.numel() for weight in net.parameters()) == size


def test_table_iii_is_restated() -> None:
    stated = {name: (r.batch, r.channels, r.slices, r.size, r.epochs) for name, r in RIVALS.items()}
    assert stated == {
        "covnet": (4, 3, 64, 256, 110),
        "med3d-50": (6, 1, 128, 256, 220),
        "med3d-18": (8, 1, 128, 256, 220),
        "decovnet": (16, 1, 128, 256, 220),
    }


def test_med3d_ends_at_an_eighth_because_it_is_dilated() -> None:
    with torch.device("meta"):
        net = Med3D(18)
        last = net.stages(net.stem(torch.zeros(1, 1, 128, 256, 256)))
    assert last.shape == (1, 512, 16, 32, 32)


def test_covnet_is_blind_to_the_order_of_slices_and_to_repetition() -> None:
    torch.manual_seed(0)
    net = CovNet("resnet18").eval()
    volume = torch.randn(1, 3, 5, 32, 32)
    with torch.inference_mode():
        expected = net(volume)
        assert torch.allclose(net(volume.flip(2)), expected, atol=1e-5)
        assert torch.allclose(net(volume.repeat(1, 1, 2, 1, 1)), expected, atol=1e-5)


def test_decovnet_takes_few_and_small_slices_and_a_mask() -> None:
    net = DeCovNet(input_channels=2).eval()
    assert net(torch.randn(2, 2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("name", RIVALS)
def test_every_weight_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = RIVALS[name].make(RIVALS[name].channels, "resnet18")
    logits = net(torch.randn(2, RIVALS[name].channels, 8, 64, 64))
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    still = [k for k, w in net.named_parameters() if w.grad is None or not w.grad.abs().sum() > 0]
    assert still == []


def test_slices_are_taken_evenly_and_never_mixed() -> None:
    crops = np.arange(9, dtype=np.int16)[:, None, None] * np.ones((1, 8, 8), dtype=np.int16)
    assert resample_volume(crops, 5, 8)[:, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert resample_volume(crops[:2], 4, 8)[:, 0, 0].tolist() == [0, 0, 1, 1]
    plane = np.random.default_rng(0).integers(-1000, 100, (1, 64, 64)).astype(np.int16)
    small = cv2.resize(plane[0], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.array_equal(resample_volume(plane, 3, 32)[1], small)


def test_input_is_windowed_and_normalised_as_for_the_slice_network() -> None:
    volume = np.random.default_rng(0).integers(-1024, 100, (4, 16, 16)).astype(np.int16)
    window = WindowParameters()
    three = network_input(volume, -650, window, VolumeParameters(3, 4, 16))
    expected = normalize(apply_window(volume, -650, window.width_hu), window)
    assert np.allclose(three.numpy(), expected.transpose(1, 0, 2, 3), atol=1e-6)
    masked = network_input(volume, -650, window, VolumeParameters(1, 4, 16, lung_mask=True))
    assert masked.shape == (2, 4, 16, 16)
    assert set(masked[1].unique().tolist()) <= {0.0, 1.0}


def test_lung_air_is_the_air_inside(cache: CohortCache) -> None:
    healthy = next(p for p in cache.patients if p.label == 0)
    volume = resample_volume(cache.crops(healthy), 4, 64)
    mask = lung_air(volume)
    dark = volume < -500
    assert (mask & dark).sum() / (mask | dark).sum() > 0.9


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("covnet", tiny("covnet", volume=VolumeParameters(3, 2, 16))),
        ("decovnet", tiny("decovnet", epochs=20, schedule=Schedule(lr=3e-3, kind="cosine"))),
    ],
    ids=["covnet", "decovnet"],
)
def test_learns_a_separable_cohort(
    name: str, recipe: BaselineRecipe, tmp_path: Path, diffuse_cache: CohortCache
) -> None:
    run = train_baseline(name, diffuse_cache, tmp_path / "run", recipe)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert min(epoch["loss"] for epoch in epochs) < 0.5 * epochs[0]["loss"]
    labels, probabilities = predict_baseline(name, diffuse_cache, run, recipe)
    assert labels.tolist() == [int(p.label) for p in diffuse_cache.patients_of("test")]
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.75  # 8 patients, chance 0.25


@pytest.mark.parametrize("name", ["med3d-18", "med3d-50"])
def test_med3d_learns_one_patient_of_each_class(name: str, diffuse_cache: CohortCache) -> None:
    """Through the task the loop trains; the loop itself is tried with the quicker rivals."""
    torch.manual_seed(0)
    recipe = tiny(name, volume=VolumeParameters(1, 2, 16), flip_columns=0.0)
    net = RIVALS[name].make(1, "resnet18")
    task = RivalTask(diffuse_cache, recipe, net, ALONE)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    train = diffuse_cache.patients_of("train")
    first = [next(i for i, p in enumerate(train) if p.label == label) for label in range(4)]
    batch = task.load(0, range(4), np.array(first))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(float(task.backward(net, batch, lambda loss: loss)))
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_resumed_after_sigkill_reaches_the_same_weights(cache: CohortCache, tmp_path: Path) -> None:
    recipe = tiny("decovnet", epochs=12)
    whole = train_baseline("decovnet", cache, tmp_path / "whole", recipe)
    killed = tmp_path / "killed"
    code = (
        "from pathlib import Path; from training.cohort import CohortCache\n"
        "from training.baselines import *; from training.recipe import Schedule\n"
        f"recipe = {recipe!r}\n"
        f"cache = CohortCache.open(Path({str(cache.directory)!r}))\n"
        f"train_baseline('decovnet', cache, Path({str(killed)!r}), recipe)\n"
    )
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=one_thread)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
        assert child.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = len(metrics.read_text().splitlines())
    assert done < recipe.epochs
    train_baseline("decovnet", cache, killed, recipe)
    assert (killed / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()
    assert len(metrics.read_text().splitlines()) == recipe.epochs


def test_micro_batches_sum_to_the_batch(cache: CohortCache) -> None:
    """In evaluation mode, without statistics of the batch, the split cannot matter."""
    gradients = []
    for micro in (4, 1):
        torch.manual_seed(0)
        recipe = tiny("covnet", micro_batch=micro)
        net = CovNet("resnet18").eval()
        task = RivalTask(cache, recipe, net, ALONE)
        batch = task.load(0, range(4), np.arange(4))
        task.backward(net, batch, lambda loss: loss)
        gradients.append(net.class_head.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)
    assert gradients[0].abs().max() > 1e-3


def test_one_window_and_one_flip_for_a_whole_volume(cache: CohortCache) -> None:
    recipe = tiny("decovnet", volume=VolumeParameters(1, 12, 64))
    task = RivalTask(cache, recipe, DeCovNet(), ALONE)
    batch = task.load(3, range(16), np.zeros(16, dtype=np.int64))
    again = task.load(3, range(16), np.zeros(16, dtype=np.int64))
    assert torch.equal(batch.inputs, again.inputs)
    first = cache.patients_of("train")[0]
    plain = resample_volume(cache.crops(first), 12, 64)
    right_dark = np.corrcoef(plain.ravel(), batch.inputs[0, 0].numpy().ravel())[0, 1]
    assert right_dark > 0.9
    assert len({float(one.mean()) for one in batch.inputs}) > 8  # windows differ


def test_another_recipe_in_the_same_folder_is_refused(cache: CohortCache, tmp_path: Path) -> None:
    recipe = tiny("decovnet", epochs=1)
    train_baseline("decovnet", cache, tmp_path, recipe)
    with pytest.raises(CheckpointError, match="another seed"):
        train_baseline("decovnet", cache, tmp_path, replace(recipe, seed=1))


def test_an_unreadable_checkpoint_is_named(cache: CohortCache, tmp_path: Path) -> None:
    recipe = tiny("decovnet", epochs=2)
    train_baseline("decovnet", cache, tmp_path, replace(recipe, epochs=2))
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        train_baseline("decovnet", cache, tmp_path, recipe)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        predict_baseline("decovnet", cache, tmp_path, recipe)


def test_a_diverging_loss_stops_the_training(cache: CohortCache, tmp_path: Path) -> None:
    with pytest.raises(LossDiverged, match="epoch"):
        train_baseline("covnet", cache, tmp_path, tiny("covnet", schedule=Schedule(lr=1e30)))
