"""The network: a shared patch encoder, a lobe decoder, and a head for severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.attention_pool import AttentionPool

__all__ = ["LOBE_LABELS", "LOCATION_CHANNELS", "M2UNet", "M2UNetParameters", "PatchFeatures"]

LOBE_LABELS = 6  # background, then the lobes in the order of inference.domain.Lobe
LOCATION_CHANNELS = 3

Hierarchy = Literal["hierarchical", "flat"]


@dataclass(frozen=True, slots=True)
class M2UNetParameters:
    """What the network is made of. Everything is decided; the paper's text is not public.

    Attributes
    ----------
    base_channels : int
        Of the first of five levels; each further one has twice as many (64: U-Net's own size).
        A demonstration takes 16.
    patch_px : int
        Rows and columns of a patch, a multiple of 16.
    stride_px : int
        Between patches: overlaps vote.
    locations : bool
        A patch of a lung looks alike left and right, above and below: three more channels tell
        where in the crop and in the lungs' height it lies.
    hidden : int
        Of the attention pools.
    hierarchy : "hierarchical" or "flat"
        patches → lobes and slices → patient; or patches → patient, for the ablation.
    """

    base_channels: int = 64
    patch_px: int = 256
    stride_px: int = 128
    locations: bool = True
    hidden: int = 128
    hierarchy: Hierarchy = "hierarchical"

    def __post_init__(self) -> None:
        if self.patch_px < 32 or self.patch_px % 16:
            raise ValueError("patch_px is a multiple of 16, at least 32")
        if not 1 <= self.stride_px <= self.patch_px:
            raise ValueError("stride_px is 1 to patch_px: patches leave no gaps")
        if self.base_channels < 4 or self.hidden < 1:
            raise ValueError("base_channels is at least 4, hidden at least 1")

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Of the five levels."""
        base = self.base_channels
        return base, 2 * base, 4 * base, 8 * base, 16 * base

    @property
    def input_channels(self) -> int:
        """Of a patch."""
        return 1 + LOCATION_CHANNELS * self.locations


@dataclass(frozen=True, slots=True)
class PatchFeatures:
    """What severity needs of patches, a few kilobytes each.

    Attributes
    ----------
    by_lobe : Tensor, shape (P, 5, D)
        Mean feature of each lobe's part of the patch.
    share : Tensor, shape (P, 5)
        How much of the patch each lobe takes, in [0, 1].
    """

    by_lobe: Tensor
    share: Tensor

    @staticmethod
    def join(parts: list[PatchFeatures]) -> PatchFeatures:
        """Features of more patches."""
        return PatchFeatures(
            torch.cat([part.by_lobe for part in parts]), torch.cat([part.share for part in parts])
        )


class M2UNet(nn.Module):
    """Five-level U-Net over patches, and three attention pools over what they say.

    Parameters
    ----------
    parameters : M2UNetParameters
    """

    def __init__(self, parameters: M2UNetParameters | None = None) -> None:
        super().__init__()
        self.parameters_ = parameters or M2UNetParameters()
        channels = self.parameters_.channels
        widths = (self.parameters_.input_channels, *channels)
        self.encoder = nn.ModuleList(
            _twice(before, after) for before, after in zip(widths, channels, strict=False)
        )
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.decoder = nn.ModuleList(_twice(2 * b, b) for _, b in pairs)
        self.lobes = nn.Conv2d(channels[0], LOBE_LABELS, 1)
        size, hidden = channels[-1], self.parameters_.hidden
        # A flat reading has none of these: data-parallel training wants every weight to be used.
        hierarchical = self.parameters_.hierarchy == "hierarchical"
        self.in_lobe = AttentionPool(size, hidden) if hierarchical else None
        self.in_slice = AttentionPool(size, hidden) if hierarchical else None
        self.in_patient = AttentionPool(size, hidden)
        self.severity = nn.Linear(size, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor, PatchFeatures]:
        """Lobes of patches, and their features for :meth:`assess`.

        Parameters
        ----------
        patches : Tensor of float, shape (P, 1 or 4, S, S)
            Density in [0, 1], then where the patch lies. Shapes below for base_channels 64.

        Returns
        -------
        logits : Tensor, shape (P, 6, S, S)
        features : PatchFeatures
        """
        x, skips = patches, []
        for number, block in enumerate(self.encoder):
            x = block(functional.max_pool2d(x, 2) if number else x)
            skips.append(x)  # (P, 64, S, S), (P, 128, S/2, S/2) … (P, 1024, S/16, S/16)
        deepest = x
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = block(torch.cat([up(x), skip], dim=1))  # (P, 512, S/8, S/8) … (P, 64, S, S)
        logits = self.lobes(x)  # (P, 6, S, S)
        return logits, _of_lobes(deepest, logits)

    def assess(self, features: PatchFeatures, slice_index: Tensor) -> Tensor:
        """Severity of a patient from all patches of the bag.

        Parameters
        ----------
        features : PatchFeatures
            Of P patches.
        slice_index : Tensor of int64, shape (P,)
            Which slice each patch is of; any numbers.

        Returns
        -------
        Tensor, shape (2,)
            Logits: not severe, severe.
        """
        by_lobe, share = features.by_lobe, features.share  # (P, 5, D), (P, 5)
        in_patch = share.sum(dim=1)  # (P,)
        patch = (share[..., None] * by_lobe).sum(dim=1) / in_patch.clamp_min(1e-6)[:, None]
        if self.in_lobe is None or self.in_slice is None:
            pooled = self.in_patient(patch, in_patch)  # (D,)
            return self.severity(pooled)
        lobes = self.in_lobe(by_lobe.transpose(0, 1), share.T)  # (5, D)
        lobe_weight = (share.sum(dim=0) > 0.05).to(share.dtype)  # (5,): a lobe may be missing
        numbers, place = torch.unique(slice_index, return_inverse=True)
        member = functional.one_hot(place, len(numbers)).T.to(share.dtype)  # (N, P)
        bag = patch[None].expand(len(numbers), -1, -1)  # (N, P, D)
        slices = self.in_slice(bag, member * in_patch[None])  # (N, D)
        slice_weight = (member @ in_patch > 0.01).to(share.dtype)  # (N,)
        # Five lobes and N slices have the same say.
        weight = torch.cat([_normal(lobe_weight), _normal(slice_weight)])  # (5 + N,)
        pooled = self.in_patient(torch.cat([lobes, slices]), weight)  # (D,)
        return self.severity(pooled)


def _of_lobes(deepest: Tensor, logits: Tensor) -> PatchFeatures:
    """Pool the deepest features where the segmentation says that each lobe is.

    So what is learned about lobes reaches severity, and back: the paper's synergy.
    """
    size = (deepest.shape[2], deepest.shape[3])
    lobes = functional.adaptive_avg_pool2d(logits.softmax(dim=1)[:, 1:], size)  # (P, 5, h, w)
    sums = torch.einsum("plhw,pdhw->pld", lobes, deepest)  # (P, 5, D)
    total = lobes.sum(dim=(2, 3))  # (P, 5)
    return PatchFeatures(sums / total.clamp_min(1e-3)[..., None], total / (size[0] * size[1]))


def _normal(weight: Tensor) -> Tensor:
    return weight / weight.sum().clamp_min(1e-6)


def _twice(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
