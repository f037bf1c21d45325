"""Masks in NIfTI (``.nii``, ``.nii.gz``), put on the grid of a DICOM series.

NIfTI counts voxels (i, j, k) and says by an affine where their centres lie, in millimetres to the
right, front and top (RAS); DICOM's axes point to the left, back and top (LPS, PS3.3 C.7.6.2).
Nothing is interpolated: a mask was drawn on the series' own voxels, in whatever order and
direction its program keeps them, or it is refused.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Image
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from inference.domain import CtVolume, Lobe
from training.errors import CohortError

__all__ = ["is_nifti", "names_lobes", "read_nifti_labels"]

_SUFFIXES = (".nii", ".nii.gz")
_LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0])
_OFF_GRID = 0.2  # voxels; affines are kept in single precision and rounded by converters
_BROKEN = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)


def is_nifti(file: Path) -> bool:
    """Whether a file's name says that it is NIfTI."""
    return file.name.lower().endswith(_SUFFIXES)


def names_lobes(file: Path) -> bool:
    """Whether a file's name says that it holds lobes (1 to 5 of :class:`~inference.domain.Lobe`).

    Else it holds lesions. NIfTI has no place for the meaning of a label.
    """
    return "lobe" in file.name.lower()


def read_nifti_labels(file: Path, volume: CtVolume, row: int | None = None) -> NDArray[np.uint8]:
    """Read whole labels and put them in the order of `volume`.

    Parameters
    ----------
    file : Path
    volume : CtVolume
        The series that the mask was drawn on.
    row : int or None
        Of the cohort, for the message of an error.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        Lobes where the name says so, else 1 for lesion; 0 elsewhere.

    Raises
    ------
    CohortError
        It cannot be read, has another shape, lies elsewhere, is turned against the series'
        voxels, or holds what is no label. Names the file and the row.
    """
    try:
        image = nibabel.load(file)
        if not isinstance(image, Nifti1Image):  # NIfTI-2 is one, too
            raise CohortError(file, row, "is no NIfTI image")
        shape = _three_axes(image.shape)
        if shape is None:
            raise CohortError(file, row, f"has {len(image.shape)} axes: {_words(image.shape)}")
        if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
            raise CohortError(file, row, "does not say where it lies (sform and qform code 0)")
        indices = _indices(np.asarray(image.affine, np.float64), shape, volume, file, row)
        values = np.asanyarray(image.dataobj).reshape(shape)
    except _BROKEN as error:
        raise CohortError(file, row, f"is no NIfTI that can be read: {error}") from error
    return _labels(values[indices], file, row)


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Drop axes of length one behind the third."""
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        return None
    return shape[0], shape[1], shape[2]


def _indices(
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    volume: CtVolume,
    file: Path,
    row: int | None,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return i, j, k of every voxel of `volume`, broadcastable to (slices, rows, columns).

    Each axis of the series runs along one axis of the mask, forwards or backwards.
    """
    slices, rows, columns = volume.hu.shape
    if sorted(shape) != sorted(volume.hu.shape):
        text = f"has {_words(shape)} voxels, the series {_words((columns, rows, slices))}"
        raise CohortError(file, row, f"{text} (columns × rows × slices)")
    linear = _LPS_OF_RAS @ affine[:3, :3]  # mm per voxel step, LPS
    if not np.isfinite(affine).all() or abs(np.linalg.det(linear)) < 1e-9:
        raise CohortError(file, row, "has an affine that is no map of space")
    to_voxel = np.linalg.inv(linear)
    # Steps of the series, (LPS, axis): to the next column and row.
    between_rows, between_columns = volume.pixel_spacing_mm
    steps = np.stack(
        [
            np.array(volume.orientation[:3]) * between_columns,
            np.array(volume.orientation[3:]) * between_rows,
        ],
        axis=1,
    )
    along = to_voxel @ steps  # (ijk, column or row)
    first = (volume.positions_mm - _LPS_OF_RAS @ affine[:3, 3]) @ to_voxel.T  # (slices, ijk)
    corners = [
        first + along @ np.array([column, line], np.float64)
        for column in (0, columns - 1)
        for line in (0, rows - 1)
    ]
    axis_of_columns, axis_of_rows = (int(np.argmax(np.abs(along[:, n]))) for n in (0, 1))
    axis_of_slices = 3 - axis_of_columns - axis_of_rows
    if axis_of_columns == axis_of_rows:
        raise CohortError(file, row, _turned(corners))
    # What the grid would be if nothing were turned or shifted; its corners have to be those found.
    sign = np.sign(along)
    start = np.rint(first)  # (slices, ijk)
    exact = [
        _stepped(start, axis_of_columns, sign[axis_of_columns, 0] * column, axis_of_rows,
                 sign[axis_of_rows, 1] * line)
        for column in (0, columns - 1)
        for line in (0, rows - 1)
    ]  # fmt: skip
    apart = max(float(np.abs(a - b).max()) for a, b in zip(corners, exact, strict=True))
    if apart > _OFF_GRID:
        raise CohortError(file, row, _turned(corners, apart))
    found: list[NDArray[np.intp]] = [np.zeros((1, 1, 1), np.intp)] * 3
    begin = start.astype(np.intp)
    found[axis_of_columns] = (
        begin[:, axis_of_columns, None, None]
        + int(sign[axis_of_columns, 0]) * np.arange(columns)[None, None, :]
    )
    found[axis_of_rows] = (
        begin[:, axis_of_rows, None, None]
        + int(sign[axis_of_rows, 1]) * np.arange(rows)[None, :, None]
    )
    found[axis_of_slices] = begin[:, axis_of_slices, None, None]
    for index, length in zip(found, shape, strict=True):
        if index.min() < 0 or index.max() >= length:
            raise CohortError(file, row, "lies elsewhere: the series has voxels outside of it")
    if len(np.unique(begin[:, axis_of_slices])) != slices:
        raise CohortError(file, row, "has other slice positions than the series")
    return found[0], found[1], found[2]


def _stepped(
    start: NDArray[np.float64], one: int, by_one: float, other: int, by_other: float
) -> NDArray[np.float64]:
    moved = start.copy()
    moved[:, one] += by_one
    moved[:, other] += by_other
    return moved


def _turned(corners: list[NDArray[np.float64]], apart: float | None = None) -> str:
    least = f" by {apart:.1f} voxels" if apart is not None else ""
    if not all(np.isfinite(corner).all() for corner in corners):
        return "has an affine that is no map of space"
    return (
        f"does not lie on the voxels of the series: it is off{least}, turned, shifted or of "
        "another spacing; draw on the series itself, or resample to it"
    )


def _labels(values: NDArray[Any], file: Path, row: int | None) -> NDArray[np.uint8]:
    whole = values
    if values.dtype.kind == "f":  # scaled, or written so
        whole = np.rint(values)
        if not np.isfinite(values).all() or np.abs(values - whole).max(initial=0.0) > 1e-3:
            raise CohortError(file, row, "holds values between whole labels: no mask, or resampled")
    elif values.dtype.kind not in "iub":
        raise CohortError(file, row, f"holds {values.dtype}, no labels")
    if not names_lobes(file):
        return np.asarray(whole > 0, np.uint8)
    unknown = sorted({int(value) for value in np.unique(whole)} - {0, *map(int, Lobe)})
    if unknown:
        names = ", ".join(f"{int(lobe)} {lobe.label.lower()}" for lobe in Lobe)
        raise CohortError(file, row, f"holds the label {unknown[0]}; lobes are {names}")
    return whole.astype(np.uint8)


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
