"""Med3D: 3D ResNets whose last two stages are dilated instead of strided.

Source: S. Chen, K. Ma, Y. Zheng, "Med3D: Transfer Learning for 3D Medical Image Analysis",
arXiv 1904.00625.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Med3D"]

DEPTHS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)


class Med3D(nn.Module):
    """3D ResNet, global average pool, one FC.

    Parameters
    ----------
    depth : 10, 18 or 50
        Paper's comparison: 18 (basic blocks) and 50 (bottlenecks). 10 is for trials.

    Notes
    -----
    As the paper modifies the ResNet: one input channel, stride 1 and dilation 2 and 4 in the
    third and fourth stage, so the last map has an eighth of the input's size. Deviations
    **(decided)**: trained from scratch like its rivals, without the 23 data sets of Med3D; a
    shortcut that changes shape is a 1 x 1 x 1 convolution at every depth.
    """

    def __init__(self, depth: int = 18) -> None:
        super().__init__()
        block = Bottleneck if depth == 50 else BasicBlock
        self.stem = nn.Sequential(
            nn.Conv3d(1, 64, 7, 2, 3, bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        stages: list[nn.Module] = []
        inputs = 64
        for count, width, stride, dilation in zip(
            DEPTHS[depth], WIDTHS, STRIDES, DILATIONS, strict=True
        ):
            blocks = []
            for index in range(count):
                blocks.append(block(inputs, width, stride if index == 0 else 1, dilation))
                inputs = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.class_head = nn.Linear(inputs, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Classify volumes; shapes below for (B, 1, 128, 256, 256) and depth 18.

        Parameters
        ----------
        x : Tensor of float, shape (B, 1, T, H, W)
            Windowed slices.

        Returns
        -------
        Tensor, shape (B, 4)
            Logits.
        """
        x = self.stem(x)  # (B, 64, 32, 64, 64)
        x = self.stages(x)  # (B, 512, 16, 32, 32)
        logits: Tensor = self.class_head(x.mean(dim=(2, 3, 4)))  # (B, 512) -> (B, 4)
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv3d(inputs, width, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm3d(width),
        )
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) -> (B, width, T/stride, H/stride, W/stride)."""
        total: Tensor = self.main(x) + self.shortcut(x)
        return total.relu()


class Bottleneck(nn.Module):
    """1 x 1 x 1, 3 x 3 x 3 and 1 x 1 x 1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.main = nn.Sequential(
            nn.Conv3d(inputs, width, 1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, outputs, 1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) -> (B, 4·width, T/stride, H/stride, W/stride)."""
        total: Tensor = self.main(x) + self.shortcut(x)
        return total.relu()


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
