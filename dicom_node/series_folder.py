"""A folder of DICOM files as the series in it, for work without a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dicom_node.errors import ReceiveError
from dicom_node.header import InstanceHeader
from dicom_node.header_reader import read_instance_header
from dicom_node.ledger import instance_set_digest
from dicom_node.spool import content_digest

__all__ = ["FoundFiles", "FoundSeries", "find_series"]

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(slots=True)
class FoundSeries:
    """One series of a folder.

    Attributes
    ----------
    headers : list of InstanceHeader
    paths : dict of SOP Instance UID to Path
    """

    headers: list[InstanceHeader] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)

    @property
    def set_digest(self) -> str:
        """Digest of the instance set, the same as for a received series."""
        return instance_set_digest(
            [
                (header.sop_instance_uid, _digest(self.paths[header.sop_instance_uid], header))
                for header in self.headers
            ]
        )


@dataclass(slots=True)
class FoundFiles:
    """What a folder holds.

    Attributes
    ----------
    series : list of FoundSeries
        By SeriesInstanceUID.
    unreadable : list of (file name, reason)
        DICOM files that cannot be taken; other files are passed over in silence.
    """

    series: list[FoundSeries] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def find_series(folder: Path) -> FoundFiles:
    """Read the headers of all DICOM files under `folder` (or of the one file `folder`)."""
    found = FoundFiles()
    by_uid: dict[str, FoundSeries] = {}
    owners: dict[str, str] = {}
    for path in _files(folder):
        name = str(path.relative_to(folder)) if path != folder else path.name
        try:
            header = read_instance_header(path)
        except (ReceiveError, OSError) as error:
            if _looks_like_dicom(path):
                found.unreadable.append((name, str(error)))
            continue
        if header.sop_class_uid == _MEDIA_DIRECTORY:
            continue
        uid = header.sop_instance_uid
        if uid in owners:
            first = by_uid[owners[uid]]
            same = owners[uid] == header.series_instance_uid
            if not same or _digest(path, header) != _digest(first.paths[uid], header):
                reason = "the same SOP Instance UID as another file, with other content"
                found.unreadable.append((name, reason))
            continue
        owners[uid] = header.series_instance_uid
        series = by_uid.setdefault(header.series_instance_uid, FoundSeries())
        series.headers.append(header)
        series.paths[uid] = path
    found.series = [by_uid[uid] for uid in sorted(by_uid)]
    return found


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path


def _digest(path: Path, header: InstanceHeader) -> str:
    """Digest of a Part 10 file's content, as the spool of a node would name it."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # behind the File Meta Information
    return content_digest(header.transfer_syntax_uid, content[start:])


def _looks_like_dicom(path: Path) -> bool:
    """A file that claims to be DICOM: by its preamble, or by its name."""
    try:
        with path.open("rb") as file:
            prefix = file.read(132)
    except OSError:
        return True  # it may be; the reader wants to know
    return prefix[128:] == b"DICM" or path.suffix.lower() in {".dcm", ".ima", ".dicom"}
