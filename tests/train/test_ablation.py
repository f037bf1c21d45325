"""The ablation: every row of Tables II to V, end to end, and again after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from dicom_node.cli import ablate
from inference.domain import DiseaseClass
from support.made_cache import make_cache
from training.ablation import ROWS, TABLES, AblationSettings, chosen_rows
from training.ablation.figures import measure_rows
from training.ablation.footprint import Footprint
from training.ablation.max_pooling import MaxPoolingNet
from training.ablation.published import FIGURES
from training.ablation.row_result import RowCost, RowResult
from training.ablation.study import count_slices
from training.cohort import CohortCache
from training.errors import CacheError, CheckpointError
from training.features import PatientFeatures

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--quick", "--input-size", "32", "--rival-slices", "4", "--batch", "4",
        "--slices-per-epoch", "16", "--replicates", "20", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> CohortCache:
    folder = tmp_path_factory.mktemp("ablation") / "cache"
    return make_cache(folder, slices=8, parts={"train": 1, "validation": 1, "test": 1})


def m3lung(*arguments: str, fails: bool = False) -> str:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    ablate.register(app)
    result = CliRunner().invoke(app, ["ablate", *arguments])
    if fails:
        assert result.exit_code != 0
        return result.output + str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def whole(cache: CohortCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of the tiny cohort."""
    out = tmp_path_factory.mktemp("whole")
    m3lung("--cohort", str(cache.directory), "--out", str(out), *TINY)
    return out


def test_every_row_of_every_table_is_there(whole: Path, cache: CohortCache) -> None:
    document = json.loads((whole / "tables.json").read_text())
    assert list(document["tables"]) == ["iv", "v", "ii", "iii"]
    for name in ("ii", "iv", "v"):
        table = document["tables"][name]
        assert tuple(table["rows"]) == TABLES[name]  # type: ignore[index]
        assert len(table["lines"]) == 2 * len(table["rows"])
        for key, row in table["rows"].items():
            accuracy = row["figures"]["accuracy"]
            assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
            reference = "slices-coordinates" if name == "v" else "head-refined"
            assert (row["p_accuracy"] is None) == (key == reference)
    for key, cost in document["costs"].items():
        assert cost["here"]["seconds"] > 0
        assert cost["here"]["devices"] == 1
        assert cost["here"]["epochs"] == 2
        assert (cost["paper"] is not None) == (key in TABLES["iii"])
    assert document["cohort_sha256"] == cache.cohort_digest


def test_the_accuracies_are_those_of_the_kept_predictions(whole: Path) -> None:
    document = json.loads((whole / "tables.json").read_text())
    for key in ROWS:
        kept = json.loads((whole / "rows" / key / "result.json").read_text())
        called = kept["predicted"] or np.argmax(kept["probabilities"], axis=1).tolist()
        accuracy = np.mean(np.array(called) == np.array(kept["labels"]))
        shown = [t["rows"][key] for t in document["tables"].values() if key in t["rows"]]
        assert shown
        assert all(row["figures"]["accuracy"]["value"] == accuracy for row in shown)


def test_the_tables_state_what_was_run_and_the_papers_figures(whole: Path) -> None:
    text = (whole / "tables.md").read_text()
    assert "train: 4 patients (1 Healthy, 1 COVID-19, 1 H1N1, 1 CAP)" in text
    assert "epochs 2" in text
    assert "backbone resnet18" in text
    assert re.search(r"covnet: 2 epochs at 4×3×4×32×32 on 4 volumes, [\d.]+ s", text)
    assert "| + coordinates | paper | 94.18 | 10.66 | 0.00 | 3.11 | – |" in text
    assert "p = Pm" in text
    page = (whole / "tables.html").read_text()
    assert page.count("<table>") == 4
    assert "95.21" in page


def test_a_finished_study_is_not_trained_again(whole: Path, cache: CohortCache) -> None:
    results = {key: (whole / "rows" / key / "result.json").stat().st_mtime_ns for key in ROWS}
    before = (whole / "tables.md").read_bytes()
    m3lung("--cohort", str(cache.directory), "--out", str(whole), *TINY)
    assert (whole / "tables.md").read_bytes() == before
    after = {key: (whole / "rows" / key / "result.json").stat().st_mtime_ns for key in ROWS}
    assert after == results


