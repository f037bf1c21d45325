"""Write a dataset as a DICOM file (PS3.10 §7), whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.domain import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, ObjectKind

__all__ = ["WrittenObject", "sync_directory", "write_atomically", "write_object"]


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """A result that lies durably on the disk and is re-sent byte for byte.

    Attributes
    ----------
    kind : ObjectKind
    slot : str
        What the object is for ("report", "overlay/0007"); of several objects with the same slot a
        destination gets the first by `rank` that it takes.
    rank : int
    path : Path
        Relative to the directory that was written to.
    sha256 : str
        Hex digest of the whole file.
    """

    kind: ObjectKind
    slot: str
    rank: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    path: Path
    sha256: str
    size_bytes: int


def write_object(
    dataset: Dataset, root: Path, path: Path, kind: ObjectKind, slot: str, rank: int = 0
) -> WrittenObject:
    """Write `dataset` to ``root / path`` in Explicit VR Little Endian.

    The directory entry itself is durable only after :func:`sync_directory`.

    Raises
    ------
    OSError
        No space, or the directory is not writable; no partial file stays under the name.
    """
    content = _encoded(dataset)
    write_atomically(root / path, content)
    return WrittenObject(
        kind=kind,
        slot=slot,
        rank=rank,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` under `path`: temporary file, fsync, rename.

    Raises
    ------
    OSError
        Nothing is left under `path` but what was there before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encoded(dataset: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
