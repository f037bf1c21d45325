"""Counters that outlive processes: each process adds what it counted, one reader reads them all.

A process counts in memory (:class:`Tally`) and hands its counts over every few seconds. What was
counted since then dies with a killed process; nothing that has to be exact is counted this way.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from dicom_node.ledger import tables as t
from dicom_node.ledger.database import Database

__all__ = ["Counts", "Tallies", "Tally", "add_counts"]

Counts = Mapping[tuple[str, tuple[str, ...]], float]
"""(name, values of its labels) → how many."""

_LONGEST_LABEL = 48


class Tally:
    """Counts of one process, from all its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Count one more of `name`; the values of `labels` come from a bounded set."""
        with self._lock:
            self._counts[name, tuple(label[:_LONGEST_LABEL] for label in labels)] += by

    def take(self) -> Counts:
        """Return what was counted since the last call."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return taken

    def give_back(self, counts: Counts) -> None:
        """Take counts back that could not be handed over."""
        with self._lock:
            for key, number in counts.items():
                self._counts[key] += int(number)


class Tallies:
    """The sums of all processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, counts: Counts) -> None:
        """Add `counts` in one transaction."""
        if counts:
            with self._database.write() as connection:
                add_counts(self._database, connection, counts)

    def read(self, connection: sa.Connection) -> Counter[tuple[str, tuple[str, ...]]]:
        """Return all sums."""
        rows = connection.execute(sa.select(t.tallies))
        found: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for name, labels, value in rows:
            found[name, tuple(json.loads(labels))] = value
        return found


def add_counts(database: Database, connection: sa.Connection, counts: Counts) -> None:
    """Add `counts` to the sums, within the caller's transaction."""
    if not counts:
        return
    dialect: Any
    if database.is_sqlite:
        from sqlalchemy.dialects import sqlite as dialect
    else:
        from sqlalchemy.dialects import postgresql as dialect
    insert = dialect.insert(t.tallies)
    statement = insert.on_conflict_do_update(
        index_elements=[t.tallies.c.name, t.tallies.c.labels],
        set_={"value": t.tallies.c.value + insert.excluded.value},
    )
    # In one order, so that two processes never wait for each other.
    for (name, labels), value in sorted(counts.items()):
        row = {"name": name, "labels": json.dumps(labels, ensure_ascii=False), "value": value}
        connection.execute(statement, row)
