"""What years of series cost: claim, status, worklist, intake, sweep, start after SIGKILL.

    python benchmarks/ledger.py [--series 1000 10000 100000] [--postgresql] [--json FILE]

Fills a ledger with series that ended (benchmarks/ledger_history.py) and an afternoon's open work,
then measures each operation as the node does it, the commit included: SQLite on this disk, with
--postgresql a cluster of its own on this disk, fsync on. "Serving again" kills `m3lung serve` and
its parts by SIGKILL, starts it again, and waits until the listener answers C-ECHO and until the
reconciler has swept.

Medians, and the fastest in brackets; the ratio is to the smallest ledger. The goals are those of
the project: a sweep under 50 ms and serving again within 10 s with 100,000 series.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from figures import Figures, Ratio
from ledger_history import BLOCK, fill, open_work, sizes
from served_node import STATUS, m3lung, serving_again, write_config

from dicom_node.domain import StoredInstance
from dicom_node.header import InstanceHeader
from dicom_node.ledger import Arrival, Ledger, open_ledger
from dicom_node.ledger.leases import this_owner
from dicom_node.ledger.readings import Readings
from dicom_node.logs import configure
from dicom_node.reconciler import Reconciler
from dicom_node.settings import NodeSettings

GOALS = {"sweep": 0.050, "claim of the first in the queue": 0.050,
         "serving again after SIGKILL: C-ECHO": 10.0,
         "serving again after SIGKILL: swept": 10.0, STATUS: 0.100}  # fmt: skip
MONTH_S = 31 * 86400.0  # longer ago than this, everything in the history is purged
STDERR = Console(stderr=True)


def main() -> int:
    options = parse()
    configure("error")
    began = time.monotonic()
    figures: dict[str, dict[str, Any]] = {}
    for count in options.series:
        if time.monotonic() - began > options.budget_s:
            STDERR.print(f"no time left for {count} series")
            break
        figures[str(count)] = measure(count, options)
    report(figures, options)
    if options.json:
        as_figures(figures, options).finish(options.json)
    return 0


def as_figures(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> Figures:
    """Milliseconds by operation and size, and the largest size against the goals."""
    figures = Figures(f"ledger: {database_name(options)}, series that ended")
    largest = list(found)[-1]
    for name, value in found[largest]["seconds"].items():
        row: dict[str, Any] = {"operation": name}
        row |= {f"{int(n):,}, ms": 1e3 * at["seconds"][name] for n, at in found.items()}
        figures.rows.append(row)
        if name in GOALS:
            goal = 1e3 * GOALS[name]
            words = f"ledger, {int(largest):,} series: {name}"
            figures.ratios.append(Ratio(words, 1e3 * value, goal, "ms", at_most=True))
    return figures


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--instances", type=int, default=10, help="kept of each series")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-restart", action="store_true", help="leave the processes out")
    parser.add_argument("--budget-s", type=float, default=240.0, help="begin no size after that")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if any(count % BLOCK for count in options.series):
        parser.error(f"--series: thousands, please ({BLOCK} are one block)")
    return options


def measure(count: int, options: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="m3lung-ledger-")))
        url = f"sqlite:///{folder / 'state' / 'ledger.sqlite3'}"
        if options.postgresql:
            url = stack.enter_context(postgresql())
        settings = NodeSettings(
            state_dir=folder / "state",
            ledger={"url": url},
            completion={
                "quiet_period_s": 3600
            },  # what receives goes on to, however long this takes
        )
        began = time.monotonic()
        with open_ledger(url) as ledger:
            fill(ledger, count, options.instances)
            opened = open_work(ledger)
            STDERR.print(f"{count} series filled in {time.monotonic() - began:.0f} s")
            samples = in_process(ledger, settings, opened.analyses, options.rounds)
            figures: dict[str, Any] = {
                "rows": dict(sizes(ledger)),
                "seconds": {name: statistics.median(taken) for name, taken in samples.items()},
                "fastest": {name: min(taken) for name, taken in samples.items()},
            }
        write_config(folder, url, 0)
        figures["seconds"]["m3lung status --accession (a process; no node runs)"] = timed(
            lambda: m3lung(folder, "status", "--accession", "A0001000000")
        )
        if not options.no_restart:
            figures["seconds"].update(serving_again(folder, url))
    return figures


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A cluster of its own that keeps its promises: the tests' one, with fsync."""
    from support.postgresql_cluster import PostgresqlCluster

    cluster = PostgresqlCluster()
    for promise in ("fsync=on", "synchronous_commit=on", "full_page_writes=on"):
        cluster.command += ["-c", promise]
    cluster.command += ["-c", "max_wal_size=2GB"]
    try:
        cluster.start()
        with cluster.database() as url:
            yield url
    finally:
        cluster.remove()


# -- operations, as the node's parts do them -------------------------------------------------------


