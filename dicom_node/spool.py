"""Received instances on disk, named by their content.

::

    <root>/incoming/<random>.part        being received; worthless after a crash
    <root>/instances/ab/ab34….dcm        complete, named by the digest of the content

A new file gets its name first; then its bytes and its name are made durable, which on most file
systems is one commit of their journal. Until then nothing refers to it: the ledger's row comes
after. A file that is there already may be referred to: over it, bytes are synced first.

No name is ever made from anything that a peer sent, so no peer can reach outside the spool. The
files are DICOM files (PS3.10 §7.1) whose dataset is, byte for byte, what came over the network.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.crashpoints import crash_point
from dicom_node.domain import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    StoredInstance,
)
from dicom_node.errors import OutOfResources
from dicom_node.rename import rename_to_new

__all__ = ["IncomingFile", "Spool", "SpoolFile", "content_digest"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
# Far above any receive: the listener ends a connection that is silent for a minute.
_LEFTOVER_AGE_S = 3600.0
_GROUP_LENGTH_ENDS = 128 + 4 + 12  # preamble, prefix, (0002,0000)
_READ_BYTES = 1 << 20


def content_digest(transfer_syntax_uid: str, dataset: bytes) -> str:
    """Return the digest (sha256, hex) that names an instance of this content."""
    return hashlib.sha256(transfer_syntax_uid.encode("ascii") + b"\0" + dataset).hexdigest()


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """A kept file as it was seen; received again, the same content is another file.

    Attributes
    ----------
    directory : int
        0 to 255.
    """

    digest: str
    directory: int
    inode: int
    modified_at: float

    def is_seen_in(self, status: os.stat_result) -> bool:
        """Whether `status` is of the very file that was seen."""
        return (status.st_ino, status.st_mtime) == (self.inode, self.modified_at)


class Spool:
    """The instances of one node; any number of processes may share it.

    Parameters
    ----------
    root : Path
    min_free_bytes : int
        Below this much free space nothing more is received.
    max_instance_bytes : int
        Larger instances are refused.
    """

    def __init__(
        self, root: Path, *, min_free_bytes: int = 0, max_instance_bytes: int = 2 << 30
    ) -> None:
        self.root = root
        self.min_free_bytes = min_free_bytes
        self.max_instance_bytes = max_instance_bytes
        self._incoming = root / "incoming"
        self._instances = root / "instances"

    def prepare(self) -> None:
        """Make the directories, durably, and remove what a crash left in ``incoming``.

        Raises
        ------
        OutOfResources
            The spool cannot be written.
        """
        with _disk_errors():
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._incoming.mkdir(exist_ok=True, mode=0o700)
            self._instances.mkdir(exist_ok=True, mode=0o700)
            for number in range(256):
                (self._instances / f"{number:02x}").mkdir(exist_ok=True, mode=0o700)
            for directory in (self._instances, self.root, self.root.parent):
                _sync_directory(directory)
            self.remove_leftovers()

    def exists(self) -> bool:
        """Whether anything was ever received here."""
        return self._instances.is_dir() and self._incoming.is_dir()

    def holds_images(self) -> bool:
        """Whether any instance is kept here."""
        try:
            return any(entry.is_file() for entry in self._instances.glob("*/*"))
        except FileNotFoundError:
            return False

    def remove_leftovers(self) -> None:
        """Remove what crashes left in ``incoming``."""
        # Another listener may be receiving into the same directory: only what nobody can be
        # writing any more goes.
        horizon = time.time() - _LEFTOVER_AGE_S
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_mtime < horizon:
                    path.unlink()

    def free_bytes(self) -> int:
        """Return how much the file system still takes from us."""
        with _disk_errors():
            status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def used_percent(self) -> float:
        """Return how full the file system is, as df counts; inodes or bytes, what is scarcer.

        Raises
        ------
        OutOfResources
        """
        with _disk_errors():
            status = os.statvfs(self.root)
        used = status.f_blocks - status.f_bfree
        bytes_used = 100.0 * used / max(1, used + status.f_bavail)
        if not status.f_files:  # a file system without a table of inodes
            return bytes_used
        inodes = status.f_files - status.f_ffree
        return max(bytes_used, 100.0 * inodes / max(1, inodes + status.f_favail))

    def require_space(self) -> None:
        """Raise unless ``min_free_bytes`` are free.

        Raises
        ------
        OutOfResources
        """
        if self.min_free_bytes and self.free_bytes() < self.min_free_bytes:
            raise OutOfResources("the spool is below its free space limit")

    def receive(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> IncomingFile:
        """Open a temporary file for one instance.

        Raises
        ------
        OutOfResources
            No space, or the spool cannot be written.
        """
        self.require_space()
        return IncomingFile(
            self,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )

    def path_of(self, digest: str) -> Path:
        """Return where the instance of this digest lies (or would lie).

        Raises
        ------
        ValueError
            `digest` is not 64 hexadecimal digits.
        """
        return self.root / self.relative_path_of(digest)

    @staticmethod
    def relative_path_of(digest: str) -> Path:
        """Return the path of an instance relative to the root, as the ledger keeps it."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError("a digest has 64 lower-case hexadecimal digits")
        return Path("instances", digest[:2], f"{digest}.dcm")

    def read(self, digest: str) -> bytes:
        """Return the DICOM file of `digest`.

        Raises
        ------
        FileNotFoundError
        """
        return self.path_of(digest).read_bytes()

    def is_unaltered(self, path: str, digest: str) -> bool:
        """Read a file again; return whether it is there and its content still has `digest`.

        Parameters
        ----------
        path : str
            Relative to the root, as the ledger keeps it.

        Raises
        ------
        OSError
            The disk does not give it.
        """
        file_path = self.root / path
        try:
            meta = read_file_meta_info(file_path)
            start = _GROUP_LENGTH_ENDS + int(meta.FileMetaInformationGroupLength)
            content = hashlib.sha256(str(meta.TransferSyntaxUID).encode("ascii") + b"\0")
        except (FileNotFoundError, InvalidDicomError, EOFError, ValueError, AttributeError):
            return False
        with file_path.open("rb") as file:
            file.seek(start)
            while fragment := file.read(_READ_BYTES):
                content.update(fragment)
        return content.hexdigest() == digest

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str) and self.path_of(digest).is_file()

    def remove(self, digest: str) -> bool:
        """Delete the instance; return whether it was there."""
        try:
            self.path_of(digest).unlink()
        except FileNotFoundError:
            return False
        return True

    def files(self, directory: int) -> Iterator[SpoolFile]:
        """Yield the kept files of one of the 256 directories."""
        try:
            entries = os.scandir(self._instances / f"{directory:02x}")
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                digest, _, suffix = entry.name.partition(".")
                if suffix == "dcm" and _DIGEST.fullmatch(digest):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield SpoolFile(digest, directory, status.st_ino, status.st_mtime)

    def remove_file(self, file: SpoolFile) -> bool:
        """Delete `file` unless its content was received again meanwhile; return whether it went."""
        path = self.path_of(file.digest)
        aside = self._incoming / f"{secrets.token_hex(16)}.part"
        try:
            if not file.is_seen_in(path.lstat()):
                return False
            path.rename(aside)
        except FileNotFoundError:
            return False
        if not file.is_seen_in(aside.lstat()):  # received again between the two
            aside.rename(path)
            return False
        aside.unlink()
        return True

    @property
    def incoming(self) -> Path:
        """Where temporary files lie."""
        return self._incoming


