"""An int8 network beside the float one: made, compared, loaded, refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.cli import bundle as bundle_verbs
from inference.analyzer import Analyzer
from inference.bundle import Bundle, load_bundle, make_untrained_bundle
from inference.domain import DiseaseClass
from inference.engine import make_engine
from inference.errors import BundleError, DeviceError
from inference.lung_crop import CropParameters
from inference.slice_net import SliceNetParameters
from support.synthetic_ct import synthetic_series
from training.cohort.table import read_cohort
from training.errors import TrainingError
from training.evaluation.calibrated import Temperatures, calibrated_bundle
from training.evaluation.card import model_card
from training.evaluation.predictions import Prediction
from training.quantization import calibration_crops, compare, quantized_bundle


def cohort_of(folder: Path, seeds: range) -> Path:
    file = folder / "cohort.csv"
    folder.mkdir()
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient_id", "series_path", "label"])
        for seed in seeds:
            label = DiseaseClass(seed % 4)
            synthetic_series(
                folder / f"{seed}", slices=22, matrix=128, lesion=seed % 4 > 0, seed=seed,
                patient_id=f"P{seed}",
            )  # fmt: skip
            writer.writerow([f"P{seed}", f"{seed}", label.key])
    return file


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "exact"
    make_untrained_bundle(
        folder,
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=64),
    )
    return folder


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cohorts")
    return cohort_of(folder / "learn", range(4)), cohort_of(folder / "test", range(4, 7))


@pytest.fixture(scope="module")
def rough(
    exact: Path, cohorts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Made as its user makes it."""
    folder = tmp_path_factory.mktemp("bundle") / "rough"
    learn, test = cohorts
    told = CliRunner().invoke(
        bundle_verbs.app,
        ["quantize", str(exact), "--cohort", str(learn), "--test", str(test), "--out", str(folder),
         "--slices", "24"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert "int8 against float32: 3 patients" in told.output
    return folder


def crops_of(bundle: Bundle, file: Path) -> np.ndarray:
    cohort = read_cohort(file)
    return calibration_crops(bundle, cohort, cohort.rows, slices=12)


def test_it_agrees_as_the_manifest_says(
    exact: Path, rough: Path, cohorts: tuple[Path, Path]
) -> None:
    bundle = load_bundle(rough)
    assert bundle.manifest.int8 is not None
    found = bundle.manifest.int8.agreement
    assert (found.patients, bundle.manifest.int8.calibration_slices) == (3, 24)
    assert found.cohort_sha256 == read_cohort(cohorts[1]).sha256
    assert bundle.manifest.int8.made_with.startswith("NNCF ")
    assert 0 < found.mean_lesion_difference <= found.lesion_difference < 0.2
    crops = crops_of(bundle, cohorts[1])
    readings = {}
    for folder, precision in ((exact, "float32"), (rough, "float32"), (rough, "int8")):
        engine = make_engine(
            load_bundle(folder), name="openvino", device="cpu", precision=precision, threads=1
        )
        readings[folder.name, precision] = engine.read(crops)
        assert engine.description.endswith(f"cpu, {precision}")
    before, same, other = readings.values()
    assert np.array_equal(before.lesion_probability, same.lesion_probability)
    apart = np.abs(before.lesion_probability - other.lesion_probability)
    assert 0 < apart.max() <= found.lesion_difference + 1e-6
    assert np.abs(before.probabilities - other.probabilities).max() <= found.slice_difference + 1e-6


def test_what_int8_reads_has_a_name_of_its_own(exact: Path, rough: Path) -> None:
    def identity(folder: Path, precision: str) -> tuple[str, str]:
        analyzer = Analyzer.load(
            folder, engine="openvino", device="cpu", precision=precision, threads=1  # type: ignore[arg-type]
        )  # fmt: skip
        return analyzer.identity.version, analyzer.identity.sha256

    version, digest = identity(rough, "float32")
    assert identity(rough, "int8")[0] == f"{version}+int8"
    assert len({digest, identity(rough, "int8")[1], identity(exact, "float32")[1]}) == 3


def test_an_altered_byte_of_it_is_noticed(rough: Path, tmp_path: Path) -> None:
    for path in rough.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "slice_net_int8.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"slice_net_int8\.safetensors has been altered"):
        load_bundle(tmp_path)


def test_a_bundle_without_it_says_how_to_make_it(exact: Path) -> None:
    with pytest.raises(DeviceError, match="m3lung bundle quantize"):
        Analyzer.load(exact, device="cpu", precision="int8")


def test_it_runs_in_openvino_only(rough: Path) -> None:
    with pytest.raises(DeviceError, match="int8 runs in the engine openvino on the CPU only"):
        Analyzer.load(rough, engine="torch", device="cpu", precision="int8")


def test_nothing_is_chosen_by_itself(rough: Path) -> None:
    assert "int8" not in make_engine(load_bundle(rough), device="cpu", threads=1).description


def test_an_int8_file_may_be_made_anew(
    rough: Path, cohorts: tuple[Path, Path], tmp_path: Path
) -> None:
    """The second one takes the place of the first, and the same slices give the same numbers."""
    learn, test = (read_cohort(file) for file in cohorts)
    manifest = quantized_bundle(
        rough, tmp_path / "again", (learn, learn.rows), (test, test.rows[:1]), slices=24
    )
    assert manifest.int8 is not None
    crops = crops_of(load_bundle(rough), cohorts[1])
    one, other = (
        make_engine(load_bundle(folder), device="cpu", precision="int8", threads=1).read(crops)
        for folder in (rough, tmp_path / "again")
    )
    assert np.array_equal(one.lesion_probability, other.lesion_probability)
    assert np.array_equal(one.features, other.features)
    assert manifest.int8.agreement.patients == 1


def test_a_full_folder_is_left_alone(rough: Path, cohorts: tuple[Path, Path]) -> None:
    learn = read_cohort(cohorts[0])
    with pytest.raises(TrainingError, match="is not empty"):
        quantized_bundle(rough, rough, (learn, learn.rows), (learn, learn.rows))


def test_other_temperatures_leave_it_behind(rough: Path, tmp_path: Path) -> None:
    """The old ones are in it."""
    calibrated_bundle(rough, tmp_path / "out", Temperatures(1.5, 1.0, 1.0))
    assert load_bundle(tmp_path / "out").int8 is None


def test_the_card_tells_how_far_it_agrees(rough: Path) -> None:
    bundle = load_bundle(rough)
    assert bundle.manifest.int8 is not None
    found = bundle.manifest.int8.agreement
    card = model_card(bundle.manifest, bundle.identity.sha256)
    assert f"3 patients, {found.slices} slices with lung" in card
    assert f"| Slice, lesion |  | {found.lesion_difference:.3f} |" in card


def test_without_nncf_it_says_what_to_install(
    exact: Path, cohorts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    learn = read_cohort(cohorts[0])
    with pytest.raises(TrainingError, match=r"pip install 'm3lung-node\[int8\]'"):
        quantized_bundle(exact, tmp_path / "out", (learn, learn.rows), (learn, learn.rows))


def test_nncf_reports_to_nobody(rough: Path) -> None:
    """Its reporter is the one that OpenVINO has; both find it barred."""
    assert "nncf" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


def test_the_differences_are_those_of_the_predictions() -> None:
    one = Prediction(
        patient_id="P", label=DiseaseClass.CAP, probabilities=np.array([0.1, 0.2, 0.3, 0.4]),
        counted=DiseaseClass.CAP, counts=np.zeros(4, np.int64),
        slice_lesion=np.array([0.5, 0.25, 0.9], np.float32),
        slice_probabilities=np.array([[1, 0, 0, 0], [0, 0.6, 0.4, 0], [0, 0, 0, 1]], np.float32),
        has_lung=np.array([False, True, True]), slice_truth=np.zeros(3, np.int8),
        percent_of_lung=3.0, distribution=np.zeros((64, 64), np.float32), seconds=1.0,
    )  # fmt: skip
    other = dataclasses.replace(
        one,
        probabilities=np.array([0.1, 0.2, 0.5, 0.2]),
        slice_lesion=np.array([0.0, 0.5, 0.9], np.float32),
        slice_probabilities=np.array([[0, 1, 0, 0], [0, 0.4, 0.6, 0], [0, 0, 0, 1]], np.float32),
        percent_of_lung=2.5,
    )
    found = compare([(one, other), (one, one)], "0" * 64)
    assert json.loads(found.model_dump_json()) == {
        "cohort_sha256": "0" * 64,
        "patients": 2,
        "slices": 4,  # the slice without lung was not read
        "same_patient_class": 0.5,
        "same_slice_class": 0.75,
        "patient_difference": pytest.approx(0.2),
        "slice_difference": pytest.approx(0.2),
        "mean_slice_difference": pytest.approx(0.4 / 16, abs=1e-6),
        "lesion_difference": 0.25,
        "mean_lesion_difference": 0.0625,
        "percent_of_lung_difference": 0.5,
    }
