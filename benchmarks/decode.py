"""What it costs to decode a series in children rather than in threads of this process.

    python benchmarks/decode.py [SERIES] [--rounds 9] [--decoders 0]

The two take turns, so that a busy machine slows both; medians and the median of the pairwise
ratios are given.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pydicom

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.cpus import usable_cpus
from inference.decoder_pool import DecoderPool
from inference.pixel_file import Plane
from inference.pixels import Rescale
from inference.volume import load_volume

DEFAULT_SERIES = ROOT.parent / "shared" / "data" / "covid-ct-md" / "covid" / "P001"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="?", type=Path, default=DEFAULT_SERIES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decoders", type=int, default=0)
    options = parser.parse_args()
    paths = sorted(path for path in options.series.glob("*") if path.is_file())
    if not paths:
        print(f"no files in {options.series}", file=sys.stderr)
        return 1
    began = time.perf_counter()
    with DecoderPool(options.decoders) as pool:
        first = load_volume(paths, pixels=pool)
        cold_s = time.perf_counter() - began
        if not numpy.array_equal(first.hu, load_volume(paths).hu):
            print("children and threads differ", file=sys.stderr)
            return 1
        rounds = [
            (timed(lambda: load_volume(paths)), timed(lambda: load_volume(paths, pixels=pool)))
            for _ in range(options.rounds)
        ]
    threads_s, children_s = zip(*rounds, strict=True)
    print(f"| series of {len(paths)} files | seconds, median | slices/s |")
    print("|---|---|---|")
    for name, seconds in (("threads", threads_s), ("children, warm", children_s)):
        middle = statistics.median(seconds)
        print(
            f"| {name} | {middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {len(first) / middle:.0f} |"
        )
    print(f"| children, started for it | {cold_s:.2f} | {len(first) / cold_s:.0f} |")
    ratio = statistics.median(children / threads for threads, children in rounds)
    print(f"\nchildren over threads, median of {options.rounds} pairs: {ratio:.3f}")
    print(f"one child from nothing to its first plane: {start_s(paths[0], first.hu.shape):.2f} s")
    print(
        f"{usable_cpus()} CPUs, Python {platform.python_version()}, numpy {numpy.__version__}, "
        f"pydicom {pydicom.__version__}; commit {commit()}"
    )
    return 0


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def start_s(path: Path, shape: tuple[int, ...]) -> float:
    plane = Plane(0, path.name, shape[1], shape[2], Rescale(), None)
    began = time.perf_counter()
    with DecoderPool(1) as pool:
        next(pool(path, [plane]))
        return time.perf_counter() - began


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
