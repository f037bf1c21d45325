"""Recipes of M²UNet and JCS; what is published stands as the default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.domain import DiseaseClass
from inference.jcs.network import JcsParameters
from inference.m2unet.network import M2UNetParameters
from training.recipe import Augmentation, Schedule, Stage

__all__ = ["JcsPart", "JcsRecipe", "M2UNetRecipe"]

JcsPart = Literal["classification", "segmentation", "joint"]


def _densities_only() -> Augmentation:
    """What may change where left and right mean something: densities, noise and blur."""
    return Augmentation(
        center_hu=(-500.0, -500.0),
        flip_columns=0.0,
        flip_rows=0.0,
        gain=0.05,
        offset_hu=20.0,
        noise_hu=30.0,
        blur_px=0.8,
    )


@dataclass(frozen=True, slots=True)
class M2UNetRecipe:
    """Training of M²UNet, all of it **(decided)**.

    Attributes
    ----------
    net : M2UNetParameters
    stages : tuple of Stage
        The size is that of the crop, of which patches are cut.
    schedule : Schedule
    augmentation : Augmentation
        Mirroring would swap lobes; moving is what random patches do.
    batch : int
        Patients per step.
    bag_slices, bag_patches : int
        Slices of each patient, one out of each of as many parts of the lungs, and random patches
        of each slice.
    lobe_weight, severity_weight : float
        Of the two losses. One of them 0 is the ablation "separate".
    optimizer : "adamw" or "sgd"
    momentum, weight_decay : float
    validation_slices : int
        Of each validation patient, evenly spaced.
    checkpoint_steps, seed : int
    """

    net: M2UNetParameters = field(default_factory=M2UNetParameters)
    stages: tuple[Stage, ...] = (Stage(0, 60),)
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=3e-4, kind="cosine"))
    augmentation: Augmentation = field(default_factory=_densities_only)
    batch: int = 2
    bag_slices: int = 8
    bag_patches: int = 2
    lobe_weight: float = 1.0
    severity_weight: float = 1.0
    optimizer: Literal["sgd", "adamw", "adam"] = "adamw"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    validation_slices: int = 12
    checkpoint_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.batch, self.bag_slices, self.bag_patches) < 1:
            raise ValueError("batch, bag_slices and bag_patches are at least 1")
        if min(self.lobe_weight, self.severity_weight) < 0 or not (
            self.lobe_weight or self.severity_weight
        ):
            raise ValueError("lobe_weight and severity_weight are not negative, and one is not 0")


@dataclass(frozen=True, slots=True)
class JcsRecipe:
    """Training of one part of JCS; see :meth:`of` for what is published of each.

    Attributes
    ----------
    part : "classification", "segmentation" or "joint"
        joint: the bridges and the segmentation, from the runs of both parts. The classifier
        stays as it is **(decided)**: what was measured of it still holds.
    net : JcsParameters
    stages, schedule, augmentation
    batch : int
        Slices per step.
    optimizer, momentum, weight_decay
    positive, negative : tuple of DiseaseClass
        What is told apart. Paper: COVID-19 and no infection; patients of other classes are left
        out. Positive are slices with lesion, negative all slices of negative patients.
    slices_per_epoch : int
        0: as many as there are.
    validation_slices, checkpoint_steps, seed : int
    """

    part: JcsPart = "segmentation"
    net: JcsParameters = field(default_factory=JcsParameters)
    stages: tuple[Stage, ...] = (Stage(0, 60),)
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=2.5e-5, kind="poly"))
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(center_hu=(-500.0, -500.0), flip_rows=0.0)
    )
    batch: int = 1
    optimizer: Literal["sgd", "adamw", "adam"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    positive: tuple[DiseaseClass, ...] = (DiseaseClass.COVID19,)
    negative: tuple[DiseaseClass, ...] = (DiseaseClass.HEALTHY,)
    slices_per_epoch: int = 0
    validation_slices: int = 12
    checkpoint_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.positive or not self.negative or set(self.positive) & set(self.negative):
            raise ValueError("positive and negative classes are different ones, and there are both")

    @classmethod
    def of(cls, part: JcsPart) -> JcsRecipe:
        """Return the published recipe of a part.

        Segmentation and joint: Adam 2.5e-5, weight decay 1e-4, poly 0.9, 60 epochs, batch 1.
        Of the classifier only the input is published: it trains as the slice network
        **(decided)**, SGD 0.01, batch 32.
        """
        if part != "classification":
            return cls(part=part)
        return cls(
            part=part,
            stages=(Stage(0, 100),),
            schedule=Schedule(lr=0.01),
            batch=32,
            optimizer="sgd",
            weight_decay=5e-4,
        )
