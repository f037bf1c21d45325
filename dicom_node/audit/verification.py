"""Whether the trail is whole: each record against the one before, the last against the head."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dicom_node.audit.trail import AuditTrail, Head, audit_files, line_hash

__all__ = ["Verdict", "records", "verify"]

_TOLD_EVERY = 1000  # records


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying came to.

    Attributes
    ----------
    ok : bool
    count : int
        Records that hold together, from the first on.
    words : str
    place : str
        ``file:line`` of the first record that does not fit, empty if all do.
    seq, sha256 : int, str
        The last record that holds: what to write down elsewhere, to compare with another day.
    """

    ok: bool
    count: int
    words: str
    place: str = ""
    seq: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Line:
    path: Path
    number: int
    content: bytes

    @property
    def place(self) -> str:
        return f"{self.path.name}:{self.number}"


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what can be read of the trail in `folder`, the oldest first; verifies nothing."""
    for path in audit_files(folder):
        for line in path.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def verify(
    trail: AuditTrail,
    *,
    known: tuple[int, str] | None = None,
    latest_only: bool = False,
    looked: Callable[[int], None] | None = None,
) -> Verdict:
    """Check the chain of `trail` and name the first record that breaks it.

    Parameters
    ----------
    known : (int, str), optional
        Number and hash of a record, as noted outside of this machine: it has to be among them.
    latest_only : bool
        Only the newest file, for who looks often: that the end is where it should be.
    looked : callable, optional
        Told now and then how many records held so far; what it raises ends the walk.
    """
    with trail.locked():  # briefly: those who append go on while the files are read
        head = trail.read_head()
        files = [(path, path.stat().st_size) for path in audit_files(trail.folder)]
    if head is None:
        if not files:
            return Verdict(True, 0, "there are no records yet")
        return Verdict(False, 0, "the head is missing: nobody can tell where the trail ended")
    if latest_only and len(files) > 1:
        files = files[-1:]
        head = _begin_at(files[0][0], head)
    return _Walk(head, known, looked).through(files)


def _begin_at(path: Path, head: Head) -> Head:
    with path.open("rb") as file:
        line = file.readline()
    try:
        first = json.loads(line)
        return replace(head, base_seq=int(first["seq"]), base_sha256=str(first["previous"]))
    except (ValueError, KeyError, TypeError):
        return head  # walking will name it


class _Walk:
    def __init__(
        self,
        head: Head,
        known: tuple[int, str] | None,
        looked: Callable[[int], None] | None,
    ) -> None:
        self._looked = looked
        self._head = head
        self._known = known
        self._seq = head.base_seq - 1
        self._sha256 = head.base_sha256
        self._count = 0

    def through(self, files: list[tuple[Path, int]]) -> Verdict:
        for line in _lines(files, self._head.base_seq):
            broken = self._look(line)
            if broken is not None:
                return self._verdict(broken, line.place)
            if self._looked is not None and self._count % _TOLD_EVERY == 0:
                self._looked(self._count)
        return self._at_the_end()

    def _look(self, line: _Line) -> str | None:
        """Return what is wrong with a line; go on to it when nothing is."""
        number = self._seq + 1
        try:
            record = json.loads(line.content)
            seq, previous = int(record["seq"]), str(record["previous"])
        except (ValueError, KeyError, TypeError):
            return f"record {number} cannot be read"
        if seq != number:
            if seq > number:
                return f"records {number} to {seq - 1} are missing"
            return f"record {number} is missing; record {seq} stands in its place"
        if previous != self._sha256:
            altered = f"record {self._seq} was altered" if self._count else "the beginning was cut"
            return f"{altered}: record {number} names another hash for it"
        if seq == self._head.seq and line_hash(line.content) != self._head.sha256:
            return f"record {seq} was altered: it is not the one that the head names"
        self._seq, self._sha256, self._count = seq, line_hash(line.content), self._count + 1
        if self._known and self._known[0] == seq and self._known[1] != self._sha256:
            return f"record {seq} is not the one that was noted: the trail was written anew"
        return None

    def _at_the_end(self) -> Verdict:
        head = self._head
        if self._seq < head.seq:
            return self._verdict(
                f"records {self._seq + 1} to {head.seq} are missing at the end", "the end"
            )
        if self._seq > head.seq + 1:
            return self._verdict(
                f"records {head.seq + 1} to {self._seq} are not covered by the head", "the end"
            )
        if self._known and self._known[0] > self._seq:
            return self._verdict(f"the noted record {self._known[0]} is missing", "the end")
        words = f"{self._count} records hold together"
        if head.base_seq > 1:
            words += f"; the first is {head.base_seq}"
        return Verdict(True, self._count, words, "", self._seq, self._sha256)

    def _verdict(self, words: str, place: str) -> Verdict:
        return Verdict(False, self._count, words, place, self._seq, self._sha256)


def _lines(files: list[tuple[Path, int]], first_seq: int) -> Iterator[_Line]:
    for path, size in files:
        begins = path.stem.partition("-")[2]
        if begins.isdigit() and int(begins) < first_seq:
            continue  # before the beginning: left by a crash while it was being removed
        read = 0
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                read += len(content)
                if read > size:
                    break  # came while we were reading
                yield _Line(path, number, content)
