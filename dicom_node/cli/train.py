"""``m3lung train``: slice network, patient network, both together; M²UNet and JCS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dicom_node.cli.train_systems import jcs, m2unet
from dicom_node.cli.training_options import (
    AugmentOption,
    BalanceOption,
    BatchOption,
    CheckpointOption,
    CohortOption,
    DeviceOption,
    EpochsOption,
    LoadersOption,
    OptimizerOption,
    OutOption,
    PerEpochOption,
    PrecisionOption,
    RateOption,
    RecipeOption,
    ScheduleOption,
    SeedOption,
    SmoothingOption,
    StagesOption,
    ThreadsOption,
    WarmupOption,
    base_recipe,
    changed,
    done,
    open_cache,
    reporting,
)

if TYPE_CHECKING:
    from training.recipe import JointRecipe, PatientRecipe, SliceRecipe

__all__ = ["app", "register"]

app = typer.Typer(
    no_args_is_help=True,
    help="Train on a cohort. The defaults are the paper's recipe. The same command goes on where "
    "a run was killed; several GPUs or processes: [bold]torchrun --nproc-per-node N -m dicom_node "
    "train …[/]. Class imbalance: each epoch draws every class equally often (a balanced sampler; "
    "--balance none turns it off).",
)


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

    wanted: SliceRecipe = changed(
        base_recipe(recipe, SliceRecipe),
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
    with reporting(threads) as progress:
        train_slices(
            open_cache(cohort, progress),
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            imagenet=imagenet,
            start_from=start_from,
            loaders=loaders,
        )
    done(out_dir)


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

    wanted: PatientRecipe = changed(
        base_recipe(recipe, PatientRecipe),
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
    with reporting(threads) as progress:
        train_patients(
            open_cache(cohort, progress),
            slices,
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
        )
    done(out_dir)


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

    wanted: JointRecipe = changed(
        base_recipe(recipe, JointRecipe),
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
    with reporting(threads) as progress:
        train_joint(
            open_cache(cohort, progress),
            slices,
            patients,
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    done(out_dir)


app.command("m2unet")(m2unet)
app.command("jcs")(jcs)


def register(root: typer.Typer) -> None:
    """Add the verbs to `root`."""
    root.add_typer(app, name="train", rich_help_panel="Train")
