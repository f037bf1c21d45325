"""Bundles of M²UNet and JCS are calibrated on validation patients, and get a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli import bundle as bundle_cli
from dicom_node.cli.evaluate import register
from inference.domain import DiseaseClass
from inference.jcs.bundle import load_jcs, make_untrained_jcs
from inference.jcs.network import JcsParameters
from inference.jcs.res2net import Res2NetParameters
from inference.lung_crop import CropParameters
from inference.m2unet.bundle import load_m2unet, make_untrained_m2unet
from inference.m2unet.network import M2UNetParameters
from training.evaluation.document import Figure
from training.evaluation.errors import EvaluationError
from training.phantom import Case, write_case
from training.systems.calibrated import best_severe_threshold, calibrate_system
from training.systems.card import system_card
from training.systems.evaluation import SystemDocument

CROP = CropParameters(input_size=64)


@pytest.fixture(scope="module")
def m2unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "m2unet"
    net = M2UNetParameters(base_channels=4, patch_px=32, stride_px=32, hidden=8)
    make_untrained_m2unet(out, 1, architecture=net, crop=CROP)
    return out


@pytest.fixture(scope="module")
def jcs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "jcs"
    net = JcsParameters(
        res2net=Res2NetParameters(blocks=(1, 1, 1, 1), stem_channels=4, width=26, scales=4),
        classifier_px=32,
        vgg_base=4,
        frozen_norms=False,
    )
    make_untrained_jcs(out, 1, architecture=net, crop=CROP)
    return out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four validation patients, two of them severe and ill, and two for training."""
    folder = tmp_path_factory.mktemp("cohort")
    rows, parts = ["patient_id,series_path,label,truth_path,severe"], ["patient_id,split"]
    for number in range(6):
        label = (DiseaseClass.HEALTHY, DiseaseClass.COVID19)[number % 2]
        case = Case(label, 80 + number, slices=20, slice_mm=12.0, rows=64)
        write_case(case, folder / f"p{number}")
        rows.append(f"p{number},p{number}/series,{label.key},p{number},{number % 2}")
        parts.append(f"p{number},{'train' if number < 2 else 'validation'}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    (folder / "split.csv").write_text("\n".join(parts) + "\n")
    return folder / "cohort.csv"


def evaluation(name: str, sha256: str, figures: dict[str, Figure]) -> SystemDocument:
    return SystemDocument(
        system=name,  # type: ignore[arg-type]
        model=name,
        version="1",
        sha256=sha256,
        training="untrained",
        cohort="cohort.csv",
        cohort_sha256="c" * 64,
        split="test",
        patients=40,
        replicates=1000,
        seed=0,
        figures=figures,
        statements=["3 of 40 patients have no known severity; they count for masks only."],
    )


# -- calibration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "severe", "threshold"),
    [
        ([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1], 0.5),  # of all that separate them the nearest to 0.5
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 0.25),
        ([0.7, 0.8, 0.9, 0.95], [0, 0, 1, 1], 0.85),
        ([0.9991, 0.9992, 0.9993, 0.9994], [0, 0, 1, 1], 0.5),  # none within what is allowed
        ([0.2, 0.4, 0.3, 0.8], [0, 0, 1, 1], 0.5),
    ],
)
def test_the_threshold_of_severity(
    probability: list[float], severe: list[int], threshold: float
) -> None:
    found = best_severe_threshold(np.array(probability), np.array(severe) > 0)
    assert found == pytest.approx(threshold)


