"""The planes of one CT file in Hounsfield units: the one place that opens pixel data.

What stands here runs on bytes that anybody may have sent, through decoders written in C. It
imports neither torch nor the rest of the model, so that it can run in a child of its own
(:mod:`inference.decoder_child`), which costs little to start and nothing to lose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from inference.errors import DiskFailed, UndecodablePixels
from inference.pixels import (
    DECODER_ERRORS,
    Padding,
    Rescale,
    decode_hu,
    disk_failed,
    needs_too_much_memory,
)

__all__ = ["PixelReader", "Plane", "read_planes"]


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of a file, and what its stored values mean.

    Attributes
    ----------
    index : int
        0-based frame index in the file.
    label : str
        What errors call it; no identifier of a patient.
    rows, columns : int
        The shape that its pixels have to have.
    rescale : Rescale
    padding : Padding or None
    """

    index: int
    label: str
    rows: int
    columns: int
    rescale: Rescale
    padding: Padding | None


class PixelReader(Protocol):
    """How the planes of one file are got: in this process, or in a child."""

    def __call__(self, path: Path, planes: Sequence[Plane]) -> Iterator[NDArray[np.int16]]:
        """HU of `planes` in their order; an array is valid until the next one is asked for.

        Raises
        ------
        UndecodablePixels
        """
        ...


def read_planes(path: Path, planes: Sequence[Plane]) -> Iterator[NDArray[np.int16]]:
    """Open `path` once and decode `planes` in this process.

    Yields
    ------
    ndarray of int16, shape (rows, columns)
        HU, see :func:`inference.pixels.to_hu`.

    Raises
    ------
    UndecodablePixels
        The file cannot be read, holds no pixel data, or not those of a plane.
    DiskFailed
        The disk does not give the file.
    """
    try:
        instance = dcmread(path)
        has_pixels = "PixelData" in instance
    except InvalidDicomError as error:
        raise UndecodablePixels(f"The file {path.name} is not a DICOM file.") from error
    except DECODER_ERRORS as error:
        if disk_failed(error):
            raise DiskFailed(f"the disk does not give {path.name}") from error
        if needs_too_much_memory(error):
            raise UndecodablePixels(
                f"The file {path.name} needs more memory than is allowed."
            ) from error
        raise UndecodablePixels(f"The file {path.name} cannot be read.") from error
    if not has_pixels:
        raise UndecodablePixels(f"The image {path.name} holds no pixel data.")
    for plane in planes:
        hu = decode_hu(instance, plane.index, plane.label, plane.rescale, plane.padding)
        if hu.shape != (plane.rows, plane.columns):
            raise UndecodablePixels(f"The pixel data of the image {plane.label} are incomplete.")
        yield hu
