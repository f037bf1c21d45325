"""Read the :class:`~dicom_node.header.InstanceHeader` of a received instance.

Costs well under a millisecond, touches no pixels and survives hostile datasets: see
:mod:`dicom_node.dataset_scan`.
"""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path

from pydicom.charset import CODES_TO_ENCODINGS, default_encoding, python_encoding

from dicom_node.dataset_scan import DatasetScan, Encoding, encoding_of, scan_dataset
from dicom_node.domain import is_legal_uid
from dicom_node.errors import CannotUnderstand, DatasetMismatch
from dicom_node.header import InstanceHeader

__all__ = ["NODE_MODEL_NAME", "read_dataset_header", "read_instance_header"]

NODE_MODEL_NAME = "m3lung-node"
"""ManufacturerModelName of everything this node makes: the mark of the loop guard."""

_MAX_TEXT = 256
_SPECIFIC_CHARACTER_SET = 0x00080005
_UIDS = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
}
_UID_NAMES = {
    0x00080016: "SOP Class UID",
    0x00080018: "SOP Instance UID",
    0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}
_TEXTS = {
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_name": 0x00100010,
    "accession_number": 0x00080050,
    "study_date": 0x00080020,
    "study_description": 0x00081030,
    "requested_procedure": 0x00321060,
    "patient_age": 0x00101010,
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "model_name": 0x00081090,
    "series_description": 0x0008103E,
    "protocol_name": 0x00181030,
    "body_part_examined": 0x00180015,
    "convolution_kernel": 0x00181210,
}
_INTEGERS = {
    "series_number": 0x00200011,
    "acquisition_number": 0x00200012,
    "instance_number": 0x00200013,
    "number_of_frames": 0x00280008,
}
_SHORTS = {"rows": 0x00280010, "columns": 0x00280011}
_DECIMALS = {
    "image_position": (0x00200032, 3),
    "image_orientation": (0x00200037, 6),
    "pixel_spacing": (0x00280030, 2),
}
_FRAME_OF_REFERENCE_UID = 0x00200052
_IMAGE_TYPE = 0x00080008
_SLICE_THICKNESS = 0x00180050
_WANTED = frozenset(
    {
        *_UIDS.values(),
        *_TEXTS.values(),
        *_INTEGERS.values(),
        *_SHORTS.values(),
        *(tag for tag, _ in _DECIMALS.values()),
        _FRAME_OF_REFERENCE_UID,
        _IMAGE_TYPE,
        _SLICE_THICKNESS,
        _SPECIFIC_CHARACTER_SET,
    }
)
# PS3.5 §6.2: IS and DS, more loosely (any length), without what Python's own parsers allow beyond.
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
# Characters that no text column of a database and no log line should have to hold.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_ESCAPE = b"\x1b"
_FRAGMENT = re.compile(b"(^[^\x1b]+|\x1b[^\x1b]*)")
# Their codecs understand the escape sequence themselves.
_ESCAPING_CODECS = frozenset({"iso2022_jp", "iso2022_jp_2", "iso_ir_58"})


def read_dataset_header(
    descriptor: int, *, start: int, end: int, transfer_syntax_uid: str
) -> InstanceHeader:
    """Read the header of the dataset in bytes [`start`, `end`) of an open file.

    Parameters
    ----------
    descriptor : int
        Open for reading.
    transfer_syntax_uid : str
        As negotiated, or as the File Meta Information says.

    Raises
    ------
    CannotUnderstand
        The dataset cannot be walked: truncated, impossible lengths, broken nesting.
    DatasetMismatch
        SOP Class, SOP Instance, Study or Series Instance UID is missing, empty or illegal.
    """
    encoding = encoding_of(transfer_syntax_uid)
    scan = scan_dataset(descriptor, start, end, encoding, _WANTED)
    return _header(scan, encoding, transfer_syntax_uid)


