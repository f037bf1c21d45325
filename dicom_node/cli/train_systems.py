"""``m3lung train m2unet`` and ``jcs``: the two other systems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dicom_node.cli.training_options import (
    BatchOption,
    CheckpointOption,
    CohortOption,
    DeviceOption,
    EpochsOption,
    LoadersOption,
    OutOption,
    PerEpochOption,
    PrecisionOption,
    RateOption,
    RecipeOption,
    ScheduleOption,
    SeedOption,
    StagesOption,
    ThreadsOption,
    WarmupOption,
    base_recipe,
    changed,
    done,
    given,
    open_cache,
    reporting,
    usage,
)

if TYPE_CHECKING:
    from training.systems.recipe import JcsRecipe, M2UNetRecipe

__all__ = ["jcs", "m2unet"]


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

    base: M2UNetRecipe = base_recipe(recipe, M2UNetRecipe)
    shape = {
        "base_channels": base_channels,
        "patch_px": patch_px,
        "stride_px": stride_px,
        "hierarchy": hierarchy,
    }
    try:
        wanted: M2UNetRecipe = changed(
            base,
            epochs,
            stages,
            lr,
            schedule,
            warmup_steps,
            None,
            net=replace(base.net, **given(shape)),
            batch=batch,
            lobe_weight=lobe_weight,
            severity_weight=severity_weight,
            bag_slices=bag_slices,
            checkpoint_steps=checkpoint_steps,
            seed=seed,
        )
    except ValueError as error:
        usage(str(error))
    with reporting(threads) as progress:
        train_m2unet(
            open_cache(cohort, progress),
            out_dir,
            wanted,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    done(out_dir)


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

    base: JcsRecipe = JcsRecipe.of(part) if recipe is None else base_recipe(recipe, JcsRecipe)
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
        wanted: JcsRecipe = changed(
            base,
            epochs,
            stages,
            lr,
            schedule,
            warmup_steps,
            None,
            part=part,
            net=replace(net, **given({"classifier_px": classifier_px})),
            optimizer=optimizer,
            batch=batch,
            positive=tuple(known[name] for name in positive) if positive else None,
            negative=tuple(known[name] for name in negative) if negative else None,
            slices_per_epoch=slices_per_epoch,
            checkpoint_steps=checkpoint_steps,
            seed=seed,
        )
    except KeyError as error:
        usage(f"unknown class {error}; known: {', '.join(known)}")
    except ValueError as error:
        usage(str(error))
    with reporting(threads) as progress:
        train_jcs(
            open_cache(cohort, progress),
            out_dir,
            wanted,
            classification=classification,
            segmentation=segmentation,
            progress=progress,
            device=device,
            precision=precision,
            loaders=loaders,
        )
    done(out_dir)
