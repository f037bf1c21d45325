"""What the listener would have recorded of a file that lies in the spool already."""

from __future__ import annotations

from pathlib import Path

from pydicom.filereader import read_file_meta_info

from dicom_node.domain import StoredInstance
from dicom_node.spool import content_digest

_GROUP_LENGTH_ENDS = 128 + 4 + 12


def as_received(path: Path, relative: Path) -> StoredInstance:
    """Return the record of DICOM file `path`, which the spool knows as `relative`."""
    content, meta = path.read_bytes(), read_file_meta_info(path)
    dataset = content[_GROUP_LENGTH_ENDS + meta.FileMetaInformationGroupLength :]
    return StoredInstance(content_digest(meta.TransferSyntaxUID, dataset), relative, len(content))
