"""How fast phantoms are drawn, and how they compare with real chest CT.

    python benchmarks/phantom.py                       slices per second at 128, 256 and 512 rows
    python benchmarks/phantom.py --compare REAL_DIR    one PNG, phantom beside real, and distances

REAL_DIR holds DICOM series in folders, such as the COVID-CT-MD sample. Nothing of it is kept but
the picture, which is not to be published.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from dicom_node.series_folder import find_series
from inference.domain import DiseaseClass
from inference.lung_crop import CropParameters, crop_lungs
from inference.volume import load_volume
from training.phantom import Case, Family, write_case

HEIGHTS = (0.08, 0.22, 0.38, 0.52, 0.66, 0.80)
LUNG_BINS = np.arange(-1024, 101, 4)
SOFT_BINS = np.arange(-200, 301, 4)


def speed(seed: int) -> None:
    """Print slices per second of processor time and of wall time, writing included."""
    cv2.setNumThreads(1)
    for rows in (128, 256, 512):
        for slice_mm in (1.5, 4.0, 8.0):
            case = Case(DiseaseClass.COVID19, seed, rows=rows, slices=24, slice_mm=slice_mm)
            with tempfile.TemporaryDirectory() as folder:
                wall, cpu = time.perf_counter(), time.process_time()
                case.draw(0)  # the patient grows when first looked at
                setup = time.process_time() - cpu
                write_case(case, Path(folder) / "case")
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"rows {rows:4d}  {slice_mm:4.1f} mm  set-up {setup:5.2f} s  "
                f"{25 / cpu:6.1f} slices per CPU second  {25 / wall:6.1f} per second, with set-up"
            )


def compare(real: Path, out: Path, seed: int, rows: int) -> None:
    """Draw phantom slices beside real ones, and print how far their histograms are apart."""
    columns, made = [], []
    series = [one for one in find_series(real).series if len(one.paths) > 20]
    for number, one in enumerate(series):
        paths = list(one.paths.values())
        volume = load_volume(paths)
        hu, spacing = volume.hu, volume.pixel_spacing_mm
        columns.append(_column(hu, spacing, paths[0].parent.name))
        label = list(DiseaseClass)[(1, 3, 0, 2)[number % 4]]
        case = Case(label, seed + number, rows=rows, slice_mm=2.0, family=Family.TRAINING)
        made_hu = np.stack([drawn.hu for drawn in case])
        pixel = case.scanner.pixel_mm
        made.append(_column(made_hu, (pixel, pixel), f"phantom {label.key} {seed + number}"))
    for real_one in columns:
        for phantom in made:
            words = [f"{real_one['name'][:24]:24s} {phantom['name'][:24]:24s}"]
            for kind, bins in (("lung", LUNG_BINS), ("soft", SOFT_BINS)):
                emd, ks = _distances(real_one[kind], phantom[kind], bins)
                words.append(f"{kind}: EMD {emd:5.1f} HU, KS {ks:.3f}")
            print("  ".join(words))
    for kind, bins in (("lung", LUNG_BINS), ("soft", SOFT_BINS)):
        emd, ks = _distances(_all(columns, kind), _all(made, kind), bins)
        print(f"pooled {kind}: EMD {emd:.1f} HU, KS {ks:.3f}")
        between = [
            _distances(first[kind], second[kind], bins)[0]
            for index, first in enumerate(columns)
            for second in columns[index + 1 :]
        ]
        print(f"  between real series: EMD {min(between):.1f} to {max(between):.1f} HU")
    pictures = [one["picture"] for pair in zip(columns, made, strict=True) for one in pair]
    out = out.with_suffix(".png")
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), np.hstack(pictures))
    print(f"picture in {out}")


def _all(columns: list[dict], kind: str) -> np.ndarray:
    return np.concatenate([column[kind] for column in columns])


def _column(hu: np.ndarray, spacing: tuple[float, float], name: str) -> dict:
    found = crop_lungs(hu, spacing, CropParameters())
    lung = np.flatnonzero(found.has_lung)
    tiles = []
    for height in HEIGHTS:
        index = int(lung[0] + height * (lung[-1] - lung[0]))
        box = found.boxes[index]
        tile = hu[index, box.top : box.bottom, box.left : box.right].astype(np.float32)
        grey = np.clip((tile + 1200) / 1200 * 255, 0, 255).astype(np.uint8)
        grey = cv2.resize(grey, (400, 300), interpolation=cv2.INTER_AREA)
        tiles.append(cv2.copyMakeBorder(grey, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=128))
    rows = slice(lung[0], lung[-1])
    body = (hu[rows] > -200) & (hu[rows] < 300) & ~found.mask[rows]
    return {
        "name": name,
        "picture": np.vstack(tiles),
        "lung": hu[rows][found.mask[rows]][::7],
        "soft": hu[rows][body][::31],
    }


def _distances(first: np.ndarray, second: np.ndarray, bins: np.ndarray) -> tuple[float, float]:
    """Earth mover's distance in HU and the Kolmogorov–Smirnov statistic of two samples."""
    a = np.cumsum(np.histogram(np.clip(first, bins[0], bins[-1]), bins, density=False)[0]) / len(
        first
    )
    b = np.cumsum(np.histogram(np.clip(second, bins[0], bins[-1]), bins)[0]) / len(second)
    return float(np.abs(a - b).sum() * (bins[1] - bins[0])), float(np.abs(a - b).max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", type=Path, metavar="REAL_DIR")
    parser.add_argument("--out", type=Path, default=Path("phantom-beside-real.png"))
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--rows", type=int, default=512)
    arguments = parser.parse_args()
    if arguments.compare is None:
        speed(arguments.seed)
    else:
        compare(arguments.compare, arguments.out, arguments.seed, arguments.rows)
