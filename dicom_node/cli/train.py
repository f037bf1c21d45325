"""``m3lung train``: slice network, patient network, both together; M²UNet and JCS."""

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
    from training.recipe import JointRecipe, PatientRecipe, SliceRecipe

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Train on a cohort. The defaults are the paper's recipe. The same command goes on where "
    "a run was killed; several GPUs or processes: [bold]torchrun --nproc-per-node N -m dicom_node "
    "train …[/]. Class imbalance: each epoch draws every class equally often (a balanced sampler; "
    "--balance none turns it off).",
)

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


@app.command("slices")
def slices(
    cohort: CohortOption,
    out_dir: OutOption,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    stages: StagesOption = None,
    lr: RateOption = None,
    schedule: ScheduleOption = None,
    warmup_steps: WarmupOption = None,
    optimizer: OptimizerOption = None,
    batch: BatchOption = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Slices at a time, for less memory.")
    ] = None,
    backbone: Annotated[
        Literal["resnet18", "resnet34", "resnet50", "resnet101"] | None,
        typer.Option(help="Paper: resnet50."),
    ] = None,
    augment: AugmentOption = None,
    balance: BalanceOption = None,
    slices_per_epoch: PerEpochOption = None,
    validation_slices: Annotated[
        int | None, typer.Option(min=1, help="Slices of each validation patient. Default: all.")
    ] = None,
    normal_slices: Annotated[
        bool | None,
        typer.Option(help="Let slices of patients without lesion train the lesion head."),
    ] = None,
    mask_weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Where lesions have been drawn (truth_path), let the location map learn from "
            "them with this weight. Paper: 0, category labels alone.",
        ),
    ] = None,
    label_smoothing: SmoothingOption = None,
    checkpoint_steps: CheckpointOption = None,
    seed: SeedOption = None,
    imagenet: Annotated[
        Path | None, typer.Option(help="torchvision ResNet weights (.pth, .safetensors).")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="A run to start from, such as one at a smaller input.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    loaders: LoadersOption = 1,
) -> None:
    """Train the slice network.

    Example: m3lung train slices --cohort cache/ --out runs/slices --stages 128:40,512:4
    """
    from inference.slice_net import SliceNetParameters
    from training.recipe import SliceRecipe
    from training.slices import train_slices

    wanted: SliceRecipe = _changed(
        _base(recipe, SliceRecipe),
        epochs,
        stages,
        lr,
        schedule,
        warmup_steps,
        augment,
        optimizer=optimizer,
        batch=batch,
        micro_batch=micro_batch,
        net=SliceNetParameters(backbone=backbone) if backbone is not None else None,
        balance=balance,
        slices_per_epoch=slices_per_epoch,
        validation_slices=validation_slices,
        normal_slices=normal_slices,
        mask_weight=mask_weight,
        label_smoothing=label_smoothing,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    with _reporting(threads) as progress:
        train_slices(
            _cache(cohort, progress),
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            imagenet=imagenet,
            start_from=start_from,
            loaders=loaders,
        )
    _done(out_dir)


@app.command("patients")
def patients(
    cohort: CohortOption,
    slices: Annotated[Path, typer.Option(help="Run of 'train slices'.")],
    out_dir: OutOption,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    lr: RateOption = None,
    schedule: ScheduleOption = None,
    warmup_steps: WarmupOption = None,
    optimizer: OptimizerOption = None,
    batch: BatchOption = None,
    balance: BalanceOption = None,
    patients_per_epoch: PerEpochOption = None,
    slice_dropout: Annotated[
        float | None, typer.Option(min=0, max=0.95, help="Most slices left out at random.")
    ] = None,
    center: Annotated[
        list[float] | None,
        typer.Option(
            help="Window centre in HU that features are read at; may be given several times. "
            "Default: the three of serving. One takes a third of the time."
        ),
    ] = None,
    attention: Annotated[
        Literal["slice", "feature"] | None, typer.Option(help="Reading of the paper's Eq. 2.")
    ] = None,
    label_smoothing: SmoothingOption = None,
    checkpoint_steps: CheckpointOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
) -> None:
    """Train the patient network on the features of a slice network.

    Example: m3lung train patients --cohort cache/ --slices runs/slices --out runs/patients
    """
    from inference.patient_net import PatientNetParameters
    from training.patients import train_patients
    from training.recipe import PatientRecipe

    wanted: PatientRecipe = _changed(
        _base(recipe, PatientRecipe),
        epochs,
        None,
        lr,
        schedule,
        warmup_steps,
        None,
        optimizer=optimizer,
        batch=batch,
        balance=balance,
        patients_per_epoch=patients_per_epoch,
        slice_dropout=slice_dropout,
        centers_hu=tuple(center) if center else None,
        net=PatientNetParameters(attention=attention) if attention is not None else None,
        label_smoothing=label_smoothing,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    with _reporting(threads) as progress:
        train_patients(
            _cache(cohort, progress),
            slices,
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
        )
    _done(out_dir)


@app.command("joint")
def joint(
    cohort: CohortOption,
    slices: Annotated[Path, typer.Option(help="Run of 'train slices'.")],
    patients: Annotated[Path, typer.Option(help="Run of 'train patients' with the former.")],
    out_dir: OutOption,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    stages: StagesOption = None,
    lr: RateOption = None,
    schedule: ScheduleOption = None,
    warmup_steps: WarmupOption = None,
    batch: BatchOption = None,
    slices_per_patient: Annotated[
        int | None, typer.Option(min=1, help="Slices of each patient per step.")
    ] = None,
    augment: AugmentOption = None,
    balance: BalanceOption = None,
    patients_per_epoch: PerEpochOption = None,
    checkpoint_steps: CheckpointOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    loaders: LoadersOption = 1,
) -> None:
    """Fine-tune both networks end to end, from their separate runs, on subsets of the slices."""
    from training.joint import train_joint
    from training.recipe import JointRecipe

    wanted: JointRecipe = _changed(
        _base(recipe, JointRecipe),
        epochs,
        stages,
        lr,
        schedule,
        warmup_steps,
        augment,
        batch=batch,
        slices_per_patient=slices_per_patient,
        balance=balance,
        patients_per_epoch=patients_per_epoch,
        checkpoint_steps=checkpoint_steps,
        seed=seed,
    )
    with _reporting(threads) as progress:
        train_joint(
            _cache(cohort, progress),
            slices,
            patients,
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    _done(out_dir)


@app.command("m2unet")
def m2unet(
    cohort: CohortOption,
    out_dir: OutOption,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    stages: StagesOption = None,
    lr: RateOption = None,
    schedule: ScheduleOption = None,
    warmup_steps: WarmupOption = None,
    batch: BatchOption = None,
    base_channels: Annotated[
        int | None, typer.Option(min=4, help="Of the first level. Default 64; a small one has 16.")
    ] = None,
    patch_px: Annotated[
        int | None, typer.Option(min=32, help="Patches of the crop, a multiple of 16. Default 256.")
    ] = None,
    stride_px: Annotated[
        int | None, typer.Option(min=1, help="Between patches. Default 128.")
    ] = None,
    hierarchy: Annotated[
        Literal["hierarchical", "flat"] | None,
        typer.Option(help="flat: patches to patient at once, the ablation."),
    ] = None,
    lobe_weight: Annotated[
        float | None, typer.Option(min=0, help="Of the lobes' loss; 0 with severity alone.")
    ] = None,
    severity_weight: Annotated[
        float | None, typer.Option(min=0, help="Of severity's loss; 0 with lobes alone.")
    ] = None,
    bag_slices: Annotated[
        int | None, typer.Option(min=1, help="Slices of each patient per step. Default 8.")
    ] = None,
    checkpoint_steps: CheckpointOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    loaders: LoadersOption = 1,
) -> None:
    """Train M²UNet: lung lobes and severity. The cohort's truth_path says where lobes are.

    Example: m3lung train m2unet --cohort cache/ --out runs/lobes --base-channels 16 --patch-px 96
    """
    from training.systems.m2unet_training import train_m2unet
    from training.systems.recipe import M2UNetRecipe

    base: M2UNetRecipe = _base(recipe, M2UNetRecipe)
    shape = {
        "base_channels": base_channels,
        "patch_px": patch_px,
        "stride_px": stride_px,
        "hierarchy": hierarchy,
    }
    try:
        wanted: M2UNetRecipe = _changed(
            base,
            epochs,
            stages,
            lr,
            schedule,
            warmup_steps,
            None,
            net=replace(base.net, **_given(shape)),
            batch=batch,
            lobe_weight=lobe_weight,
            severity_weight=severity_weight,
            bag_slices=bag_slices,
            checkpoint_steps=checkpoint_steps,
            seed=seed,
        )
    except ValueError as error:
        _usage(str(error))
    with _reporting(threads) as progress:
        train_m2unet(
            _cache(cohort, progress),
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    _done(out_dir)


@app.command("jcs")
def jcs(
    cohort: CohortOption,
    out_dir: OutOption,
    part: Annotated[
        Literal["classification", "segmentation", "joint"],
        typer.Option(help="Both parts one by one, then joint from both runs."),
    ],
    classification: Annotated[
        Path | None, typer.Option(help="For joint: the run of that part.")
    ] = None,
    segmentation: Annotated[
        Path | None, typer.Option(help="For joint: the run of that part.")
    ] = None,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    stages: StagesOption = None,
    lr: RateOption = None,
    schedule: ScheduleOption = None,
    warmup_steps: WarmupOption = None,
    optimizer: Annotated[
        Literal["sgd", "adamw", "adam"] | None,
        typer.Option(help="Published for segmentation and joint: adam."),
    ] = None,
    batch: BatchOption = None,
    small: Annotated[
        bool,
        typer.Option(
            "--small",
            help="A demonstration's size: 16 channels, one block per stage, free batch norms.",
        ),
    ] = False,
    classifier_px: Annotated[
        int | None, typer.Option(min=32, help="Input of the classifier. Published: 224.")
    ] = None,
    positive: Annotated[
        list[str] | None,
        typer.Option(help="Class that counts as positive; may be given again. Default: covid19."),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(help="Class that counts as negative; may be given again. Default: healthy."),
    ] = None,
    slices_per_epoch: PerEpochOption = None,
    checkpoint_steps: CheckpointOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = 0,
    loaders: LoadersOption = 1,
) -> None:
    """Train a part of JCS. The cohort's truth_path says where lesions are.

    Example: m3lung train jcs --part classification --cohort cache/ --out runs/classification
    """
    from inference.domain import DiseaseClass
    from inference.jcs.res2net import Res2NetParameters
    from training.systems.jcs_training import train_jcs
    from training.systems.recipe import JcsRecipe

    base: JcsRecipe = JcsRecipe.of(part) if recipe is None else _base(recipe, JcsRecipe)
    net = base.net
    try:
        if small:
            net = replace(
                net,
                res2net=Res2NetParameters(blocks=(1, 1, 1, 1), stem_channels=16),
                vgg_base=16,
                frozen_norms=False,
            )
        known = {disease.key: disease for disease in DiseaseClass}
        wanted: JcsRecipe = _changed(
            base,
            epochs,
            stages,
            lr,
            schedule,
            warmup_steps,
            None,
            part=part,
            net=replace(net, **_given({"classifier_px": classifier_px})),
            optimizer=optimizer,
            batch=batch,
            positive=tuple(known[name] for name in positive) if positive else None,
            negative=tuple(known[name] for name in negative) if negative else None,
            slices_per_epoch=slices_per_epoch,
            checkpoint_steps=checkpoint_steps,
            seed=seed,
        )
    except KeyError as error:
        _usage(f"unknown class {error}; known: {', '.join(known)}")
    except ValueError as error:
        _usage(str(error))
    with _reporting(threads) as progress:
        train_jcs(
            _cache(cohort, progress),
            out_dir,
            wanted,
            classification=classification,
            segmentation=segmentation,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    _done(out_dir)


def _base(file: Path | None, kind: type[Any]) -> Any:
    """The recipe of a file, else the paper's."""
    from training.recipe import read_recipe

    if file is None:
        return kind()
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        _usage(f"{file} cannot be read: {error}")
    if isinstance(document, dict) and "recipe" in document:
        document = document["recipe"]
    return read_recipe(document, kind)


def _changed(
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
        _usage("--epochs and --stages exclude each other")
    try:
        if stages is not None:
            fields["stages"] = parse_stages(stages)
        elif epochs is not None:
            fields["stages"] = (Stage(recipe.stages[-1].size, epochs),)
    except ValueError as error:
        _usage(str(error))
    rates = {"lr": lr, "kind": schedule, "warmup_steps": warmup_steps}
    fields["schedule"] = replace(recipe.schedule, **_given(rates))
    if augment is not None:
        fields["augmentation"] = Augmentation.strong() if augment == "strong" else Augmentation()
    return replace(recipe, **_given(fields))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _cache(cohort: Path, progress: TrainingProgress) -> CohortCache:
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
            _usage(f"make the cache first: m3lung cohort cache --cohort {cohort} --out {target}")
        table = read_cohort(cohort)
        split_file = cohort.with_name("split.csv")
        if not split_file.exists():
            write_split(split_file, table, split_patients(table))
        build_cache(table, read_split(split_file, table), target, progress=progress.steps)
    return CohortCache.open(target)


@contextmanager
def _reporting(threads: int) -> Iterator[TrainingProgress]:
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


def _done(run: Path) -> None:
    if os.environ.get("RANK", "0") == "0":
        out.print(f"best weights: {run / 'best.safetensors'}", markup=False, highlight=False)


def _usage(words: str) -> NoReturn:
    complain(words)
    raise typer.Exit(EXIT_USAGE)
