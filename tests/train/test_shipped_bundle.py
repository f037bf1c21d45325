"""The demonstration model that comes along: whole, marked, described, and no noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dicom_node.settings.sections import AnalysisSettings
from inference.analyzer import Analyzer
from inference.domain import DiseaseClass, Findings, Training
from inference.volume import load_volume
from training.evaluation.metrics import auc
from training.phantom import Case, Family, write_case
from training.phantom.patches import EFFUSION

LARGEST_FILE = 90_000_000


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    return Analyzer.load(AnalysisSettings().bundle_folder, device="cpu")


def read(analyzer: Analyzer, folder: Path, label: DiseaseClass, seed: int) -> Findings:
    """A patient of the generator's test family, from scanners the model has not learned from."""
    ill = label is not DiseaseClass.HEALTHY
    case = Case(
        label, seed, family=Family.TEST, slices=24, slice_mm=11.0, thickness_mm=3.0, rows=256,
        severity_percent=15.0 if ill else None,
    )  # fmt: skip
    write_case(case, folder)
    return analyzer.analyze(load_volume(sorted((folder / "series").iterdir())))


def true_lesions(folder: Path, findings: Findings) -> np.ndarray:
    """True lesion of each slice, in the findings' order: bool, shape (slices, rows, columns)."""
    rows = json.loads((folder / "truth.json").read_bytes())["slices"]
    with np.load(folder / "truth.npz") as arrays:
        planes = arrays["lesion"]
    masks = {
        row["sop_instance_uid"]: (plane > 0) & (plane != EFFUSION)
        for row, plane in zip(rows, planes, strict=True)
    }
    return np.stack([masks[one.reference.sop_instance_uid] for one in findings.slices])


def test_it_is_whole_and_says_what_it_is(analyzer: Analyzer) -> None:
    folder = AnalysisSettings().bundle_folder
    assert analyzer.identity.training is Training.DEMONSTRATION
    assert "not for clinical use" in analyzer.manifest.limits
    assert all(file.stat().st_size < LARGEST_FILE for file in folder.iterdir())
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert analyzer.identity.sha256 in card
    for heading in ("## Training data", "## How it was trained", "## Figures", "## Real CT"):
        assert heading in card
    assert analyzer.manifest.architecture.slice_net.backbone == "resnet50"
    assert analyzer.manifest.architecture.patient_net.reduced_size == 512


def test_it_marks_what_the_phantom_has(analyzer: Analyzer, tmp_path: Path) -> None:
    found = read(analyzer, tmp_path / "ill", DiseaseClass.COVID19, 7)
    truth = true_lesions(tmp_path / "ill", found)
    with_lesion = truth.any(axis=(1, 2))
    scores = np.array([one.lesion_probability for one in found.slices])
    assert auc(with_lesion, scores) > 0.8
    counted = found.lung_mask | truth
    assert auc(truth[counted], found.lesion_map[counted]) > 0.85
    assert found.patient is not None
    assert found.patient.predicted is not DiseaseClass.HEALTHY


def test_it_leaves_a_healthy_patient_dark(analyzer: Analyzer, tmp_path: Path) -> None:
    found = read(analyzer, tmp_path / "healthy", DiseaseClass.HEALTHY, 8)
    assert found.patient is not None
    assert found.patient.predicted is DiseaseClass.HEALTHY
    lung = sum(one.lung_area_px for one in found.slices)
    assert sum(one.lesion_area_px for one in found.slices) < 0.02 * lung
