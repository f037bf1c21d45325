"""Files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["file_digest", "sync_directory", "write_durably"]

_BLOCK = 1 << 20


def write_durably(path: Path, content: bytes) -> None:
    """Give `path` its new content in one step; a crash leaves the old or the new, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make names made or changed in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
