"""The disk of the spool, and how much of it the spool holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import OutOfResources
from dicom_node.spool import Spool

__all__ = ["DiskUse", "SpoolSize", "disk_use"]

_DIRECTORIES = 256


@dataclass(frozen=True, slots=True)
class DiskUse:
    """The file system of a folder, as df counts: what a user may have."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    used_percent: float


def disk_use(folder: Path) -> DiskUse | None:
    """Return the use of the disk that holds `folder`, or would; None if it cannot be looked at."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        status = os.statvfs(folder)
        used_percent = Spool(folder).used_percent()
    except (OSError, OutOfResources):
        return None
    return DiskUse(
        free_bytes=status.f_bavail * status.f_frsize,
        total_bytes=status.f_blocks * status.f_frsize,
        free_inodes=status.f_favail,
        used_percent=used_percent,
    )


class SpoolSize:
    """Bytes and files in the spool, one of its 256 directories at each look.

    Files lie under the digest of their content, spread evenly: a few directories tell of all. What
    is known of each is kept, so after 256 looks the sum is a count, a little old.
    """

    def __init__(self, instances: Path) -> None:
        self._instances = instances
        self._seen: dict[int, tuple[int, int]] = {}
        self._next = 0

    def look(self) -> tuple[float, float]:
        """Look into the next directory; return the estimate of (files, bytes)."""
        self._seen[self._next] = self._measure(self._next)
        self._next = (self._next + 1) % _DIRECTORIES
        share = _DIRECTORIES / len(self._seen)
        files = sum(files for files, _ in self._seen.values())
        return share * files, share * sum(size for _, size in self._seen.values())

    def _measure(self, number: int) -> tuple[int, int]:
        files = size = 0
        try:
            with os.scandir(self._instances / f"{number:02x}") as entries:
                for entry in entries:
                    try:
                        size += entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue  # it went while we looked
                    files += 1
        except FileNotFoundError:
            pass
        return files, size
