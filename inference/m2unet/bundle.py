"""A bundle of M²UNet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from inference.bundle_files import UNTRAINED_LIMITS, Frozen
from inference.domain import ModelIdentity, Training
from inference.lung_crop import CropParameters
from inference.m2unet.network import M2UNet, M2UNetParameters
from inference.system_bundle import SystemManifest, read_system, write_system

__all__ = [
    "LobeReading",
    "M2UNetBundle",
    "M2UNetManifest",
    "load_m2unet",
    "make_untrained_m2unet",
    "write_m2unet",
]


class LobeReading(Frozen):
    """Where scores become statements.

    Attributes
    ----------
    severe : float
        Probability from which a patient counts as severe.
    severity_temperature : float
        Logits of severity are divided by it; fitted on validation patients.
    bag_slices : int
        Slices, evenly spaced, whose patches make the bag.
    smallest_lobe : float
        Share of both lungs below which a lobe counts as not to be told. Of healthy lungs the
        middle lobe is the smallest, with about a twelfth.
    least_sure : float
        Mean probability of a lobe's own pixels below which it counts as not to be told.
    """

    severe: Annotated[float, Field(gt=0, lt=1)] = 0.5
    severity_temperature: Annotated[float, Field(gt=0)] = 1.0
    bag_slices: Annotated[int, Field(ge=1)] = 48
    smallest_lobe: Annotated[float, Field(gt=0, lt=0.2)] = 0.02
    least_sure: Annotated[float, Field(ge=0, lt=1)] = 0.6


class M2UNetManifest(SystemManifest):
    """``manifest.json`` of M²UNet; further fields as :class:`~inference.system_bundle`'s.

    Attributes
    ----------
    architecture : M2UNetParameters
    reading : LobeReading
    severe_from_percent : float
        What the labels called severe: at least this share of the lungs.
    """

    system: Literal["m2unet"] = "m2unet"
    architecture: M2UNetParameters = M2UNetParameters()
    reading: LobeReading = LobeReading()
    severe_from_percent: Annotated[float, Field(gt=0, lt=100)] = 25.0

    @model_validator(mode="after")
    def _fits(self) -> M2UNetManifest:
        if self.preprocessing.crop.input_size < self.architecture.patch_px:
            raise ValueError("input_size is smaller than a patch")
        if len(self.preprocessing.window.centers_hu) != 1:
            raise ValueError("there is one window centre")
        return self


@dataclass(frozen=True)
class M2UNetBundle:
    """A loaded M²UNet: on the CPU, float32, evaluation mode."""

    manifest: M2UNetManifest
    identity: ModelIdentity
    net: M2UNet


def load_m2unet(directory: Path) -> M2UNetBundle:
    """Read a bundle and check every digest.

    Raises
    ------
    BundleError
        As :func:`inference.bundle.load_bundle`.
    """
    return M2UNetBundle(
        *read_system(
            directory, M2UNetManifest, lambda found: M2UNet(found.architecture), lambda _: 0.5
        )
    )


def write_m2unet(directory: Path, fields: dict[str, object], net: nn.Module) -> M2UNetManifest:
    """Write a bundle.

    Raises
    ------
    BundleError
    """
    return write_system(directory, M2UNetManifest, fields, net)


def make_untrained_m2unet(
    directory: Path,
    seed: int = 0,
    *,
    architecture: M2UNetParameters | None = None,
    crop: CropParameters | None = None,
) -> M2UNetManifest:
    """Write a bundle of random weights; the same seed gives the same bytes."""
    parameters = architecture or M2UNetParameters()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = M2UNet(parameters)
    return write_m2unet(
        directory,
        {
            "name": "m2unet-untrained",
            "version": f"0.0.0+seed{seed}",
            "training": Training.UNTRAINED,
            "limits": UNTRAINED_LIMITS,
            "architecture": asdict(parameters),
            "preprocessing": {
                "crop": asdict(crop or CropParameters()),
                "window": {"centers_hu": (-500.0,)},
            },
        },
        net,
    )
