"""Losses of the two systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inference.m2unet.network import LOBE_LABELS

__all__ = ["lobe_loss", "segmentation_loss"]


def lobe_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and 1 minus the mean soft Dice of the lobes that are there.

    Parameters
    ----------
    logits : Tensor, shape (P, 6, H, W)
    labels : Tensor of int64, shape (P, H, W)

    Returns
    -------
    cross_entropy, dice : Tensor, shape ()
    """
    logits = logits.float()
    cross_entropy = functional.cross_entropy(logits, labels)
    truth = functional.one_hot(labels, LOBE_LABELS).movedim(-1, 1)[:, 1:].float()  # (P, 5, H, W)
    said = logits.softmax(dim=1)[:, 1:]
    both = (said * truth).sum(dim=(0, 2, 3))  # (5,)
    area = truth.sum(dim=(0, 2, 3))
    soft = (2 * both + 1) / (said.sum(dim=(0, 2, 3)) + area + 1)
    there = (area > 0).float()
    return cross_entropy, 1 - (soft * there).sum() / there.sum().clamp_min(1)


def segmentation_loss(outputs: Sequence[Tensor], truth: Tensor) -> Tensor:
    """Published: the sum over all outputs of binary cross-entropy and 1 − soft Dice.

    Parameters
    ----------
    outputs : sequence of Tensor, each of shape (B, H, W)
        Logits.
    truth : Tensor of float, shape (B, H, W)
        Share of each pixel that is lesion, in [0, 1].
    """
    total = truth.new_zeros(())
    for logits in outputs:
        said = logits.float().sigmoid()
        both = (said * truth).sum(dim=(1, 2))  # (B,)
        soft = (2 * both + 1) / (said.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
        entropy = functional.binary_cross_entropy_with_logits(logits.float(), truth)
        total = total + entropy + (1 - soft).mean()
    return torch.as_tensor(total)
