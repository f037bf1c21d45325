"""A model on real chest CT it was never trained on: slices against radiologists, maps and masks.

    python benchmarks/real_slices.py --bundle DIR --data DIR [--every N] [--windows 1] [--json FILE]

`--data` is the folder with ``covid-ct-md`` (P001 and cap001 with ``labels.csv``, normal001) and
``covid-19-ct100`` (single slices as grey pictures, with lesion masks).

Series go through the product's door. With ``--every N`` every N-th slice makes a stack of its
own. The density rule beside the model calls a slice by the share of its lung between -700 and
-200 HU: what any model has to beat.

The pictures of covid-19-ct100 hold no Hounsfield units. One of them shows its window in the
picture, centre -550 and width 1600 HU; all are taken to be in it (grey 0 is -1350 HU, 255 is
+250), which puts air, lung and muscle of most of them where they belong. Their pixel spacing is
taken as 0.7 mm. Pixels counted: the lung that the product finds, and the true lesion.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress, track

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dicom_node.results.segmentation import lesion_mask
from dicom_node.series_folder import find_series
from inference.analyzer import Analyzer
from inference.domain import CtVolume, Findings, SliceReference
from inference.errors import SeriesError
from inference.lung_crop import CropParameters, airway_and_lung
from inference.volume import load_volume
from training.evaluation.localisation import MapTally, histogram_auc
from training.evaluation.metrics import auc

LABELLED = {"P001": "covid/P001", "cap001": "cap/cap001"}
HEALTHY = "normal/normal001"
PICTURE_WINDOW_HU = (-550.0, 1600.0)
PICTURE_SPACING_MM = 0.7
STDERR = Console(stderr=True)


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = options.bundle
        if options.windows:
            bundle = with_fewer_windows(bundle, Path(scratch) / "bundle", options.windows)
        analyzer = Analyzer.load(bundle, device=options.device, threads=options.threads)
    figures = measure(analyzer, options.data, options.every)
    figures["windows"] = len(analyzer.manifest.preprocessing.window.centers_hu)
    report(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--every", type=int, default=1, help="read every N-th slice")
    parser.add_argument(
        "--windows", type=int, default=0, choices=[0, 1], help="1: the middle window only"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.data / "covid-ct-md" / "labels.csv").is_file():
        parser.error(f"{options.data} holds no covid-ct-md/labels.csv")
    return options


def with_fewer_windows(bundle: Path, copy: Path, count: int) -> Path:
    """A copy of the bundle that reads each slice in its middle window only."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    centers = manifest["preprocessing"]["window"]["centers_hu"]
    start = (len(centers) - count) // 2
    manifest["preprocessing"]["window"]["centers_hu"] = centers[start : start + count]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def measure(analyzer: Analyzer, data: Path, every: int) -> dict:
    labels = read_labels(data / "covid-ct-md" / "labels.csv")
    figures: dict = {
        "model": f"{analyzer.identity.name} {analyzer.identity.version}",
        "sha256": analyzer.identity.sha256,
        "training": analyzer.identity.training.value,
        "every": every,
    }
    pooled: list[tuple[NDArray, NDArray, NDArray]] = []
    for name, folder in LABELLED.items():
        volume, findings = read_series(analyzer, data / "covid-ct-md" / folder, every, name)
        scores = np.array([found.lesion_probability for found in findings.slices])
        truth = np.array([labels[found.reference.sop_instance_uid] for found in findings.slices])
        pooled.append((truth, scores, density(volume, analyzer.manifest.preprocessing.crop)))
        figures[name] = against_labels(*pooled[-1])
    figures["pooled"] = against_labels(
        *(np.concatenate(part) for part in zip(*pooled, strict=True))
    )
    volume, findings = read_series(analyzer, data / "covid-ct-md" / HEALTHY, every, "normal001")
    figures["normal001"] = called_lesion(findings)
    figures["covid-19-ct100"] = on_pictures(analyzer, data / "covid-19-ct100")
    return figures


def read_labels(file: Path) -> dict[str, bool]:
    with file.open(newline="") as stream:
        return {row["sop_instance_uid"]: row["infected"] == "1" for row in csv.DictReader(stream)}


def read_series(
    analyzer: Analyzer, folder: Path, every: int, name: str
) -> tuple[CtVolume, Findings]:
    found = find_series(folder)
    if len(found.series) != 1 or found.unreadable:
        raise SystemExit(f"{folder}: one readable series is needed")
    volume = load_volume(list(found.series[0].paths.values()))
    if every > 1:
        keep = range(0, len(volume), every)
        volume = dataclasses.replace(
            volume,
            hu=volume.hu[::every],
            slices=tuple(volume.slices[i] for i in keep),
            z_mm=volume.z_mm[::every],
            positions_mm=volume.positions_mm[::every],
            slice_spacing_mm=volume.slice_spacing_mm and volume.slice_spacing_mm * every,
        )
    return volume, analyze(analyzer, volume, name)


def analyze(analyzer: Analyzer, volume: CtVolume, name: str) -> Findings:
    with Progress(console=STDERR, transient=True) as bar:
        tasks: dict[str, int] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(f"{name}: {stage}", total=total)
            bar.update(tasks[stage], completed=done, total=total)

        return analyzer.analyze(volume, progress=advance, slice_level=True)


