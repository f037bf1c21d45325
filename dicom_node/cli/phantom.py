"""``m3lung phantom``: synthetic chest CT with its truth, one case or a cohort."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.cli.terminal import EXIT_USAGE, complain, out, progress_bar

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="Synthetic chest CT: DICOM series of people who do not exist, with true lung, lobe and "
    "lesion masks. The same seed gives the same bytes.",
)


class _Label(StrEnum):
    HEALTHY = "healthy"
    COVID19 = "covid19"
    H1N1 = "h1n1"
    CAP = "cap"


class _Family(StrEnum):
    TRAINING = "training"
    TEST = "test"


OutOption = Annotated[Path, typer.Option("--out", help="Folder to make.", show_default=False)]


@app.command("make")
def make(
    label: Annotated[_Label, typer.Option("--class", help="Disease.", show_default=False)],
    out_dir: OutOption,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another person.")] = 7,
    family: Annotated[
        _Family, typer.Option(help="Test phantoms: held-out vendors, kernels, anatomy.")
    ] = _Family.TRAINING,
    slices: Annotated[
        int | None, typer.Option(min=1, max=2000, help="Default: as thickness and size ask for.")
    ] = None,
    slice_mm: Annotated[
        float | None, typer.Option("--slice-mm", help="Distance of slices.")
    ] = None,
    thickness_mm: Annotated[
        float | None, typer.Option("--thickness-mm", help="Of slices. Default: their distance.")
    ] = None,
    rows: Annotated[int, typer.Option(min=64, max=1024, help="Rows and columns.")] = 512,
    severity: Annotated[
        float | None, typer.Option(help="Diseased part of the lungs in percent.")
    ] = None,
) -> None:
    """Make one case: series/, truth.npz (masks), truth.json, slice_labels.csv."""
    from inference.domain import DiseaseClass
    from training.errors import PhantomError
    from training.phantom import Case, Family, write_case

    if out_dir.exists() and any(out_dir.iterdir()):
        complain(f"{out_dir} is not empty")
        raise typer.Exit(EXIT_USAGE)
    try:
        case = Case(
            DiseaseClass[label.name],
            seed,
            family=Family(family.value),
            slices=slices,
            slice_mm=slice_mm,
            thickness_mm=thickness_mm,
            rows=rows,
            severity_percent=severity,
        )
    except PhantomError as error:
        complain(error)
        raise typer.Exit(EXIT_USAGE) from error
    with progress_bar() as bar:
        write_case(case, out_dir, bar)
    out.print(f"{case.slices} slices of a synthetic chest ({label}) in {out_dir}", markup=False)


@app.command("cohort")
def cohort(
    spec: Annotated[
        Path | None, typer.Option("--spec", help="TOML document, see --example.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder to fill.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    example: Annotated[bool, typer.Option("--example", help="Print a specification.")] = False,
) -> None:
    """Make a cohort: cases/ and cohort.csv. Cut off, it goes on where it stopped."""
    from training.errors import PhantomError
    from training.phantom.cohort import write_cohort
    from training.phantom.cohort_spec import EXAMPLE, read_spec

    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    if spec is None or out_dir is None:
        complain("--spec and --out are needed (--example prints a specification)")
        raise typer.Exit(EXIT_USAGE)
    try:
        with progress_bar() as bar:
            table = write_cohort(read_spec(spec), out_dir, workers=workers, progress=bar)
    except PhantomError as error:
        complain(error)
        raise typer.Exit(EXIT_USAGE) from error
    out.print(f"cohort listed in {table}", markup=False)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="phantom", rich_help_panel="Train")
