"""What a backup says of itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from dicom_node.errors import BackupUnusable

__all__ = [
    "HISTORY",
    "LEDGER",
    "MANIFEST",
    "SUMS",
    "Manifest",
    "read_manifest",
    "read_sums",
    "sha256_of",
]

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
LEDGER = "ledger.sqlite3"
HISTORY = "config-history"  # former documents, as the state directory keeps them
_FORMAT = 1
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)\n")
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The head of a backup.

    Attributes
    ----------
    made_at : str
        When the ledger was copied, UTC.
    database : str
        What the ledger came from: ``sqlite`` or ``postgresql``.
    images : str
        Which were taken: ``unfinished``, ``all`` or ``none``.
    missing : int
        Files that the ledger names and that were not there.
    bundle : str
        Folder of the model bundle, which is not part of a backup; empty: the one that comes along.
    sums_sha256 : str
        Of ``SHA256SUMS``, and by it of everything.
    """

    made_at: str
    software: str
    schema: str
    ae_title: str
    database: str
    images: str
    files: int
    size_bytes: int
    series: int
    missing: int
    bundle: str
    sums_sha256: str
    format: int = _FORMAT

    def write(self, folder: Path) -> None:
        """Write it, at once: a folder without it is no backup."""
        partial = folder / f".{MANIFEST}"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        partial.chmod(0o600)
        partial.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the backup in `folder`; its list of files has to be the one it names.

    Raises
    ------
    BackupUnusable
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BackupUnusable(f"{folder} is no finished backup: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise BackupUnusable(
                f"{path}: format {found['format']}; this software reads format {_FORMAT}"
            )
        manifest = Manifest(**found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupUnusable(f"{path}: {error}") from error
    if sha256_of(folder / SUMS) != manifest.sums_sha256:
        raise BackupUnusable(f"{folder / SUMS} is not the list that {MANIFEST} names: altered")
    return manifest


def read_sums(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and sha256 of each file.

    Raises
    ------
    BackupUnusable
        A line is none, or a name leads out of the folder.
    """
    with (folder / SUMS).open(encoding="utf-8") as lines:
        for line in lines:
            found = _SUM.fullmatch(line)
            name = PurePosixPath(found[2] if found else "")
            if found is None or name.is_absolute() or ".." in name.parts:
                raise BackupUnusable(f"{folder / SUMS}: not a line of it: {line!r}")
            yield name.as_posix(), found[1]


def sha256_of(path: Path) -> str:
    """Return the digest of a file.

    Raises
    ------
    BackupUnusable
        It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise BackupUnusable(f"{path}: {error.strerror}") from error
    return digest.hexdigest()