def test_other_settings_in_the_same_folder_are_refused(whole: Path, cache: CohortCache) -> None:
    words = m3lung(
        "--cohort", str(cache.directory), "--out", str(whole), *TINY, "--seed", "5", fails=True
    )
    assert "is of another seed: 0, now 5" in words


def test_resumed_after_sigkill_gives_the_same_table(
    whole: Path, cache: CohortCache, tmp_path: Path
) -> None:
    arguments = ["--cohort", str(cache.directory), "--out", str(tmp_path), "--table", "iv", *TINY]
    code = (
        "import sys, typer; from dicom_node.cli import ablate; import torch\n"
        "torch.set_num_threads(1); app = typer.Typer(); app.callback()(lambda: None)\n"
        "ablate.register(app); app()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", code, "ablate", *arguments], cwd=ROOT, env=environment
    )
    row = tmp_path / "rows" / "slices-coordinates"
    deadline = time.monotonic() + 60
    while not (row / "run" / "checkpoint.pt").exists():
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (row / "result.json").exists()
    m3lung(*arguments)
    mine = json.loads((tmp_path / "tables.json").read_text())["tables"]["iv"]
    theirs = json.loads((whole / "tables.json").read_text())["tables"]["iv"]
    assert mine == theirs


def test_only_the_rows_asked_for_and_what_they_need() -> None:
    keys = [row.key for row in chosen_rows(["iv"], ["head-max"])]
    assert keys == ["slices-coordinates", "head-max"]
    assert [row.key for row in chosen_rows(["v"])] == list(TABLES["v"])
    assert {row.key for row in chosen_rows(["ii", "iii", "iv", "v"])} == set(ROWS)
    assert chosen_rows(["v"], ["covnet"]) == ()


def test_the_default_is_the_papers_recipe() -> None:
    settings = AblationSettings()
    slices = settings.slice_recipe(ROWS["slices-coordinates"], 512)
    assert (slices.batch, slices.schedule.lr, slices.net.backbone) == (32, 0.01, "resnet50")
    assert [(stage.size, stage.epochs) for stage in slices.stages] == [(0, 110)]
    assert (slices.net.multitask, slices.net.attention, slices.net.coordinates) == (True,) * 3
    heads = settings.patient_recipe(ROWS["head-single"])
    assert (heads.batch, heads.schedule.lr, heads.stages[0].epochs) == (16, 0.001, 90)
    assert (heads.net.scales, heads.net.refinement_layers) == ((3,), 0)
    assert settings.patient_recipe(ROWS["head-refined-feature"]).net.attention == "feature"
    rival = settings.rival_recipe(ROWS["med3d-50"], 512)
    assert (rival.volume.slices, rival.volume.size, rival.batch, rival.epochs) == (128, 256, 6, 220)


def test_adamw_takes_rates_of_its_own() -> None:
    settings = AblationSettings(optimizer="adamw")
    slices = settings.slice_recipe(ROWS["slices-coordinates"], 512)
    heads = settings.patient_recipe(ROWS["head-refined"])
    assert (slices.optimizer, slices.schedule.lr) == ("adamw", 5e-4)
    assert (heads.optimizer, heads.schedule.lr) == ("adamw", 3e-4)


def test_published_figures_agree_with_the_papers_counts() -> None:
    """190 diseased and 102 healthy test patients (Table I) give Table II's accuracy."""
    for key in ("head-refined", "slices-coordinates", "head-multi"):
        figures = FIGURES[key]
        wrong = figures["fpe"] / 100 * 102 + (figures["fne"] + figures["fdpe"]) / 100 * 190
        assert figures["accuracy"] == pytest.approx(100 * (1 - wrong / 292), abs=0.4)


def test_max_pooling_ignores_order_and_padding() -> None:
    torch.manual_seed(0)
    net = MaxPoolingNet(6, 4)
    features = -torch.rand(1, 5, 6)  # negative: padding with zeros would win
    padded = torch.cat([features.flip(1), torch.zeros(1, 3, 6)], dim=1)
    valid = torch.tensor([[True] * 5 + [False] * 3])
    assert torch.allclose(net(padded, valid), net(features))


