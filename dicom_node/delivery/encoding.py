"""A stored object, checked, in the transfer syntax that a peer accepted.

The stored bytes are what is sent wherever the peer takes their transfer syntax. Transcoding is
deterministic: the same file gives the same bytes at every attempt, and the SOP Instance UID
stays, since the picture is the same one.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from dicom_node.delivery.compression import compress
from dicom_node.errors import UnsendableObject

__all__ = ["StoredObject", "encoded_dataset", "encoded_file", "read_stored"]

_BLOCK = 1 << 20
# What reading and transcoding a broken file raises (pydicom and its codecs have no common base).
_BROKEN_FILE = (
    InvalidDicomError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A DICOM file that was written once and is re-sent byte for byte.

    Attributes
    ----------
    sha256 : str
        Hex digest of the whole file.
    dataset_offset : int
        Where the data set begins, behind preamble and file meta information.
    """

    path: Path
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int


def read_stored(path: Path, sha256: str, sop_class_uid: str, sop_instance_uid: str) -> StoredObject:
    """Read the file meta information of `path`; the digest is checked when it is sent.

    Raises
    ------
    UnsendableObject
        Missing, no DICOM file, or another object than the ledger says.
    """
    try:
        with path.open("rb") as file:
            read_preamble(file, force=False)
            meta = read_dataset(
                file, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_file_meta
            )
            offset = file.tell()
        found = (str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
        syntax = str(meta.TransferSyntaxUID)
    except FileNotFoundError as error:
        raise UnsendableObject("the stored file is missing") from error
    except _BROKEN_FILE as error:
        raise UnsendableObject(f"the stored file cannot be read: {error}") from error
    if found != (sop_class_uid, sop_instance_uid):
        raise UnsendableObject("the stored file holds another object than the one recorded")
    return StoredObject(path, sha256, *found, syntax, offset)


@contextmanager
def encoded_dataset(stored: StoredObject, transfer_syntax_uid: str) -> Iterator[BinaryIO]:
    """Open the data set of `stored`, encoded in `transfer_syntax_uid`, at its first byte.

    The file's digest is checked on the very handle that is sent from afterwards.

    Raises
    ------
    UnsendableObject
        Missing or altered, or its pixels cannot be transcoded.
    """
    with _checked(stored) as file:
        if transfer_syntax_uid == stored.transfer_syntax_uid:
            file.seek(stored.dataset_offset)
            yield file
            return
        content = _in_another(file, transfer_syntax_uid, _transcoded)
    yield io.BytesIO(content)


@contextmanager
def encoded_file(stored: StoredObject, transfer_syntax_uid: str) -> Iterator[BinaryIO]:
    """Open `stored` as a DICOM file (PS3.10 §7) in `transfer_syntax_uid`, at its first byte.

    Raises
    ------
    UnsendableObject
        As for :func:`encoded_dataset`.
    """
    with _checked(stored) as file:
        if transfer_syntax_uid == stored.transfer_syntax_uid:
            yield file
            return
        content = _in_another(file, transfer_syntax_uid, _transcoded_file)
    yield io.BytesIO(content)


@contextmanager
def _checked(stored: StoredObject) -> Iterator[BinaryIO]:
    try:
        file = stored.path.open("rb")
    except OSError as error:
        raise UnsendableObject(f"the stored file cannot be opened: {error.strerror}") from error
    with file:
        if _sha256(file) != stored.sha256:
            raise UnsendableObject("the stored file was altered: its sha256 is another one")
        file.seek(0)
        yield file


def _in_another(
    file: BinaryIO, transfer_syntax_uid: str, transcode: Callable[[BinaryIO, UID], bytes]
) -> bytes:
    try:
        return transcode(file, UID(transfer_syntax_uid))
    except _BROKEN_FILE as error:
        name = UID(transfer_syntax_uid).name
        raise UnsendableObject(f"cannot be transcoded to {name}: {error}") from error


def _behind_file_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _transcoded(file: BinaryIO, target: UID) -> bytes:
    dataset = _decoded_for(file, target)
    content = encode(dataset, target.is_implicit_VR, target.is_little_endian)
    if content is None:  # pynetdicom logs the reason and returns None
        raise ValueError("the data set cannot be encoded")
    return content


def _transcoded_file(file: BinaryIO, target: UID) -> bytes:
    dataset = _decoded_for(file, target)
    dataset.file_meta.TransferSyntaxUID = target
    written = io.BytesIO()
    dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _decoded_for(file: BinaryIO, target: UID) -> Dataset:
    dataset = dcmread(file)
    stored = dataset.file_meta.TransferSyntaxUID
    if stored.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    if target.is_compressed:
        compress(dataset, target)
    return dataset
