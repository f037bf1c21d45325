"""COVNet: a 2D ResNet-50 on every slice, the strongest answer of each feature kept.

Source: L. Li et al., "Using Artificial Intelligence to Detect COVID-19 and Community-acquired
Pneumonia Based on Pulmonary CT", Radiology 296(2), 2020.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

__all__ = ["CovNet", "CovNetBackbone"]

CovNetBackbone = Literal["resnet50", "resnet18"]
_BACKBONES = {"resnet50": resnet50, "resnet18": resnet18}


class CovNet(nn.Module):
    """One ResNet for all slices, shared; pool over the plane, max over slices, one FC.

    Parameters
    ----------
    backbone : "resnet50" or "resnet18"
        Paper: ResNet-50. The smaller one is for trials.

    Notes
    -----
    Deviations **(decided)**: four classes instead of three, and no ImageNet weights, since none
    of the networks it is compared with has them. The original looks at the segmented lung; here
    it sees the same lung crops as every other network.
    """

    def __init__(self, backbone: CovNetBackbone = "resnet50") -> None:
        super().__init__()
        resnet = _BACKBONES[backbone](weights=None)
        self.features = nn.Sequential(
            resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool,
            resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4,
        )  # fmt: skip
        self.class_head = nn.Linear(resnet.fc.in_features, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Classify volumes.

        Parameters
        ----------
        x : Tensor of float, shape (B, 3, T, H, W)
            Windowed, normalised slices in three equal channels; paper: (4, 3, 64, 256, 256).

        Returns
        -------
        Tensor, shape (B, 4)
            Logits.
        """
        batch, channels, slices, height, width = x.shape
        x = x.transpose(1, 2).reshape(batch * slices, channels, height, width)  # (B·T, 3, H, W)
        x = self.features(x)  # (B·T, 2048, H/32, W/32)
        x = x.mean(dim=(2, 3)).reshape(batch, slices, -1)  # (B, T, 2048)
        logits: Tensor = self.class_head(x.amax(dim=1))  # (B, 2048) -> (B, 4)
        return logits
