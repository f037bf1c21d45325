"""Putting a backup where nothing is: files first, the ledger last.

Until the ledger is in its place there is no node, so a restore that was cut off has begun nothing:
it is run again, from the same backup, and goes over what it did.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dicom_node.audit import Auditor
from dicom_node.audit.trail import AuditTrail
from dicom_node.backup.manifest import (
    HISTORY,
    LEDGER,
    Manifest,
    read_manifest,
    read_sums,
    sha256_of,
)
from dicom_node.errors import BackupUnusable, ConfigurationError
from dicom_node.ledger.copies import CopiedLedger, copy_in, refuse_unless_empty
from dicom_node.settings import NodeSettings

__all__ = ["Restored", "check", "read_config", "restore"]

StageProgress = Callable[[str, int, int], None]
_MARK = "restore-in-progress"
_FOLDERS = ("spool", "results", "audit", HISTORY)
_CONFIG = "node.toml"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back.

    Attributes
    ----------
    absent : int
        Images that the ledger held and the backup did not: they count as removed.
    """

    manifest: Manifest
    files: int
    absent: int


def check(
    folder: Path, progress: StageProgress = lambda stage, done, total: None
) -> tuple[Manifest, dict[str, str]]:
    """Read the whole backup in `folder`; return its manifest and its files with their digests.

    Raises
    ------
    BackupUnusable
        A file is missing or is not what it was.
    """
    manifest = read_manifest(folder)
    sums = dict(read_sums(folder))
    if LEDGER not in sums:
        raise BackupUnusable(f"{folder} holds no {LEDGER}")
    for done, (name, sha256) in enumerate(sums.items(), 1):
        if sha256_of(folder / name) != sha256:
            raise BackupUnusable(f"{folder / name} is not what was saved: altered or damaged")
        progress("check", done, len(sums))
    return manifest, sums


def read_config(folder: Path) -> bytes:
    """Return the configuration document that the backup in `folder` holds.

    Raises
    ------
    BackupUnusable
        It holds none, or another than was saved.
    """
    read_manifest(folder)
    sums = dict(read_sums(folder))
    if _CONFIG not in sums:
        raise BackupUnusable(f"{folder} holds no {_CONFIG}: that node ran on built-in defaults")
    if sha256_of(folder / _CONFIG) != sums[_CONFIG]:
        raise BackupUnusable(f"{folder / _CONFIG} is not what was saved: altered or damaged")
    return (folder / _CONFIG).read_bytes()


def restore(
    settings: NodeSettings,
    folder: Path,
    *,
    progress: StageProgress = lambda stage, done, total: None,
) -> Restored:
    """Put the backup in `folder` where `settings` say a node's state is.

    Raises
    ------
    BackupUnusable
        It is incomplete, altered or of another format, or there is a node already.
    SchemaMismatch
        It was made by a newer version.
    ConfigurationError
        The state directory cannot be written.
    """
    manifest, sums = check(folder, progress)
    _require_place(settings, manifest)
    root = settings.root
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        (root / _MARK).write_text(manifest.sums_sha256 + "\n", encoding="ascii")
        working = _settled(folder, root, sums)
        absent = working.settle({name.removeprefix("spool/") for name in sums})
        working.close()
        _put_files(settings, folder, sums, progress)
        os.sync()  # the ledger must not be there before what it names
        _put_ledger(settings, root, progress)
        (root / _MARK).unlink()
    except OSError as error:
        raise ConfigurationError(f"{error.filename or root}: {error.strerror}") from error
    Auditor(settings, "command").user_did(f"restored from a backup made at {manifest.made_at}")
    return Restored(manifest, len(sums), absent)


def _require_place(settings: NodeSettings, manifest: Manifest) -> None:
    """Refuse where anything is, but for what this very restore put there before it was cut off."""
    root = settings.root
    mark = root / _MARK
    begun = mark.read_text(encoding="ascii").strip() if mark.is_file() else ""
    if begun and begun != manifest.sums_sha256:
        raise BackupUnusable(
            f"{root}: a restore from another backup was cut off here; empty it first"
        )
    if root.is_dir() and not begun:
        found = sorted(path.name for path in root.iterdir() if path.name != "lost+found")
        if found:
            raise BackupUnusable(
                f"{root} holds something ({', '.join(found[:3])}): a backup is restored into an "
                "empty state directory"
            )
    refuse_unless_empty(settings.ledger_url)


def _settled(folder: Path, root: Path, sums: dict[str, str]) -> CopiedLedger:
    """Return a copy of the copy, to be brought up to date; the backup stays as it is."""
    path = root / f".restoring-{LEDGER}"
    path.unlink(missing_ok=True)
    _put(folder / LEDGER, path, sums[LEDGER])
    return CopiedLedger(path)


def _put_files(
    settings: NodeSettings, folder: Path, sums: dict[str, str], progress: StageProgress
) -> None:
    wanted = [name for name in sums if name.split("/", 1)[0] in _FOLDERS]
    trail = Auditor(settings, "command").trail
    for done, name in enumerate(wanted, 1):
        _put(folder / name, _place_of(name, settings.root, trail), sums[name])
        progress("files", done, len(wanted))


def _place_of(name: str, root: Path, trail: AuditTrail) -> Path:
    # The head may have a disk of its own.
    return trail.head_path if name == "audit/head" else root / name


def _put(source: Path, target: Path, sha256: str) -> None:
    """Copy, and look at what was read: the disk may have lied since the check."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        target.chmod(0o600)
        while piece := reading.read(_PIECE):
            digest.update(piece)
            writing.write(piece)
    if digest.hexdigest() != sha256:
        raise BackupUnusable(f"{source} is not what was saved: altered or damaged")


def _put_ledger(settings: NodeSettings, root: Path, progress: StageProgress) -> None:
    working = root / f".restoring-{LEDGER}"
    url = sa.make_url(settings.ledger_url)
    if url.get_backend_name() == "sqlite":
        place = Path(url.database or "")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.parent.stat().st_dev != working.stat().st_dev:
            beside = place.with_name(f".restoring-{place.name}")
            _put(working, beside, sha256_of(working))
            working.unlink()
            working = beside
        working.rename(place)
        os.sync()
    else:
        copy_in(working, settings.ledger_url, lambda done, total: progress("ledger", done, total))
        working.unlink()