def test_severity_is_calibrated_on_validation_patients_only(
    m2unet: Path, cohort: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    found = calibrate_system(m2unet, cohort, tmp_path / "out", scratch=seen)
    assert found.patients == 4
    assert sorted(path.stem for path in (seen / "patients").iterdir()) == ["p2", "p3", "p4", "p5"]
    before, after = load_m2unet(m2unet), load_m2unet(tmp_path / "out")
    assert after.manifest.reading.severity_temperature == pytest.approx(found.temperature)
    assert after.manifest.reading.severe == pytest.approx(found.severe)
    assert after.identity.sha256 != before.identity.sha256
    for name, weights in before.net.state_dict().items():
        assert weights.equal(after.net.state_dict()[name]), name


def test_jcs_keeps_its_thresholds(jcs: Path, cohort: Path, tmp_path: Path) -> None:
    found = calibrate_system(jcs, cohort, tmp_path / "out", scratch=tmp_path / "seen")
    assert found.severe is None
    before, after = load_jcs(jcs).manifest.reading, load_jcs(tmp_path / "out").manifest.reading
    assert after.temperature == pytest.approx(found.temperature)
    assert after.model_copy(update={"temperature": before.temperature}) == before


def test_one_side_only_cannot_be_calibrated(m2unet: Path, cohort: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    parts = [f"p{number},{'validation' if number in (2, 4) else 'train'}" for number in range(6)]
    one.write_text("\n".join(["patient_id,split", *parts]) + "\n")
    with pytest.raises(EvaluationError, match="not of both sides"):
        calibrate_system(
            m2unet, cohort, tmp_path / "out", scratch=tmp_path / "seen", split_file=one
        )
    assert not (tmp_path / "out").exists()


def test_the_verb_calibrates_whatever_bundle_it_is_given(
    m2unet: Path, cohort: Path, tmp_path: Path
) -> None:
    app = Typer()
    register(app)
    words = ["--bundle", m2unet, "--cohort", cohort, "--out", tmp_path / "out", "--json"]
    done = CliRunner().invoke(app, ["calibrate", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["patients"] == 4
    assert 0.05 <= said["severe"] <= 0.95


# -- cards -----------------------------------------------------------------------------------------


def test_the_card_of_m2unet(m2unet: Path) -> None:
    bundle = load_m2unet(m2unet)
    figures = {"dice.mean": Figure(value=0.9312, low=0.921, high=0.94),
               "hd95_mm.mean": Figure(value=6.25, low=5.0, high=8.0),
               "severity.auc": Figure(value=0.97)}  # fmt: skip
    document = evaluation("m2unet", bundle.identity.sha256, figures)
    text = system_card(bundle.manifest, bundle.identity.sha256, document, notes="By hand.")
    for words in (
        "# Model card: m2unet-untrained", bundle.identity.sha256, "five lobes",
        "at least 25 % of the lungs", "Severe from a probability of 0.500",
        "| *Mean* | 93.12 [92.1–94.0] | 6.2 [5.0–8.0] |", "| AUC | 97.00 |",
        "## How it was trained\n\nBy hand.", "no known severity", "## Limits", "Not stated.",
    ):  # fmt: skip
        assert words in text, words


def test_the_card_of_jcs_stands_beside_the_papers_figures(jcs: Path) -> None:
    bundle = load_jcs(jcs)
    figures = {"classification.sensitivity": Figure(value=0.96, low=0.9, high=1.0),
               "dice.lesion_slices": Figure(value=0.79)}  # fmt: skip
    document = evaluation("jcs", bundle.identity.sha256, figures)
    text = system_card(bundle.manifest, bundle.identity.sha256, document)
    for words in (
        "tells COVID-19 from Healthy", "| Sensitivity | 96.00 [90.0–100.0] | 95.0 |",
        "| Dice in slices with lesion | 79.00 | 78.5 |", "| AUC | – | – |",
        "above 18 of 192 slices", "no proof of health",
    ):  # fmt: skip
        assert words in text, words
    assert "## How it was trained" not in text


def test_figures_of_another_bundle_are_refused(m2unet: Path) -> None:
    manifest = load_m2unet(m2unet).manifest
    with pytest.raises(ValueError, match="another bundle"):
        system_card(manifest, "a" * 64, evaluation("m2unet", "b" * 64, {}))
    assert "Not evaluated." in system_card(manifest, "a" * 64)


def test_the_verb_writes_the_card_and_leaves_the_digest(jcs: Path, tmp_path: Path) -> None:
    before = load_jcs(jcs).identity.sha256
    done = CliRunner().invoke(bundle_cli.app, ["card", str(jcs)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "JCS (arXiv 2004.07054)" in (jcs / "model_card.md").read_text()
    assert load_jcs(jcs).identity.sha256 == before
    (tmp_path / "metrics.json").write_text(evaluation("jcs", "b" * 64, {}).model_dump_json())
    wrong = CliRunner().invoke(bundle_cli.app, ["card", str(jcs), "--evaluation", str(tmp_path)])
    assert wrong.exit_code == 2
