"""One phantom: same bytes for the same seed, valid DICOM, a truth that agrees with its pixels."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from dicom_node.selection import select_stack
from dicom_node.series_folder import find_series
from dicom_node.settings import SelectionSettings
from inference.domain import DiseaseClass, QualityCode
from inference.lung_crop import CropParameters, crop_lungs
from inference.volume import load_volume
from support.peers import program
from training.errors import PhantomError
from training.phantom import Case, Family, write_case, write_simple_series
from training.phantom.case import TrueSlice
from training.phantom.patches import EFFUSION
from training.phantom.person import draw_person

ROWS, SLICES, SLICE_MM = 96, 26, 9.0
REPOSITORY = Path(__file__).resolve().parents[2]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@functools.cache
def drawn(
    label: DiseaseClass, seed: int, severity: float | None = None, family: Family = Family.TRAINING
) -> tuple[Case, tuple[TrueSlice, ...]]:
    case = Case(
        label,
        seed,
        family=family,
        slices=SLICES,
        slice_mm=SLICE_MM,
        rows=ROWS,
        severity_percent=severity,
    )
    return case, tuple(case)


def stacked(slices: tuple[TrueSlice, ...], name: str) -> NDArray[np.int16]:
    return np.stack([getattr(one, name) for one in slices])


@pytest.fixture(scope="module")
def case_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = Case(
        DiseaseClass.COVID19,
        12,
        slices=SLICES,
        slice_mm=SLICE_MM,
        rows=ROWS,
        severity_percent=8.0,
    )
    return write_case(case, tmp_path_factory.mktemp("phantom") / "case")


@pytest.fixture(scope="module")
def simple_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simple_series(
        tmp_path_factory.mktemp("simple"), slices=SLICES, rows=ROWS, slice_mm=SLICE_MM
    )


def test_same_seed_same_bytes_even_in_another_process(case_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    arguments = ["--class", "covid19", "--seed", "12", "--out", str(again), "--severity", "8"]
    sizes = ["--slices", str(SLICES), "--slice-mm", str(SLICE_MM), "--rows", str(ROWS)]
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from dicom_node.cli.phantom import app; app()",
            "make",
            *arguments,
            *sizes,
        ],
        check=True,
        capture_output=True,
        timeout=120,
        cwd=REPOSITORY,
    )
    assert digests(again) == digests(case_folder)
    assert set(digests(again)) >= {"truth.npz", "truth.json", "slice_labels.csv", "series/0001.dcm"}


def test_another_seed_class_or_family_is_another_series(case_folder: Path) -> None:
    cases = [
        Case(label, seed, family=family, slices=24, slice_mm=9.0, rows=64)
        for label, seed, family in (
            (DiseaseClass.COVID19, 1, Family.TRAINING),
            (DiseaseClass.COVID19, 2, Family.TRAINING),
            (DiseaseClass.CAP, 1, Family.TRAINING),
            (DiseaseClass.COVID19, 1, Family.TEST),
        )
    ]
    middles = [case.draw(14).hu for case in cases]
    for index, one in enumerate(middles):
        assert not any(np.array_equal(one, other) for other in middles[index + 1 :])


def test_is_one_stack_that_the_node_selects(case_folder: Path) -> None:
    found = find_series(case_folder / "series")
    assert len(found.series) == 1
    assert not found.unreadable
    stack = select_stack(found.series[0].headers, SelectionSettings())
    assert len(stack.sop_instance_uids) == SLICES
    volume = load_volume(list(found.series[0].paths.values()))
    assert volume.hu.shape == (SLICES, ROWS, ROWS)
    assert volume.slice_spacing_mm == pytest.approx(SLICE_MM)
    # The most superior slice comes first, in the file names as in the truth.
    truth = json.loads((case_folder / "truth.json").read_text())
    assert [one["sop_instance_uid"] for one in truth["slices"]] == [
        reference.sop_instance_uid for reference in volume.slices
    ]


def test_hu_survive_the_file(case_folder: Path) -> None:
    case = Case(
        DiseaseClass.COVID19, 12, slices=SLICES, slice_mm=SLICE_MM, rows=ROWS, severity_percent=8.0
    )
    volume = load_volume(sorted((case_folder / "series").glob("*.dcm")))
    for index in (0, SLICES // 2):
        made = np.clip(case.draw(index).hu, -1024, None)
        assert np.array_equal(volume.hu[index], made)


def test_a_tilted_gantry_is_written_so_that_the_reader_sees_the_tilt(tmp_path: Path) -> None:
    seed = next(
        seed
        for seed in range(400)
        if abs(Case(DiseaseClass.HEALTHY, seed, slices=4, slice_mm=8.0).scanner.tilt_deg) > 5.5
    )
    case = Case(DiseaseClass.HEALTHY, seed, slices=4, slice_mm=8.0, rows=64)
    volume = load_volume(sorted(write_case(case, tmp_path / "c").glob("series/*.dcm")))
    assert QualityCode.GANTRY_TILT in {statement.code for statement in volume.quality}
    cosine = np.cos(np.deg2rad(case.scanner.tilt_deg))
    assert volume.slice_spacing_mm == pytest.approx(8.0 * cosine, rel=1e-3)


def test_truth_agrees_with_its_masks(case_folder: Path) -> None:
    truth = json.loads((case_folder / "truth.json").read_text())
    masks = np.load(case_folder / "truth.npz")
    lung, lobes, lesion = masks["lung"], masks["lobes"], masks["lesion"]
    assert (lung.dtype, lobes.dtype, lesion.dtype) == (np.bool_, np.uint8, np.uint8)
    assert lung.shape == lobes.shape == lesion.shape == (SLICES, ROWS, ROWS)
    scored = (lesion > 0) & (lesion != EFFUSION)
    assert [one["lesion_px"] for one in truth["slices"]] == scored.sum(axis=(1, 2)).tolist()
    assert [one["lung_px"] for one in truth["slices"]] == lung.sum(axis=(1, 2)).tolist()
    percent = 100 * scored.sum() / lung.sum()
    assert truth["severity_percent"] == pytest.approx(percent, abs=0.01)
    assert truth["severe"] == (percent >= 25)
    lines = (case_folder / "slice_labels.csv").read_text().splitlines()
    assert lines[0] == "sop_instance_uid,lesion"
    assert lines[1:] == [
        f"{one['sop_instance_uid']},{int(one['lesion'])}" for one in truth["slices"]
    ]
    assert 0 < sum(one["lesion"] for one in truth["slices"]) < SLICES


@pytest.mark.parametrize("label", list(DiseaseClass))
def test_lobes_partition_the_lung_and_lesions_lie_in_it(label: DiseaseClass) -> None:
    _, slices = drawn(label, 21, None if label is DiseaseClass.HEALTHY else 8.0)
    lung, lobes = stacked(slices, "lung"), stacked(slices, "lobes")
    lesion = stacked(slices, "lesion")
    assert np.array_equal(lung, lobes > 0)
    assert set(np.unique(lobes[lung])) == {1, 2, 3, 4, 5}
    assert lesion.max() <= EFFUSION
    scored = (lesion > 0) & (lesion != EFFUSION)
    assert not (scored & ~lung).any()
    assert not ((lesion == EFFUSION) & lung).any()
    assert scored.any() == (label is not DiseaseClass.HEALTHY)


@pytest.mark.parametrize("label", [DiseaseClass.COVID19, DiseaseClass.H1N1, DiseaseClass.CAP])
@pytest.mark.parametrize("asked", [1.0, 8.0, 40.0])
def test_severity_is_what_was_asked_for(label: DiseaseClass, asked: float) -> None:
    _, slices = drawn(label, 21, asked)
    lesion, lung = stacked(slices, "lesion"), stacked(slices, "lung")
    percent = 100 * ((lesion > 0) & (lesion != EFFUSION)).sum() / lung.sum()
    assert percent == pytest.approx(asked, rel=0.3)


@pytest.mark.parametrize(("seed", "family"), [(31, Family.TRAINING), (32, Family.TEST)])
def test_the_crop_finds_both_lungs(seed: int, family: Family) -> None:
    case, slices = drawn(DiseaseClass.HEALTHY, seed, None, family)
    hu = np.clip(stacked(slices, "hu"), -1024, 3071)
    pixel_mm = case.scanner.pixel_mm
    found = crop_lungs(hu, (pixel_mm, pixel_mm), CropParameters(), threads=1)
    lung, lobes = stacked(slices, "lung"), stacked(slices, "lobes")
    dice = 2 * (found.mask & lung).sum() / (found.mask.sum() + lung.sum())
    assert dice >= 0.9
    for side in (lobes <= 3, lobes > 3):
        assert (found.mask & lung & side).sum() > 0.85 * (lung & side).sum()


def test_thin_slices_with_gaps_are_noisier_and_say_so(tmp_path: Path) -> None:
    sizes = {"slices": 4, "slice_mm": 10.0, "rows": 64}
    thin = Case(DiseaseClass.HEALTHY, 5, thickness_mm=1.0, **sizes)  # type: ignore[arg-type]
    thick = Case(DiseaseClass.HEALTHY, 5, **sizes)  # type: ignore[arg-type]
    assert thin.scanner.noise_hu > 1.2 * thick.scanner.noise_hu
    write_case(thin, tmp_path / "thin")
    first, second, *_ = [
        dcmread(path, stop_before_pixels=True)
        for path in sorted((tmp_path / "thin" / "series").glob("*.dcm"))
    ]
    assert float(first.SliceThickness) == 1.0
    apart = float(first.ImagePositionPatient[2]) - float(second.ImagePositionPatient[2])
    assert apart == pytest.approx(10.0)
    assert json.loads((tmp_path / "thin" / "truth.json").read_text())["thickness_mm"] == 1.0


@pytest.mark.parametrize("family", list(Family))
def test_nobody_has_more_lung_than_the_node_believes(family: Family) -> None:
    people = [draw_person(seed, family) for seed in range(3000)]
    room = [person.lung_mm * person.width * person.depth for person in people]
    assert max(room) == pytest.approx(395.0)  # the limit is reached, and kept
    assert np.mean(np.isclose(room, 395.0)) < 0.05


def test_tissues_have_their_densities() -> None:
    case, slices = drawn(DiseaseClass.HEALTHY, 31)
    hu, lung = stacked(slices, "hu"), stacked(slices, "lung")
    assert -930 < np.median(hu[lung]) < -780
    # Vessels in the lung, bone around it, noise everywhere.
    assert 0.005 < (hu[lung] > -400).mean() < 0.2
    assert (hu > 300).sum() > 500
    litres = lung.sum() * case.scanner.pixel_mm**2 * SLICE_MM / 1e6
    assert 1.5 < litres < 9
    # Denser at the back, where a person on the back is compressed.
    rows = np.nonzero(lung)[1]
    front = rows < np.quantile(rows, 0.3)
    back = rows > np.quantile(rows, 0.7)
    assert np.median(hu[lung][back]) > np.median(hu[lung][front]) + 8


def test_families_do_not_share_vendors_or_kernels() -> None:
    found = {
        family: {
            (case.scanner.manufacturer, case.scanner.kernel.name)
            for seed in range(40)
            if (case := Case(DiseaseClass.HEALTHY, seed, family=family, slices=2, rows=64))
        }
        for family in Family
    }
    assert len(found[Family.TRAINING]) > 5
    assert len(found[Family.TEST]) > 3
    assert not {maker for maker, _ in found[Family.TRAINING]} & {
        maker for maker, _ in found[Family.TEST]
    }
    assert not {name for _, name in found[Family.TRAINING]} & {
        name for _, name in found[Family.TEST]
    }


def test_simple_series_keeps_its_promise(simple_folder: Path, tmp_path: Path) -> None:
    again = write_simple_series(tmp_path, slices=SLICES, rows=ROWS, slice_mm=SLICE_MM)
    assert digests(again) == digests(simple_folder)
    dataset = dcmread(simple_folder / "0001.dcm")
    assert dataset.PatientName == "PHANTOM^SEED 7"
    assert "Synthetic" in dataset.ManufacturerModelName
    assert dataset.Manufacturer == "m3lung-node project"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert dataset[keyword].value.startswith("2.25.")
    volume = load_volume(sorted(simple_folder.glob("*.dcm")))
    assert volume.hu.shape == (SLICES, ROWS, ROWS)
    assert volume.pixel_spacing_mm == pytest.approx((400.0 / ROWS, 400.0 / ROWS))
    assert {statement.code for statement in volume.quality} == {QualityCode.THICK_SLICES}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"slices": 0}, "1 to 2000 slices, not 0"),
        ({"slice_mm": 99.0}, "0.3 to 20 mm thick, not 99"),
        ({"rows": 8}, "64 to 1024 rows, not 8"),
        ({"severity_percent": 95.0}, "0.1 to 80 percent of the lungs, not 95"),
    ],
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(PhantomError, match=words):
        Case(DiseaseClass.CAP, 1, **wrong)


def test_a_case_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(DiseaseClass.HEALTHY, 5, slices=4, slice_mm=9.0, rows=64)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_case(case, tmp_path / "case", stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(case_folder: Path, simple_folder: Path, tmp_path: Path) -> None:
    signed = next(
        case
        for seed in range(60)
        if (case := Case(DiseaseClass.HEALTHY, seed, slices=2, rows=64)).scanner.signed
    )
    write_case(signed, tmp_path / "signed")
    for file in (
        case_folder / "series" / "0001.dcm",
        simple_folder / "0001.dcm",
        tmp_path / "signed" / "series" / "0001.dcm",
    ):
        done = subprocess.run(
            [program("dciodvfy") or "dciodvfy", str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Error" not in done.stderr + done.stdout
        assert done.stdout.strip() + done.stderr.strip(), "dciodvfy said nothing at all"
