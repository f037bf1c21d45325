"""A bundle of JCS."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from inference.bundle_files import UNTRAINED_LIMITS, Frozen
from inference.domain import DiseaseClass, ModelIdentity, Training
from inference.jcs.network import JcsNet, JcsParameters
from inference.lung_crop import CropParameters
from inference.system_bundle import SystemManifest, read_system, write_system

__all__ = [
    "JcsBundle",
    "JcsManifest",
    "SliceReading",
    "load_jcs",
    "make_untrained_jcs",
    "write_jcs",
]

_KEYS = tuple(disease.key for disease in DiseaseClass)


class SliceReading(Frozen):
    """Where scores become statements.

    Attributes
    ----------
    positive_slice : float
        Probability above which a slice is positive.
    positive_slices : int
        A patient is positive above so many positive slices (the authors' demonstration: 18) …
    of_slices : int
        … in a stack of so many with lung; other stacks in proportion **(decided)**: the authors'
        patients have 192 slices on average, and a stack of 24 thick ones may be positive too.
    temperature : float
        Logits of a slice are divided by it; fitted on validation patients.
    lesion : float
        Probability above which a pixel is lesion.
    """

    positive_slice: Annotated[float, Field(gt=0, lt=1)] = 0.5
    positive_slices: Annotated[int, Field(ge=0)] = 18
    of_slices: Annotated[int, Field(ge=1)] = 192
    temperature: Annotated[float, Field(gt=0)] = 1.0
    lesion: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def allowed(self, slices: int) -> int:
        """Positive slices that a stack with `slices` of lung may have and still be negative."""
        return min(self.positive_slices * slices // self.of_slices, max(slices - 1, 0))


class JcsManifest(SystemManifest):
    """``manifest.json`` of JCS; further fields as :class:`~inference.system_bundle`'s.

    Attributes
    ----------
    architecture : JcsParameters
    reading : SliceReading
    positive, negative : tuple of str
        Classes it learned to tell apart. Paper: COVID-19 against people without infection.
    """

    system: Literal["jcs"] = "jcs"
    architecture: JcsParameters = JcsParameters()
    reading: SliceReading = SliceReading()
    positive: Annotated[tuple[str, ...], Field(min_length=1)] = ("covid19",)
    negative: Annotated[tuple[str, ...], Field(min_length=1)] = ("healthy",)

    @model_validator(mode="after")
    def _fits(self) -> JcsManifest:
        if self.preprocessing.crop.input_size % 16:
            raise ValueError("input_size is no multiple of 16")
        if len(self.preprocessing.window.centers_hu) != 1:
            raise ValueError("there is one window centre")
        both = (*self.positive, *self.negative)
        if len(set(both)) != len(both) or not set(both) <= set(_KEYS):
            raise ValueError(f"positive and negative are different ones of {', '.join(_KEYS)}")
        return self


@dataclass(frozen=True)
class JcsBundle:
    """A loaded JCS: on the CPU, float32, evaluation mode."""

    manifest: JcsManifest
    identity: ModelIdentity
    net: JcsNet


def load_jcs(directory: Path) -> JcsBundle:
    """Read a bundle and check every digest.

    Raises
    ------
    BundleError
        As :func:`inference.bundle.load_bundle`.
    """
    return JcsBundle(
        *read_system(
            directory,
            JcsManifest,
            lambda found: JcsNet(found.architecture),
            lambda found: found.reading.lesion,
        )
    )


def write_jcs(directory: Path, fields: dict[str, object], net: nn.Module) -> JcsManifest:
    """Write a bundle.

    Raises
    ------
    BundleError
    """
    return write_system(directory, JcsManifest, fields, net)


def make_untrained_jcs(
    directory: Path,
    seed: int = 0,
    *,
    architecture: JcsParameters | None = None,
    crop: CropParameters | None = None,
) -> JcsManifest:
    """Write a bundle of random weights; the same seed gives the same bytes."""
    parameters = architecture or JcsParameters()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = JcsNet(parameters)
    return write_jcs(
        directory,
        {
            "name": "jcs-untrained",
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
