"""The four networks M3Lung-Sys is compared with, and the settings of Table III."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from training.baselines.covnet import CovNet, CovNetBackbone
from training.baselines.decovnet import DeCovNet
from training.baselines.med3d import Med3D

__all__ = ["RIVALS", "Rival"]


@dataclass(frozen=True, slots=True)
class Rival:
    """A network and how the paper ran it (Table III).

    Attributes
    ----------
    name, title : str
        In files and options; for readers.
    make : callable
        Number of input channels and name of the ResNet (COVNet's; the others take no notice) to
        a network that takes (B, C, T, H, W) and gives (B, 4) logits.
    channels, slices, size, batch, epochs : int
        C, T, H = W, B and the number of epochs.
    """

    name: str
    title: str
    make: Callable[[int, CovNetBackbone], nn.Module]
    channels: int
    slices: int
    size: int
    batch: int
    epochs: int


def _med3d(depth: int) -> Callable[[int, CovNetBackbone], nn.Module]:
    return lambda _channels, _backbone: Med3D(depth)


def _covnet(_channels: int, backbone: CovNetBackbone) -> nn.Module:
    return CovNet(backbone)


def _decovnet(channels: int, _backbone: CovNetBackbone) -> nn.Module:
    return DeCovNet(channels)


RIVALS: Mapping[str, Rival] = MappingProxyType(
    {
        rival.name: rival
        for rival in (
            Rival("covnet", "COVNet", _covnet, 3, 64, 256, 4, 110),
            Rival("med3d-50", "Med3D-50", _med3d(50), 1, 128, 256, 6, 220),
            Rival("med3d-18", "Med3D-18", _med3d(18), 1, 128, 256, 8, 220),
            Rival("decovnet", "DeCovNet", _decovnet, 1, 128, 256, 16, 220),
        )
    }
)
