"""Stored pixel values of a CT frame, and the Hounsfield units they stand for.

Decoding is pydicom's with its installed plugins; this module adds what a CT reader has to do
itself: unused bits, padding, the rescale, and an error a radiologist understands.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from inference.errors import UndecodablePixels

__all__ = [
    "AIR_HU",
    "MAX_HU",
    "Padding",
    "Rescale",
    "decode_frame",
    "decode_hu",
    "disk_failed",
    "needs_too_much_memory",
    "padding_of",
    "to_hu",
]

AIR_HU = -1024
MAX_HU = 3071

# What pydicom, its plugins and the parsers under them raise on pixel data they cannot read.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,  # a plain Exception
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


# How the decoders under pydicom say it, whose errors it passes on as text.
_MEMORY_WORDS = ("memoryerror", "bad_alloc", "cannot allocate", "unable to allocate", "memory all")


def needs_too_much_memory(error: BaseException) -> bool:
    """Whether `error`, or what caused it, is a failed allocation."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or any(w in str(link).lower() for w in _MEMORY_WORDS):
            return True
        link = link.__cause__ or link.__context__
    return False


_DISK_ERRORS = {
    errno.EIO, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
    errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip


def disk_failed(error: BaseException) -> bool:
    """Whether `error` is the disk's fault, or a network file system's, and not the file's."""
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


@dataclass(frozen=True, slots=True)
class Rescale:
    """Stored value to HU: ``stored * slope + intercept`` (PS3.3 C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True, slots=True)
class Padding:
    """Inclusive range of stored values outside the field of view (PS3.3 C.7.5.1.1.2)."""

    low: int
    high: int


def decode_hu(
    instance: Dataset, frame_index: int, label: str, rescale: Rescale, padding: Padding | None
) -> NDArray[np.int16]:
    """Decode one frame to Hounsfield units.

    The same as :func:`to_hu` of :func:`decode_frame`. Samples of 16 bits, which is nearly all of
    CT, are looked up in one table of all 65536 of them, made by those two functions: one pass over
    the pixels instead of eight.

    Parameters
    ----------
    instance, frame_index, label
        See :func:`decode_frame`.
    rescale, padding
        See :func:`to_hu`.

    Returns
    -------
    ndarray of int16, shape (rows, columns)

    Raises
    ------
    UndecodablePixels
    """
    return _decoded(
        instance, frame_index, label, lambda raw, cells: _looked_up(raw, cells, rescale, padding)
    )


def decode_frame(instance: Dataset, frame_index: int, label: str) -> NDArray[np.int32]:
    """Decode one frame to its stored values.

    Parameters
    ----------
    instance : Dataset
        With ``file_meta`` and pixel data.
    frame_index : int
        0-based; 0 for single-frame CT.
    label : str
        What the error calls the image: a file name or an instance number, no identifier.

    Returns
    -------
    ndarray of int32, shape (rows, columns)
        Bits above BitsStored are dropped and the sign is extended from HighBit
        (PS3.5 §8.1.1), whatever the container held.

    Raises
    ------
    UndecodablePixels
        The transfer syntax is not supported, or the data are short, broken or not grey.
    """
    return _decoded(instance, frame_index, label, _stored_values)


_Value = TypeVar("_Value", np.int16, np.int32)


def _decoded(
    instance: Dataset,
    frame_index: int,
    label: str,
    values_of: Callable[[NDArray[np.generic], _Cells], NDArray[_Value]],
) -> NDArray[_Value]:
    """Have pydicom decode one frame, and `values_of` make of its cells what is wanted."""
    syntax = UID(str(instance.file_meta.get("TransferSyntaxUID", "")))
    if int(instance.get("SamplesPerPixel", 1) or 1) != 1:
        raise UndecodablePixels(f"The image {label} is a colour image, not a CT slice.")
    try:
        decoder = get_decoder(syntax)
        raw, _ = decoder.as_array(
            instance,
            index=frame_index,
            raw=True,
            correct_unused_bits=False,  # type: ignore[arg-type]  # mistyped in pydicom 3.0
        )
        native = not syntax.is_encapsulated or syntax == DeflatedExplicitVRLittleEndian
        values = values_of(raw, _Cells.of(instance, native=native))
    except NotImplementedError as error:
        name = syntax.name if syntax else "unknown"
        raise UndecodablePixels(
            f"The image {label} is compressed in a way this system cannot read ({name})."
        ) from error
    except DECODER_ERRORS as error:
        if needs_too_much_memory(error):
            raise UndecodablePixels(
                f"The image {label} needs more memory than is allowed to be decoded."
            ) from error
        raise UndecodablePixels(
            f"The pixel data of the image {label} are damaged or incomplete ({syntax.name})."
        ) from error
    if values.ndim != 2:
        raise UndecodablePixels(f"The image {label} does not hold one plane of pixels per frame.")
    return values


@dataclass(frozen=True, slots=True)
class _Cells:
    """Where the sample lies in a cell of the decoded frame (PS3.5 §8.1.1)."""

    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    native: bool

    @staticmethod
    def of(instance: Dataset, *, native: bool) -> _Cells:
        bits_allocated = int(instance.BitsAllocated)
        bits_stored = int(instance.get("BitsStored") or bits_allocated)
        high_bit = instance.get("HighBit")
        high_bit = bits_stored - 1 if high_bit is None else int(high_bit)
        signed = int(instance.get("PixelRepresentation") or 0) == 1
        return _Cells(bits_allocated, bits_stored, high_bit, signed, native)


def _stored_values(raw: NDArray[np.generic], cells: _Cells) -> NDArray[np.int32]:
    values = raw.astype(np.int32)
    if cells.native and cells.bits_stored <= cells.high_bit + 1 <= cells.bits_allocated:
        # Decoders of compressed frames return right-aligned samples; native cells may not be.
        values >>= cells.high_bit + 1 - cells.bits_stored
    if cells.bits_stored < cells.bits_allocated:
        values &= (1 << cells.bits_stored) - 1
        if cells.signed:
            values -= (values >> (cells.bits_stored - 1)) << cells.bits_stored
    return values


def _looked_up(
    raw: NDArray[np.generic], cells: _Cells, rescale: Rescale, padding: Padding | None
) -> NDArray[np.int16]:
    if raw.dtype not in (np.uint16, np.int16):
        return to_hu(_stored_values(raw, cells), rescale, padding)
    table = _hu_table(raw.dtype.char, cells, rescale, padding)
    return np.asarray(table.take(np.ascontiguousarray(raw).view(np.uint16)), dtype=np.int16)


@lru_cache(maxsize=16)  # slices of one series differ in rescale at most
def _hu_table(
    kind: str, cells: _Cells, rescale: Rescale, padding: Padding | None
) -> NDArray[np.int16]:
    """HU of every content of a 16-bit cell, indexed by its bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(kind)
    return to_hu(_stored_values(every, cells), rescale, padding)


def padding_of(instance: Dataset) -> Padding | None:
    """Padding range of `instance` as stored values, None without PixelPaddingValue.

    The VR of PixelPaddingValue follows PixelRepresentation, but some writers get it wrong: a
    value that does not fit the sign is taken modulo 2^BitsAllocated.
    """
    value = instance.get("PixelPaddingValue")
    if value is None or isinstance(value, (bytes, str)):
        return None
    limit = instance.get("PixelPaddingRangeLimit")
    limit = value if limit is None or isinstance(limit, (bytes, str)) else limit
    modulus = 1 << int(instance.get("BitsAllocated") or 16)
    signed = int(instance.get("PixelRepresentation") or 0) == 1

    def fit(number: int) -> int:
        wrapped = int(number) % modulus
        return wrapped - modulus if signed and wrapped >= modulus // 2 else wrapped

    first, last = sorted((fit(value), fit(limit)))
    return Padding(first, last)


def to_hu(
    stored: NDArray[np.int32], rescale: Rescale, padding: Padding | None
) -> NDArray[np.int16]:
    """Hounsfield units of stored values.

    Parameters
    ----------
    stored : ndarray of int32, shape (rows, columns)
    rescale : Rescale
    padding : Padding or None
        Compared on stored values, before the rescale; becomes -1024 HU.

    Returns
    -------
    ndarray of int16, shape (rows, columns)
        HU in [-1024, 3071], rounded to the nearest integer. GE's -2000 outside the circular
        field of view (-3024 HU) ends at -1024 by the clip, with or without a padding value.
    """
    if rescale.slope == 1.0 and rescale.intercept.is_integer():
        # int64: an absurd intercept must clip, not wrap.
        offset = int(np.clip(rescale.intercept, -(2**40), 2**40))
        hu = (
            np.clip(stored.astype(np.int64) + offset, AIR_HU, MAX_HU)
            if abs(offset) > 2**30
            # Clipped before it is shifted: 32-bit values must not wrap either.
            else np.clip(stored, AIR_HU - offset, MAX_HU - offset) + np.int32(offset)
        )
    else:
        with np.errstate(over="ignore"):  # infinite is clipped like everything too large
            hu = np.clip(np.rint(stored * rescale.slope + rescale.intercept), AIR_HU, MAX_HU)
    result = hu.astype(np.int16)
    if padding is not None:
        result[(stored >= padding.low) & (stored <= padding.high)] = AIR_HU
    return result
