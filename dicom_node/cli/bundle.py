"""``m3lung bundle``: make, show and verify model bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from dicom_node.cli.terminal import (
    EXIT_USAGE,
    JsonOption,
    complain,
    out,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from inference.quantized import QuantizedNet

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="Model bundles: a folder with a manifest and safetensors weights. Install one by copying "
    "the folder and naming it in node.toml: [bold]analysis.bundle[/].",
)

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle.", show_default=False)]


@app.command("untrained")
def untrained(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    system: Annotated[
        Literal["m3lung", "m2unet", "jcs"], typer.Option(help="Which of the three systems.")
    ] = "m3lung",
) -> None:
    """Make a bundle with random weights, to try a node without a trained model.

    Everything it writes says UNTRAINED. The same seed gives the same weights.
    """
    from inference.bundle import make_untrained_bundle
    from inference.jcs.bundle import make_untrained_jcs
    from inference.m2unet.bundle import make_untrained_m2unet

    if out_dir.exists() and any(out_dir.iterdir()):
        complain(f"{out_dir} is not empty")
        raise typer.Exit(EXIT_USAGE)
    if system == "m2unet":
        make_untrained_m2unet(out_dir, seed)
    elif system == "jcs":
        make_untrained_jcs(out_dir, seed)
    else:
        make_untrained_bundle(out_dir, seed=seed)
    out.print(f"untrained bundle in {out_dir}", markup=False)


@app.command("make")
def make(
    slices: Annotated[Path, typer.Option(help="Run of 'train slices'.")],
    patients: Annotated[Path, typer.Option(help="Run of 'train patients' with the former.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[str, typer.Option(help="Version of the model.")],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    joint: Annotated[
        Path | None, typer.Option(help="Run of 'train joint' from both; its weights are taken.")
    ] = None,
    training: Annotated[
        Literal["demonstration", "site"],
        typer.Option(help="What it was trained on: synthetic patients, or a site's own studies."),
    ] = "demonstration",
    limits: Annotated[
        str, typer.Option(help="What it must not be used for. Default: by --training.")
    ] = "",
    description: Annotated[
        str, typer.Option(help="What it was trained on. Default: the number of patients.")
    ] = "",
) -> None:
    """Make a bundle of the best weights of two training runs."""
    from inference.domain import Training
    from training.export import export_bundle

    if out_dir.exists() and any(out_dir.iterdir()):
        complain(f"{out_dir} is not empty")
        raise typer.Exit(EXIT_USAGE)
    export_bundle(
        slices,
        patients,
        out_dir,
        name=name,
        version=version,
        training=Training(training),
        limits=limits,
        description=description,
        joint=joint,
    )
    out.print(f"bundle in {out_dir}", markup=False)


NameOption = Annotated[str, typer.Option(help="Name of the model.")]
VersionOption = Annotated[str, typer.Option(help="Version of the model.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")]
TrainingOption = Annotated[
    Literal["demonstration", "site"],
    typer.Option(help="What it was trained on: synthetic patients, or a site's own studies."),
]
LimitsOption = Annotated[
    str, typer.Option(help="What it must not be used for. Default: by --training.")
]


@app.command("make-m2unet")
def make_m2unet(
    run: Annotated[Path, typer.Option(help="Run of 'train m2unet'.")],
    name: NameOption,
    version: VersionOption,
    out_dir: OutOption,
    training: TrainingOption = "demonstration",
    limits: LimitsOption = "",
) -> None:
    """Make a bundle of M²UNet: lung lobes and severity."""
    from inference.domain import Training
    from training.systems.export import export_m2unet

    _require_empty(out_dir)
    export_m2unet(
        run, out_dir, name=name, version=version, training=Training(training), limits=limits
    )
    out.print(f"bundle in {out_dir}", markup=False)


@app.command("make-jcs")
def make_jcs(
    classification: Annotated[Path, typer.Option(help="Run of 'train jcs' of that part.")],
    segmentation: Annotated[Path, typer.Option(help="Run of 'train jcs' of that part.")],
    name: NameOption,
    version: VersionOption,
    out_dir: OutOption,
    joint: Annotated[
        Path | None, typer.Option(help="Run of the joint part; its weights are taken.")
    ] = None,
    training: TrainingOption = "demonstration",
    limits: LimitsOption = "",
) -> None:
    """Make a bundle of JCS: classification with explanation, and lesion outlines."""
    from inference.domain import Training
    from training.systems.export import export_jcs

    _require_empty(out_dir)
    export_jcs(
        classification,
        segmentation,
        out_dir,
        joint=joint,
        name=name,
        version=version,
        training=Training(training),
        limits=limits,
    )
    out.print(f"bundle in {out_dir}", markup=False)


def _require_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        complain(f"{folder} is not empty")
        raise typer.Exit(EXIT_USAGE)


@app.command("card")
def card(
    folder: BundleArgument,
    evaluation: Annotated[
        Path | None, typer.Option(help="Folder of an 'evaluate' run of this bundle.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="JSON of benchmarks/real_slices.py for this bundle.")
    ] = None,
    notes: Annotated[
        Path | None, typer.Option(help="Markdown about how it was trained; goes into the card.")
    ] = None,
) -> None:
    """Write model_card.md into a bundle: what it is, what it learned from, what was measured.

    Example: m3lung bundle card trained/ --evaluation report/ --notes how-it-was-trained.md
    """
    from training.evaluation.card import CARD
    from training.systems.evaluation import system_of

    if system_of(folder) != "m3lung" and real is not None:
        complain("--real is about the main model")
        raise typer.Exit(EXIT_USAGE)
    try:
        said = "" if notes is None else notes.read_text(encoding="utf-8")
        text = (
            _card_of_the_main_model(folder, evaluation, real, said)
            if system_of(folder) == "m3lung"
            else _card_of_a_system(folder, evaluation, said)
        )
    except (OSError, ValueError) as error:
        complain(str(error))
        raise typer.Exit(EXIT_USAGE) from error
    (folder / CARD).write_text(text, encoding="utf-8")
    out.print(str(folder / CARD), markup=False, highlight=False, soft_wrap=True)


def _card_of_the_main_model(
    folder: Path, evaluation: Path | None, real: Path | None, notes: str
) -> str:
    from json import loads

    from inference.bundle import load_bundle
    from training.evaluation.card import model_card
    from training.evaluation.document import EvaluationDocument
    from training.evaluation.evaluate import METRICS

    bundle = load_bundle(folder)
    return model_card(
        bundle.manifest,
        bundle.identity.sha256,
        None
        if evaluation is None
        else EvaluationDocument.model_validate_json((evaluation / METRICS).read_bytes()),
        real=None if real is None else loads(real.read_bytes()),
        notes=notes,
    )


def _card_of_a_system(folder: Path, evaluation: Path | None, notes: str) -> str:
    from inference.jcs.bundle import load_jcs
    from inference.m2unet.bundle import load_m2unet
    from training.evaluation.evaluate import METRICS
    from training.systems.card import system_card
    from training.systems.evaluation import SystemDocument, system_of

    bundle = load_m2unet(folder) if system_of(folder) == "m2unet" else load_jcs(folder)
    return system_card(
        bundle.manifest,
        bundle.identity.sha256,
        None
        if evaluation is None
        else SystemDocument.model_validate_json((evaluation / METRICS).read_bytes()),
        notes=notes,
    )


@app.command("reference")
def reference(
    folder: BundleArgument,
    evaluation: Annotated[Path, typer.Option(help="Folder of an 'evaluate' run of this bundle.")],
) -> None:
    """Write reference.json into a bundle: what its scores look like where it was evaluated.

    The console's drift panel compares a node's readings with it. It is no part of the model: its
    identity stays. Example: m3lung bundle reference trained/ --evaluation report/
    """
    from inference.bundle import load_bundle
    from inference.reference import REFERENCE
    from training.evaluation.reference import make_reference

    made = make_reference(evaluation, load_bundle(folder).identity.sha256)
    path = folder / REFERENCE
    path.write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")
    out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command("quantize")
def quantize(
    folder: BundleArgument,
    cohort: Annotated[
        Path, typer.Option(help="Cohort CSV; slices of its patients give the ranges.")
    ],
    test: Annotated[Path, typer.Option(help="Cohort CSV of patients that both networks read.")],
    out_dir: OutOption,
    split: Annotated[
        Literal["train", "validation", "all"] | None,
        typer.Option(help="Patients of --cohort. Default: validation where there is a split."),
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Slices to take the ranges from.")] = 300,
    seed: Annotated[int, typer.Option(help="Of their choice.")] = 0,
    json: JsonOption = False,
) -> None:
    """Make a copy that also holds the slice network in 8-bit integers, for a CPU.

    Nothing is trained. Patients of --test are read in float32 and in int8; how far they agree is
    printed and stands in the manifest. A node runs it with [bold]analysis.precision = "int8"[/].

    Example: m3lung bundle quantize trained/ --cohort learn/cohort.csv --test test/cohort.csv
    --out trained-int8/
    """
    from training.cohort.table import read_cohort
    from training.evaluation.evaluate import chosen_rows
    from training.quantization import quantized_bundle

    learned, tested = read_cohort(cohort), read_cohort(test)
    has_split = (cohort.parent / "split.csv").is_file()
    part = split or ("validation" if has_split else "all")
    rows = learned.rows if part == "all" else chosen_rows(learned, part, None)
    has_split = (test.parent / "split.csv").is_file()
    held_out = chosen_rows(tested, "test", None) if has_split else tested.rows
    with progress_bar() as progress:
        manifest = quantized_bundle(
            folder, out_dir, (learned, rows), (tested, held_out),
            slices=slices, seed=seed, progress=progress,
        )  # fmt: skip
    assert manifest.int8 is not None  # noqa: S101  just made
    if json:
        print_json(manifest.int8.model_dump(mode="json"))
        return
    out.print(_agreement_table(manifest.int8))
    out.print(f"bundle in {out_dir}", markup=False)


def _agreement_table(int8: QuantizedNet) -> Table:
    found = int8.agreement
    table = Table(
        box=None,
        header_style="bold",
        title=f"int8 against float32: {found.patients} patients, {found.slices} slices with lung",
        title_justify="left",
    )
    for heading in ("", "same class", "largest difference", "mean"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row(
        "patient", f"{found.same_patient_class:.1%}", f"{found.patient_difference:.3f}", ""
    )
    table.add_row(
        "slice, four-way",
        f"{found.same_slice_class:.1%}",
        f"{found.slice_difference:.3f}",
        f"{found.mean_slice_difference:.4f}",
    )
    table.add_row(
        "slice, lesion", "", f"{found.lesion_difference:.3f}", f"{found.mean_lesion_difference:.4f}"
    )
    table.add_row("lesion, % of lung", "", f"{found.percent_of_lung_difference:.2f} points", "")
    return table


@app.command("show")
def show(folder: BundleArgument, json: JsonOption = False) -> None:
    """Verify a bundle's digests and print what it is."""
    from inference.bundle import Bundle, load_bundle
    from inference.jcs.bundle import JcsBundle, load_jcs
    from inference.m2unet.bundle import M2UNetBundle, load_m2unet
    from training.systems.evaluation import system_of

    load: dict[str, Callable[[Path], Bundle | JcsBundle | M2UNetBundle]] = {
        "m3lung": load_bundle,
        "m2unet": load_m2unet,
        "jcs": load_jcs,
    }
    bundle = load[system_of(folder)](folder)
    manifest = bundle.manifest.model_dump(mode="json")
    if json:
        print_json({"sha256": bundle.identity.sha256, "manifest": manifest})
        return
    table = Table(box=None, show_header=False)
    table.add_row("sha256", bundle.identity.sha256)
    for name, value in manifest.items():
        table.add_row(name, str(value))
    out.print(table)
    out.print("All digests are right.")


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="bundle")
