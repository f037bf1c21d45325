"""The trail read from its end: a leaf at a time, filtered, bounded, whatever lies before.

A line is looked at as bytes first; only what may fit is decoded. So a year of records costs no
memory, and a filter that nothing fits costs a bounded time and says how far it came.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.audit.message import EventID
from dicom_node.audit.trail import audit_files

__all__ = ["Filter", "Leaf", "leaf"]

_BLOCK_BYTES = 256 << 10
_LONGEST_LINE = 1 << 20
_PLACE = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})")
_TIME_KEY = b'"EventDateTime":"'
_LONGEST_S = 0.12


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records are wanted; what is empty or None admits all.

    Attributes
    ----------
    event : EventID or None
    failed : bool or None
        Whether the outcome is a failure.
    participant : str
        Part of a participant's name, AE title or address; case does not matter.
    since, until : float or None
        Seconds of the epoch, the end exclusive.
    """

    event: EventID | None = None
    failed: bool | None = None
    participant: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """Some records, the newest first.

    Attributes
    ----------
    older : str
        Where to go on, empty at the beginning of the trail.
    looked_at : int
        How many records were looked at for it.
    is_cut : bool
        Whether the time was over before the leaf was full: there may be more behind `older`.
    """

    records: tuple[dict[str, Any], ...]
    older: str
    looked_at: int
    is_cut: bool


def leaf(
    folder: Path,
    wanted: Filter,
    *,
    place: str = "",
    limit: int = 50,
    longest_s: float = _LONGEST_S,
) -> Leaf:
    """Return the newest records in `folder` that `wanted` admits.

    Parameters
    ----------
    place : str
        ``Leaf.older`` of the leaf before; anything else begins at the end.
    limit : int
        Of records.
    longest_s : float
        What is found until then is returned.
    """
    sieve = _Sieve(wanted)
    deadline = time.monotonic() + longest_s
    found: list[dict[str, Any]] = []
    looked_at = 0
    for here, line in _lines(folder, place, sieve):
        # The place of a line is where the lines older than it end.
        looked_at += 1
        if sieve.is_before(line):
            return Leaf(tuple(found), "", looked_at, False)
        record = sieve.admitted(line)
        if record is not None:
            found.append(record)
        is_late = looked_at % 256 == 0 and time.monotonic() > deadline
        if len(found) == limit or is_late:
            return Leaf(tuple(found), here, looked_at, len(found) < limit)
    return Leaf(tuple(found), "", looked_at, False)


def _lines(folder: Path, place: str, sieve: _Sieve) -> Iterator[tuple[str, bytes]]:
    """Yield (place, line) from `place` backwards over all files."""
    match = _PLACE.fullmatch(place)
    first, end = (int(match[1]), int(match[2])) if match else (0, 0)
    files = [(_first_number(path), path) for path in audit_files(folder)]
    for number, path in reversed(files):
        if first and number > first:
            continue
        if sieve.is_behind(path):
            continue  # all of it is younger than what is wanted
        try:
            for offset, line in _backwards(path, end if number == first else None):
                yield (f"{number}.{offset}" if offset or number > files[0][0] else ""), line
        except FileNotFoundError:
            continue  # removed by retention while we were reading


def _first_number(path: Path) -> int:
    digits = path.stem.partition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _backwards(path: Path, end: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines of `path` that end at or before `end`, the last first."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        position = size if end is None else min(end, size)
        rest = b""  # the beginning of what was read already: the end of a line
        while position > 0:
            begin = max(0, position - _BLOCK_BYTES)
            file.seek(begin)
            block = file.read(position - begin) + rest
            position = begin
            lines = block.split(b"\n")
            rest = lines[0] if begin else b""
            offset = begin + len(block)
            for line in reversed(lines[1:] if begin else lines):
                offset -= len(line)
                if line:
                    yield offset, line
                offset -= 1
            if len(rest) > _LONGEST_LINE:
                rest = b""  # no record of ours is that long


class _Sieve:
    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._since = _stamp(wanted.since)
        self._until = _stamp(wanted.until)
        self._participant = wanted.participant.strip().casefold()
        # As the writer encodes it; what is escaped is not searched for in the bytes.
        text = self._participant.encode("ascii", "ignore")
        plain = text.decode() == self._participant and not {'"', "\\"} & set(self._participant)
        self._bytes = text if plain else b""
        event = wanted.event
        self._event = f'"csd-code":"{event.value[0]}"'.encode() if event else b""

    def is_before(self, line: bytes) -> bool:
        """Whether this record, and so every older one, is from before what is wanted."""
        if not self._since:
            return False
        at = _time_of(line)
        return bool(at) and at < self._since

    def is_behind(self, path: Path) -> bool:
        """Whether a whole file is from after what is wanted, as its first record tells."""
        if not self._until:
            return False
        try:
            with path.open("rb") as file:
                at = _time_of(file.readline(_LONGEST_LINE))
        except OSError:
            return False
        return bool(at) and at >= self._until

    def admitted(self, line: bytes) -> dict[str, Any] | None:
        """Return the record in `line` if it is wanted."""
        if self._event not in line or (self._bytes and self._bytes not in line.lower()):
            return None
        if self._until:
            at = _time_of(line)
            if not at or at >= self._until:
                return None
        try:
            record = json.loads(line)
        except ValueError:
            return None
        return record if isinstance(record, dict) and self._fits(record) else None

    def _fits(self, record: dict[str, Any]) -> bool:
        identification = record.get("EventIdentification")
        event = identification if isinstance(identification, dict) else {}
        if self._wanted.event is not None:
            code = event.get("EventID")
            if not isinstance(code, dict) or code.get("csd-code") != self._wanted.event.value[0]:
                return False
        if self._wanted.failed is not None:
            failed = str(event.get("EventOutcomeIndicator", "0")) != "0"
            if failed != self._wanted.failed:
                return False
        if not self._participant:
            return True
        people = record.get("ActiveParticipant")
        return isinstance(people, list) and any(
            self._participant in str(one.get(key, "")).casefold()
            for one in people
            if isinstance(one, dict)
            for key in ("UserID", "AlternativeUserID", "NetworkAccessPointID")
        )


def _stamp(at: float | None) -> bytes:
    """Return a time as the trail writes it: such stamps are ordered as bytes are."""
    if at is None:
        return b""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").encode()


def _time_of(line: bytes) -> bytes:
    at = line.find(_TIME_KEY)
    return line[at + len(_TIME_KEY) : at + len(_TIME_KEY) + 29] if at >= 0 else b""
