"""How a rival is trained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from training.baselines.covnet import CovNetBackbone
from training.baselines.rivals import RIVALS
from training.baselines.volumes import VolumeParameters
from training.recipe import Balance, Schedule, Stage

__all__ = ["BaselineRecipe"]


@dataclass(frozen=True, slots=True)
class BaselineRecipe:
    """Settings of one training; :meth:`of_paper` gives Table III's.

    Attributes
    ----------
    volume : VolumeParameters
        C, T, H and W.
    epochs, batch : int
    micro_batch : int
        Volumes on the device at a time; gradients are summed up to `batch`. The paper spreads
        its batches over four to six GPUs instead. Batch norms see one micro batch **(decided)**.
    schedule : Schedule
        Of Adam's learning rate. The paper tells neither optimiser nor rate of the rivals: one
        recipe for all, falling in the stairs of the slice network **(decided)**.
    weight_decay : float
    balance : "classes" or "none"
        classes: each epoch draws the same number of patients of each class, as for the networks
        of M3Lung-Sys **(decided)**.
    backbone : "resnet50" or "resnet18"
        Of COVNet.
    center_hu : (float, float)
        Window centres of training are drawn from it (paper: -700 to -500), one per volume.
    flip_columns : float
        Probability of mirroring a volume left-right.
    checkpoint_steps, seed : int
    """

    volume: VolumeParameters
    epochs: int
    batch: int
    micro_batch: int = 1
    schedule: Schedule = field(default_factory=lambda: Schedule(lr=1e-4))
    weight_decay: float = 5e-4
    balance: Balance = "classes"
    backbone: CovNetBackbone = "resnet50"
    center_hu: tuple[float, float] = (-700.0, -500.0)
    flip_columns: float = 0.5
    checkpoint_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.micro_batch) < 1:
            raise ValueError("epochs, batch and micro_batch are at least 1")
        if min(self.volume.slices, self.volume.size) < 1:
            raise ValueError("a volume has at least one slice and one pixel")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All epochs at one size."""
        return (Stage(0, self.epochs),)

    @classmethod
    def of_paper(cls, name: str) -> BaselineRecipe:
        """Input, batch and epochs of Table III.

        Raises
        ------
        KeyError
            There is no rival `name`.
        """
        rival = RIVALS[name]
        return cls(
            VolumeParameters(rival.channels, rival.slices, rival.size), rival.epochs, rival.batch
        )

    def at_most(self, *, slices: int = 0, size: int = 0, epochs: int = 0) -> BaselineRecipe:
        """The same recipe on smaller volumes, for fewer epochs; 0 leaves as it is."""
        volume = replace(
            self.volume,
            slices=min(slices or self.volume.slices, self.volume.slices),
            size=min(size or self.volume.size, self.volume.size),
        )
        return replace(self, volume=volume, epochs=min(epochs or self.epochs, self.epochs))

    def document(self) -> dict[str, Any]:
        """JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values
