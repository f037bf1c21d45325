"""Series per minute with 1, 2 and 4 worker processes, and what the ledger alone would let through.

    python benchmarks/scale.py [--workers 1 2 4] [--series 4] [--slices 24] [--json FILE]

Each worker reads with one thread and one decoder and the model that comes along, from a queue of
series in one ledger, as `m3lung work` does. Beyond the number of processors more workers cannot
help. The second table leaves the computing out: how many claims, renewals and outcomes a second one
ledger takes from that many processes; a series costs it about as many as it takes seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from figures import Figures, Ratio
from ledger_history import fill, open_work
from phantom_series import BUILD, phantom_series

from dicom_node.ledger import open_ledger
from dicom_node.ledger.leases import this_owner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--series", type=int, default=4, help="for each number of workers")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the ledger's table")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        return read(options.read, options.slices)
    if options.write:
        return write(options.write, options.seconds)
    cores = len(os.sched_getaffinity(0))
    figures = Figures(f"scale: {options.slices} slices each, one thread per worker, {cores} CPUs")
    phantom_series(options.slices, BUILD / f"phantom-{options.slices}", seed="bench")
    rates = {}
    for workers in options.workers:
        rates[workers] = series_per_minute(workers, options)
        figures.rows.append(
            {"worker processes": workers, "series/min": rates[workers],
             "× one worker": rates[workers] / rates[options.workers[0]],
             "ledger writes/s": ledger_rate(workers, options)}
        )  # fmt: skip
    usable = max(n for n in options.workers if n <= cores)
    figures.ratios = [
        Ratio(f"scale: {usable} workers by one, per worker",
              rates[usable] / rates[options.workers[0]] / usable, 0.8),
    ]  # fmt: skip
    figures.finish(options.json)
    return None


def series_per_minute(workers: int, options: argparse.Namespace) -> float:
    """Start the workers, and when all have their model loaded let them share the queue."""
    with tempfile.TemporaryDirectory(prefix="m3lung-scale-") as name:
        folder = Path(name)
        for number in range(options.series):
            (folder / f"series-{number}.waiting").touch()
        command = [sys.executable, __file__, "--read", name, "--slices", str(options.slices)]
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(workers)
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        began = time.perf_counter()
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        for child in children:
            if child.wait() != 0:
                raise RuntimeError("a worker failed")
        return 60 * options.series / (time.perf_counter() - began)


def read(folder: Path, slices: int) -> None:
    """Be one worker: take what waits until nothing does."""
    import shutil

    import cv2
    from series import SHIPPED
    from series import read as read_one

    from inference.analyzer import Analyzer
    from inference.decoder_pool import DecoderPool

    cv2.setNumThreads(1)
    files = sorted((BUILD / f"phantom-{slices}").glob("*.dcm"))
    analyzer = Analyzer.load(SHIPPED, threads=1)
    with DecoderPool(1) as pool:
        print("ready", flush=True)
        sys.stdin.readline()
        for waiting in sorted(folder.glob("*.waiting")):
            taken = waiting.with_suffix(f".{os.getpid()}")
            try:
                waiting.rename(taken)
            except FileNotFoundError:
                continue
            read_one(files, analyzer, pool, taken.with_suffix(".out"))
            shutil.rmtree(taken.with_suffix(".out"), ignore_errors=True)


def ledger_rate(workers: int, options: argparse.Namespace) -> float:
    """Writes per second of that many processes that only claim and renew."""
    with tempfile.TemporaryDirectory(prefix="m3lung-scale-") as name:
        url = f"sqlite:///{Path(name) / 'ledger.sqlite3'}"
        with open_ledger(url) as ledger:
            fill(ledger, 1000, 1)
            open_work(ledger)
        command = [sys.executable, __file__, "--write", url, "--seconds", str(options.seconds)]
        children = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)
        ]
        written = [float(child.communicate()[0].splitlines()[-1]) for child in children]
    return sum(written)


def write(url: str, seconds: float) -> None:
    """Claim and renew for `seconds`; print writes per second."""
    with open_ledger(url) as ledger:
        claim = ledger.analyses.claim_next(this_owner(), 3600.0)
        if claim is None:
            raise RuntimeError("nothing to claim")
        count, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            ledger.analyses.progress(claim, 3600.0, "slices", count, count)
            count += 1
    print(count / seconds)


if __name__ == "__main__":
    main()
