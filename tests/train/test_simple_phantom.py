"""The synthetic chest: valid DICOM, the geometry of a chest, the same bytes for the same seed."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from inference.domain import QualityCode
from inference.volume import load_volume
from support.peers import program
from training.phantom import Chest, PhantomSeries, write_simple_series

ROWS, SLICES, SLICE_MM = 128, 30, 8.0


def digests(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]


@functools.cache
def chest_hu(*, seed: int = 7, lesions: bool = True) -> NDArray[np.int16]:
    chest = Chest(seed=seed, slices=SLICES, rows=ROWS, slice_mm=SLICE_MM, lesions=lesions)
    return np.stack(list(chest.slices_hu()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simple_series(
        tmp_path_factory.mktemp("phantom"), slices=SLICES, rows=ROWS, slice_mm=SLICE_MM
    )


def test_same_seed_same_bytes_even_in_another_process(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    code = (
        "import sys; from pathlib import Path; from training.phantom import write_simple_series; "
        f"write_simple_series(Path(sys.argv[1]), slices={SLICES}, rows={ROWS}, slice_mm={SLICE_MM})"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(again)],
        check=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert digests(again) == digests(folder)


def test_other_arguments_make_another_patient_or_series() -> None:
    series = [PhantomSeries(), PhantomSeries(seed=8), PhantomSeries(lesions=False)]
    assert len({one.uid("series") for one in series}) == 3
    assert not np.array_equal(chest_hu(seed=1), chest_hu(seed=2))


def test_is_one_axial_stack_of_the_asked_size(folder: Path) -> None:
    paths = sorted(folder.glob("*.dcm"))
    assert len(paths) == SLICES
    volume = load_volume(paths)
    assert volume.hu.shape == (SLICES, ROWS, ROWS)
    assert volume.slice_spacing_mm == pytest.approx(SLICE_MM)
    assert volume.pixel_spacing_mm == pytest.approx((400.0 / ROWS, 400.0 / ROWS))
    # The first file is the most superior slice, and z falls from there.
    assert [reference.sop_instance_uid for reference in volume.slices] == [
        dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths
    ]
    assert {statement.code for statement in volume.quality} == {QualityCode.THICK_SLICES}


def test_hu_survive_the_file(folder: Path) -> None:
    volume = load_volume(sorted(folder.glob("*.dcm")))
    assert np.array_equal(volume.hu, chest_hu())


def test_names_itself_synthetic(folder: Path) -> None:
    dataset = dcmread(folder / "0001.dcm")
    assert dataset.PatientName == "PHANTOM^SEED 7"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert "Synthetic" in dataset.ManufacturerModelName
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert dataset[keyword].value.startswith("2.25.")


def test_holds_lungs_of_a_plausible_size() -> None:
    hu = chest_hu(lesions=False)
    pixel_mm = 400.0 / ROWS
    # Air-filled tissue inside the body: neither room air, nor the table's foam.
    middle = hu[:, :, ROWS // 8 : -ROWS // 8]
    lung_ml = ((middle > -930) & (middle < -700)).sum() * pixel_mm**2 * SLICE_MM / 1000
    assert 2000 < lung_ml < 7000
    areas = ((hu > -930) & (hu < -700)).sum(axis=(1, 2))
    assert areas[SLICES // 2] > 3 * areas[0]
    assert areas[SLICES // 2] > 3 * areas[-1]


def test_has_bone_and_soft_tissue_and_is_noisy() -> None:
    hu = chest_hu(lesions=False)
    middle = hu[SLICES // 2]
    assert (middle > 300).sum() > 20
    heart = hu[int(SLICES * 0.69), ROWS // 2 - 8 : ROWS // 2 - 2, ROWS // 2 + 3 : ROWS // 2 + 9]
    assert heart.mean() == pytest.approx(42, abs=8)
    assert 5 < heart.std() < 25


def test_lesions_add_ground_glass_inside_the_lungs_only() -> None:
    healthy, ill = chest_hu(lesions=False), chest_hu(lesions=True)
    # The random numbers of the lesions come last but one: compare tissue, not noise.
    risen = (ill.astype(int) - healthy) > 150
    assert risen.sum() > 100
    lung = healthy < -600
    assert (risen & lung).sum() > 0.95 * risen.sum()
    haze = ill[risen & lung]
    assert -750 < np.median(haze) < -350


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(folder: Path) -> None:
    done = subprocess.run(
        [program("dciodvfy") or "dciodvfy", str(folder / "0001.dcm")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Error" not in done.stderr + done.stdout
    assert done.stdout.strip() + done.stderr.strip(), "dciodvfy said nothing at all"
