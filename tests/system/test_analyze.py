"""`m3lung analyze`: a DICOM folder in, result.json and DICOM objects out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import dcmread

from support.enhanced_ct import enhanced
from support.synthetic_ct import synthetic_series


def analyze(
    folder: Path, out: Path, bundle: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "dicom_node", "analyze", str(folder), "--out", str(out),
        "--bundle", str(bundle), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


def result(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((out / "result.json").read_text())
    return loaded


def test_a_series_gives_a_reading_and_its_objects(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    out = tmp_path / "out"
    done = analyze(chest_series[0].parent, out, small_bundle)
    assert done.returncode == 0, done.stderr
    document = result(out)
    assert document["disposition"] == "analyzed"
    assert set(document["patient"]["probabilities"]) == {"healthy", "covid19", "h1n1", "cap"}
    assert sum(document["patient"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert document["nonparametric"]["predicted"] in document["patient"]["probabilities"]
    assert 0 <= document["lesion"]["percent_of_lung"] <= 100
    assert document["model"]["trained"] is False
    assert len(document["slices"]) == len(chest_series)
    heights = [item["z_mm"] for item in document["slices"]]
    assert heights == sorted(heights, reverse=True)
    uids = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in chest_series}
    assert {item["sop_instance_uid"] for item in document["slices"]} == uids
    assert document["timing_s"]["total"] > 0
    assert {item["kind"] for item in document["objects"]} >= {"report", "summary"}
    for item in document["objects"]:
        dataset = dcmread(out / item["path"], stop_before_pixels=True)
        assert (item["sop_class_uid"], item["sop_instance_uid"]) == (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )
    assert "UNTRAINED" in done.stdout


def test_a_second_run_gives_the_same_uids(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    uids = []
    for run in ("a", "b"):
        assert analyze(chest_series[0].parent, tmp_path / run, small_bundle).returncode == 0
        uids.append([item["sop_instance_uid"] for item in result(tmp_path / run)["objects"]])
    assert uids[0] == uids[1]


def test_of_two_phases_in_one_enhanced_ct_one_is_read(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    (tmp_path / "enhanced").mkdir()
    path = enhanced(
        chest_series + chest_series, tmp_path / "enhanced" / "ct.dcm",
        acquisitions=[1] * 24 + [2] * 24,
    )  # fmt: skip
    out = tmp_path / "out"
    done = analyze(path.parent, out, small_bundle)
    document = result(out)
    assert document["disposition"] == "analyzed", (document["reason"], done.stderr)
    frames = {item["frame_number"] for item in document["slices"]}
    assert frames in (set(range(1, 25)), set(range(25, 49)))
    assert any("Only 24 frames" in text for text in document["statements"])


def test_one_slice_is_read_at_slice_level_only(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    one = chest_series[12]
    refused = analyze(one, tmp_path / "whole", small_bundle)
    assert refused.returncode == 1
    assert "at least 20 slices" in result(tmp_path / "whole")["reason"]
    done = analyze(one, tmp_path / "slice", small_bundle, "--slice-level")
    assert done.returncode == 0, done.stderr
    document = result(tmp_path / "slice")
    assert document["patient"] is None
    assert len(document["slices"]) == 1


def test_several_series_and_an_odd_file(tmp_path: Path, small_bundle: Path) -> None:
    folder = tmp_path / "study"
    synthetic_series(folder / "a", slices=22)
    synthetic_series(folder / "b", slices=3, seed=1)
    (folder / "readme.txt").write_text("not DICOM")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff")
    done = analyze(folder, tmp_path / "out", small_bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert "broken.dcm" in done.stderr
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert sorted(item["disposition"] for item in index["series"]) == ["analyzed", "skipped"]
    assert [item["file"] for item in index["unreadable"]] == ["broken.dcm"]
    for item in index["series"]:
        assert (tmp_path / "out" / item["path"]).is_file()
    assert len(json.loads(done.stdout)) == 2


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (lambda folder: None, 2, "no such file or folder"),
        (lambda folder: folder.mkdir(), 1, "holds no DICOM image"),
        (lambda folder: folder.write_text("text"), 1, "holds no DICOM image"),
    ],
)
def test_nothing_to_read_is_one_line(
    prepare: Any, code: int, words: str, tmp_path: Path, small_bundle: Path
) -> None:
    folder = tmp_path / "in"
    prepare(folder)
    done = analyze(folder, tmp_path / "out", small_bundle)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_used_output_folder_is_refused(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    done = analyze(chest_series[0].parent, tmp_path / "out", small_bundle)
    assert done.returncode == 2
    assert "not empty" in done.stderr


def test_an_altered_bundle_is_refused(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(small_bundle, bundle)
    weights = next(bundle.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = analyze(chest_series[0].parent, tmp_path / "out", bundle)
    assert done.returncode == 1
    assert weights.name in done.stderr
    assert "Traceback" not in done.stderr


# -- bad series, each with its reason -------------------------------------------------------------


def changed(files: list[Path], folder: Path, change: Any) -> Path:
    """Copy a series, each dataset changed by ``change(number, dataset)``."""
    folder.mkdir()
    for number, path in enumerate(files):
        dataset = dcmread(path)
        if change(number, dataset) is not False:
            dataset.save_as(folder / path.name)
    return folder


def reformat(_: int, dataset: pydicom.Dataset) -> None:
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def localizer(_: int, dataset: pydicom.Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def two_patients(number: int, dataset: pydicom.Dataset) -> None:
    dataset.PatientID = f"P{number % 2}"


def no_positions(_: int, dataset: pydicom.Dataset) -> None:
    del dataset.ImagePositionPatient


def few(number: int, _: pydicom.Dataset) -> bool:
    return number < 5


def empty_room(_: int, dataset: pydicom.Dataset) -> None:
    dataset.PixelData = bytes(len(dataset.PixelData))


def short_pixels(number: int, dataset: pydicom.Dataset) -> None:
    if number == 7:
        dataset.PixelData = dataset.PixelData[:1000]


@pytest.mark.parametrize(
    ("change", "disposition", "words"),
    [
        (reformat, "skipped", "axial"),
        (localizer, "skipped", "localizer"),
        (two_patients, "rejected", "patient"),
        (no_positions, "rejected", "position"),
        (few, "skipped", "at least 20 slices"),
        (empty_room, "skipped", "lung"),
        (short_pixels, "rejected", "pixel"),
    ],
)
def test_what_cannot_be_read_has_a_reason(
    change: Any,
    disposition: str,
    words: str,
    tmp_path: Path,
    small_bundle: Path,
    chest_series: list[Path],
) -> None:
    folder = changed(chest_series, tmp_path / "in", change)
    done = analyze(folder, tmp_path / "out", small_bundle)
    assert done.returncode == 1, done.stderr
    document = result(tmp_path / "out")
    assert (document["disposition"], "Traceback" in done.stderr) == (disposition, False)
    assert words in document["reason"].lower()
    assert document["objects"] == []


def test_a_missing_rescale_is_read_with_a_statement_or_refused(
    tmp_path: Path, small_bundle: Path, chest_series: list[Path]
) -> None:
    def no_rescale(_: int, dataset: pydicom.Dataset) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept

    folder = changed(chest_series, tmp_path / "in", no_rescale)
    analyze(folder, tmp_path / "out", small_bundle)
    document = result(tmp_path / "out")
    if document["disposition"] == "analyzed":
        assert "missing_rescale" in {item["code"] for item in document["quality"]}
    else:
        assert "rescale" in document["reason"].lower()


@pytest.mark.real_data
def test_every_malformed_file_has_a_disposition(
    tmp_path: Path, small_bundle: Path, real_data: Path
) -> None:
    """The whole corpus beside one good series: that one is read as if the others never came."""
    folder = tmp_path / "in"
    shutil.copytree(real_data / "malformed", folder / "malformed")
    shutil.copytree(real_data / "non-chest-negatives", folder / "negatives")
    shutil.copytree(real_data / "covid-ct-md/duplicate_sop_uid", folder / "illegal")
    synthetic_series(folder / "good", slices=22)
    done = analyze(folder, tmp_path / "out", small_bundle)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    analysed = [item for item in index["series"] if item["disposition"] == "analyzed"]
    assert len(analysed) == 1
    assert all(item["reason"] for item in index["series"] if item not in analysed)
    assert all(item["reason"] for item in index["unreadable"])
    illegal = [item for item in index["unreadable"] if item["file"].startswith("illegal")]
    assert len(illegal) == 6
