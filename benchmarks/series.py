"""One series from spool to written results, by stage, against the plain pipeline.

    python benchmarks/series.py [--slices 300] [--model full|shipped] [--naive-slices 6]
                                [--several N] [--json FILE]

``full``: an untrained bundle of the paper's size (512 × 512), ``shipped``: the demonstration model
(160 × 160). The plain pipeline (benchmarks/naive.py) reads some of the slices, spread over the
series, before and after, and is stretched to all; it writes no results. ``--several`` reads that
many series at once, each in a thread with the one model, which is what a GPU has room for.
"""

from __future__ import annotations

import argparse
import datetime as dt
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from figures import Figures, Ratio
from naive import NaivePipeline
from phantom_series import series_files

from dicom_node.results.context import Completeness, ResultContext, ResultOptions
from dicom_node.worker.pipeline import Reading, read_series
from inference.analyzer import Analyzer
from inference.bundle import load_bundle, make_untrained_bundle
from inference.decoder_pool import DecoderPool

SHIPPED = Path(__file__).resolve().parents[1] / "inference" / "bundles" / "phantom-v1"
BANNER = "RESEARCH USE ONLY - NOT FOR DIAGNOSTIC USE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--model", default="full", choices=["full", "shipped"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--naive-slices", type=int, default=6)
    parser.add_argument("--several", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = series_files(options.slices)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = SHIPPED
        if options.model == "full":
            bundle = Path(scratch) / "full"
            make_untrained_bundle(bundle)
        measure(files, bundle, Path(scratch), options)


def measure(files: list[Path], bundle: Path, scratch: Path, options: argparse.Namespace) -> None:
    naive = NaivePipeline(load_bundle(bundle))
    analyzer = Analyzer.load(bundle, device=options.device, batch_slices=options.batch)
    chosen = spread(files, options.naive_slices)
    half = len(chosen) // 2
    with DecoderPool() as pool:
        read(spread(files, 8), analyzer, pool, scratch / "warm")
        naive.read(chosen[:half])
        reading, stages, longest_s = read(files, analyzer, pool, scratch / "out")
        naive.read(chosen[half:])
        several_s = several(files, analyzer, pool, scratch, options.several)
    plain = {name: value * len(files) / len(chosen) for name, value in naive.seconds.items()}
    report(files, analyzer, reading, stages, plain, longest_s, several_s, options)


def spread(files: list[Path], count: int) -> list[Path]:
    """Return `count` of `files`, evenly spread."""
    return [files[index * len(files) // count] for index in range(count)]


def read(
    files: list[Path], analyzer: Analyzer, pool: DecoderPool, folder: Path
) -> tuple[Reading, dict[str, float], float]:
    """Read as a worker does; return the reading, seconds by stage, the longest silence."""
    beats = [(time.perf_counter(), "")]
    context = ResultContext(
        instance_set_digest="0" * 64,
        configuration_digest="0" * 64,
        analysis_started_at=dt.datetime.now(dt.UTC),
        completeness=Completeness("the benchmark says so", len(files), len(files)),
        software_version="bench",
        ae_title="M3LUNG",
        predecessors=(),
        statements=(),
    )
    reading = read_series(
        files, analyzer, pool, folder, ResultOptions(banner=BANNER), context,
        progress=lambda stage, *_: beats.append((time.perf_counter(), stage)),
        slice_level=len(files) < 30,
    )  # fmt: skip
    end = time.perf_counter()
    inside = reading.findings.timing_s
    began = beats[0][0]
    results_began = next(at for at, stage in beats if stage == "results")
    crop_began = next(at for at, stage in beats if stage == "crop")
    stages = {"decode and HU": crop_began - began, **inside}
    stages["results written"] = end - results_began
    stages["else"] = max(0.0, end - began - sum(stages.values()))
    shutil.rmtree(folder)
    moments = [at for at, _ in beats] + [end]
    return reading, stages, max(b - a for a, b in pairwise(moments))


def several(
    files: list[Path], analyzer: Analyzer, pool: DecoderPool, scratch: Path, count: int
) -> float | None:
    """Seconds per series with `count` of them at once."""
    if not count:
        return None
    began = time.perf_counter()
    with ThreadPoolExecutor(count) as threads:
        done = [
            threads.submit(read, files, analyzer, pool, scratch / f"several-{n}")
            for n in range(count)
        ]
        for one in done:
            one.result()
    return (time.perf_counter() - began) / count


def report(
    files: list[Path],
    analyzer: Analyzer,
    reading: Reading,
    stages: dict[str, float],
    plain: dict[str, float],
    longest_s: float,
    several_s: float | None,
    options: argparse.Namespace,
) -> None:
    total = sum(stages.values())
    with_lung = sum(found.has_lung for found in reading.findings.slices)
    windows = len(analyzer.manifest.preprocessing.window.centers_hu)
    size = analyzer.manifest.preprocessing.crop.input_size
    beside = {"decode and HU": "decode", "crop": "crop", "slices": "network"}
    figures = Figures(f"series: {len(files)} slices, {options.model} model ({size} × {size})")
    for name, value in stages.items():
        figures.rows.append(
            {"stage": name, "node s": value, "% of wall": 100 * value / total,
             "plain s": plain.get(beside.get(name, ""))}
        )  # fmt: skip
    figures.rows.append(
        {"stage": "series", "node s": total, "% of wall": 100.0, "plain s": sum(plain.values())}
    )
    name = f"series, {options.model} model"
    on_gpu = "cuda" in analyzer.engine.description
    around = 100 * (total - stages["slices"]) / total
    figures.ratios = [
        Ratio(f"{name}: faster than plain", sum(plain.values()) / total, None if on_gpu else 8.0),
        Ratio(f"{name}: work around the network", around, None if on_gpu else 25.0, "%", True),
        Ratio(f"{name}: spool to written results", total, 3.0 if on_gpu else None, "s", True),
    ]
    if several_s is not None:
        figures.ratios.append(
            Ratio(f"{name}: seconds per series, {options.several} at once", several_s, unit="s")
        )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures.notes = [
        f"{analyzer.engine.description}; {with_lung} slices with lung read in {windows} windows; "
        f"{len(reading.objects)} objects written; peak memory {peak_mb:.0f} MB; longest time "
        f"without a sign of progress {longest_s:.1f} s; plain: {options.naive_slices} slices "
        "measured and stretched to all"
    ]
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures.notes.append(f"GPU memory at its peak {peak:.1f} GiB")
    figures.finish(options.json)


if __name__ == "__main__":
    main()
