"""Attention pooling over a bag (Ilse et al., arXiv 1802.04712): many features, one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AttentionPool"]


class AttentionPool(nn.Module):
    """Gated attention: a weighted mean whose weights are learned.

    Parameters
    ----------
    size : int
        Of a feature, D.
    hidden : int
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(size, hidden)
        self.gate = nn.Linear(size, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, bag: Tensor, weight: Tensor) -> Tensor:
        """Pool the last axis but one.

        Parameters
        ----------
        bag : Tensor, shape (..., n, D)
        weight : Tensor, shape (..., n)
            What each member counts beforehand, at least 0. A bag in which nothing counts gives
            zeros.

        Returns
        -------
        Tensor, shape (..., D)
        """
        hidden = torch.tanh(self.value(bag)) * torch.sigmoid(self.gate(bag))  # (..., n, hidden)
        scores = self.score(hidden)[..., 0].float()  # (..., n)
        scores = scores - scores.amax(dim=-1, keepdim=True).detach()
        share = scores.exp() * weight  # (..., n)
        share = share / share.sum(dim=-1, keepdim=True).clamp_min(1e-6)
        return (share[..., None].to(bag.dtype) * bag).sum(dim=-2)  # (..., D)
