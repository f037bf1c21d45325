"""``m3lung evaluate`` and ``m3lung calibrate``: a bundle on a cohort through the product's door."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from dicom_node.cli.terminal import (
    EXIT_USAGE,
    JsonOption,
    complain,
    err,
    out,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from training.evaluation.document import EvaluationDocument

__all__ = ["register"]


class SplitName(enum.StrEnum):
    """Which patients of a cohort."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


class DeviceOption(enum.StrEnum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class PrecisionOption(enum.StrEnum):
    """What it computes in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


BundleOption = Annotated[
    Path, typer.Option("--bundle", "-b", help="Model bundle.", show_default=False)
]
CohortOption = Annotated[Path, typer.Option("--cohort", help="Cohort CSV.", show_default=False)]
SplitFileOption = Annotated[
    Path | None,
    typer.Option("--split-file", help="The cohort's split. Default: split.csv beside the cohort."),
]


def evaluate(
    bundle: BundleOption,
    cohort: CohortOption,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the evaluation; run again to go on.")
    ],
    split: Annotated[
        SplitName | None,
        typer.Option(help="Part of the split. Default: test where there is a split, else all."),
    ] = None,
    split_file: SplitFileOption = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another bundle, or another evaluation's folder: differences with p."),
    ] = None,
    replicates: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    figures: Annotated[
        int, typer.Option(min=0, help="Patients per class of whom every fifth slice is drawn.")
    ] = 1,
    device: DeviceOption = DeviceOption.AUTO,
    precision: PrecisionOption = PrecisionOption.AUTO,
    json: JsonOption = False,
) -> None:
    """Read every patient of a cohort as the node would and measure it.

    Writes OUT/metrics.json and OUT/report.html. Predictions stay in OUT, so an evaluation that
    was ended goes on where it was. A bundle of M²UNet or JCS is measured against the cohort's
    masks instead: Dice of lobes or lesions, 95 % Hausdorff distance, severity or classification;
    metrics.json then, no report.

    Example: m3lung evaluate --bundle phantom-v1 --cohort test/cohort.csv --out evaluation/
    """
    from training.evaluation.evaluate import METRICS, REPORT
    from training.evaluation.evaluate import evaluate as run
    from training.systems.evaluation import system_of

    if system_of(bundle) != "m3lung":
        if against is not None:
            complain("--against compares bundles of the main model")
            raise typer.Exit(EXIT_USAGE)
        _evaluate_system(
            bundle, cohort, out_dir, _part(split, cohort, split_file), split_file, replicates,
            seed, device, precision, json=json,
        )  # fmt: skip
        return
    with progress_bar() as progress:
        document = run(
            bundle,
            cohort,
            out_dir,
            split=_part(split, cohort, split_file),
            split_file=split_file,
            against=against,
            replicates=replicates,
            seed=seed,
            figures_per_class=figures,
            device=device.value,
            precision=precision.value,
            progress=progress,
        )
    if json:
        print_json(document.model_dump(mode="json"))
        return
    out.print(_table(document))
    _tell_end(document.statements, out_dir / METRICS, out_dir / REPORT)


def _evaluate_system(
    bundle: Path,
    cohort: Path,
    out_dir: Path,
    split: Literal["train", "validation", "test"] | None,
    split_file: Path | None,
    replicates: int,
    seed: int,
    device: DeviceOption,
    precision: PrecisionOption,
    *,
    json: bool,
) -> None:
    from training.evaluation.evaluate import METRICS
    from training.systems.evaluation import evaluate_system, measured_lines

    with progress_bar() as progress:
        document = evaluate_system(
            bundle,
            cohort,
            out_dir,
            split=split,
            split_file=split_file,
            replicates=replicates,
            seed=seed,
            device=device.value,
            precision=precision.value,
            progress=progress,
        )
    if json:
        print_json(document.model_dump(mode="json"))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, words in measured_lines(document):
        table.add_row(name, words)
    out.print(table)
    _tell_end(document.statements, out_dir / METRICS)


def _tell_end(statements: Iterable[str], *files: Path) -> None:
    for statement in statements:
        err.print(statement, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for file in files:
        out.print(str(file), markup=False, highlight=False, soft_wrap=True)


def calibrate(
    bundle: BundleOption,
    cohort: CohortOption,
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="New bundle.")],
    scratch: Annotated[
        Path | None,
        typer.Option(
            "--predictions", help="Where predictions are kept. Default: OUT with .predictions."
        ),
    ] = None,
    split_file: SplitFileOption = None,
    device: DeviceOption = DeviceOption.AUTO,
    precision: PrecisionOption = PrecisionOption.AUTO,
    json: JsonOption = False,
) -> None:
    """Fit the temperatures of a bundle on the validation patients of its cohort.

    Classes stay as they are; probabilities become as sure as they are right. Where the cohort has
    true masks of lesions, the threshold of the lesion map is fitted too. Test patients are never
    read. Of M²UNet the temperature of severity and its threshold are fitted, of JCS the temperature
    of its classes.

    Example: m3lung calibrate --bundle trained/ --cohort cohort.csv --out calibrated/
    """
    from training.cohort.table import read_cohort
    from training.evaluation.calibrated import (
        calibrated_bundle,
        fit_lesion_threshold,
        fit_temperatures,
    )
    from training.evaluation.evaluate import chosen_rows, predict
    from training.systems.evaluation import system_of

    folder = scratch or out_dir.with_name(f"{out_dir.name}.predictions")
    if system_of(bundle) != "m3lung":
        _calibrate_system(bundle, cohort, out_dir, folder, split_file, device, precision, json=json)
        return
    listed = read_cohort(cohort)
    rows = chosen_rows(listed, "validation", split_file)
    with progress_bar() as progress:
        found = predict(
            bundle,
            listed,
            rows,
            folder,
            device=device.value,
            precision=precision.value,
            progress=progress,
        )
    threshold = fit_lesion_threshold(found.predictions)
    manifest = calibrated_bundle(
        bundle, out_dir, fit_temperatures(found.predictions), lesion_threshold=threshold
    )
    fitted = manifest.calibration.model_dump()
    if json:
        print_json(
            {
                "bundle": str(out_dir),
                "patients": len(rows),
                "calibration": fitted,
                "lesion_threshold": manifest.thresholds.lesion,
                "lesion_threshold_fitted": threshold is not None,
            }
        )
        return
    table = Table(box=None, show_header=False)
    for name, value in fitted.items():
        table.add_row(name, f"{value:.4f}")
    source = "" if threshold is not None else " (kept: the cohort has no lesion masks)"
    table.add_row("lesion_threshold", f"{manifest.thresholds.lesion:.4f}{source}")
    out.print(table)
    out.print(
        f"calibrated on {len(rows)} validation patients: {out_dir}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _calibrate_system(
    bundle: Path,
    cohort: Path,
    out_dir: Path,
    scratch: Path,
    split_file: Path | None,
    device: DeviceOption,
    precision: PrecisionOption,
    *,
    json: bool,
) -> None:
    from training.systems.calibrated import calibrate_system

    with progress_bar() as progress:
        fitted = calibrate_system(
            bundle,
            cohort,
            out_dir,
            scratch=scratch,
            split_file=split_file,
            device=device.value,
            precision=precision.value,
            progress=progress,
        )
    if json:
        print_json({"bundle": str(out_dir), **fitted.model_dump()})
        return
    table = Table(box=None, show_header=False)
    table.add_row("temperature", f"{fitted.temperature:.4f}")
    if fitted.severe is not None:
        table.add_row("severe", f"{fitted.severe:.4f}")
    out.print(table)
    out.print(
        f"calibrated on {fitted.patients} validation patients: {out_dir}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


_PARTS: dict[SplitName, Literal["train", "validation", "test"] | None] = {
    SplitName.TRAIN: "train",
    SplitName.VALIDATION: "validation",
    SplitName.TEST: "test",
    SplitName.ALL: None,
}


def _part(
    split: SplitName | None, cohort: Path, split_file: Path | None
) -> Literal["train", "validation", "test"] | None:
    if split is None:
        there = split_file is not None or (cohort.parent / "split.csv").is_file()
        return "test" if there else None
    return _PARTS[split]


def _table(document: EvaluationDocument) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("%")
    for heading in ("patient network", "counting slices"):
        table.add_column(heading, justify="right")
    for name in document.patient.figures:
        cells = []
        for figures in (document.patient.figures, document.nonparametric.figures):
            figure = figures[name]
            if figure.value is None or figure.low is None or figure.high is None:
                cells.append("–")
            else:
                low, high = 100 * figure.low, 100 * figure.high
                cells.append(f"{100 * figure.value:.2f} [{low:.1f} {high:.1f}]".replace("[", r"\["))
        table.add_row(name, *cells)
    return table


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command(rich_help_panel="Train")(evaluate)
    app.command(rich_help_panel="Train")(calibrate)
