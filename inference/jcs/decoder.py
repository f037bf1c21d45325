"""The segmentation branch: VGG-16, enhanced feature module, attentive feature fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AttentiveFusion", "EnhancedFeatures", "Vgg", "vgg_channels"]

# conv1_2, 2_2, 3_3, 4_3, 5_3 are tapped: two, two, three, three, three convolutions.
_CONVOLUTIONS = (2, 2, 3, 3, 3)


def vgg_channels(base: int) -> tuple[int, int, int, int, int]:
    """Of the five levels; 64 gives VGG-16's own 64, 128, 256, 512, 512."""
    return base, 2 * base, 4 * base, 8 * base, 8 * base


class Vgg(nn.Module):
    """VGG-16 with batch norm, tapped at five levels; the fourth pooling is skipped.

    Parameters
    ----------
    base : int
        Channels of the first level.
    frozen_norms : bool
        Published: batch norms keep their statistics and weights, also in training; right for
        ImageNet's weights, not for random ones.
    """

    def __init__(self, base: int, *, frozen_norms: bool) -> None:
        super().__init__()
        self.frozen_norms = frozen_norms
        before, levels = 3, []
        for count, after in zip(_CONVOLUTIONS, vgg_channels(base), strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(inplace=True),
                ]
                before = after
            levels.append(nn.Sequential(*layers))
        self.levels = nn.ModuleList(levels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d) and frozen_norms:
                module.requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Vgg:  # noqa: FBT001, FBT002, RUF100 - torch's signature
        """Keep frozen batch norms in evaluation mode."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def level(self, number: int, x: Tensor) -> Tensor:
        """One level from the one before; 0 takes the picture. Only the first three pool."""
        if 0 < number < 4:
            x = functional.max_pool2d(x, 2)
        return self.levels[number](x)


class _SqueezeExcitation(nn.Module):
    """Channels weighed by what is there anywhere (r = 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.down = nn.Conv2d(channels, inner, 1)
        self.up = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * torch.sigmoid(self.up(functional.relu(self.down(pooled))))


def _conv(before: int, after: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=dilation * (kernel // 2), dilation=dilation),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class _GroupedAtrous(nn.Module):
    """1×1 C → 2C, four groups with a dilation each, concat, squeeze-excitation, 1×1 back, 3×3."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        group = 2 * channels // len(dilations)
        self.spread = _conv(channels, group * len(dilations), 1)
        self.groups = nn.ModuleList(_conv(group, group, 3, rate) for rate in dilations)
        self.weigh = _SqueezeExcitation(group * len(dilations))
        self.back = _conv(group * len(dilations), channels, 1)
        self.smooth = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.spread(x).chunk(len(self.groups), dim=1)  # 4 × (B, C/2, h, w)
        joined = torch.cat([conv(part) for conv, part in zip(self.groups, parts, strict=True)], 1)
        return self.smooth(self.back(self.weigh(joined)))


class EnhancedFeatures(nn.Module):
    """Two grouped atrous modules around a 2×2 max-pool.

    The first one enhances E5, the second makes E6 of the pooled E5 **(decided)**: so both levels
    gain, and E6 still is "max-pool of E5".
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = _GroupedAtrous(channels, (1, 3, 6, 9))
        self.narrow = _GroupedAtrous(channels, (1, 2, 3, 4))

    def forward(self, e5: Tensor) -> tuple[Tensor, Tensor]:
        """Return E5 (B, 512, 64, 64) and E6 (B, 512, 32, 32), sizes at 512²."""
        e5 = self.wide(e5)
        return e5, self.narrow(functional.max_pool2d(e5, 2))


class AttentiveFusion(nn.Module):
    """A level joined with what came from below it.

    Lateral and top-down 1×1 to half width, bilinear up, concat → SE → 3×3 to half width →
    concat with the top-down half → SE → 1×1 → 3×3.
    """

    def __init__(self, lateral: int, deeper: int) -> None:
        super().__init__()
        half = max(1, lateral // 2)
        self.lateral = _conv(lateral, half, 1)
        self.top_down = _conv(deeper, half, 1)
        self.weigh_both = _SqueezeExcitation(2 * half)
        self.join = _conv(2 * half, half, 3)
        self.weigh_again = _SqueezeExcitation(2 * half)
        self.reduce = _conv(2 * half, lateral, 1)
        self.smooth = _conv(lateral, lateral, 3)

    def forward(self, level: Tensor, deeper: Tensor) -> Tensor:
        """Both (B, C, h, w); returns the channels and the size of `level`."""
        high = functional.interpolate(
            self.top_down(deeper), size=level.shape[-2:], mode="bilinear", align_corners=False
        )
        joined = self.join(self.weigh_both(torch.cat([self.lateral(level), high], dim=1)))
        weighed = self.weigh_again(torch.cat([joined, high], dim=1))
        return self.smooth(self.reduce(weighed))
