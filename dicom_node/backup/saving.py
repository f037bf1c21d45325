"""Saving: a moment of the ledger, then the files that it names."""

from __future__ import annotations

import enum
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from dicom_node import __version__
from dicom_node.audit import Auditor
from dicom_node.audit.trail import AuditTrail, audit_files
from dicom_node.backup.manifest import HISTORY, LEDGER, SUMS, Manifest, sha256_of
from dicom_node.errors import BackupUnusable, ConfigurationError
from dicom_node.ledger import Ledger, tables
from dicom_node.ledger.copies import CopiedLedger, LedgerFile, copy_out
from dicom_node.settings import NodeSettings

__all__ = ["Images", "Saved", "save"]

StageProgress = Callable[[str, int, int], None]
_PIECE = 1 << 20
_SPARE_BYTES = 64 << 20


class Images(enum.StrEnum):
    """Which received images a backup holds."""

    UNFINISHED = "unfinished"  # those of series that are being received or wait for a reading
    ALL = "all"  # whatever the spool holds
    NONE = "none"  # the senders have them


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that was made.

    Attributes
    ----------
    missing : list of str
        Files that the ledger names and that were not there.
    """

    manifest: Manifest
    missing: list[str]


def save(
    settings: NodeSettings,
    ledger: Ledger,
    folder: Path,
    *,
    document: Path | None = None,
    images: Images = Images.UNFINISHED,
    progress: StageProgress = lambda stage, done, total: None,
) -> Saved:
    """Save the node into the new folder `folder`; it may go on working.

    Parameters
    ----------
    document : Path or None
        The configuration document.

    Raises
    ------
    ConfigurationError
        `folder` holds something.
    BackupUnusable
        There is no room for it.
    """
    _make_room(folder)
    try:
        return _save(settings, ledger, folder, document, images, progress)
    except BaseException:  # interrupted, too: half a backup is worse than none
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _save(
    settings: NodeSettings,
    ledger: Ledger,
    folder: Path,
    document: Path | None,
    images: Images,
    progress: StageProgress,
) -> Saved:
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    progress("ledger", 0, 0)
    schema = copy_out(
        ledger.database, folder / LEDGER, lambda done, total: progress("ledger", done, total)
    )
    with (folder / SUMS).open("x", encoding="utf-8") as sums:
        (folder / SUMS).chmod(0o600)
        target = _Target(folder, sums)
        copied = CopiedLedger(folder / LEDGER)
        try:
            _take_files(settings, ledger, copied, target, images, progress)
            series = copied.count(tables.series)
        finally:
            copied.close()
        target.note(LEDGER, sha256_of(folder / LEDGER))  # nobody opens it any more
        _take_configuration(settings, document, target)
        _take_trail(Auditor(settings, "command").trail, target)
    os.sync()  # everything before the manifest that calls it whole
    manifest = Manifest(
        made_at=made_at,
        software=__version__,
        schema=schema,
        ae_title=settings.ae_title,
        database="sqlite" if ledger.database.is_sqlite else "postgresql",
        images=images,
        files=target.files,
        size_bytes=target.size_bytes,
        series=series,
        missing=len(target.missing),
        bundle="" if settings.analysis.bundle is None else str(settings.analysis.bundle_folder),
        sums_sha256=sha256_of(folder / SUMS),
    )
    manifest.write(folder)
    return Saved(manifest, target.missing)


@dataclass(slots=True)
class _Target:
    """Takes files in, and writes down what they were."""

    folder: Path
    sums: TextIO
    files: int = 0
    size_bytes: int = 0
    missing: list[str] = field(default_factory=list)

    def note(self, name: str, sha256: str) -> None:
        """Write down a file that is there already."""
        self.files += 1
        self.size_bytes += (self.folder / name).stat().st_size
        self.sums.write(f"{sha256}  {name}\n")

    def take(self, source: Path, name: str) -> bool:
        """Copy `source`; return whether it was there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest = hashlib.sha256()
        try:
            with source.open("rb") as reading, path.open("xb") as writing:
                path.chmod(0o600)
                while piece := reading.read(_PIECE):
                    digest.update(piece)
                    writing.write(piece)
        except FileNotFoundError:
            return False
        except FileExistsError:  # two rows name one content
            return True
        self.note(name, digest.hexdigest())
        return True


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise ConfigurationError(f"out: {folder} holds something: name a new folder")
    except OSError as error:
        raise ConfigurationError(f"out: {folder}: {error.strerror}") from error


def _take_files(
    settings: NodeSettings,
    ledger: Ledger,
    copied: CopiedLedger,
    target: _Target,
    images: Images,
    progress: StageProgress,
) -> None:
    def wanted() -> Iterator[LedgerFile]:
        if images is not Images.NONE:
            yield from copied.images(unfinished_only=images is Images.UNFINISHED)

    count = size = 0
    for files in (wanted(), copied.results()):
        for file in files:
            count, size = count + 1, size + file.size_bytes
    free = shutil.disk_usage(target.folder).free
    if size + _SPARE_BYTES > free:
        raise BackupUnusable(
            f"{target.folder}: {free / 1e9:.1f} GB are free, {size / 1e9:.1f} GB are needed"
        )
    for done, file in enumerate(wanted(), 1):
        name = f"spool/{file.path}"
        if not target.take(settings.spool_dir / file.path, name) and not _was_purged(ledger, file):
            target.missing.append(name)
        progress("images", done, count)
    # Whole folders: result.json lies beside the objects, and no worker touches them any more.
    folders = dict.fromkeys("/".join(Path(file.path).parts[:2]) for file in copied.results())
    for done, name in enumerate(folders, 1):
        for path in sorted((settings.results_dir / name).rglob("*")):
            if path.is_file():
                target.take(path, f"results/{path.relative_to(settings.results_dir).as_posix()}")
        progress("results", done, len(folders))
    target.missing += [
        f"results/{file.path}"
        for file in copied.results()
        if not (target.folder / "results" / file.path).is_file()
    ]


def _was_purged(ledger: Ledger, file: LedgerFile) -> bool:
    """Whether retention took the image away since the ledger was copied."""
    digest = Path(file.path).stem
    return digest in ledger.retention.unknown({digest})


def _take_configuration(settings: NodeSettings, document: Path | None, target: _Target) -> None:
    if document is not None:
        target.take(document, "node.toml")
    history = settings.root / HISTORY
    for path in sorted(history.glob("*")):
        target.take(path, f"{HISTORY}/{path.name}")


def _take_trail(trail: AuditTrail, target: _Target) -> None:
    """Copy the trail: what is closed at leisure, its end while nobody may write."""
    if not trail.folder.is_dir():
        return
    taken = set()
    for path in audit_files(trail.folder)[:-1]:
        if target.take(path, f"audit/{path.name}"):
            taken.add(path.name)
    with trail.locked():
        for path in audit_files(trail.folder):
            if path.name not in taken:
                target.take(path, f"audit/{path.name}")
        target.take(trail.head_path, "audit/head")
        target.take(trail.folder / "pseudonym.key", "audit/pseudonym.key")
