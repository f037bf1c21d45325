"""Cohorts of phantoms: a checked specification, whole cases, and a run that can be cut off."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_node.cli.phantom import app
from inference.domain import DiseaseClass
from training.errors import PhantomError
from training.phantom import Family, read_spec, write_cohort
from training.phantom.cohort import plans_of
from training.phantom.cohort_spec import EXAMPLE
from training.phantom.shares import SHARES

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = """\
seed = 5
[training]
healthy = 1
covid19 = 1
rows = 64
slices = [6, 8]
slice_mm = [20.0, 20.0]
severity_percent = [5.0, 20.0]
[test]
cap = 1
rows = 64
slices = [6, 8]
slice_mm = [20.0, 20.0]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(text, encoding="utf-8")
    return path


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_example_is_a_specification(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["cohort", "--example"])
    assert shown.exit_code == 0
    assert tomllib.loads(shown.output) == tomllib.loads(EXAMPLE)
    spec = read_spec(written(tmp_path, shown.output))
    plans = list(plans_of(spec))
    assert len(plans) == 240
    assert len({plan.patient_id for plan in plans}) == 240
    assert len({plan.seed for plan in plans}) == 240
    training, test = (
        [plan for plan in plans if plan.family is family]
        for family in (Family.TRAINING, Family.TEST)
    )
    for part in (training, test):
        assert [sum(plan.label is label for plan in part) for label in DiseaseClass] == [30] * 4
    for plan in plans:
        assert 24 <= plan.slices <= 60
        low, high = (0.5, 50.0) if plan.family is Family.TRAINING else (0.3, 60.0)
        if plan.label is DiseaseClass.HEALTHY:
            assert plan.severity_percent is None
        else:
            assert plan.severity_percent is not None
            assert low <= plan.severity_percent <= high


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seeds = 1", "seeds: unknown key"),
        ("[training]\nhealty = 3", "training.healty: unknown key"),
        ("[training]\nhealthy = -1", "training.healthy: must be a whole number"),
        ("[training]\nhealthy = 2.5", "training.healthy: must be a whole number"),
        ("[training]\nhealthy = true", "training.healthy: must be a whole number"),
        ("[test]\ncap = 1\nrows = 5000", "test.rows: must be a whole number of 64 to 1024"),
        ("[test]\ncap = 1\nslices = [60, 24]", "test.slices: must be"),
        ("[test]\ncap = 1\nslice_mm = 3.0", "test.slice_mm: must be"),
        ("[test]\ncap = 1\nseverity_percent = [0.0, 50.0]", "test.severity_percent: must be"),
        ("[test]\ncap = 1\n[test.artefacts]\nscars = 2", "test.artefacts.scars: must be a number"),
        ("[test]\ncap = 1\n[test.artefacts]\nscar = 1", "test.artefacts.scar: unknown key"),
        ("test = 4", "test: must be a table"),
        ("seed = 1", "asks for no patient"),
        ("seed = ", "is no TOML"),
    ],
)
def test_a_wrong_specification_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PhantomError) as caught:
        read_spec(path)
    assert key in str(caught.value)
    assert str(path) in str(caught.value)


def test_shares_decide_who_has_what(tmp_path: Path) -> None:
    text = "[training]\nhealthy = 2\nrows = 64\nslices = [6, 6]\nslice_mm = [20, 20]\n"
    names = SHARES
    for share, wanted in ((0.0, set()), (1.0, set(names))):
        shares = "".join(f"{name} = {share}\n" for name in names)
        spec = read_spec(written(tmp_path, f"{text}[training.artefacts]\n{shares}"))
        for plan in plans_of(spec):
            assert set(plan.case().artefacts) == wanted


def test_a_cohort_is_listed_and_made_once(tmp_path: Path) -> None:
    spec = read_spec(written(tmp_path, SMALL))
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "cohort"
    table = write_cohort(spec, out, progress=lambda *at: seen.append(at))
    assert seen == [("cases", done, 3) for done in range(4)]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["label"] for row in rows] == ["healthy", "covid19", "cap"]
    for row in rows:
        assert list((out / row["series_path"]).glob("*.dcm"))
        assert (out / row["slice_labels"]).is_file()
        truth = json.loads((out / row["truth_path"] / "truth.json").read_text())
        assert truth["patient_id"] == row["patient_id"]
        assert truth["label"] == row["label"]
    before = digests(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    seen.clear()
    write_cohort(spec, out, progress=lambda *at: seen.append(at))
    assert seen == [("cases", 3, 3)]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")} == times
    assert digests(out) == before


def test_another_specification_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    write_cohort(read_spec(written(tmp_path, SMALL)), out)
    other = read_spec(written(tmp_path, SMALL.replace("rows = 64", "rows = 72")))
    with pytest.raises(PhantomError, match="another specification"):
        write_cohort(other, out)


def test_killed_and_started_again_gives_the_same_cohort(tmp_path: Path) -> None:
    text = SMALL.replace("rows = 64", "rows = 96").replace("[6, 8]", "[10, 12]")
    path = written(tmp_path, text)
    out = tmp_path / "cut-off"
    command = [
        sys.executable, "-c", "from dicom_node.cli.phantom import app; app()",
        "cohort", "--spec", str(path), "--out", str(out),
    ]  # fmt: skip
    running = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("cases/.*/series/0002.dcm")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(timeout=10)
    assert list(out.glob("cases/.*.partly-*")), "nothing was cut off"
    assert not (out / "cohort.csv").exists()
    for case in out.glob("cases/PH*"):
        assert (case / "truth.json").is_file()  # what has its name is whole
    subprocess.run([*command, "--workers", "2"], cwd=REPOSITORY, check=True, capture_output=True)
    assert not list(out.glob("cases/.*")), "remains of the cut-off run are left"
    whole = tmp_path / "whole"
    write_cohort(read_spec(path), whole)
    assert digests(out) == digests(whole)


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    runner = CliRunner()
    path = written(tmp_path, "[training]\nhealty = 3")
    answer = runner.invoke(app, ["cohort", "--spec", str(path), "--out", str(tmp_path / "out")])
    assert answer.exit_code == 2
    assert "training.healty" in answer.output
    assert runner.invoke(app, ["cohort"]).exit_code == 2
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    answer = runner.invoke(app, ["make", "--class", "cap", "--out", str(full)])
    assert answer.exit_code == 2
    assert "not empty" in answer.output
    bad = ["make", "--class", "cap", "--out", str(tmp_path / "new"), "--severity", "99"]
    answer = runner.invoke(app, bad)
    assert answer.exit_code == 2
    assert "0.1 to 80 percent" in answer.output
