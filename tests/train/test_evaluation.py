"""The whole evaluation on synthetic patients with true masks, through the product's own door."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from dicom_node.cli import bundle as bundle_verbs
from dicom_node.cli import evaluate as evaluate_verbs
from inference.bundle import load_bundle, make_untrained_bundle
from inference.domain import DiseaseClass
from inference.errors import BundleError
from inference.lung_crop import CropParameters
from inference.reference import load_reference
from inference.slice_net import SliceNetParameters
from support.peers import require_peer
from support.synthetic_ct import synthetic_series
from training.cohort.table import read_cohort
from training.errors import CohortError, TrainingError
from training.evaluation import evaluate as module
from training.evaluation.calibrated import Temperatures, calibrated_bundle, fit_temperatures
from training.evaluation.document import EvaluationDocument
from training.evaluation.errors import EvaluationError
from training.evaluation.evaluate import evaluate, predict
from training.evaluation.predictions import load_prediction
from training.evaluation.reference import make_reference

SLICES = 22
MATRIX = 128


def write_bundle(folder: Path, seed: int = 0) -> Path:
    make_untrained_bundle(
        folder,
        seed=seed,
        slice_net=SliceNetParameters(backbone="resnet18"),
        crop=CropParameters(input_size=64),
    )
    return folder


def write_case(folder: Path, label: DiseaseClass, seed: int, *, masks: bool = True) -> None:
    """A synthetic series with the truth beside it, as the phantom writes it."""
    sick = label is not DiseaseClass.HEALTHY
    series = synthetic_series(
        folder / "series", slices=SLICES, matrix=MATRIX, lesion=sick, seed=seed,
        patient_id=f"P{seed}",
    )  # fmt: skip
    if not masks:
        return
    clean = series.hu
    air = (clean < -300) & (clean > -1005)
    lesion = (air & (clean > -650)).astype(np.uint8) if sick else np.zeros(clean.shape, np.uint8)
    lesion[0, :4, :4] = 6  # effusion: outside the lung, and no lesion for scoring
    axis = np.abs(np.arange(MATRIX) - MATRIX / 2) * 400 / MATRIX
    body = (axis[:, None] / 115) ** 2 + (axis[None, :] / 165) ** 2 < 0.95
    lung = air & body
    lesion[~lung & (lesion != 6)] = 0
    np.savez_compressed(folder / "truth.npz", lesion=lesion, lung=lung, lobes=lung.astype(np.uint8))
    own = (lesion > 0) & (lesion != 6)
    document = {
        "label": label.key,
        "seed": seed,
        "family": "test",
        "severity_percent": 100.0 * own.sum() / lung.sum(),
        "severe": False,
        "artefacts": ["pulsation"] if seed >= 3 else [],
        "slices": [
            {"sop_instance_uid": uid, "lesion": bool(own[i].any())}
            for i, uid in enumerate(series.sop_instance_uids)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(document))


def write_cohort_csv(folder: Path, rows: list[tuple[str, DiseaseClass, str]]) -> Path:
    file = folder / "cohort.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient_id", "series_path", "label", "slice_labels", "truth_path"])
        for name, label, truth in rows:
            writer.writerow([name, f"cases/{name}/series", label.key, "", truth])
    return file


@pytest.fixture(scope="module")
def cohort_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients of each class, one of them named as no file may be."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for seed in range(8):
        label = DiseaseClass(seed % 4)
        name = f"patient {seed}"
        write_case(folder / "cases" / name, label, seed)
        rows.append((name, label, f"cases/{name}"))
    file = write_cohort_csv(folder, rows)
    lines = ["patient_id,label,split"]
    parts = ["test", "test", "test", "test", "validation", "validation", "validation", "train"]
    lines += [
        f"{name},{label.key},{part}" for (name, label, _), part in zip(rows, parts, strict=True)
    ]
    (folder / "split.csv").write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "a")


@pytest.fixture(scope="module")
def evaluated(
    cohort_file: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationDocument, Path]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    other = write_bundle(tmp_path_factory.mktemp("other") / "b", seed=1)
    document = evaluate(bundle, cohort_file, out, against=other, replicates=50)
    return document, out


class References(HTMLParser):
    """Everything a page points at."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]


