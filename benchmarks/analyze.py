"""Time and memory of reading one chest CT series: load, crop, network, maps, patient, burden.

    python benchmarks/analyze.py [SERIES] [--bundle DIR] [--device cpu] [--precision auto]

Without ``--bundle`` an untrained full-size bundle is made: the work is the same. Writing the
DICOM results is timed elsewhere.
"""

from __future__ import annotations

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy
import pydicom
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from inference.analyzer import Analyzer  # noqa: E402
from inference.bundle import make_untrained_bundle  # noqa: E402
from inference.volume import load_volume  # noqa: E402

DEFAULT_SERIES = ROOT.parent / "shared" / "data" / "covid-ct-md" / "covid" / "P001"


def main() -> int:
    options = parse()
    files = sorted(path for path in options.series.glob("*") if path.is_file())
    if not files:
        print(f"no files in {options.series}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle or Path(scratch) / "untrained"
        if options.bundle is None:
            make_untrained_bundle(bundle)
        measure(options, files, bundle)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("series", nargs="?", type=Path, default=DEFAULT_SERIES)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def measure(options: argparse.Namespace, files: list[Path], bundle: Path) -> None:
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    analyzer = Analyzer.load(
        bundle,
        device=options.device,
        precision=options.precision,
        batch_slices=options.batch,
        threads=options.threads,
    )
    seconds["load model"] = time.perf_counter() - start
    start = time.perf_counter()
    volume = load_volume(files)
    seconds["load series"] = time.perf_counter() - start
    beats = [time.perf_counter()]
    findings = analyzer.analyze(volume, progress=lambda *_: beats.append(time.perf_counter()))
    seconds.update(findings.timing_s)
    report(analyzer, findings, seconds, max(b - a for a, b in pairwise(beats)))


def report(analyzer: Analyzer, findings, seconds: dict[str, float], longest_s: float) -> None:
    windows = analyzer.manifest.preprocessing.window.centers_hu
    read = sum(found.has_lung for found in findings.slices)
    print(f"| stage | seconds | of {len(findings.slices)} slices |")
    print("|---|---|---|")
    for stage, value in seconds.items():
        note = f"{read} read x {len(windows)} windows" if stage == "slices" else ""
        print(f"| {stage} | {value:.2f} | {note} |")
    total = sum(seconds.values()) - seconds["load model"]
    around = total - seconds["slices"]
    print(f"| **series, model loaded** | **{total:.2f}** | network aside: {around / total:.1%} |")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = read * len(windows) / seconds["slices"]
    print(f"\nnetwork: {rate:.2f} slices/s per window; peak memory: {peak_mb:.0f} MB")
    print(f"longest time without a sign of progress: {longest_s:.1f} s")
    print(f"engine: {analyzer.engine.description}, {torch.get_num_threads()} threads")
    print(
        f"versions: Python {platform.python_version()}, torch {torch.__version__}, numpy "
        f"{numpy.__version__}, OpenCV {cv2.__version__}, pydicom {pydicom.__version__}"
    )
    abilities = torch.cpu.get_capabilities()
    print(
        f"CPU: {abilities.get('cpu_name', platform.processor())}, "
        f"{abilities.get('num_logical_cores')} threads, "
        f"AVX-512 bf16: {abilities.get('avx512_bf16', False)}, "
        f"AMX bf16: {abilities.get('amx_bf16', False)}; commit {commit()}"
    )


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
