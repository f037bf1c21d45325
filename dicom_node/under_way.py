"""Readings ahead of the evidence that are under way (ADR 0022): told by their folders alone.

Whoever reads keeps a folder ``SERIES-KEY/`` with its name in ``owner``, touched every second, and
how far it is in ``progress``; ``memo.json`` ends it (:mod:`dicom_node.memos`). Those who only say
where a series is read no more than that.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from dicom_node.ledger.leases import owner_is_gone

__all__ = ["MEMO", "OWNER", "PROGRESS", "SILENCE_S", "beat_of", "memo_folders", "under_way"]

MEMO, OWNER, PROGRESS = "memo.json", "owner", "progress"
SILENCE_S = 15.0  # a reading under way that does not beat for so long has stopped


def memo_folders(folder: Path) -> list[Path]:
    """Return the folders of readings, whole, under way or neither."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[:1].isdigit())
    except OSError:
        return []  # there is none, or none that could be of use


def beat_of(folder: Path) -> int | None:
    """When the reading under way in `folder` last beat, in nanoseconds; None: there is none."""
    try:
        if (folder / MEMO).exists() or owner_is_gone((folder / OWNER).read_text("utf-8")):
            return None
        return (folder / OWNER).stat().st_mtime_ns
    except (OSError, ValueError):
        return None


def under_way(folder: Path) -> dict[int, str]:
    """Return how far each reading under way is, in words, by the series' id in the ledger.

    Parameters
    ----------
    folder : Path
        Of all memos (``settings.memos_dir``); it need not exist.
    """
    found: dict[int, str] = {}
    for path in memo_folders(folder):
        beat = beat_of(path)
        if beat is None or abs(time.time() - beat * 1e-9) > SILENCE_S:
            continue
        words = ""
        with suppress(OSError, ValueError):
            words = (path / PROGRESS).read_text("utf-8")
        found[int(path.name.partition("-")[0])] = words
    return found
