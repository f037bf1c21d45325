"""Walk the top level of an encoded dataset without trusting it.

Nothing is recursive, nothing is allocated by a length that the dataset announces, and the number
of elements is bounded: a hostile dataset costs milliseconds and ends in
:class:`~dicom_node.errors.CannotUnderstand`. Pixels are stepped over, never read.

Where datasets break the rules of PS3.5 in ways that pydicom reads all the same (implicit VR
elements under an explicit VR transfer syntax and the reverse), this scanner reads what pydicom
reads, since that is what later opens the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from dicom_node.errors import CannotUnderstand

__all__ = ["BROKEN_DATASET", "DatasetScan", "Encoding", "encoding_of", "scan_dataset"]

BROKEN_DATASET = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom raises on one broken element or another; values are parsed when first looked at."""

_MAX_ELEMENTS = 500_000  # an Enhanced CT of 2,000 frames has about 120,000
_MAX_VALUE_BYTES = 4096  # of one value that is asked for
_WINDOW_BYTES = 16384

_ITEM = 0xFFFEE000
_ITEM_DELIMITATION = 0xFFFEE00D
_SEQUENCE_DELIMITATION = 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset({_PIXEL_DATA, 0x7FE00008, 0x7FE00009})  # and float, double float

_LONG_VRS = frozenset(str(vr).encode("ascii") for vr in EXPLICIT_VR_LENGTH_32)
_KNOWN_VRS = frozenset(str(vr).encode("ascii") for vr in VR)

# What an undefined length holds.
_SEQUENCE, _ITEM_DATASET, _FRAGMENTS = range(3)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a transfer syntax encodes a dataset (PS3.5 §7.1, Annex A)."""

    implicit_vr: bool = False
    little_endian: bool = True

    @property
    def byte_order(self) -> str:
        """The `struct` character."""
        return "<" if self.little_endian else ">"


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return how `transfer_syntax_uid` encodes; all compressed ones are explicit little endian."""
    return {
        "1.2.840.10008.1.2": Encoding(implicit_vr=True),
        "1.2.840.10008.1.2.2": Encoding(little_endian=False),
    }.get(transfer_syntax_uid, Encoding())


