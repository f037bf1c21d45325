"""The patient network (paper III-C): refine, aggregate, several scales, any number of slices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["PatientNet", "PatientNetParameters"]

Attention = Literal["slice", "feature"]


@dataclass(frozen=True, slots=True)
class PatientNetParameters:
    """What the network is made of.

    Attributes
    ----------
    feature_size : int
        D: 3072 for ResNet-50 (1024 + 2048).
    reduced_size : int
        D' of the aggregation (paper: 512).
    heads, head_dim : int
        Of the refinement. 512 is not divisible by the paper's 12 heads; the default splits D'
        into 8 x 64 **(decided)**, ``heads=12, head_dim=512`` is the literal, larger reading.
    scales : tuple of int
        S (paper: 1, 2, 3, 4).
    attention : "slice" or "feature"
        ``slice``: H correlates slices, N x N per head, rows by softmax (text and figure of the
        paper). ``feature``: H correlates features, head_dim x head_dim per head (Eq. 2); its
        rows are normalised by softmax too, since the printed sum may vanish **(decided)**.
    refinement_layers : int
        Paper: 2. 0 leaves the aggregation alone ("A. Head" of the ablation).
    """

    feature_size: int = 3072
    reduced_size: int = 512
    heads: int = 8
    head_dim: int = 64
    scales: tuple[int, ...] = (1, 2, 3, 4)
    attention: Attention = "slice"
    refinement_layers: int = 2


class Refinement(nn.Module):
    """One layer of refinement (Eq. 1-3): attention between slices or features, and a skip."""

    def __init__(self, size: int, heads: int, head_dim: int, attention: Attention) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.attention = attention
        inner = heads * head_dim
        self.fc1 = nn.Linear(size, inner)
        self.fc2 = nn.Linear(size, inner)
        self.fc3 = nn.Linear(size, inner)
        self.fc4 = nn.Linear(inner, size)

    def forward(self, f: Tensor, valid: Tensor) -> Tensor:
        """Refine.

        Parameters
        ----------
        f : Tensor, shape (B, N, D)
        valid : Tensor of bool, shape (B, N)
            False where a slice is padding.

        Returns
        -------
        Tensor, shape (B, N, D)
        """
        f1, f2, f3 = (self._split(fc(f)) for fc in (self.fc1, self.fc2, self.fc3))  # (B, h, N, d)
        keys = valid[:, None, None, :]  # (B, 1, 1, N)
        if self.attention == "slice":
            score = f1 @ f2.transpose(-1, -2) / math.sqrt(self.head_dim)  # (B, h, N, N)
            h = score.masked_fill(~keys, -torch.inf).softmax(dim=-1)  # (B, h, N, N)
            mixed = h @ f3  # (B, h, N, d)
        else:
            rows = keys.transpose(-1, -2)  # (B, 1, N, 1)
            count = rows.sum(dim=-2, keepdim=True)  # (B, 1, 1, 1)
            # The mean over slices, not the sum: H must not depend on how many there are.
            score = (f1 * rows).transpose(-1, -2) @ f2 / count  # (B, h, d, d)
            mixed = f3 @ score.softmax(dim=-1)  # (B, h, N, d)
        batch, _, slices, _ = mixed.shape
        merged = mixed.transpose(1, 2).reshape(batch, slices, -1)  # (B, N, h·d)
        return f + self.fc4(merged)  # (B, N, D)

    def _split(self, x: Tensor) -> Tensor:
        batch, slices, _ = x.shape
        return x.view(batch, slices, self.heads, self.head_dim).transpose(1, 2)  # (B, h, N, d)


class Aggregation(nn.Module):
    """N features to one: a learnable query k in place of the first FC, no heads, no last FC.

    With one query Eq. 2 has only one reading: k attends to slices.
    """

    def __init__(self, size: int, reduced: int) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.randn(1, reduced) / math.sqrt(reduced))
        self.fc2 = nn.Linear(size, reduced)
        self.fc3 = nn.Linear(size, reduced)

    def forward(self, f: Tensor, valid: Tensor) -> Tensor:
        """(B, N, D), (B, N) -> (B, D')."""
        f2, f3 = self.fc2(f), self.fc3(f)  # (B, N, D')
        score = (f2 @ self.k[0]) / math.sqrt(f2.shape[-1])  # (B, N)
        weight = score.masked_fill(~valid, -torch.inf).softmax(dim=-1)  # (B, N)
        return (weight[:, None] @ f3)[:, 0]  # (B, D')


class PatientNet(nn.Module):
    """Slice features of one volume, in anatomical order, to four class scores.

    Parameters
    ----------
    parameters : PatientNetParameters

    Notes
    -----
    The concatenation of all scales is reduced to D', where the paper writes D: the aggregation
    leaves D' values per part. A ReLU stands before the classifier, as two linear layers in a
    row would be one **(decided)**.
    """

    def __init__(self, parameters: PatientNetParameters | None = None) -> None:
        super().__init__()
        p = self.parameters_ = parameters or PatientNetParameters()
        self.refinements = nn.ModuleList(
            Refinement(p.feature_size, p.heads, p.head_dim, p.attention)
            for _ in range(p.refinement_layers)
        )
        self.aggregation = Aggregation(p.feature_size, p.reduced_size)
        self.reduce = nn.Linear(sum(p.scales) * p.reduced_size, p.reduced_size)
        self.class_head = nn.Linear(p.reduced_size, 4)

    def forward(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Classify a batch of volumes.

        Parameters
        ----------
        features : Tensor, shape (B, N, D)
            Pooled ResBlock3 ⊕ ResBlock4, most superior slice first; shorter volumes are padded
            at the end.
        valid : Tensor of bool, shape (B, N), optional
            False where a slice is padding; every volume has one valid slice at least.

        Returns
        -------
        Tensor, shape (B, 4)
            Logits.
        """
        if valid is None:
            valid = features.new_ones(features.shape[:2], dtype=torch.bool)  # (B, N)
        lengths = valid.sum(dim=1)  # (B,)
        results = [self._at_scale(features, lengths, s) for s in self.parameters_.scales]
        patient = self.reduce(torch.cat(results, dim=1))  # (B, Σs·D') -> (B, D')
        logits: Tensor = self.class_head(torch.relu(patient))  # (B, 4)
        return logits

    def _at_scale(self, features: Tensor, lengths: Tensor, s: int) -> Tensor:
        """Split each volume evenly into `s` parts, run the shared head: (B, s·D')."""
        batch, _, size = features.shape
        index, valid = split_evenly(lengths, s)  # (B, s, L), (B, s, L)
        flat = index.reshape(batch, -1, 1).expand(-1, -1, size)  # (B, s·L, D)
        parts = features.gather(1, flat).reshape(batch * s, -1, size)  # (B·s, L, D)
        mask = valid.reshape(batch * s, -1)  # (B·s, L)
        for layer in self.refinements:
            parts = layer(parts, mask)  # (B·s, L, D)
        return self.aggregation(parts, mask).reshape(batch, -1)  # (B, s·D')


def split_evenly(lengths: Tensor, s: int) -> tuple[Tensor, Tensor]:
    """Indices that split volumes of the given lengths into `s` parts, in order.

    Parameters
    ----------
    lengths : Tensor of int, shape (B,)
    s : int

    Returns
    -------
    index : Tensor of int64, shape (B, s, L)
        Part i of a volume of N slices is [⌊iN/s⌋, ⌊(i+1)N/s⌋); L is the longest part. Where
        N < s, each part is one slice, slices being repeated **(decided)**.
    valid : Tensor of bool, shape (B, s, L)
        False where a part is shorter than L; the index there is 0.
    """
    part = torch.arange(s, device=lengths.device)[None]  # (1, s)
    start = part * lengths[:, None] // s  # (B, s)
    stop = torch.maximum((part + 1) * lengths[:, None] // s, start + 1)  # (B, s)
    longest = int((stop - start).max())
    index = start[:, :, None] + torch.arange(longest, device=lengths.device)  # (B, s, L)
    valid = index < stop[:, :, None]
    return index.masked_fill(~valid, 0), valid
