"""The optimizer of a recipe."""

from __future__ import annotations

import torch
from torch import nn

from training.recipe import PatientRecipe, SliceRecipe

__all__ = ["make_optimizer"]


def make_optimizer(recipe: SliceRecipe | PatientRecipe, net: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the parameters of `net`."""
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
