"""The slice network from Hounsfield units to probabilities, as every engine runs it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from inference.bundle import Bundle
from inference.slice_net import SliceNet

__all__ = ["WindowedNet", "fold_batch_norms"]


class WindowedNet(nn.Module):
    """Window, normalise, run the slice network, calibrate.

    The window and the softmax are float32 whatever the network computes in.

    Parameters
    ----------
    bundle : Bundle
        Its slice network is copied, its batch norms folded into the convolutions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        window, calibration = bundle.manifest.preprocessing.window, bundle.manifest.calibration
        self.net = fold_batch_norms(copy.deepcopy(bundle.slice_net).eval())
        self.width_hu = window.width_hu
        self.lesion_temperature = calibration.lesion_temperature
        self.slice_temperature = calibration.slice_temperature
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(window.mean).reshape(shape))
        self.register_buffer("std", torch.tensor(window.std).reshape(shape))

    def forward(self, hu: Tensor, center_hu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read a batch in one window.

        Parameters
        ----------
        hu : Tensor of float32, shape (B, 1, H, W)
        center_hu : Tensor of float32, shape ()

        Returns
        -------
        features : Tensor of float32, shape (B, D3 + D4)
        lesion_probability : Tensor of float32, shape (B,)
        probabilities : Tensor of float32, shape (B, 4)
        location : Tensor of float32, shape (B, H/16, W/16)

        Raises
        ------
        TypeError
            The network has no lesion head.
        """
        low = center_hu - self.width_hu / 2
        scaled = ((hu - low) / self.width_hu).clamp(0, 1)  # the map of inference.windowing
        x = (scaled - self.mean) / self.std  # (B, 3, H, W)
        dtype = self.net.class_head.weight.dtype
        out = self.net(x.to(dtype=dtype, memory_format=torch.channels_last))
        if out.lesion_logits is None or out.location is None:
            raise TypeError("the slice network has no lesion head")
        lesion = (out.lesion_logits.float() / self.lesion_temperature).softmax(dim=1)[:, 1]
        classes = (out.class_logits.float() / self.slice_temperature).softmax(dim=1)
        return out.features.float(), lesion, classes, out.location[:, 0].float()


def fold_batch_norms(net: SliceNet) -> SliceNet:
    """Fold each batch norm of a network in evaluation mode into the convolution before it.

    Parameters
    ----------
    net : SliceNet
        Changed in place.

    Returns
    -------
    SliceNet
        `net`.
    """
    _fold_in_sequence(net.stem, 0, 1)
    for module in net.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            for number in ("1", "2", "3"):
                conv = getattr(module, f"conv{number}", None)
                norm = getattr(module, f"bn{number}", None)
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(module, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                    setattr(module, f"bn{number}", nn.Identity())
            if isinstance(module.downsample, nn.Sequential):
                _fold_in_sequence(module.downsample, 0, 1)
    return net


def _fold_in_sequence(sequence: nn.Sequential, conv_index: int, norm_index: int) -> None:
    conv, norm = sequence[conv_index], sequence[norm_index]
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        sequence[conv_index] = fuse_conv_bn_eval(conv, norm)
        sequence[norm_index] = nn.Identity()