def read_instance_header(path: Path) -> InstanceHeader:
    """Read the header of a DICOM file (PS3.10 §7).

    Raises
    ------
    CannotUnderstand
        Not a DICOM file with File Meta Information, deflated, or not to be walked.
    DatasetMismatch
        A UID is missing, empty or illegal.
    OSError
        The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        end = os.fstat(descriptor).st_size
        prefix = os.pread(descriptor, 144, 0)
        if prefix[128:132] != b"DICM" or prefix[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
            raise CannotUnderstand("no DICOM file with File Meta Information")
        start = 144 + int.from_bytes(prefix[140:144], "little")
        if start > end:
            raise CannotUnderstand("the File Meta Information is longer than the file")
        meta = scan_dataset(descriptor, 144, start, Encoding(), {0x00020010})
        transfer_syntax_uid = _uid(meta.values.get(0x00020010, b""))
        if not is_legal_uid(transfer_syntax_uid):
            raise CannotUnderstand("the File Meta Information names no transfer syntax")
        if transfer_syntax_uid == "1.2.840.10008.1.2.1.99":
            raise CannotUnderstand("deflated datasets are not read")
        return read_dataset_header(
            descriptor, start=start, end=end, transfer_syntax_uid=transfer_syntax_uid
        )


def _header(scan: DatasetScan, encoding: Encoding, transfer_syntax_uid: str) -> InstanceHeader:
    values = scan.values
    uids = {name: _required_uid(values, tag) for name, tag in _UIDS.items()}
    frame_of_reference = _uid(values.get(_FRAME_OF_REFERENCE_UID, b""))
    charsets = _character_sets(values.get(_SPECIFIC_CHARACTER_SET, b""))
    texts = {name: _text(values.get(tag, b""), charsets) for name, tag in _TEXTS.items()}
    integers = {name: _integer(values.get(tag, b"")) for name, tag in _INTEGERS.items()}
    shorts = {name: _short(values.get(tag, b""), encoding) for name, tag in _SHORTS.items()}
    decimals = {
        name: _decimals(values.get(tag, b""), count) for name, (tag, count) in _DECIMALS.items()
    }
    texts["patient_name"] = texts["patient_name"].rstrip("=")  # empty component groups
    thickness = _decimals(values.get(_SLICE_THICKNESS, b""), 1)
    image_type = _text(values.get(_IMAGE_TYPE, b""), charsets)
    return InstanceHeader.model_validate(
        {
            **uids,
            **texts,
            **integers,
            **shorts,
            **decimals,
            "transfer_syntax_uid": transfer_syntax_uid,
            "frame_of_reference_uid": frame_of_reference
            if is_legal_uid(frame_of_reference)
            else "",
            "image_type": tuple(part.strip() for part in image_type.split("\\"))
            if image_type
            else (),
            "slice_thickness_mm": thickness[0] if thickness else None,
            "has_pixel_data": scan.has_pixel_data,
            "from_this_node": texts["model_name"] == NODE_MODEL_NAME,
        }
    )


def _required_uid(values: dict[int, bytes], tag: int) -> str:
    uid = _uid(values.get(tag, b""))
    if not is_legal_uid(uid):
        state = "illegal" if uid else "empty" if tag in values else "missing"
        raise DatasetMismatch(f"{_UID_NAMES[tag]} is {state}")
    return uid


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("latin-1")


def _ascii(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _integer(value: bytes) -> int | None:
    text = _ascii(value)
    if _INTEGER.fullmatch(text):
        return int(text)
    numbers = _decimals(value, 1)  # "5.0" occurs
    return int(numbers[0]) if numbers and numbers[0].is_integer() else None


def _short(value: bytes, encoding: Encoding) -> int | None:
    return int(struct.unpack(encoding.byte_order + "H", value)[0]) if len(value) == 2 else None


def _decimals(value: bytes, count: int) -> tuple[float, ...] | None:
    parts = [part.strip(" ") for part in _ascii(value).split("\\")]
    if len(parts) != count or not all(_DECIMAL.fullmatch(part) for part in parts):
        return None
    numbers = tuple(float(part) for part in parts)
    return numbers if all(math.isfinite(number) for number in numbers) else None


def _character_sets(value: bytes) -> list[str]:
    """Return Python's codecs for Specific Character Set (PS3.3 C.12.1.1.2), the first for G0.

    Only the defined terms count (and their common misspellings): any other text could name any
    codec of Python.
    """
    codecs: list[str] = []
    for term in _ascii(value).split("\\"):
        name = re.sub("^ISO[^_ 2]IR", "ISO_IR", term.strip())
        name = re.sub("^ISO.2022.IR.", "ISO 2022 IR ", re.sub("^ISO IR ", "ISO_IR ", name))
        codecs.append(python_encoding.get(name, default_encoding))
    return codecs


def _text(value: bytes, charsets: list[str]) -> str:
    if value.isascii() and _ESCAPE not in value:
        text = value.decode("ascii")
    else:
        fragments = _FRAGMENT.findall(value)
        text = "".join(_fragment(fragment, charsets) for fragment in fragments)
    return _CONTROLS.sub("", text.strip(" \0")).strip()[:_MAX_TEXT]


def _fragment(fragment: bytes, charsets: list[str]) -> str:
    """Decode a piece of text that starts with at most one escape sequence (PS3.5 §6.1.2.5)."""
    if not fragment.startswith(_ESCAPE):
        return fragment.decode(charsets[0], errors="replace")
    length = 4 if fragment.startswith((b"\x1b$(", b"\x1b$)")) else 3
    codec = CODES_TO_ENCODINGS.get(fragment[:length], "")
    if codec not in charsets and codec != default_encoding:
        return fragment[length:].decode(charsets[0], errors="replace")
    if codec in _ESCAPING_CODECS:
        return fragment.decode(codec, errors="replace")
    # A delimiter brings the first character set back.
    body = fragment[length:]
    end = min((body.find(mark) for mark in (b"^", b"=", b"\\") if mark in body), default=len(body))
    return body[:end].decode(codec, errors="replace") + body[end:].decode(
        charsets[0], errors="replace"
    )
