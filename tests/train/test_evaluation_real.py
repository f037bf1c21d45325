"""The benchmark on real slices: its yardstick, its assumption about pictures, and a whole run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dicom_node.series_folder import find_series
from inference.bundle import make_untrained_bundle
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters
from inference.volume import load_volume
from training.evaluation.metrics import auc

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "real_slices.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_slices", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_grey_becomes_the_stated_window(benchmark: ModuleType, tmp_path: Path) -> None:
    grey = np.array([[0, 52, 128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    hu = benchmark.picture_volume(tmp_path / "a.png").hu[0, 0]
    # centre -550, width 1600: grey 0 is -1350, below what CT stores
    assert hu.tolist() == [-1024, -1024, -547, 250]


@pytest.mark.real_data
def test_the_density_rule_scores_as_stated(benchmark: ModuleType, real_data: Path) -> None:
    """0.37 on P001, 0.72 on cap001, 0.54 pooled: the floor that a model has to beat."""
    folder = real_data / "covid-ct-md"
    labels = benchmark.read_labels(folder / "labels.csv")
    truth, scores = [], []
    for name in benchmark.LABELLED.values():
        volume = load_volume(list(find_series(folder / name).series[0].paths.values()))
        truth.append(np.array([labels[s.sop_instance_uid] for s in volume.slices]))
        scores.append(benchmark.density(volume, CropParameters()))
    found = [auc(t, s) for t, s in zip(truth, scores, strict=True)]
    assert found == pytest.approx([0.37, 0.72], abs=0.01)
    assert auc(np.concatenate(truth), np.concatenate(scores)) == pytest.approx(0.54, abs=0.01)


@pytest.mark.real_data
@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, real_data: Path) -> None:
    make_untrained_bundle(
        tmp_path / "bundle",
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=64),
    )
    command = [
        sys.executable, str(SCRIPT), "--bundle", str(tmp_path / "bundle"), "--data",
        str(real_data), "--every", "8", "--windows", "1", "--json", str(tmp_path / "found.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["pooled"]["slices"] == found["P001"]["slices"] + found["cap001"]["slices"]
    assert 0 <= found["pooled"]["auc"] <= 1
    assert found["covid-19-ct100"]["pictures"] == 20
    assert found["windows"] == 1
    assert "| pooled |" in done.stdout
