"""Tidying up: received images by retention policy, and files that nobody knows.

What goes is decided in the ledger (:mod:`dicom_node.ledger.retention`); here files are removed.
The row is changed first: a crash in between leaves a file too many, never a row without its file,
and the file is found later as one that the ledger does not need.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node.audit import Auditor
from dicom_node.errors import OutOfResources
from dicom_node.ledger import Ledger
from dicom_node.logs import get_logger
from dicom_node.settings import NodeSettings, RetentionSettings
from dicom_node.spool import Spool, SpoolFile

__all__ = ["Janitor", "Purged", "purge"]

_log = get_logger(__name__)
_DAY_S = 86400.0
_BATCH = 1000
_DIRECTORIES_PER_SWEEP = 8  # of 256: at one sweep a minute all are seen in half an hour
_SECOND_LOOK_S = 600.0


@dataclass(slots=True)
class Purged:
    """How much went.

    Attributes
    ----------
    studies : Counter
        Study Instance UID → how many instances of it.
    """

    instances: int = 0
    size_bytes: int = 0
    studies: Counter[str] = field(default_factory=Counter)


def purge(
    ledger: Ledger,
    spool: Spool,
    *,
    older_than_s: float,
    without_proof_s: float | None,
    enough: Callable[[], bool] = lambda: False,
) -> Purged:
    """Remove instances that nothing needs any more, oldest series first, until `enough`."""
    purged = Purged()
    while not enough():
        items = ledger.retention.purge(older_than_s, without_proof_s=without_proof_s, limit=_BATCH)
        if not items:
            break
        ledger.retention.remove({item.digest for item in items}, spool.remove)
        purged.studies.update(item.study_instance_uid for item in items)
        purged.instances += len(items)
        purged.size_bytes += sum(item.size_bytes for item in items)
    return purged


class Janitor:
    """Sweeps by policy, again and again; several may sweep the same spool.

    Parameters
    ----------
    ledger : Ledger
    auditor : Auditor, optional
        Hears what went.
    second_look_s : float
        A file that the ledger does not know is removed when it is still so after this time, by a
        clock that does not jump: what a listener is about to record is never taken for an orphan.
    """

    def __init__(
        self,
        ledger: Ledger,
        auditor: Auditor | None = None,
        *,
        second_look_s: float = _SECOND_LOOK_S,
    ) -> None:
        self._ledger = ledger
        self._auditor = auditor
        self._second_look_s = second_look_s
        self._suspects: dict[SpoolFile, float] = {}
        self._next_directory = 0

    def sweep(self, settings: NodeSettings, directories: int = _DIRECTORIES_PER_SWEEP) -> None:
        """Purge what policy lets go, and look through a few directories for orphans."""
        spool = Spool(settings.spool_dir)
        if not spool.exists():
            return
        self._purge_by_age(spool, settings.retention)
        self._purge_at_high_water(spool, settings.retention)
        spool.remove_leftovers()
        for _ in range(directories):
            self._sweep_directory(spool, self._next_directory, settings.retention.orphan_age_s)
            self._next_directory = (self._next_directory + 1) % 256

    def _purge_by_age(self, spool: Spool, retention: RetentionSettings) -> None:
        if retention.purge_after_days is None:
            return
        purged = purge(
            self._ledger,
            spool,
            older_than_s=retention.purge_after_days * _DAY_S,
            without_proof_s=_seconds(retention.without_proof_days),
        )
        self._say("purged by age", purged)

    def _purge_at_high_water(self, spool: Spool, retention: RetentionSettings) -> None:
        if not retention.purge_at_high_water:
            return
        try:
            if spool.used_percent() < retention.high_water_percent:
                return
            purged = purge(
                self._ledger,
                spool,
                older_than_s=0.0,
                without_proof_s=_seconds(retention.without_proof_days),
                enough=lambda: spool.used_percent() < retention.low_water_percent,
            )
        except OutOfResources as error:
            _log.error("spool cannot be looked at", error=str(error))
            return
        self._say("purged at high water", purged)

    def _say(self, event: str, purged: Purged) -> None:
        if not purged.instances:
            return
        _log.info(event, instances=purged.instances, megabytes=round(purged.size_bytes / 1e6, 1))
        if self._auditor is not None:
            self._auditor.purged(f"{event}: {purged.instances} images", purged.studies)

    def _sweep_directory(self, spool: Spool, number: int, age_s: float) -> None:
        horizon = time.time() - age_s
        old = {file.digest: file for file in spool.files(number) if file.modified_at <= horizon}
        unknown = {old[digest] for digest in self._ledger.retention.unknown(old)} if old else set()
        now = time.monotonic()
        # A file that was received again is another file, though its name is the same.
        self._suspects = {
            file: since
            for file, since in self._suspects.items()
            if file in unknown or file.directory != number
        }
        for file in unknown:
            since = self._suspects.setdefault(file, now)
            if now - since >= self._second_look_s:
                del self._suspects[file]
                if spool.remove_file(file):
                    _log.warning("orphan removed", digest=file.digest)


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * _DAY_S
