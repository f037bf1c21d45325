"""DeCovNet: a light 3D residual network with a progressive classifier.

Sources: X. Wang, X. Deng, Q. Fu et al., "A Weakly-Supervised Framework for COVID-19
Classification and Lesion Localization From Chest CT", IEEE TMI 39(8), 2020; C. Zheng et al.,
medRxiv 2020.03.12.20027185. Layer widths and pooled sizes are those of the authors' public
repository (sydney0zq/covid-19-detection); the code is written afresh.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DeCovNet"]

WIDTH = 16  # channels of the stem


class DeCovNet(nn.Module):
    """Stem 5 x 7 x 7, two 3D residual blocks, progressive classifier.

    Parameters
    ----------
    input_channels : int
        1: the slices alone. 2: slices and lung mask, as in the original.

    Notes
    -----
    Deviations **(decided)**. The original stacks slices and lung mask into two channels; Table
    III of M3Lung-Sys runs it with one. Both can be had: with one channel the lung crop, which
    every network here sees, plays the mask's part; with two the mask is the air inside the crop
    (see :mod:`training.baselines.volumes`). The pooled planes of the classifier are square
    (24, 12, 6) where the original's oblong images (192 x 288) had 24 x 36, 12 x 18, 6 x 9, and
    never larger than what comes in. The original's two linear layers in a row without anything
    between are one.
    """

    def __init__(self, input_channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(input_channels, WIDTH, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(WIDTH),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.block1 = ResidualBlock(WIDTH, WIDTH, 4 * WIDTH, stride=1)
        self.pool = nn.MaxPool3d((2, 1, 1), ceil_mode=True)
        self.block2 = ResidualBlock(4 * WIDTH, 2 * WIDTH, 8 * WIDTH, stride=2)
        self.conv1 = nn.Conv3d(8 * WIDTH, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 32, 3, padding=1)
        self.conv3 = nn.Conv3d(32, 32, 3, padding=1)
        self.class_head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Classify volumes; shapes below for (B, 1, 128, 256, 256).

        Parameters
        ----------
        x : Tensor of float, shape (B, C, T, H, W)
            Windowed slices (and lung mask).

        Returns
        -------
        Tensor, shape (B, 4)
            Logits.
        """
        x = self.stem(x)  # (B, 16, 128, 64, 64)
        x = self.pool(self.block1(x))  # (B, 64, 64, 64, 64)
        x = self.block2(x)  # (B, 128, 64, 32, 32)
        x = self.conv1(_pool_to(x, 16, 24)).relu()  # (B, 64, 16, 24, 24)
        x = self.conv2(_pool_to(x, 4, 12)).relu()  # (B, 32, 4, 12, 12)
        x = self.conv3(_pool_to(x, 1, 6)).relu()  # (B, 32, 1, 6, 6)
        logits: Tensor = self.class_head(x.amax(dim=(2, 3, 4)))  # (B, 32) -> (B, 4)
        return logits


class ResidualBlock(nn.Module):
    """3 x 1 x 1, 1 x 3 x 3 and 1 x 1 x 1 convolutions beside a 1 x 1 x 1 shortcut.

    Parameters
    ----------
    inputs, inner, outputs : int
        Channels.
    stride : int
        In the plane.
    """

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        plane = (1, stride, stride)
        self.main = nn.Sequential(
            nn.Conv3d(inputs, inner, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, inner, (1, 3, 3), plane, (0, 1, 1), bias=False),
            nn.BatchNorm3d(inner),
            nn.ReLU(inplace=True),
            nn.Conv3d(inner, outputs, 1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv3d(inputs, outputs, 1, plane, bias=False), nn.BatchNorm3d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) -> (B, outputs, T, H/stride, W/stride)."""
        total: Tensor = self.main(x) + self.shortcut(x)
        return total.relu()


def _pool_to(x: Tensor, slices: int, side: int) -> Tensor:
    """Max pooling to at most (slices, side, side)."""
    t, h, w = x.shape[2:]
    return functional.adaptive_max_pool3d(x, (min(slices, t), min(side, h), min(side, w)))
