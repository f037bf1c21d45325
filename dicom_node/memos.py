"""Readings made ahead of the evidence, put aside until a series is closed, or not (ADR 0022).

A memo is a folder: the written results, and ``memo.json``, which holds result.json and a digest.
Its name tells the series and the key of what was read, so that whoever reads the very same finds
it. It is found once: to take it is to rename it. A wrong or missing memo costs time, no result.

``SERIES-KEY/`` without ``memo.json`` is a reading under way while its ``owner`` beats
(:mod:`dicom_node.under_way`), and otherwise one that did not come to its end. Such a one is not
begun again: what ends a worker once would end it at every quiet moment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicom_node.domain import ObjectKind
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.tallies import Tally
from dicom_node.logs import get_logger
from dicom_node.results.dicom_file import WrittenObject, sync_directory, write_atomically
from dicom_node.results.result_json import ResultDocument
from dicom_node.under_way import MEMO, OWNER, PROGRESS, SILENCE_S, beat_of, memo_folders

__all__ = ["TIDY_INTERVAL_S", "Memo", "MemoDraft", "Memos", "tidy_memos"]

_log = get_logger(__name__)

MOST_BYTES = 2 << 30  # of all memos: about ten series with an overlay for each of 300 slices
LONGEST_AGE_S = 7200.0
TIDY_INTERVAL_S = 60.0
_LOOK_S = 0.1
_BEAT_S = 1.0
_REMOVED = ".removed-"


@dataclass(frozen=True, slots=True)
class Memo:
    """A reading that was taken.

    Attributes
    ----------
    document : ResultDocument
    objects : tuple of WrittenObject
        Paths relative to the folder that it was taken into.
    """

    document: ResultDocument
    objects: tuple[WrittenObject, ...]


class MemoDraft:
    """A reading under way, in a folder of its own; made by :meth:`Memos.begin`.

    Attributes
    ----------
    folder : Path
        Where the results are to be written.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self._key = key
        self._beat_at = 0.0  # monotonic

    def beat(self, words: str = "") -> None:
        """Show that the reading is under way, and in `words` how far; to be called often."""
        now = time.monotonic()
        if now - self._beat_at >= _BEAT_S:
            os.utime(self.folder / OWNER)
            with suppress(OSError):
                (self.folder / PROGRESS).write_text(words, encoding="utf-8")
            self._beat_at = now

    def finish(self, document: ResultDocument) -> None:
        """Put the reading aside, durably.

        Parameters
        ----------
        document : ResultDocument
            Lists the results that lie in :attr:`folder`.

        Raises
        ------
        OSError
            There is no memo.
        """
        body = document.model_dump_json().encode()
        content = _digest(self._key, body).encode() + b"\n" + body
        write_atomically(self.folder / MEMO, content)
        sync_directory(self.folder)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        (self.folder / OWNER).unlink()

    def give_up(self) -> None:
        """Leave nothing: the same may be begun again."""
        _remove(self.folder)

    def condemn(self) -> None:
        """Leave only the name: the same is not begun again."""
        with suppress(OSError):
            (self.folder / OWNER).unlink(missing_ok=True)
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