def test_the_figures_follow_from_the_predictions(
    evaluated: tuple[EvaluationDocument, Path], cohort_file: Path
) -> None:
    document, out = evaluated
    assert document.cohort.patients == {"healthy": 2, "covid19": 2, "h1n1": 2, "cap": 2}
    kept = [
        load_prediction(out / "predictions", row.patient_id)
        for row in read_cohort(cohort_file).rows
    ]
    right = [p is not None and p.predicted is p.label for p in kept]
    assert document.patient.figures["accuracy"].value == pytest.approx(np.mean(right))
    assert sum(map(sum, document.patient.confusion)) == 8
    assert document.slices is not None
    truth = sum(int((p.slice_truth == 1).sum()) for p in kept if p is not None)
    assert 0 < document.slices.with_lesion == truth < document.slices.slices
    everything = document.localisation["all"]
    assert (everything.patients, everything.lesion_slices) == (6, truth)
    assert everything.pixel_auc is not None
    assert 0 <= everything.pixel_auc <= 1
    assert set(document.localisation) >= {"all", "covid19", "h1n1", "cap"}
    artefacts = {name: found.patients for name, found in document.artefacts.items()}
    assert artefacts == {"any": 1, "none": 1, "pulsation": 1}  # the healthy are 0 and 4
    assert document.lesion_percentage is not None
    assert document.lesion_percentage.patients == 8
    assert document.comparison is not None
    accuracy = document.comparison.differences["patient.accuracy"]
    assert accuracy.p is not None
    assert 0 < accuracy.p <= 1
    assert EvaluationDocument.model_validate_json((out / "metrics.json").read_text()) == document


def test_a_reference_is_made_of_the_predictions(
    evaluated: tuple[EvaluationDocument, Path], bundle: Path
) -> None:
    document, out = evaluated
    before = load_bundle(bundle).identity
    told = CliRunner().invoke(
        bundle_verbs.app, ["reference", str(bundle), "--evaluation", str(out)]
    )
    assert told.exit_code == 0, told.output
    reference = load_reference(bundle)
    assert reference is not None
    assert (reference.series, reference.model_sha256) == (8, document.model.sha256)
    assert load_bundle(bundle).identity == before  # it is no part of the model
    for key in ("probability.covid19", "lesion_probability"):
        assert sum(reference.measures[key].counts) == 8
    with pytest.raises(EvaluationError, match="not of this bundle"):
        make_reference(out, "0" * 64)
    with pytest.raises(EvaluationError, match="is no evaluation"):
        make_reference(out.parent, before.sha256)


def test_the_report_stands_alone(evaluated: tuple[EvaluationDocument, Path]) -> None:
    document, out = evaluated
    page = (out / "report.html").read_text()
    references = References()
    references.feed(page)
    assert references.found
    assert all(value.startswith("data:") for value in references.found)
    assert not {"script", "link", "iframe", "object"} & set(references.tags)
    assert "url(" not in page
    assert "style=" not in re.sub(r'src="data:[^"]*"', "", page)
    assert document.model.sha256 in page
    assert "Untrained model" in page
    assert len(list((out / "figures").glob("*.png"))) == 4
    assert len(list((out / "pictures").glob("*.jpg"))) == 8


