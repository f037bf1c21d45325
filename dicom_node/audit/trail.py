"""The files of the trail: appended to by several processes, chained, rotated.

::

    audit/audit-0000000001.jsonl   records 1 …, the first's number in the name
    audit/audit-0000004711.jsonl   records 4711 …, the chain goes on across files
    audit/head                     number, hash and place of the last record; where the chain begins
    audit/lock, audit/pseudonym.key

A record is written and synced before the head that names it. The one crash in between is the only
way for the files to be ahead, by one record; the next record takes it in. Everything else that
does not fit is told in the trail itself and found by :func:`dicom_node.audit.verify`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["FIRST_HASH", "AuditTrail", "Head", "audit_files", "line_hash"]

FIRST_HASH = "0" * 64
_HEAD_BYTES = 512  # one sector: written at once or not at all
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, and where it begins since retention took older files away."""

    seq: int = 0
    sha256: str = FIRST_HASH
    file: str = ""
    size: int = 0
    base_seq: int = 1
    base_sha256: str = FIRST_HASH


def line_hash(line: bytes) -> str:
    """Return the hash of a record: over its line, without the line's end."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def audit_files(folder: Path) -> list[Path]:
    """Return the trail's files, the oldest first."""
    return sorted(folder.glob("audit-*.jsonl"))