def density(volume: CtVolume, parameters: CropParameters) -> NDArray[np.float64]:
    """Share of the air-filled lung (paper III-A.1) between -700 and -200 HU, 0 without any."""
    shares = []
    for plane in volume.hu:
        lung = airway_and_lung(plane, parameters)
        between = (plane > -700) & (plane < -200) & lung
        shares.append(np.count_nonzero(between) / max(np.count_nonzero(lung), 1))
    return np.array(shares)


def against_labels(truth: NDArray, scores: NDArray, rule: NDArray) -> dict:
    return {
        "slices": len(truth),
        "infected": int(truth.sum()),
        "auc": auc(truth, scores),
        "density_rule_auc": auc(truth, rule),
    }


def called_lesion(findings: Findings) -> dict:
    read = [found for found in findings.slices if found.has_lung]
    return {
        "slices": len(findings.slices),
        "with_lung": len(read),
        "share_p_above_half": float(np.mean([f.lesion_probability > 0.5 for f in read])),
        "share_with_lesion_above_threshold": float(np.mean([f.lesion_area_px > 0 for f in read])),
        "median_lesion_share_of_lung": float(
            np.median([f.lesion_area_px / max(f.lung_area_px, 1) for f in read])
        ),
        "threshold": findings.model.lesion_threshold,
    }


def on_pictures(analyzer: Analyzer, folder: Path) -> dict:
    aucs, rules, skipped = [], [], []
    whole, rule_levels = MapTally(), np.zeros((2, 2), np.int64)
    files = sorted((folder / "tr_im").glob("*.png"))
    for file in track(files, description="covid-19-ct100", transient=True, console=STDERR):
        mask_file = folder / "tr_mask_new" / file.name.replace("tr_im", "tr_mask")
        lesion = np.asarray(Image.open(mask_file)) > 0
        volume = picture_volume(file)
        try:
            findings = analyzer.analyze(volume, slice_level=True)
        except SeriesError:
            skipped.append(file.name)
            continue
        counted = findings.lung_mask[0] | lesion
        called = lesion_mask(findings, 0)
        one = MapTally()
        for tally in (one, whole):
            tally.add(findings.lesion_map[0], lesion, counted, called)
        dense = (volume.hu[0] > -700) & (volume.hu[0] < -200)
        levels = np.array(
            [np.bincount(dense[where], minlength=2) for where in (lesion, counted & ~lesion)]
        )
        rule_levels += levels
        if lesion.any():
            aucs.append(one.pixel_auc)
            rules.append(histogram_auc(*levels))
    return {
        "pictures": len(files),
        "without_lung_found": skipped,
        "pixel_auc_pooled": whole.pixel_auc,
        "pixel_auc_mean": float(np.mean(aucs)),
        "density_rule_pixel_auc_pooled": histogram_auc(*rule_levels),
        "density_rule_pixel_auc_mean": float(np.mean(rules)),
        "pointing_game": whole.hits / max(whole.lesion_slices, 1),
        "dice_mean": float(np.mean(whole.slice_dice)),
    }


def picture_volume(file: Path) -> CtVolume:
    """One grey picture as a stack of one slice."""
    grey = np.asarray(Image.open(file).convert("L")).astype(np.float64)
    center, width = PICTURE_WINDOW_HU
    hu = np.clip(center - width / 2 + grey / 255 * width, -1024, 3071)
    return CtVolume(
        hu=np.rint(hu).astype(np.int16)[None],
        slices=(SliceReference(file.stem, ""),),
        z_mm=np.zeros(1),
        positions_mm=np.zeros((1, 3)),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing_mm=(PICTURE_SPACING_MM, PICTURE_SPACING_MM),
        slice_spacing_mm=None,
    )


def report(figures: dict) -> None:
    print(f"{figures['model']} ({figures['sha256'][:8]}, {figures['training']})")
    print(f"every {figures['every']}. slice, {figures['windows']} window(s)\n")
    print("| series | slices | infected | AUC of lesion probability | density rule |")
    print("|---|---|---|---|---|")
    for name in (*LABELLED, "pooled"):
        row = figures[name]
        print(
            f"| {name} | {row['slices']} | {row['infected']} | {row['auc']:.3f} "
            f"| {row['density_rule_auc']:.3f} |"
        )
    row = figures["normal001"]
    print(
        f"\nnormal001: of {row['with_lung']} slices with lung {row['share_p_above_half']:.1%} have "
        f"lesion p > 0.5; {row['share_with_lesion_above_threshold']:.1%} have any pixel above the "
        f"bundle's threshold {row['threshold']:g} (median "
        f"{row['median_lesion_share_of_lung']:.2%} of the slice's lung)"
    )
    row = figures["covid-19-ct100"]
    print(
        f"covid-19-ct100: {row['pictures']} pictures, {len(row['without_lung_found'])} without "
        f"lung found; pixel AUC {row['pixel_auc_pooled']:.3f} pooled, {row['pixel_auc_mean']:.3f} "
        f"mean (density rule {row['density_rule_pixel_auc_pooled']:.3f}, "
        f"{row['density_rule_pixel_auc_mean']:.3f}); pointing game {row['pointing_game']:.1%}; "
        f"Dice {row['dice_mean']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
