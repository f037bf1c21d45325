"""Masks in NIfTI: the same as the DICOM SEG of the same mask, however their voxels are kept."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from nibabel.nifti2 import Nifti2Image

from inference.domain import CtVolume, DiseaseClass, Lobe, SliceReference
from inference.volume import load_volume
from support.drawn_seg import write_seg
from training.cohort.cache_build import masks_digest
from training.cohort.drawn_masks import holds_masks, read_masks
from training.cohort.nifti_masks import read_nifti_labels
from training.cohort.table import CohortRow
from training.errors import CohortError
from training.phantom import Case, write_case

CT = "1.2.840.10008.5.1.4.1.1.2"
RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# All ways to keep three axes: which comes first, and which runs backwards.
KEPT = [
    np.array(list(zip(order, signs, strict=True)), float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def axial(slices: int = 5, rows: int = 6, columns: int = 4) -> CtVolume:
    """A volume of unequal sides and spacings, most superior slice first."""
    return volume((1, 0, 0, 0, 1, 0), slices, rows, columns)


def volume(
    orientation: tuple[float, ...], slices: int = 5, rows: int = 6, columns: int = 4
) -> CtVolume:
    cosines = np.array(orientation, float)
    normal = np.cross(cosines[:3], cosines[3:])
    z = 40.0 - 2.5 * np.arange(slices)
    positions = np.array([-31.25, 12.5, 0.0]) + z[:, None] * normal
    return CtVolume(
        hu=np.zeros((slices, rows, columns), np.int16),
        slices=tuple(SliceReference(f"1.2.{n}", CT) for n in range(slices)),
        z_mm=z,
        positions_mm=positions,
        orientation=tuple(float(value) for value in cosines),  # type: ignore[arg-type]
        pixel_spacing_mm=(0.7, 0.9),
        slice_spacing_mm=2.5,
    )


def nifti(series: CtVolume, labels: np.ndarray) -> Nifti1Image:
    """The mask as a converter of DICOM writes it: (columns, rows, slices), with its affine."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(series.orientation[:3]) * series.pixel_spacing_mm[1]
    affine[:3, 1] = np.array(series.orientation[3:]) * series.pixel_spacing_mm[0]
    affine[:3, 2] = series.positions_mm[1] - series.positions_mm[0]
    affine[:3, 3] = series.positions_mm[0]
    return Nifti1Image(labels.transpose(2, 1, 0).astype(np.uint8), RAS_OF_LPS @ affine)


def some_labels(series: CtVolume) -> np.ndarray:
    """Labels without any symmetry."""
    return np.random.default_rng(7).integers(0, 6, series.hu.shape).astype(np.uint8)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> CohortRow:
    folder = tmp_path_factory.mktemp("case")
    write_case(Case(DiseaseClass.CAP, 43, slices=20, slice_mm=12.0, rows=64), folder)
    return CohortRow("p", folder / "series", DiseaseClass.CAP, None, folder, 2)


def with_truth(row: CohortRow, path: Path) -> CohortRow:
    return CohortRow(row.patient_id, row.series_path, row.label, None, path, row.number)


# -- the same as a SEG -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [KEPT[0], KEPT[3], KEPT[13], KEPT[47]], ids=str)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_same_masks_as_from_a_seg(
    case: CohortRow, tmp_path: Path, kept: np.ndarray, suffix: str
) -> None:
    files = sorted(case.series_path.glob("*.dcm"))
    series = load_volume(files)
    truth = read_masks(case, series)
    assert truth.lesion is not None
    assert truth.lobes is not None
    write_seg(tmp_path / "seg.dcm", files, series, truth.lesion, truth.lobes)
    folder = tmp_path / "nifti"
    folder.mkdir()
    for name, labels in (("lesion", truth.lesion), ("lobes", truth.lobes)):
        image = nifti(series, labels).as_reoriented(kept)
        nibabel.save(image, folder / f"{name}{suffix}")
    assert holds_masks(folder)
    drawn = read_masks(with_truth(case, folder), series)
    seg = read_masks(with_truth(case, tmp_path / "seg.dcm"), series)
    assert drawn.lesion is not None
    assert drawn.lesion.any()
    np.testing.assert_array_equal(drawn.lesion, seg.lesion)
    np.testing.assert_array_equal(drawn.lobes, seg.lobes)


