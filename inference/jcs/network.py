"""The whole network: classifier with its explanation, segmentation, and the bridge between."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.jcs.decoder import AttentiveFusion, EnhancedFeatures, Vgg, vgg_channels
from inference.jcs.res2net import Res2Net, Res2NetParameters

__all__ = ["JcsClassifier", "JcsNet", "JcsParameters"]

SIDE_OUTPUTS = 5


@dataclass(frozen=True, slots=True)
class JcsParameters:
    """What the network is made of; the defaults are the published ones.

    Attributes
    ----------
    res2net : Res2NetParameters
    classifier_px : int
        Rows and columns that the classifier sees (published: 224), a multiple of 32.
    vgg_base : int
        Channels of VGG's first level (published: 64). A demonstration takes 16.
    frozen_norms : bool
        Of VGG (published). False where it starts from random weights.
    joint : bool
        Fuse each VGG level with the classifier's. False: the two parts stand alone, as in the
        first step of training and in the ablation.
    """

    res2net: Res2NetParameters = field(default_factory=Res2NetParameters)
    classifier_px: int = 224
    vgg_base: int = 64
    frozen_norms: bool = True
    joint: bool = True

    def __post_init__(self) -> None:
        if self.classifier_px < 32 or self.classifier_px % 32:
            raise ValueError("classifier_px is a multiple of 32")
        if self.vgg_base < 4:
            raise ValueError("vgg_base is at least 4")


class JcsClassifier(nn.Module):
    """Res2Net, pooled, two-way; explained by the class activation of its last block."""

    def __init__(self, parameters: JcsParameters) -> None:
        super().__init__()
        self.size = parameters.classifier_px
        self.backbone = Res2Net(parameters.res2net)
        self.head = nn.Linear(parameters.res2net.channels[-1], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Classify slices.

        Parameters
        ----------
        x : Tensor of float, shape (B, 3, H, W)
            Any size; brought to 224 × 224 by area.

        Returns
        -------
        logits : Tensor, shape (B, 2)
            Negative, positive.
        levels : list of 5 Tensor
            As :class:`~inference.jcs.res2net.Res2Net` gives them.
        """
        if x.shape[-1] != self.size:
            x = functional.adaptive_avg_pool2d(x, (self.size, self.size))  # (B, 3, 224, 224)
        levels = self.backbone(x)
        return self.head(levels[-1].mean(dim=(2, 3))), levels  # (B, 2)

    def explanation(self, deepest: Tensor) -> Tensor:
        """Class activation map: the two-way head applied to each place of the last block.

        The softmax over both scores gives a probability per place, so the scale is fixed and a
        negative slice stays dark **(decided)**, as the main model's location map.

        Parameters
        ----------
        deepest : Tensor, shape (B, D, h, w)

        Returns
        -------
        Tensor, shape (B, h, w)
            In [0, 1]; 7 × 7 at 224².
        """
        weight = (self.head.weight[1] - self.head.weight[0])[None, :, None, None]
        bias = (self.head.bias[1] - self.head.bias[0])[None]
        return torch.sigmoid(functional.conv2d(deepest, weight, bias))[:, 0]


class JcsNet(nn.Module):
    """Classifier and segmentation.

    Parameters
    ----------
    parameters : JcsParameters
    """

    def __init__(self, parameters: JcsParameters | None = None) -> None:
        super().__init__()
        self.parameters_ = parameters or JcsParameters()
        self.classifier = JcsClassifier(self.parameters_)
        channels = vgg_channels(self.parameters_.vgg_base)
        self.vgg = Vgg(self.parameters_.vgg_base, frozen_norms=self.parameters_.frozen_norms)
        self.bridges: nn.ModuleList | None = None
        if self.parameters_.joint:
            others = self.parameters_.res2net.channels
            self.bridges = nn.ModuleList(
                _bridge(own + other, own) for own, other in zip(channels, others, strict=True)
            )
        self.enhance = EnhancedFeatures(channels[-1])
        deeper = (*channels[1:], channels[-1])
        self.fusions = nn.ModuleList(
            AttentiveFusion(own, below) for own, below in zip(channels, deeper, strict=True)
        )
        self.sides = nn.ModuleList(nn.Conv2d(own, 1, 1) for own in channels)

    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First step of the product: logits (B, 2) and explanation maps (B, h, w)."""
        logits, levels = self.classifier(x)
        return logits, self.classifier.explanation(levels[-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Segment slices.

        Parameters
        ----------
        x : Tensor of float, shape (B, 3, H, W)
            Windowed and normalised crops, H and W multiples of 16; shapes below for 512 and the
            published channels.

        Returns
        -------
        list of 5 Tensor, each of shape (B, H, W)
            Logits of lesion at the input's size; the first one is the prediction.
        """
        others: list[Tensor] | None = None
        if self.bridges is not None:
            others = self.classifier(x)[1]
        level, encoded = x, []
        for number in range(len(self.vgg.levels)):
            # (B, 64, 512, 512), (B, 128, 256, 256), (B, 256, 128, 128), (B, 512, 64, 64) twice
            level = self.vgg.level(number, level)
            if self.bridges is not None and others is not None:
                other = functional.interpolate(
                    others[number], size=level.shape[-2:], mode="bilinear", align_corners=False
                )
                level = self.bridges[number](torch.cat([level, other], dim=1))
            encoded.append(level)
        encoded[-1], decoded = self.enhance(encoded[-1])  # (B, 512, 64, 64), (B, 512, 32, 32)
        outputs = []
        for number in reversed(range(len(encoded))):
            decoded = self.fusions[number](encoded[number], decoded)  # as encoded[number]
            side = self.sides[number](decoded)  # (B, 1, h, w)
            side = functional.interpolate(
                side, size=x.shape[-2:], mode="bilinear", align_corners=False
            )
            outputs.append(side[:, 0])  # (B, 512, 512)
        return outputs[::-1]


def _bridge(before: int, after: int) -> nn.Sequential:
    """Concat → three times conv, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for number in range(3):
        layers += [
            nn.Conv2d(before if number == 0 else after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