@dataclass(slots=True)
class DatasetScan:
    """What a scan found.

    Attributes
    ----------
    values : dict of int to bytes
        Raw values of the wanted top-level tags, the last one where a tag stands twice.
    has_pixel_data : bool
    elements : int
        How many elements and items were walked.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    has_pixel_data: bool = False
    elements: int = 0


class _Window:
    """Bounded reads from a file: one piece in memory, refilled where the scan goes."""

    def __init__(self, descriptor: int, end: int) -> None:
        self._descriptor = descriptor
        self._end = end
        self._start = 0
        self._bytes = b""

    def take(self, offset: int, count: int) -> bytes:
        start = offset - self._start
        if start < 0 or start + count > len(self._bytes):
            if offset + count > self._end:
                raise CannotUnderstand("the dataset ends inside an element")
            size = min(max(_WINDOW_BYTES, count), self._end - offset)
            self._bytes = os.pread(self._descriptor, size, offset)
            self._start, start = offset, 0
            if len(self._bytes) < count:
                raise CannotUnderstand("the dataset ends inside an element")
        return self._bytes[start : start + count]


class _Scanner:
    def __init__(
        self, window: _Window, start: int, end: int, encoding: Encoding, wanted: Collection[int]
    ) -> None:
        self._window = window
        self._offset = start
        self._end = end
        self._wanted = wanted
        self._order = encoding.byte_order
        self._long = struct.Struct(self._order + "L").unpack
        self._tag = struct.Struct(self._order + "HH").unpack
        self._short = struct.Struct(self._order + "H").unpack
        self._implicit = self._really_implicit(encoding.implicit_vr)
        # Open undefined lengths, outermost first: (what it is, whether its inside is implicit VR).
        self._open: list[tuple[int, bool]] = []
        self.found = DatasetScan()

    def _really_implicit(self, assumed: bool) -> bool:
        # The VR of the first element tells what the sender really wrote; a length that looks
        # like two capitals would be above 16 kB.
        if self._end - self._offset < 8:
            return assumed
        first, second = self._window.take(self._offset, 8)[4:6]
        return not (0x40 < first < 0x5B and 0x40 < second < 0x5B)

    def run(self) -> DatasetScan:
        while self._offset < self._end:
            if self._end - self._offset < 8:
                self._expect_padding()
                break
            self.found.elements += 1
            if self.found.elements > _MAX_ELEMENTS:
                raise CannotUnderstand("the dataset has more elements than this node reads")
            if self._open and self._open[-1][0] != _ITEM_DATASET:
                self._step_item()
            else:
                self._step_element()
        if self._open:
            raise CannotUnderstand("the dataset ends inside a sequence")
        return self.found

    def _expect_padding(self) -> None:
        rest = self._window.take(self._offset, self._end - self._offset)
        if rest.strip(b"\0"):
            raise CannotUnderstand("the dataset ends inside an element")

    def _step_item(self) -> None:
        """Step over one item of a sequence or one fragment of encapsulated pixels (PS3.5 §7.5)."""
        group, number = self._tag(self._window.take(self._offset, 4))
        (length,) = self._long(self._window.take(self._offset + 4, 4))
        tag = group << 16 | number
        kind, implicit = self._open[-1]
        self._offset += 8
        if tag == _SEQUENCE_DELIMITATION:
            self._open.pop()
        elif tag != _ITEM:
            raise CannotUnderstand("a sequence holds something that is not an item")
        elif length != _UNDEFINED:
            self._skip(length)
        elif kind == _FRAGMENTS:
            raise CannotUnderstand("a pixel data fragment has no length")
        else:
            self._open.append((_ITEM_DATASET, implicit))

    def _step_element(self) -> None:
        head = self._window.take(self._offset, 8)
        group, number = self._tag(head[:4])
        tag = group << 16 | number
        inside = bool(self._open)
        implicit = self._open[-1][1] if inside else self._implicit
        vr = b"" if implicit or group == 0xFFFE else head[4:6]
        self._offset += 8
        if vr and vr not in _KNOWN_VRS and not b"AA" <= vr <= b"ZZ":
            vr = b""  # an implicit VR element among explicit ones
        if not vr:
            (length,) = self._long(head[4:8])
        elif vr in _LONG_VRS:
            (length,) = self._long(self._window.take(self._offset, 4))
            self._offset += 4
        else:
            (length,) = self._short(head[6:8])
        if group == 0xFFFE:
            self._close_item(tag, inside)
        elif length == _UNDEFINED:
            self._enter(tag, vr, implicit, inside)
        else:
            if not inside:
                self._note(tag, length)
            self._skip(length)

    def _close_item(self, tag: int, inside: bool) -> None:
        if not inside or tag != _ITEM_DELIMITATION:
            raise CannotUnderstand("an item delimiter stands where no item is open")
        self._open.pop()

    def _enter(self, tag: int, vr: bytes, implicit: bool, inside: bool) -> None:
        if tag in _PIXEL_TAGS or vr in (b"OB", b"OW"):
            self.found.has_pixel_data |= tag in _PIXEL_TAGS and not inside
            self._open.append((_FRAGMENTS, implicit))
        else:
            # UN of undefined length is a sequence in implicit VR (PS3.5 §6.2.2).
            self._open.append((_SEQUENCE, implicit or vr == b"UN"))

    def _note(self, tag: int, length: int) -> None:
        if tag in _PIXEL_TAGS:
            self.found.has_pixel_data |= length > 0
        elif tag in self._wanted:
            if length > self._end - self._offset:
                raise CannotUnderstand("an element is longer than the dataset")
            self.found.values[tag] = self._window.take(self._offset, min(length, _MAX_VALUE_BYTES))

    def _skip(self, length: int) -> None:
        if length > self._end - self._offset:
            raise CannotUnderstand("an element is longer than the dataset")
        self._offset += length


def scan_dataset(
    descriptor: int, start: int, end: int, encoding: Encoding, wanted: Collection[int]
) -> DatasetScan:
    """Walk the dataset in bytes [`start`, `end`) of an open file.

    Parameters
    ----------
    descriptor : int
        Open for reading; its position is neither used nor changed.
    encoding : Encoding
        What was negotiated.
    wanted : collection of int
        Top-level tags (``group << 16 | element``) whose values are returned.

    Raises
    ------
    CannotUnderstand
        Truncated, a length beyond the end, broken nesting, or too many elements.

    Notes
    -----
    Sequences of undefined length are walked item by item (PS3.5 §7.5), those of defined length
    are stepped over in one.
    """
    scanner = _Scanner(_Window(descriptor, end), start, end, encoding, wanted)
    return scanner.run()