class Memos:
    """The memos of a node; any number of processes may share the folder.

    Parameters
    ----------
    folder : Path
        Made when it is needed, for the owner only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, series_id: int, key: str) -> MemoDraft | None:
        """Begin a reading; None if somebody has begun it before.

        Parameters
        ----------
        series_id : int
            Of the ledger.
        key : str
            Of what is read (:meth:`dicom_node.worker.assignment.Assignment.key`).

        Raises
        ------
        OSError
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self._path(series_id, key)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            return None
        (folder / OWNER).write_text(this_owner(), encoding="utf-8")
        return MemoDraft(folder, key)

    def take(
        self, series_id: int, key: str, into: Path, waiting: Callable[[], None] = lambda: None
    ) -> Memo | None:
        """Move a reading into an empty folder; None if there is none that is whole.

        One that is under way in another process is waited for: its rest is less than the whole.

        Parameters
        ----------
        waiting : callable
            Called several times a second while waiting; it may raise to stop.
        """
        folder = self._path(series_id, key)
        self._wait(folder, waiting)
        try:
            memo = _read(folder, key)
            folder.rename(into)
            sync_directory(into.parent)
            for name in (MEMO, OWNER, PROGRESS):
                (into / name).unlink(missing_ok=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
            # Its words could quote the document, which names a patient's study.
            words = "altered" if isinstance(error, _Altered) else type(error).__name__
            _log.warning("memo not used", reason=words)
            return None
        return memo

    def forget(self, series_id: int) -> int:
        """Remove the memos of a series, but for what is under way; return how many were whole."""
        found = [
            path for path in memo_folders(self._folder) if path.name.startswith(f"{series_id}-")
        ]
        return self._remove_all(path for path in found if beat_of(path) is None)

    def tidy(self, most_bytes: int = MOST_BYTES, longest_age_s: float = LONGEST_AGE_S) -> int:
        """Remove what nobody took in time or what is too much, the oldest first.

        Returns
        -------
        int
            How many whole memos went.
        """
        for leftover in self._folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        kept: list[tuple[float, Path]] = []
        old: list[tuple[float, Path]] = []
        now = time.time()
        for path in memo_folders(self._folder):
            with suppress(OSError):
                changed_at = _changed_at(path)
                # A clock that was set back makes a memo of the future: it goes, too.
                expired = abs(now - changed_at) > longest_age_s and beat_of(path) is None
                (old if expired else kept).append((changed_at, path))
        total = 0
        for changed_at, path in sorted(kept, reverse=True):
            total += _size_bytes(path)
            if total > most_bytes and beat_of(path) is None:
                old.append((changed_at, path))
        return self._remove_all(path for _, path in old)

    # -- inside -----------------------------------------------------------------------------------

    def _path(self, series_id: int, key: str) -> Path:
        return self._folder / f"{series_id}-{key}"

    def _remove_all(self, folders: Iterable[Path]) -> int:
        whole = 0
        for folder in folders:
            whole += (folder / MEMO).exists()
            _remove(folder)
        return whole

    def _wait(self, folder: Path, waiting: Callable[[], None]) -> None:
        seen: int | None = None
        since = time.monotonic()
        while (beat := beat_of(folder)) is not None:
            if beat != seen:
                seen, since = beat, time.monotonic()
            elif time.monotonic() - since > SILENCE_S:
                return
            waiting()
            time.sleep(_LOOK_S)


def tidy_memos(folder: Path, tally: Tally) -> None:
    """Remove what nobody took in time, and count it."""
    removed = Memos(folder).tidy()
    if removed:
        tally.count("speculations", "discarded", by=removed)


class _Altered(ValueError):
    """What lies there is not what was put aside."""


def _read(folder: Path, key: str) -> Memo:
    """Read a memo and compare every file with its digest.

    Raises
    ------
    FileNotFoundError
        There is none.
    OSError, ValueError
        It is not whole, or not what was put aside.
    """
    digest, _, body = (folder / MEMO).read_bytes().partition(b"\n")
    if digest.decode("ascii", "replace") != _digest(key, body):
        raise _Altered
    document = ResultDocument.model_validate_json(body)
    objects = tuple(
        WrittenObject(
            kind=ObjectKind(item.kind),
            slot=item.slot,
            rank=item.rank,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            series_instance_uid=item.series_instance_uid,
            path=Path(item.path),
            sha256=item.sha256,
            size_bytes=item.size_bytes,
        )
        for item in document.objects
    )

    def is_unaltered(item: WrittenObject) -> bool:
        try:
            content = (folder / item.path).read_bytes()
        except FileNotFoundError:
            return False
        return hashlib.sha256(content).hexdigest() == item.sha256

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        if not all(pool.map(is_unaltered, objects)):
            raise _Altered
    return Memo(document, objects)


def _digest(key: str, body: bytes) -> str:
    return hashlib.sha256(key.encode() + b"\n" + body).hexdigest()


def _changed_at(folder: Path) -> float:
    memo = folder / MEMO
    return (memo if memo.exists() else folder).stat().st_mtime


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _remove(folder: Path) -> None:
    """Remove a folder; whoever would take it at the same time finds it whole or not at all."""
    doomed = folder.with_name(f"{_REMOVED}{uuid.uuid4().hex}")
    with suppress(OSError):
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
