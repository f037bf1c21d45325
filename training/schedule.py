"""The learning rate and the input size of each step: pure functions of the recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.recipe import Schedule, Stage

__all__ = ["learning_rate", "stage_of", "total_epochs"]


def total_epochs(stages: Sequence[Stage]) -> int:
    """Epochs of all stages."""
    return sum(stage.epochs for stage in stages)


def stage_of(stages: Sequence[Stage], epoch: int) -> tuple[Stage, int]:
    """The stage of an epoch (from 0), and the epoch's number within it."""
    for stage in stages:
        if epoch < stage.epochs:
            return stage, epoch
        epoch -= stage.epochs
    raise IndexError("the recipe has no such epoch")


def learning_rate(
    schedule: Schedule, stages: Sequence[Stage], epoch: int, step: int, steps: int
) -> float:
    """Learning rate of one step.

    Parameters
    ----------
    epoch, step : int
        From 0; `step` within the epoch.
    steps : int
        Of each epoch.
    """
    stage, inner = stage_of(stages, epoch)
    if stage.lr is not None:
        rate = _cosine(stage.lr, (inner + step / steps) / stage.epochs)
    elif schedule.kind == "cosine":
        rate = _cosine(schedule.lr, (epoch + step / steps) / total_epochs(stages))
    elif schedule.kind == "poly":
        left = 1 - (epoch + step / steps) / total_epochs(stages)
        rate = schedule.lr * left**0.9
    else:
        length = schedule.step_epochs or max(1, math.ceil(total_epochs(stages) * 40 / 110))
        rate = schedule.lr * schedule.gamma ** (epoch // length)
    done = epoch * steps + step + 1
    return rate * min(1.0, done / schedule.warmup_steps) if schedule.warmup_steps else rate


def _cosine(start: float, share: float) -> float:
    end = start / 100
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
