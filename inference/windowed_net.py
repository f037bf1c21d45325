"""The slice network from Hounsfield units to probabilities, as every engine runs it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from inference.bundle import Bundle
from inference.slice_net import SliceNet
from inference.windowing import WindowParameters

__all__ = ["WindowedNet", "fold_batch_norms", "fold_normalization"]


class WindowedNet(nn.Module):
    """Window, normalise, run the slice network, calibrate.

    The normalisation is part of the first convolution (:func:`fold_normalization`). The window and
    the softmax are float32 whatever the network computes in.

    Parameters
    ----------
    bundle : Bundle
        Its slice network is copied, its batch norms folded into the convolutions.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        window, calibration = bundle.manifest.preprocessing.window, bundle.manifest.calibration
        net = fold_batch_norms(copy.deepcopy(bundle.slice_net).eval())
        self.net = fold_normalization(net, window)
        self.mean = sum(window.mean) / len(window.mean)
        self.width_hu = window.width_hu
        self.lesion_temperature = calibration.lesion_temperature
        self.slice_temperature = calibration.slice_temperature

    def forward(self, hu: Tensor, center_hu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read a batch, each slice in one window.

        Parameters
        ----------
        hu : Tensor of float32, shape (B, 1, H, W)
        center_hu : Tensor of float32, shape () or (B, 1, 1, 1)

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
        x = torch.cat([scaled - self.mean, torch.ones_like(scaled)], dim=1)  # (B, 2, H, W)
        dtype = self.net.class_head.weight.dtype
        out = self.net(x.to(dtype=dtype, memory_format=torch.channels_last))
        if out.lesion_logits is None or out.location is None:
            raise TypeError("the slice network has no lesion head")
        lesion = (out.lesion_logits.float() / self.lesion_temperature).softmax(dim=1)[:, 1]
        classes = (out.class_logits.float() / self.slice_temperature).softmax(dim=1)
        return out.features.float(), lesion, classes, out.location[:, 0].float()


def fold_normalization(net: SliceNet, window: WindowParameters) -> SliceNet:
    """Fold ImageNet's mean and standard deviation into the first convolution.

    Its three inputs are one slice, normalised three ways. The sum of their weights reads the
    slice itself, less the mean of the three means; what the means differ by is read from a second
    input that is one everywhere. Both are zero outside the image, as the normalised inputs were,
    so that the result is the same up to the border.

    Parameters
    ----------
    net : SliceNet
        Changed in place: afterwards it takes (B, 2, H, W).
    window : WindowParameters

    Returns
    -------
    SliceNet
        `net`.
    """
    first = net.stem[0]
    if not isinstance(first, nn.Conv2d):
        raise TypeError("the network does not begin with a convolution")
    std, mean = (torch.tensor(each)[:, None, None] for each in (window.std, window.mean))
    scaled = first.weight.data / std  # (64, 3, 7, 7)
    slice_weight = scaled.sum(dim=1)
    one_weight = (scaled * (mean.mean() - mean)).sum(dim=1)
    folded = nn.Conv2d(
        2, first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )  # fmt: skip
    folded.weight.data = torch.stack([slice_weight, one_weight], dim=1)
    folded.bias = first.bias
    net.stem[0] = folded
    return net


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