@pytest.mark.peer("chromium")
def test_the_report_is_drawn(evaluated: tuple[EvaluationDocument, Path], tmp_path: Path) -> None:
    require_peer("chromium")
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,3000",
            f"--screenshot={picture}", (evaluated[1] / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert picture.is_file(), done.stderr
    assert "Content Security Policy" not in done.stderr
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (np.abs(pixels - np.array([0, 114, 178])) < 12).all(axis=2)  # a line of the ROC plot
    assert blue.sum() > 200
    assert (pixels[:400].min(axis=2) > 250).mean() > 0.5  # light ground


def test_a_second_run_reads_nobody_again(
    evaluated: tuple[EvaluationDocument, Path],
    cohort_file: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document, out = evaluated
    read: list[str] = []
    whole = module.read_case
    monkeypatch.setattr(
        module,
        "read_case",
        lambda case, model: read.append(case.row.patient_id) or whole(case, model),
    )
    again = evaluate(bundle, cohort_file, out, replicates=50)
    assert read == []
    assert again.patient == document.patient
    (out / "predictions" / "patient 3.npz").write_bytes(b"half")
    evaluate(bundle, cohort_file, out, replicates=50)
    assert read == ["patient 3"]


def test_a_folder_of_another_model_is_refused(
    evaluated: tuple[EvaluationDocument, Path], cohort_file: Path, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path / "other", seed=5)
    with pytest.raises(EvaluationError, match="holds the evaluation of m3lung-untrained"):
        evaluate(other, cohort_file, evaluated[1], replicates=5)
    with pytest.raises(EvaluationError, match="neither a bundle nor"):
        evaluate(load_path(evaluated), cohort_file, evaluated[1], against=tmp_path, replicates=5)


def load_path(evaluated: tuple[EvaluationDocument, Path]) -> Path:
    """The bundle `evaluated` was made with, written again: the same bytes, the same digest."""
    return write_bundle(evaluated[1].parent / "same")


def test_the_split_decides_who_is_read(
    evaluated: tuple[EvaluationDocument, Path], cohort_file: Path, bundle: Path
) -> None:
    document = evaluate(bundle, cohort_file, evaluated[1], split="test", replicates=5)
    assert sum(document.cohort.patients.values()) == 4
    assert document.cohort.split == "test"


def test_missing_truth_is_said(tmp_path: Path, bundle: Path) -> None:
    write_case(tmp_path / "cases" / "one", DiseaseClass.CAP, 11, masks=False)
    write_case(tmp_path / "cases" / "two", DiseaseClass.HEALTHY, 12, masks=False)
    file = write_cohort_csv(
        tmp_path, [("one", DiseaseClass.CAP, ""), ("two", DiseaseClass.HEALTHY, "")]
    )
    document = evaluate(bundle, file, tmp_path / "out", replicates=5, figures_per_class=0)
    assert document.localisation == {}
    assert document.lesion_percentage is None
    assert document.artefacts == {}
    words = " ".join(document.statements)
    assert "No row has true masks" in words
    assert "1 patients have no slice labels" in words
    assert "COVID-19, H1N1" in words
    assert document.patient.figures["auc.covid19"].value is None
    assert document.patient.figures["auc.cap"].value is not None
    assert "Where the lesions lie" not in (tmp_path / "out" / "report.html").read_text()


def test_bad_rows_are_named(tmp_path: Path, bundle: Path) -> None:
    write_case(tmp_path / "cases" / "one", DiseaseClass.CAP, 21)
    row = ("one", DiseaseClass.CAP, "cases/one")

    def failure(rows: list[tuple[str, DiseaseClass, str]]) -> str:
        file = write_cohort_csv(tmp_path, rows)
        with pytest.raises(CohortError) as caught:
            evaluate(bundle, file, tmp_path / "out", replicates=5)
        return str(caught.value)

    assert "row 3" in failure([row, ("absent", DiseaseClass.CAP, "")])
    assert "truth.json: says 'cap', the cohort says 'h1n1'" in failure(
        [("one", DiseaseClass.H1N1, "cases/one")]
    )
    first = min((tmp_path / "cases" / "one" / "series").glob("*.dcm"))
    content = first.read_bytes()
    first.write_bytes(content[:-5000])
    message = failure([row])
    assert "row 2" in message
    assert "'one'" in message
    first.write_bytes(content)
    file = tmp_path / "cohort.csv"
    file.write_text(file.read_text().replace(",cap,", ",influenza,"))
    with pytest.raises(CohortError, match=r"row 2.*unknown label 'influenza'"):
        evaluate(bundle, file, tmp_path / "out", replicates=5)


def test_a_bundle_of_another_order_is_refused(tmp_path: Path, cohort_file: Path) -> None:
    folder = write_bundle(tmp_path / "odd")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["classes"] = ["covid19", "healthy", "h1n1", "cap"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="classes"):
        evaluate(folder, cohort_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_calibrated_bundle_is_surer_of_less(
    tmp_path: Path, cohort_file: Path, bundle: Path
) -> None:
    cohort = read_cohort(cohort_file)
    before = predict(bundle, cohort, cohort.rows[4:7], tmp_path / "before")
    fitted = fit_temperatures(before.predictions)
    manifest = calibrated_bundle(bundle, tmp_path / "new", fitted, {"accuracy": 0.25})
    assert manifest.calibration.patient_temperature == pytest.approx(fitted.patient)
    assert manifest.metrics == {"accuracy": 0.25}
    old, new = load_bundle(bundle), load_bundle(tmp_path / "new")
    assert old.identity.sha256 != new.identity.sha256
    for name, value in old.slice_net.state_dict().items():
        assert value.equal(new.slice_net.state_dict()[name])
    after = predict(tmp_path / "new", cohort, cohort.rows[4:7], tmp_path / "after")
    for first, second in zip(before.predictions, after.predictions, strict=True):
        expected = first.probabilities ** (1 / fitted.patient)
        assert second.probabilities == pytest.approx(expected / expected.sum(), abs=1e-4)
    again = calibrated_bundle(tmp_path / "new", tmp_path / "twice", Temperatures(1.0, 1.0, 2.0))
    assert again.calibration.patient_temperature == pytest.approx(2 * fitted.patient)
    with pytest.raises(TrainingError, match="not empty"):
        calibrated_bundle(bundle, tmp_path / "new", fitted)


def test_the_verbs(cohort_file: Path, bundle: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    evaluate_verbs.register(app)
    common = ["--bundle", str(bundle), "--cohort", str(cohort_file)]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["evaluate", *common, "--out", str(out), "--replicates", "20", "--figures", "0"]
    )
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output
    assert json.loads((out / "metrics.json").read_text())["cohort"]["split"] == "test"
    assert not (out / "figures").exists()
    done = CliRunner().invoke(app, ["calibrate", *common, "--out", str(tmp_path / "new"), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["patients"] == 3  # the validation part
    manifest = load_bundle(tmp_path / "new").manifest
    assert manifest.calibration.model_dump() == printed["calibration"]
    # The cohort has masks of its lesions: the threshold of the map is fitted to them.
    assert printed["lesion_threshold_fitted"]
    assert manifest.thresholds.lesion == printed["lesion_threshold"] != 0.5
    with pytest.raises(EvaluationError, match="no evaluation"):
        CliRunner().invoke(
            app, ["evaluate", *common, "--out", str(tmp_path / "new")], catch_exceptions=False
        )


def test_the_verbs_load_no_network_before_they_are_called() -> None:
    script = "import sys, dicom_node.cli.evaluate; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