def test_counting_without_a_lesion_head_uses_the_class_head_alone() -> None:
    probabilities = np.array([[0.45, 0.55, 0, 0]] * 3 + [[0.9, 0, 0, 0.1]], dtype=np.float32)
    found = PatientFeatures(np.zeros((1, 4, 2), np.float32), 1 - probabilities[:, 0], probabilities)
    assert count_slices(found, multitask=False) == ([0.25, 0.75, 0, 0], DiseaseClass.COVID19)
    # With a lesion head of the same opinion p0 = 0.45 + 0.55·0.45 = 0.70: all are Healthy.
    assert count_slices(found, multitask=True) == ([1, 0, 0, 0], DiseaseClass.HEALTHY)


def made_result(key: str, called: list[int]) -> RowResult:
    cost = RowCost(
        input_size="", epochs=1, devices=1, device="", seconds=1, read_seconds=1, peak_mib=None,
        parameters=1, data="",
    )  # fmt: skip
    labels = tuple(n % 4 for n in range(len(called)))
    return RowResult(
        key=key, recipe={}, cache="", patient_ids=tuple(map(str, labels)), labels=labels,
        probabilities=((0.25,) * 4,) * len(called), predicted=tuple(called), cost=cost,
    )  # fmt: skip


def test_rows_are_compared_on_the_same_patients() -> None:
    right = [n % 4 for n in range(80)]
    rows = {"ours": made_result("ours", right), "same": made_result("same", right),
            "none": made_result("none", [(n + 1) % 4 for n in range(80)])}  # fmt: skip
    measured = measure_rows(rows, "ours", replicates=200)
    assert measured["ours"].p_accuracy is None
    assert measured["same"].p_accuracy == 1.0
    assert measured["none"].p_accuracy is not None
    assert measured["none"].p_accuracy < 0.05
    assert measured["none"].figures["fpe"].value == 1.0


def test_cost_adds_up_over_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    for _ in range(2):
        footprint = Footprint(path, torch.device("cpu"))
        with footprint.measured():
            time.sleep(0.05)
    assert 0.1 <= json.loads(path.read_text())["seconds"] < 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_peak_memory_is_that_of_the_work_itself(tmp_path: Path) -> None:
    device = torch.device("cpu")
    with Footprint(tmp_path / "large.json", device).measured() as large:
        held = np.ones(256 << 17)  # 256 MiB of float64
        time.sleep(0.1)
        del held
    with Footprint(tmp_path / "small.json", device).measured() as small:
        np.ones(1)
    assert large.cost.peak_mib is not None
    assert small.cost.peak_mib is not None
    assert large.cost.peak_mib - small.cost.peak_mib > 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "vi"], "there is no table 'vi'"),
        (["--rows", "vgg"], "there is no row 'vgg'"),
        (["--table", "v", "--rows", "covnet"], "none of these rows"),
        (["--input-size", "100"], "no multiple of 32"),
    ],
)
def test_misuse_is_said_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = m3lung("--cohort", str(tmp_path), "--out", str(tmp_path / "out"), *arguments, fails=True)
    assert words in said + capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_cohort_without_test_patients_and_a_broken_result(
    tmp_path: Path, whole: Path, cache: CohortCache
) -> None:
    poor = make_cache(tmp_path / "poor", slices=4, parts={"train": 1, "validation": 1})
    with pytest.raises(CacheError, match="no test patients"):
        m3lung("--cohort", str(poor.directory), "--out", str(tmp_path / "out"), *TINY)
    row = tmp_path / "broken" / "rows" / "slices-resnet"
    row.mkdir(parents=True)
    (row / "result.json").write_text('{"key": "slices-resnet"')
    with pytest.raises(CheckpointError, match=r"result\.json is no result"):
        m3lung("--cohort", str(cache.directory), "--out", str(tmp_path / "broken"),
               "--table", "v", *TINY)  # fmt: skip