# -- geometry --------------------------------------------------------------------------------------


def kept_words(kept: np.ndarray) -> str:
    return "".join(f"{'ijk'[int(axis)]}{sign:+.0f}" for axis, sign in kept)


@pytest.mark.parametrize("kept", KEPT, ids=kept_words)
def test_voxels_in_any_order_and_direction(tmp_path: Path, kept: np.ndarray) -> None:
    series = axial()
    labels = some_labels(series)
    image = nifti(series, labels).as_reoriented(kept)
    nibabel.save(image, tmp_path / "lobes.nii")
    np.testing.assert_array_equal(read_nifti_labels(tmp_path / "lobes.nii", series), labels)


@pytest.mark.parametrize(
    "orientation",
    [
        (-1, 0, 0, 0, -1, 0),  # prone
        (1, 0, 0, 0, 0.9510565, -0.309017),  # a tilted gantry
        (0.9950042, 0.0998334, 0, -0.0978434, 0.9751703, 0.1986693),  # turned about two axes
        (0, 1, 0, 0, 0, -1),  # sagittal
    ],
)
def test_series_that_lie_askew(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    series = volume(orientation)
    labels = some_labels(series)
    for kept in (KEPT[0], KEPT[29]):
        nibabel.save(nifti(series, labels).as_reoriented(kept), tmp_path / "lobes.nii.gz")
        np.testing.assert_array_equal(read_nifti_labels(tmp_path / "lobes.nii.gz", series), labels)


def test_the_affine_alone_says_left_and_right(tmp_path: Path) -> None:
    """The same voxels with the first axis turned are the mirrored mask, and lie elsewhere."""
    series = axial()
    labels = some_labels(series)
    image = nifti(series, labels)
    turned = image.affine.copy()
    turned[:3, 3] += turned[:3, 0] * (series.hu.shape[2] - 1)
    turned[:3, 0] *= -1
    nibabel.save(Nifti1Image(np.asarray(image.dataobj), turned), tmp_path / "lobes.nii")
    np.testing.assert_array_equal(
        read_nifti_labels(tmp_path / "lobes.nii", series), labels[:, :, ::-1]
    )


def test_slices_at_uneven_distances_are_refused(tmp_path: Path) -> None:
    """An affine knows one distance only: such a mask says nothing of where its slices lie."""
    series = axial()
    positions = series.positions_mm.copy()
    positions[3:, 2] -= 1.5
    uneven = CtVolume(
        series.hu, series.slices, positions[:, 2], positions, series.orientation,
        series.pixel_spacing_mm, None,
    )  # fmt: skip
    nibabel.save(nifti(series, some_labels(series)), tmp_path / "lobes.nii")
    with pytest.raises(CohortError, match="does not lie on the voxels of the series"):
        read_nifti_labels(tmp_path / "lobes.nii", uneven)


# -- what is no mask of the series -----------------------------------------------------------------


def moved(affine: np.ndarray, axis: int, mm: float) -> np.ndarray:
    out = affine.copy()
    out[axis, 3] += mm
    return out


def rotated(affine: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda image: Nifti1Image(np.asarray(image.dataobj)[:, :, :4], image.affine),
         "has 4 × 6 × 4 voxels, the series 4 × 6 × 5"),
        (lambda image: Nifti1Image(np.asarray(image.dataobj)[..., None].repeat(2, -1),
                                   image.affine), "has 4 axes: 4 × 6 × 5 × 2"),
        (lambda image: Nifti1Image(image.dataobj, moved(image.affine, 0, 0.45)),
         "does not lie on the voxels"),
        (lambda image: Nifti1Image(image.dataobj, moved(image.affine, 2, 25.0)), "lies elsewhere"),
        (lambda image: Nifti1Image(image.dataobj, rotated(image.affine, 10.0)),
         "does not lie on the voxels"),
        (lambda image: Nifti1Image(image.dataobj, rotated(image.affine, 45.0)),
         "does not lie on the voxels"),
        (lambda image: Nifti1Image(image.dataobj, image.affine @ np.diag([1.1, 1, 1, 1])),
         "does not lie on the voxels"),
        (lambda image: Nifti1Image(image.dataobj, None), "does not say where it lies"),
        (lambda image: Nifti1Image(np.asarray(image.dataobj, np.float32) * 0.5, image.affine),
         "between whole labels"),
        (lambda image: Nifti1Image(np.asarray(image.dataobj) + 3, image.affine),
         "holds the label 6; lobes are 1 right upper lobe"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_file_and_row(tmp_path: Path, make, words: str) -> None:
    series = axial()
    file = tmp_path / "lobes.nii"
    nibabel.save(make(nifti(series, some_labels(series))), file)
    with pytest.raises(CohortError, match=r"lobes\.nii, row 9: ") as raised:
        read_nifti_labels(file, series, 9)
    assert words in str(raised.value)
    assert (raised.value.file, raised.value.row) == (file, 9)


@pytest.mark.parametrize("content", [b"", b"no NIfTI", b"\x1f\x8b\x08\x00 cut off"])
@pytest.mark.parametrize("name", ["lesion.nii", "lesion.nii.gz"])
def test_what_cannot_be_read_says_so(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CohortError, match="is no NIfTI that can be read"):
        read_nifti_labels(tmp_path / name, axial(), 9)


def test_a_file_that_is_cut_off_says_so(tmp_path: Path) -> None:
    series = axial()
    nibabel.save(nifti(series, some_labels(series)), tmp_path / "lesion.nii")
    whole = (tmp_path / "lesion.nii").read_bytes()
    (tmp_path / "lesion.nii").write_bytes(whole[:-20])
    with pytest.raises(CohortError, match="is no NIfTI that can be read"):
        read_nifti_labels(tmp_path / "lesion.nii", series)


# -- what labels mean ------------------------------------------------------------------------------


def test_the_name_says_what_labels_mean(tmp_path: Path) -> None:
    series = axial()
    labels = some_labels(series)
    for name in ("LungLobes.nii", "infection.nii"):
        nibabel.save(nifti(series, labels), tmp_path / name)
    lobes = read_nifti_labels(tmp_path / "LungLobes.nii", series)
    assert set(np.unique(lobes)) <= {0, *Lobe}
    lesion = read_nifti_labels(tmp_path / "infection.nii", series)
    np.testing.assert_array_equal(lesion, labels > 0)


def test_numbers_may_be_kept_as_fractions_and_in_nifti_2(tmp_path: Path) -> None:
    series = axial()
    labels = some_labels(series)
    image = nifti(series, labels)
    data = np.asarray(image.dataobj, np.float32)[..., None]
    nibabel.save(Nifti2Image(data, image.affine), tmp_path / "lobes.nii")
    np.testing.assert_array_equal(read_nifti_labels(tmp_path / "lobes.nii", series), labels)


def test_files_of_a_folder_are_put_together_and_their_content_counts(
    case: CohortRow, tmp_path: Path
) -> None:
    series = load_volume(sorted(case.series_path.glob("*.dcm")))
    left = np.zeros(series.hu.shape, np.uint8)
    left[3, 20:30, 40:50] = 1
    nibabel.save(nifti(series, left), tmp_path / "consolidation.nii")
    nibabel.save(nifti(series, left[:, :, ::-1]), tmp_path / "ground_glass.nii")
    row = with_truth(case, tmp_path)
    drawn = read_masks(row, series)
    np.testing.assert_array_equal(drawn.lesion, (left | left[:, :, ::-1]) > 0)
    assert drawn.lobes is None
    before = masks_digest(row)
    nibabel.save(nifti(series, left), tmp_path / "ground_glass.nii")
    assert masks_digest(row) != before