class IncomingFile:
    """One instance on its way in. Use as a context manager: what is not kept is discarded.

    Bytes are hashed while they are written, so they pass through memory once.

    Attributes
    ----------
    dataset_offset : int
        Where the dataset starts in the file.
    size_bytes : int
        Size of the file so far.
    """

    def __init__(
        self, spool: Spool, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> None:
        self._spool = spool
        self._temporary = spool.incoming / f"{secrets.token_hex(16)}.part"
        self._hash = hashlib.sha256(transfer_syntax_uid.encode("ascii") + b"\0")
        prefix = _part10_prefix(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        self.dataset_offset = len(prefix)
        self.size_bytes = 0
        self._kept: Path | None = None
        self._fd = -1
        with _disk_errors():
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, 0o600)
        crash_point("listener.after_open")
        try:
            self._append(memoryview(prefix))
        except OutOfResources:
            self.discard()
            raise

    def write(self, fragment: memoryview) -> None:
        """Append a fragment of the encoded dataset.

        Raises
        ------
        OutOfResources
            The instance is larger than allowed, or the disk refuses.
        """
        if self.size_bytes + len(fragment) > self._spool.max_instance_bytes + self.dataset_offset:
            raise OutOfResources("the instance is larger than this node accepts")
        self._hash.update(fragment)
        self._append(fragment)

    def _append(self, data: memoryview) -> None:
        with _disk_errors():
            while data:
                written = os.write(self._fd, data)
                self.size_bytes += written
                data = data[written:]

    def fileno(self) -> int:
        """Return the descriptor, open for reading: the header is read before the file is kept."""
        return self._fd

    def keep(self) -> StoredInstance:
        """Give the file its name; both are durable after :meth:`make_durable`.

        Raises
        ------
        OutOfResources
        """
        crash_point("listener.after_write")
        digest = self._hash.hexdigest()
        relative = self._spool.relative_path_of(digest)
        target = self._spool.root / relative
        with _disk_errors():
            if not rename_to_new(self._temporary, target):
                # Its content is the same by name, and this one is whole for certain; but it may
                # be acknowledged, and must survive a power cut before the sync of the new one.
                os.fsync(self._fd)
                self._temporary.rename(target)
        self._kept = target
        crash_point("listener.after_rename")
        return StoredInstance(digest=digest, path=relative, size_bytes=self.size_bytes)

    def make_durable(self) -> None:
        """Return when the kept file and its name are on the disk.

        Raises
        ------
        OutOfResources
        """
        if self._kept is None:
            raise ValueError("the file has no name yet")
        with _disk_errors():
            os.fsync(self._fd)
            crash_point("listener.after_fsync")
            _sync_directory(self._kept.parent)

    def discard(self) -> None:
        """Close the file, and forget it where it was not kept."""
        if self._fd >= 0:
            self._close()
            if self._kept is None:
                with contextlib.suppress(OSError):
                    self._temporary.unlink()

    def _close(self) -> None:
        descriptor, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def __enter__(self) -> IncomingFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what the disk says into the refusal that the sender understands."""
    try:
        yield
    except OSError as error:
        # The name of the error only: paths and errors of peers do not belong into an answer.
        name = errno.errorcode.get(error.errno or 0, "EIO")
        raise OutOfResources(f"the spool cannot be written ({name})") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _part10_prefix(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return preamble, prefix and File Meta Information (PS3.10 §7.1).

    It holds nothing of the sender or the time: the same content gives the same file.
    """
    elements = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",  # FileMetaInformationVersion
            _short_element(0x0002, "UI", sop_class_uid),
            _short_element(0x0003, "UI", sop_instance_uid),
            _short_element(0x0010, "UI", transfer_syntax_uid),
            _short_element(0x0012, "UI", IMPLEMENTATION_CLASS_UID),
            _short_element(0x0013, "SH", IMPLEMENTATION_VERSION_NAME),
        )
    )
    group_length = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(elements))
    return bytes(128) + b"DICM" + group_length + elements


def _short_element(number: int, vr: str, text: str) -> bytes:
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    return struct.pack("<HH2sH", 0x0002, number, vr.encode("ascii"), len(value)) + value
