"""How much of the paper's work an ablation does: all of it, or a smaller copy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from inference.patient_net import PatientNetParameters
from inference.slice_net import Backbone, SliceNetParameters
from training.ablation.rows import Row
from training.baselines.covnet import CovNetBackbone
from training.baselines.recipe import BaselineRecipe
from training.recipe import PatientRecipe, Schedule, SliceRecipe, Stage, recipe_json

__all__ = ["AblationSettings"]


@dataclass(frozen=True, slots=True)
class AblationSettings:
    """What is scaled down; the defaults are the paper's and leave nothing out.

    Attributes
    ----------
    epochs : int
        Of every training at most; 0: the paper's (110, 90, 110 or 220).
    input_size : int
        Rows and columns at most, of slices and volumes; 0: the cache's, and 256 of the rivals.
    rival_slices : int
        T of the rivals at most; 0: 64 or 128.
    backbone : str
        Of the slice network; COVNet takes ``resnet18`` along.
    batch : int
        Of slices, patients or volumes at most; 0: the paper's.
    micro_batch : int
        Slices at a time through the network; 0: all of a batch.
    slices_per_epoch : int
        0: as many as there are.
    optimizer : "sgd" or "adamw"
        Of slice and patient networks. adamw takes the rates of ``recipes/phantom-v1``: from random
        weights and in few epochs the paper's SGD learns next to nothing.
    seed : int
    """

    epochs: int = 0
    input_size: int = 0
    rival_slices: int = 0
    backbone: Backbone = "resnet50"
    batch: int = 0
    micro_batch: int = 0
    slices_per_epoch: int = 0
    optimizer: Literal["sgd", "adamw"] = "sgd"
    seed: int = 0

    @classmethod
    def quick(cls) -> AblationSettings:
        """Minutes on a CPU with a small cohort: it shows that all runs, and measures nothing."""
        return cls(
            epochs=2, input_size=64, rival_slices=8, backbone="resnet18", batch=8,
            slices_per_epoch=64,
        )  # fmt: skip

    def slice_recipe(self, row: Row, cache_size: int) -> SliceRecipe:
        """Recipe of a slice network."""
        base = SliceRecipe()
        size = min(self.input_size or cache_size, cache_size)
        return replace(
            base,
            net=replace(SliceNetParameters(backbone=self.backbone), **dict(row.changes)),  # type: ignore[arg-type]
            stages=(Stage(0 if size == cache_size else size, self._epochs(110)),),
            batch=self._batch(base.batch),
            micro_batch=self.micro_batch,
            slices_per_epoch=self.slices_per_epoch,
            optimizer=self.optimizer,
            schedule=self._schedule(base.schedule, 5e-4),
            seed=self.seed,
        )

    def patient_recipe(self, row: Row) -> PatientRecipe:
        """Recipe of a patient network."""
        base = PatientRecipe()
        return replace(
            base,
            net=replace(PatientNetParameters(), **dict(row.changes)),  # type: ignore[arg-type]
            stages=(Stage(0, self._epochs(90)),),
            batch=self._batch(base.batch),
            optimizer=self.optimizer,
            schedule=self._schedule(base.schedule, 3e-4),
            seed=self.seed,
        )

    def rival_recipe(self, row: Row, cache_size: int) -> BaselineRecipe:
        """Recipe of a rival."""
        paper = BaselineRecipe.of_paper(row.key)
        size = min(self.input_size or cache_size, cache_size)
        recipe = paper.at_most(slices=self.rival_slices, size=size, epochs=self.epochs)
        backbone: CovNetBackbone = "resnet18" if self.backbone == "resnet18" else "resnet50"
        return replace(recipe, batch=self._batch(paper.batch), backbone=backbone, seed=self.seed)

    def document(self, row: Row, cache_size: int) -> dict[str, Any]:
        """JSON values of a row's recipe."""
        if row.kind == "slices":
            return recipe_json(self.slice_recipe(row, cache_size))
        if row.kind == "head":
            return recipe_json(self.patient_recipe(row))
        return self.rival_recipe(row, cache_size).document()

    def _schedule(self, paper: Schedule, adamw_rate: float) -> Schedule:
        return paper if self.optimizer == "sgd" else replace(paper, lr=adamw_rate)

    def _epochs(self, paper: int) -> int:
        return min(self.epochs or paper, paper)

    def _batch(self, paper: int) -> int:
        return min(self.batch or paper, paper)
