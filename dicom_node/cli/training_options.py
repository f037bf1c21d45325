"""What the verbs of ``m3lung train`` share: options, recipes with them, the cache, progress."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from dicom_node.cli.terminal import EXIT_USAGE, complain, out, progress_bar

if TYPE_CHECKING:
    from training.cohort import CohortCache
    from training.loop import TrainingProgress

__all__ = [
    "AugmentOption",
    "BalanceOption",
    "BatchOption",
    "CheckpointOption",
    "CohortOption",
    "DeviceOption",
    "EpochsOption",
    "LoadersOption",
    "OptimizerOption",
    "OutOption",
    "PerEpochOption",
    "PrecisionOption",
    "RateOption",
    "RecipeOption",
    "ScheduleOption",
    "SeedOption",
    "SmoothingOption",
    "StagesOption",
    "ThreadsOption",
    "WarmupOption",
    "base_recipe",
    "changed",
    "done",
    "given",
    "open_cache",
    "reporting",
    "usage",
]

CohortOption = Annotated[
    Path,
    typer.Option(
        "--cohort",
        help="A cache made by 'cohort cache', or the cohort's CSV: its cache is then made beside "
        "it, with split.csv beside it if that is there.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")]
RecipeOption = Annotated[
    Path | None,
    typer.Option(help="JSON recipe (or a run's recipe.json); other options change it."),
]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Epochs.")]
StagesOption = Annotated[
    str | None,
    typer.Option(
        help="Input sizes in turn, size:epochs[:lr], such as 128:40,256:10,512:2:0.001; "
        "instead of --epochs."
    ),
]
RateOption = Annotated[float | None, typer.Option(help="Learning rate at the start.")]
ScheduleOption = Annotated[
    Literal["step", "cosine", "poly"] | None,
    typer.Option(
        help="step: times 0.1 at 40/110 of the epochs, and again; cosine: to 1/100; poly: what is "
        "left of the training to the power of 0.9."
    ),
]
WarmupOption = Annotated[int | None, typer.Option(min=0, help="Steps of a linear start.")]
BatchOption = Annotated[int | None, typer.Option(min=1, help="Per step, over all processes.")]
OptimizerOption = Annotated[
    Literal["sgd", "adamw"] | None,
    typer.Option(help="sgd, as the paper; adamw needs fewer samples from random weights."),
]
BalanceOption = Annotated[
    Literal["classes", "none"] | None,
    typer.Option(help="classes: a sampler draws every class equally often."),
]
PerEpochOption = Annotated[
    int | None, typer.Option(min=1, help="Samples drawn per epoch. Default: as many as there are.")
]
SmoothingOption = Annotated[float | None, typer.Option(min=0, max=0.5, help="Label smoothing.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")]
CheckpointOption = Annotated[
    int | None, typer.Option(min=1, help="A checkpoint every so many steps, and after each epoch.")
]
AugmentOption = Annotated[
    Literal["paper", "strong"] | None,
    typer.Option(
        help="paper: flips and window centre. strong: also scale, rotation, HU, noise, blur and "
        "simulated motion, but no front-back flips."
    ),
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="auto: mixed precision where the device computes in it."),
]
ThreadsOption = Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice.")]
LoadersOption = Annotated[int, typer.Option(min=1, help="Threads that make batches ahead.")]


def base_recipe(file: Path | None, kind: type[Any]) -> Any:
    """The recipe of a file, else the paper's."""
    from training.recipe import read_recipe

    if file is None:
        return kind()
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        usage(f"{file} cannot be read: {error}")
    if isinstance(document, dict) and "recipe" in document:
        document = document["recipe"]
    return read_recipe(document, kind)


def changed(
    recipe: Any,
    epochs: int | None,
    stages: str | None,
    lr: float | None,
    schedule: str | None,
    warmup_steps: int | None,
    augment: str | None,
    **fields: Any,
) -> Any:
    """A recipe with the options that were given."""
    from training.recipe import Augmentation, Stage, parse_stages

    if epochs is not None and stages is not None:
        usage("--epochs and --stages exclude each other")
    try:
        if stages is not None:
            fields["stages"] = parse_stages(stages)
        elif epochs is not None:
            fields["stages"] = (Stage(recipe.stages[-1].size, epochs),)
    except ValueError as error:
        usage(str(error))
    rates = {"lr": lr, "kind": schedule, "warmup_steps": warmup_steps}
    fields["schedule"] = replace(recipe.schedule, **given(rates))
    if augment is not None:
        fields["augmentation"] = Augmentation.strong() if augment == "strong" else Augmentation()
    return replace(recipe, **given(fields))


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def open_cache(cohort: Path, progress: TrainingProgress) -> CohortCache:
    """Open the cache, or make that of a CSV beside it."""
    from training.cohort import (
        CohortCache,
        build_cache,
        read_cohort,
        read_split,
        split_patients,
        write_split,
    )

    if cohort.is_dir():
        return CohortCache.open(cohort)
    target = cohort.with_name(f"{cohort.stem}-cache")
    if not target.exists():
        if os.environ.get("WORLD_SIZE", "1") != "1":
            usage(f"make the cache first: m3lung cohort cache --cohort {cohort} --out {target}")
        table = read_cohort(cohort)
        split_file = cohort.with_name("split.csv")
        if not split_file.exists():
            write_split(split_file, table, split_patients(table))
        build_cache(table, read_split(split_file, table), target, progress=progress.steps)
    return CohortCache.open(target)


@contextmanager
def reporting(threads: int) -> Iterator[TrainingProgress]:
    """A bar for steps and a line per epoch; of several processes the first one reports."""
    import torch

    from training.loop import TrainingProgress

    if threads:
        torch.set_num_threads(threads)
    first = os.environ.get("RANK", "0") == "0"
    with progress_bar(quiet=not first) as bar:
        yield TrainingProgress(bar, _print_epoch) if first else TrainingProgress()


def _print_epoch(metrics: dict[str, float]) -> None:
    words = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    out.print(words, markup=False, highlight=False, soft_wrap=True)


def done(run: Path) -> None:
    """Say where the weights of a run are."""
    if os.environ.get("RANK", "0") == "0":
        out.print(f"best weights: {run / 'best.safetensors'}", markup=False, highlight=False)


def usage(words: str) -> NoReturn:
    """End: the command was not given as it should be."""
    complain(words)
    raise typer.Exit(EXIT_USAGE)