def in_process(
    ledger: Ledger, settings: NodeSettings, waiting: list[int], rounds: int
) -> dict[str, list[float]]:
    """Return seconds of each operation, again and again."""
    listed = Listed(ledger)
    reconciler = Reconciler(lambda: settings, ledger, Nobody())  # type: ignore[arg-type]
    operations: dict[str, Callable[[], object]] = {
        "sweep": reconciler.sweep,
        "status --accession": listed.one_accession,
        "status, 20 newest": listed.newest,
        "status, counts": ledger.worklist.counts,
        "intake of an image, its series open": Images(ledger).same_series,
        "intake of an image, its series new": Images(ledger).new_series,
        "retention, nothing to purge": lambda: ledger.retention.purge(MONTH_S),
    }
    found = {name: repeated(work, rounds) for name, work in operations.items()}
    owner = this_owner()
    now = ledger.database.now()
    claim = lambda: ledger.analyses.claim_next(owner, 120.0)  # noqa: E731
    return {
        **found,
        "drift, 30 days against 30 before": repeated(
            lambda: (
                Readings(ledger.database).between(now - MONTH_S, now),
                Readings(ledger.database).between(now - 2 * MONTH_S, now - MONTH_S),
            ),
            min(rounds, 5),
        ),
        "rules, the last 200 series": repeated(lambda: ledger.traits.recent(200), min(rounds, 5)),
        "claim of the first in the queue": repeated(claim, len(waiting)),
    }


def repeated(work: Callable[[], object], rounds: int, limit_s: float = 10.0) -> list[float]:
    """Return the seconds of each of `rounds`, of fewer where they take longer than `limit_s`."""
    until = time.monotonic() + limit_s
    samples = []
    while len(samples) < rounds and (not samples or time.monotonic() < until):
        samples.append(timed(work))
    return samples[1:] or samples  # the first prepares statements


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Nobody:
    """A broker that takes everything."""

    def analysis(self, _row_id: int) -> None:
        """Take it."""

    delivery = speculation = analysis


class Listed:
    """What people ask; each time about another study."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._number = 0

    def one_accession(self) -> None:
        """Where is this study."""
        self._number = (self._number + 1) % (BLOCK // 4)
        found = self._ledger.worklist.find(accession=f"A{self._number:04d}000000", limit=100)
        assert len(found) == 4

    def newest(self) -> None:
        """Return what the worklist shows first."""
        assert len(self._ledger.worklist.find(limit=20)) == 20


class Images:
    """Arrivals, one transaction each: what a single association costs."""

    def __init__(self, ledger: Ledger) -> None:
        self._intake = ledger.intake
        self._association = self._intake.open_association(
            calling_ae="CT1", called_ae="M3LUNG", address="10.0.0.7"
        )
        self._number = 0
        self._prefix = f"2.25.86{self._association}"

    def same_series(self) -> None:
        """Take one more of a series."""
        self._take(f"{self._prefix}.1")

    def new_series(self) -> None:
        """Take the first of a series."""
        self._take(f"{self._prefix}.2.{self._number + 1}")

    def _take(self, series: str) -> None:
        self._number += 1
        header = InstanceHeader(
            sop_instance_uid=f"{series}.{self._number}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            study_instance_uid=f"{series}.0",
            series_instance_uid=series,
        )
        digest = f"{self._association:032x}{self._number:032x}"
        stored = StoredInstance(digest, Path("instances/00/none.dcm"), 526_000)
        self._intake.record_instances([Arrival(self._association, header, stored)])


# -- the table -------------------------------------------------------------------------------------


def report(figures: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    sized = list(figures)
    table = Table(title=f"{database_name(options)}; {circumstances()['machine']}")
    table.add_column("operation")
    for count in sized:
        table.add_column(f"{int(count):,} series", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("goal", justify="right")
    for name in figures[sized[-1]]["seconds"]:
        values = [figures[count]["seconds"][name] for count in sized]
        fastest = [figures[count]["fastest"].get(name) for count in sized]
        goal = GOALS.get(name)
        verdict = "" if goal is None else ("held" if values[-1] < goal else "MISSED")
        words = "" if goal is None else f"< {shown(goal)} {verdict}"
        cells = map(shown, values, fastest)
        table.add_row(name, *cells, f"{values[-1] / values[0]:.1f}", words)
    for count in sized:
        rows = figures[count]["rows"]
        STDERR.print(f"{int(count):,}: " + ", ".join(f"{n:,} {name}" for name, n in rows.items()))
    Console(width=120).print(table)


def shown(seconds: float, fastest: float | None = None) -> str:
    words = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
    return words if fastest is None else f"{words} ({1e3 * fastest:.1f})"


def database_name(options: argparse.Namespace) -> str:
    return "PostgreSQL" if options.postgresql else "SQLite"


def circumstances() -> dict[str, str]:
    load = os.getloadavg()[0]
    return {
        "machine": f"{os.cpu_count()} CPUs, load {load:.1f}, Python {platform.python_version()}",
        "commit": subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=False,
        ).stdout.strip(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
