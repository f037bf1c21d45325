"""Decode, Hounsfield units and crop of one series, against slice-by-slice pydicom and skimage.

    python benchmarks/volume.py [--slices 300] [--naive-slices 30] [--rounds 3] [--json FILE]

The two take turns, so that a busy machine slows both; the median of the pairwise ratios counts.
The plain way is measured on some of the slices, spread over the series, and stretched to all.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

from figures import Figures, Ratio
from naive import decoded, lung_box
from phantom_series import series_files

from inference.decoder_pool import DecoderPool
from inference.lung_crop import CropParameters, crop_lungs, crop_to_input
from inference.volume import load_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--naive-slices", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = series_files(options.slices)
    stages: list[dict[str, float]] = []
    naive: list[dict[str, float]] = []
    with DecoderPool() as pool:
        load_volume(files[:4], pixels=pool)  # the children are up
        for _ in range(options.rounds):
            stages.append(ours(files, pool))
            naive.append(plain(files, options.naive_slices))
    report(files, stages, naive, options)


def ours(files: list[Path], pool: DecoderPool) -> dict[str, float]:
    """Seconds by step of the node's way, for the whole series."""
    parameters = CropParameters()
    times = [time.perf_counter()]
    volume = load_volume(files, pixels=pool)
    times.append(time.perf_counter())
    crop = crop_lungs(volume.hu, volume.pixel_spacing_mm, parameters)
    times.append(time.perf_counter())
    for index in np.flatnonzero(crop.has_lung):
        crop_to_input(volume.hu[index], crop.boxes[index], parameters)
    times.append(time.perf_counter())
    return dict(zip(("decode and HU", "lung crop", "resize"), np.diff(times), strict=True))


def plain(files: list[Path], count: int) -> dict[str, float]:
    """Seconds by step of the plain way, stretched to the whole series."""
    chosen = files[:: max(1, len(files) // count)]
    seconds = {"decode and HU": 0.0, "lung crop": 0.0}
    for path in chosen:
        began = time.perf_counter()
        hu = decoded(path)
        middle = time.perf_counter()
        lung_box(hu, CropParameters())
        seconds["decode and HU"] += middle - began
        seconds["lung crop"] += time.perf_counter() - middle
    return {name: value * len(files) / len(chosen) for name, value in seconds.items()}


def report(
    files: list[Path],
    stages: list[dict[str, float]],
    naive: list[dict[str, float]],
    options: argparse.Namespace,
) -> None:
    def median(rounds: list[dict[str, float]], name: str) -> float:
        return statistics.median(found.get(name, 0.0) for found in rounds)

    figures = Figures(f"volume: {len(files)} slices, decoded by disposable children")
    for name in stages[0]:
        figures.rows.append(
            {"step": name, "node s": median(stages, name), "plain s": median(naive, name)}
        )
    pairs = [sum(them.values()) / sum(us.values()) for us, them in zip(stages, naive, strict=True)]
    total = statistics.median(sum(found.values()) for found in stages)
    figures.rows.append(
        {"step": "all", "node s": total,
         "plain s": statistics.median(sum(found.values()) for found in naive)}
    )  # fmt: skip
    figures.ratios = [
        Ratio("volume: decode, HU and crop, faster than plain", statistics.median(pairs)),
        Ratio("volume: milliseconds per slice", 1000 * total / len(files), unit="ms"),
    ]
    figures.notes = [
        "The node also follows the lungs through the stack and closes them (the denominator of "
        "percentages), which the plain way does not."
    ]
    figures.finish(options.json)


if __name__ == "__main__":
    main()
