"""What the simulated PACS holds: one file per SOP instance and an index in memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import split_dataset

__all__ = ["Holdings", "Instance"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One held SOP instance.

    Attributes
    ----------
    digest : str
        sha256 (hex) over transfer syntax UID and encoded data set.
    header : Dataset
        Everything but the pixels.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    digest: str
    path: Path
    header: Dataset


class Holdings:
    """A folder of DICOM files, read when opened, safe for several threads.

    Attributes
    ----------
    conflicts : list of str
        SOP instance UIDs that came again with other content; the first content is kept.
    repeats : list of str
        SOP instance UIDs that came again with the same content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conflicts: list[str] = []
        self.repeats: list[str] = []
        self._instances: dict[str, Instance] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.dcm")):
            instance = _read(path)
            self._instances[instance.sop_instance_uid] = instance

    def __len__(self) -> int:
        """Return the number of held instances."""
        return len(self._instances)

    def __iter__(self) -> Iterator[Instance]:
        """Iterate over a snapshot, in the order of arrival."""
        with self._lock:
            return iter(list(self._instances.values()))

    def __contains__(self, sop_instance_uid: object) -> bool:
        """Whether an instance is held."""
        return sop_instance_uid in self._instances

    def __getitem__(self, sop_instance_uid: str) -> Instance:
        """Return a held instance; KeyError if it is not held."""
        return self._instances[sop_instance_uid]

    def keep(self, sop_instance_uid: str, file_content: bytes) -> bool:
        """Keep `file_content` (a whole DICOM file) unless the UID is taken.

        Returns
        -------
        bool
            Whether it is new.

        Raises
        ------
        InvalidDicomError, ValueError, AttributeError
            The content cannot be read, or is another instance than `sop_instance_uid`.
        """
        # The UID comes from the network: the name is a digest of it, never the UID itself.
        name = hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]
        path = self.folder / f"{name}.dcm"
        partial = self.folder / f"{name}.{threading.get_ident()}.partial"
        partial.write_bytes(file_content)
        try:
            instance = _read(partial)
            if instance.sop_instance_uid != sop_instance_uid:
                raise ValueError("command and data set name different SOP instances")
            with self._lock:
                held = self._instances.get(sop_instance_uid)
                if held is None:
                    partial.replace(path)
                    self._instances[sop_instance_uid] = _moved(instance, path)
                elif held.digest == instance.digest:
                    self.repeats.append(sop_instance_uid)
                else:
                    self.conflicts.append(sop_instance_uid)
                return held is None
        finally:
            partial.unlink(missing_ok=True)


def _read(path: Path) -> Instance:
    meta, offset = split_dataset(path)
    if "TransferSyntaxUID" not in meta:
        raise InvalidDicomError("no transfer syntax")
    header = dcmread(path, stop_before_pixels=True)
    syntax = str(meta.TransferSyntaxUID)
    digest = hashlib.sha256(syntax.encode())
    digest.update(path.read_bytes()[offset:])
    return Instance(
        str(header.SOPInstanceUID),
        str(header.SOPClassUID),
        syntax,
        digest.hexdigest(),
        path,
        header,
    )


def _moved(instance: Instance, path: Path) -> Instance:
    return Instance(
        instance.sop_instance_uid,
        instance.sop_class_uid,
        instance.transfer_syntax_uid,
        instance.digest,
        path,
        instance.header,
    )
