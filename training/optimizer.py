"""The optimizer of a recipe."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import nn

from training.recipe import Schedule

__all__ = ["make_optimizer"]


class OptimizerRecipe(Protocol):
    """What of a recipe decides about the optimizer."""

    @property
    def optimizer(self) -> Literal["sgd", "adamw", "adam"]:
        """Which one."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Its learning rate at the start."""
        ...

    @property
    def momentum(self) -> float:
        """Of sgd."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of all."""
        ...


def make_optimizer(recipe: OptimizerRecipe, net: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the parameters of `net` that learn."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(
            [parameter for parameter in net.parameters() if parameter.requires_grad],
            lr=recipe.schedule.lr,
            weight_decay=recipe.weight_decay,
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            net.parameters(), lr=recipe.schedule.lr, weight_decay=recipe.weight_decay
        )
    return torch.optim.SGD(
        net.parameters(),
        lr=recipe.schedule.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
