"""Res2Net (Gao et al., arXiv 1904.01169): bottlenecks whose middle is split into scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Res2Net", "Res2NetParameters"]


@dataclass(frozen=True, slots=True)
class Res2NetParameters:
    """What the backbone is made of; the default is the paper's Res2Net-101 26w × 4s.

    Attributes
    ----------
    blocks : tuple of 4 int
        Bottlenecks per stage: (3, 4, 23, 3) are 101 layers, (3, 4, 6, 3) 50. A demonstration
        takes (1, 1, 1, 1).
    stem_channels : int
        64, as ResNet. Stages give 4, 8, 16 and 32 times as many.
    width, scales : int
        Channels of each scale in the first stage at 64 stem channels, and their number.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    stem_channels: int = 64
    width: int = 26
    scales: int = 4

    def __post_init__(self) -> None:
        if min(self.blocks) < 1 or self.stem_channels < 4 or self.width < 1 or self.scales < 2:
            raise ValueError("a Res2Net has a block per stage, 4 channels and 2 scales at least")

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Of the stem and of the four stages: 64, 256, 512, 1024, 2048."""
        stem = self.stem_channels
        return stem, 4 * stem, 8 * stem, 16 * stem, 32 * stem


class Res2Net(nn.Module):
    """Stem and four stages.

    Parameters
    ----------
    parameters : Res2NetParameters
    """

    def __init__(self, parameters: Res2NetParameters) -> None:
        super().__init__()
        channels = parameters.channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        before = channels[0]
        for number, count in enumerate(parameters.blocks):
            planes = parameters.stem_channels * 2**number
            width = max(1, round(planes * parameters.width / 64))
            stage: list[nn.Module] = []
            for index in range(count):
                stride = 2 if index == 0 and number > 0 else 1
                stage.append(
                    _Bottle2neck(before, 4 * planes, width, parameters.scales, stride, index == 0)
                )
                before = 4 * planes
            self.stages.append(nn.Sequential(*stage))
        _initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of all levels.

        Parameters
        ----------
        x : Tensor of float, shape (B, 3, H, W)
            H and W multiples of 32; shapes below for 224 and the default.
        """
        x = self.stem(x)  # (B, 64, 112, 112)
        levels = [x]
        x = functional.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, 56, 56)
        for stage in self.stages:
            x = stage(x)  # (B, 256, 56, 56), (B, 512, 28, 28), (B, 1024, 14, 14), (B, 2048, 7, 7)
            levels.append(x)
        return levels


class _Bottle2neck(nn.Module):
    """1×1, then a 3×3 per scale that also sees the scale before it, then 1×1.

    The first block of a stage pools the last scale instead, since strides do not add up.
    """

    def __init__(
        self, before: int, after: int, width: int, scales: int, stride: int, first: bool
    ) -> None:
        super().__init__()
        self.width, self.first = width, first
        self.conv1 = nn.Conv2d(before, width * scales, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            for _ in range(scales - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scales - 1))
        self.conv3 = nn.Conv2d(width * scales, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.stride = stride
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        parts = torch.split(functional.relu(self.bn1(self.conv1(x))), self.width, dim=1)
        done: list[Tensor] = []
        for part, conv, norm in zip(parts, self.convs, self.norms, strict=False):
            joined = part if self.first or not done else part + done[-1]
            done.append(functional.relu(norm(conv(joined))))
        last = parts[-1]
        if self.first and self.stride > 1:
            last = functional.avg_pool2d(last, 3, stride=self.stride, padding=1)
        x = self.bn3(self.conv3(torch.cat([*done, last], dim=1)))
        return functional.relu(x + skip)


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _Bottle2neck):
            nn.init.zeros_(module.bn3.weight)
