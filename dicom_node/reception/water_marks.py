"""High and low water of the spool's disk: new associations are refused before it is full.

Three lines stand behind each other. Above the high-water mark no association begins, until the
use is below the low-water mark; those that stand may finish. Below ``listener.min_free_bytes``
nothing more is stored, 0xA700. What the disk itself refuses is answered 0xA700, too.
"""

from __future__ import annotations

import threading
import time

from dicom_node.errors import OutOfResources
from dicom_node.logs import get_logger
from dicom_node.settings import RetentionSettings
from dicom_node.spool import Spool

__all__ = ["WaterMarks", "shortage"]

_log = get_logger(__name__)
_STALE_S = 0.5


class WaterMarks:
    """Whether the spool's file system is above its high-water mark, with hysteresis."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._is_high = False

    def are_exceeded(self, retention: RetentionSettings) -> bool:
        """Return whether no association should begin now.

        Raises
        ------
        OutOfResources
            The spool cannot be looked at.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= _STALE_S:
                self._look(retention)
                self._looked_at = now
            return self._is_high

    def _look(self, retention: RetentionSettings) -> None:
        used = self._spool.used_percent()
        if not self._is_high and used >= retention.high_water_percent:
            self._is_high = True
            _log.error("high water: no new associations", used_percent=round(used, 1))
        elif self._is_high and used < retention.low_water_percent:
            self._is_high = False
            _log.warning("low water: associations are accepted again", used_percent=round(used, 1))


def shortage(spool: Spool, marks: WaterMarks | None, retention: RetentionSettings) -> str:
    """Return in words why the spool takes no new association, empty if it does."""
    try:
        spool.require_space()
        if marks is not None and marks.are_exceeded(retention):
            return "the disk is above its high-water mark"
    except OutOfResources:
        return "the disk is nearly full"
    return ""
