"""``m3lung ablate``: Tables II to V of the paper, on a cohort's cache."""

from __future__ import annotations

import enum
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer
from rich.table import Table as RichTable

from dicom_node.cli.terminal import EXIT_USAGE, JsonOption, complain, out, progress_bar

if TYPE_CHECKING:
    from training.ablation import AblationSettings
    from training.ablation.row_result import RowResult
    from training.ablation.rows import TableName

__all__ = ["register"]

TABLE_NAMES = ("ii", "iii", "iv", "v")


class BackboneOption(enum.StrEnum):
    """ResNet of the slice network."""

    RESNET18 = "resnet18"
    RESNET34 = "resnet34"
    RESNET50 = "resnet50"
    RESNET101 = "resnet101"


class OptimizerOption(enum.StrEnum):
    """How slice and patient networks learn."""

    SGD = "sgd"
    ADAMW = "adamw"


class DeviceOption(enum.StrEnum):
    """Where the networks run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class PrecisionOption(enum.StrEnum):
    """What they compute in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def ablate(
    cohort: Annotated[
        Path, typer.Option("--cohort", help="Cache of a cohort.", show_default=False)
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; run again to go on.")
    ],
    table: Annotated[str, typer.Option(help="Which tables, separated by commas.")] = "iv,v,ii,iii",
    rows: Annotated[
        str,
        typer.Option(
            help="Only these rows, separated by commas, and what they need.", show_default="all"
        ),
    ] = "",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Tiny: 2 epochs, 64 px, ResNet-18. It measures nothing."),
    ] = False,
    epochs: Annotated[
        int, typer.Option(min=0, help="Of every training at most; 0: as many as the paper's.")
    ] = 0,
    input_size: Annotated[
        int, typer.Option(min=0, help="Rows and columns at most; 0: the cache's, 256 of rivals.")
    ] = 0,
    rival_slices: Annotated[
        int, typer.Option(min=0, help="Slices of a rival's volume at most; 0: 64 or 128.")
    ] = 0,
    backbone: Annotated[
        BackboneOption | None,
        typer.Option(help="Of the slice network.", show_default="resnet50"),
    ] = None,
    batch: Annotated[int, typer.Option(min=0, help="At most; 0: the paper's.")] = 0,
    micro_batch: Annotated[
        int, typer.Option(min=0, help="Slices at a time through the network; 0: a whole batch.")
    ] = 0,
    slices_per_epoch: Annotated[int, typer.Option(min=0, help="0: all.")] = 0,
    optimizer: Annotated[
        OptimizerOption,
        typer.Option(
            help="Of slice and patient networks; adamw learns faster from random weights."
        ),
    ] = OptimizerOption.SGD,
    replicates: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of every training.")] = 0,
    device: DeviceOption = DeviceOption.AUTO,
    precision: PrecisionOption = PrecisionOption.AUTO,
    json: JsonOption = False,
) -> None:
    """Train the paper's variants and rivals on one cohort and tabulate them beside the paper.

    Writes OUT/tables.md, tables.html and tables.json after each row. A row is trained once and
    kept: run the same command again to go on after an interruption; rows that other tables
    share are not trained anew. The tables state how far the paper's work was scaled down.

    Example: m3lung ablate --cohort cache/ --out ablation/ --table iv,v
    """
    if input_size % 32:
        _usage(f"{input_size} is no multiple of 32")
    tables = cast("tuple[TableName, ...]", _listed(table, TABLE_NAMES, "table"))
    settings = _settings(
        quick,
        epochs=epochs,
        input_size=input_size,
        rival_slices=rival_slices,
        backbone=None if backbone is None else backbone.value,
        batch=batch,
        micro_batch=micro_batch,
        slices_per_epoch=slices_per_epoch,
        optimizer=optimizer.value,
        seed=seed,
    )
    from training.ablation import ROWS, Study, chosen_rows, write_tables
    from training.cohort.cache import CohortCache

    chosen = chosen_rows(tables, _listed(rows, tuple(ROWS), "row"))
    if not chosen:
        _usage(f"none of these rows is in table {', '.join(tables)}")
    cache = CohortCache.open(cohort)
    out_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, RowResult] = {}
    with progress_bar() as progress:
        study = Study(
            cache, out_dir, settings, device=device.value, precision=precision.value,
            progress=progress,
        )  # fmt: skip
        for result, new in study.run(chosen):
            results[result.key] = result
            if not new and len(results) < len(chosen):
                continue
            made = write_tables(out_dir, tables, results, cache, settings, replicates=replicates)
    if json:
        typer.echo((out_dir / "tables.json").read_text(encoding="utf-8"))
        return
    for one in made:
        shown = RichTable(*one.headings, title=one.title, title_justify="left", box=None)
        for line in one.lines:
            shown.add_row(*line, style="dim" if line[1] == "paper" else "")
        out.print(shown)
    out.print(f"\n{out_dir / 'tables.md'}, tables.html, tables.json", markup=False, highlight=False)


def _settings(quick: bool, **wanted: object) -> AblationSettings:
    """The paper's settings or the quick ones, with what was asked for in their place."""
    from training.ablation import AblationSettings

    base = AblationSettings.quick() if quick else AblationSettings()
    return replace(base, **{name: value for name, value in wanted.items() if value})  # type: ignore[arg-type]


def _listed(text: str, known: tuple[str, ...], kind: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            _usage(f"there is no {kind} {name!r}; there are {', '.join(known)}")
    return names


def _usage(words: str) -> NoReturn:
    complain(words)
    raise typer.Exit(EXIT_USAGE)


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command(rich_help_panel="Train")(ablate)