class AuditTrail:
    """Appends to the trail of one node.

    Parameters
    ----------
    folder : Path
        Made when missing, for its owner alone.
    head_path : Path, optional
        Where the head is kept; a place that who alters the trail cannot alter, if there is one.
    rotate_bytes : int
        A file that would grow beyond is left, and the next begun.
    keep_days : float
        Files whose last record is older are removed when a new one is begun; 0: never.
    """

    def __init__(
        self,
        folder: Path,
        head_path: Path | None = None,
        *,
        rotate_bytes: int = 16 << 20,
        keep_days: float = 0.0,
    ) -> None:
        self.folder = folder
        self.head_path = head_path or folder / "head"
        self._rotate_bytes = rotate_bytes
        self._keep_days = keep_days

    def append(self, message: dict[str, Any]) -> int:
        """Append `message` durably; return its number.

        Raises
        ------
        OSError
            It could not be written; nothing of it stays.
        """
        with self.locked():
            head = self.read_head()
            head, notes = self._meet(head)
            for note in notes:
                head = self._write(head, {"AuditTrailRepair": note})
            if self._is_full(head):
                head = self._begin_file(head)
            return self._write(head, message).seq

    def pseudonym(self, identifier: str) -> str:
        """Return 16 digits that stand for a patient's identifier in this trail, and nowhere else.

        Keyed, since patient IDs are few enough to be guessed from a plain hash.
        """
        return hmac.new(self._key(), identifier.encode(), hashlib.sha256).hexdigest()[:16]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers, of whatever process, away."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._hand_over(self.folder)
        descriptor = self._open(self.folder / "lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # and with it the lock

    def read_head(self) -> Head | None:
        """Return where the chain ends; None when there is no head, or none that can be read."""
        try:
            return Head(**json.loads(self.head_path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _meet(self, head: Head | None) -> tuple[Head, list[str]]:
        """Compare head and files; return where to go on, and what has to be told."""
        files = audit_files(self.folder)
        if head is None:
            if not files:
                return Head(), []
            return _last_of(files[-1]), ["the head of the audit trail was missing"]
        if not head.file:
            return head, []
        path = self.folder / head.file
        size = path.stat().st_size if path.exists() else 0
        if size == head.size:
            return head, []
        if size < head.size:
            return replace(head, size=size), [
                f"the audit trail was cut: {head.file} lost {head.size - size} bytes"
            ]
        return _take_in(path, head)

    def _write(self, head: Head, message: dict[str, Any]) -> Head:
        seq = head.seq + 1
        name = head.file or f"audit-{seq:010d}.jsonl"
        record = {"seq": seq, "previous": head.sha256, **message}
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"
        path = self.folder / name
        fresh = not path.exists()
        descriptor = self._open(path, os.O_WRONLY | os.O_APPEND)
        try:
            before = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, line)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        if fresh:
            _sync_folder(self.folder)
        after = replace(head, seq=seq, sha256=line_hash(line), file=name, size=before + len(line))
        self._write_head(after)
        return after

    def _write_head(self, head: Head) -> None:
        content = json.dumps(asdict(head)).encode("ascii").ljust(_HEAD_BYTES - 1) + b"\n"
        fresh = not self.head_path.exists()
        self.head_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = self._open(self.head_path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if fresh:
            _sync_folder(self.head_path.parent)

    def _open(self, path: Path, flags: int) -> int:
        fresh = not path.exists()
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        if fresh:
            self._hand_over(path)
        return descriptor

    def _hand_over(self, path: Path) -> None:
        """Give what root makes to the owner of the state directory: the node runs as that user."""
        if os.geteuid() == 0:
            owner = self.folder.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)

    # -- rotation and retention --------------------------------------------------------------

    def _is_full(self, head: Head) -> bool:
        return head.size >= self._rotate_bytes

    def _begin_file(self, head: Head) -> Head:
        head = replace(head, file="", size=0)
        return self._retire(head) if self._keep_days else head

    def _retire(self, head: Head) -> Head:
        files = audit_files(self.folder)
        limit = time.time() - self._keep_days * _DAY_S
        old = []
        for path in files[:-1]:
            if path.stat().st_mtime >= limit:
                break
            old.append(path)
        if not old:
            return head
        first = json.loads(_first_line(files[len(old)]))
        head = replace(head, base_seq=first["seq"], base_sha256=first["previous"])
        # The new beginning before the old is gone: a crash leaves a file too many, which lies
        # before the beginning and is removed the next time.
        self._write_head(head)
        for path in old:
            path.unlink()
        names = ", ".join(path.name for path in old)
        return self._write(head, {"AuditTrailRetention": f"removed after their time: {names}"})

    def _key(self) -> bytes:
        path = self.folder / "pseudonym.key"
        with contextlib.suppress(FileNotFoundError):
            return bytes.fromhex(path.read_text(encoding="ascii"))
        with self.locked():
            if not path.exists():
                fresh = path.with_suffix(f".{os.getpid()}")
                descriptor = self._open(fresh, os.O_WRONLY | os.O_TRUNC)
                _write_all(descriptor, secrets.token_hex(32).encode("ascii"))
                os.fsync(descriptor)
                os.close(descriptor)
                fresh.replace(path)
            return bytes.fromhex(path.read_text(encoding="ascii"))


def _take_in(path: Path, head: Head) -> tuple[Head, list[str]]:
    """Take in what a crash left behind the head: whole records that fit, and torn ones not."""
    notes: list[str] = []
    taken = 0
    with path.open("r+b") as file:
        file.seek(head.size)
        while line := file.readline():
            if not _fits(line, head):
                file.truncate(head.size)
                notes.append("what stood behind the audit trail's end and was no record is gone")
                break
            head = replace(
                head, seq=head.seq + 1, sha256=line_hash(line), size=head.size + len(line)
            )
            taken += 1
    if taken > 1:
        notes.append(f"the head of the audit trail was {taken} records behind")
    return head, notes


def _fits(line: bytes, head: Head) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = json.loads(line)
        return bool(record["seq"] == head.seq + 1 and record["previous"] == head.sha256)
    except (ValueError, KeyError, TypeError):
        return False


def _last_of(path: Path) -> Head:
    """Return a head for the end of `path`, whatever came before: verifying will tell."""
    head = Head(file=path.name, size=path.stat().st_size)
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            head = replace(head, seq=int(json.loads(line)["seq"]), sha256=line_hash(line))
    return head


def _first_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
