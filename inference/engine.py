"""Engines: what runs the slice network over a batch of crops.

:class:`SliceEngine` is the seam; :class:`TorchEngine` is eager torch. An engine gets cropped
Hounsfield units and gives back the mean over the bundle's window centres, so that decoding,
cropping and the transfer to the device are done once for all windows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from inference.errors import DeviceError
from inference.slice_net import SliceNet
from inference.windowing import WindowParameters

__all__ = ["SliceEngine", "SliceReadings", "TorchEngine", "choose_device", "choose_precision"]

# More at a time is no faster on a CPU (2.9 slices/s by fours, 3.2 one by one in float32 on two
# AVX2 cores), and a caller waits longer for a sign of life.
CPU_CHUNK = 1

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class SliceReadings:
    """What the slice network says of a batch, averaged over the window centres.

    Attributes
    ----------
    features : ndarray of float32, shape (B, D)
    lesion_probability : ndarray of float32, shape (B,)
    probabilities : ndarray of float32, shape (B, 4)
    maps : ndarray of float32, shape (B, h, w)
        Location maps in [0, 1].
    """

    features: NDArray[np.float32]
    lesion_probability: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32]

    @staticmethod
    def join(parts: Sequence[SliceReadings]) -> SliceReadings:
        """Readings of consecutive batches as one."""
        return SliceReadings(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.lesion_probability for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.maps for part in parts]),
        )


class SliceEngine(Protocol):
    """Runs the slice network."""

    @property
    def description(self) -> str:
        """Engine, device and precision in words."""
        ...

    def read(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch.

        Parameters
        ----------
        crops : ndarray of int16, shape (B, input_size, input_size)
            Hounsfield units.
        tick : callable or None
            Called with the number of forward passes done since the last call: B times the
            number of window centres in all.
        """
        ...


def choose_device(name: DeviceName) -> torch.device:
    """``auto`` takes CUDA where there is any.

    Raises
    ------
    DeviceError
        CUDA is asked for and absent.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError("the device cuda is not available: no GPU that this torch can use")
    return torch.device("cuda" if available and name in ("auto", "cuda") else "cpu")


def choose_precision(name: Precision, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 where the device computes in it, else float32.

    On a CPU that means avx512_bf16 or AMX (or Arm's BF16): without them torch emulates bfloat16
    several times slower than float32.
    """
    if name == "float32":
        return torch.float32
    if name == "bfloat16" or _computes_bf16(device):
        return torch.bfloat16
    return torch.float32


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class TorchEngine:
    """Eager torch: channels last, batch norm folded into the convolutions.

    Parameters
    ----------
    net : SliceNet
        With a lesion head; copied, not changed.
    window : WindowParameters
    device : torch.device
    dtype : torch.dtype
        float32 or bfloat16. Windowing, softmax and averages are float32 in both.
    """

    def __init__(
        self, net: SliceNet, window: WindowParameters, device: torch.device, dtype: torch.dtype
    ) -> None:
        folded = fold_batch_norms(copy.deepcopy(net).eval())
        self._net = folded.to(device, dtype).to(memory_format=torch.channels_last)
        self._window = window
        self._device = device
        self._dtype = dtype
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(window.mean, device=device).reshape(shape)
        self._std = torch.tensor(window.std, device=device).reshape(shape)

    @property
    def description(self) -> str:
        """Engine, device and precision in words."""
        precision = str(self._dtype).removeprefix("torch.")
        return f"torch {torch.__version__} eager, {self._device.type}, {precision}"

    @torch.inference_mode()
    def read(
        self, crops: NDArray[np.int16], tick: Callable[[int], None] | None = None
    ) -> SliceReadings:
        """Read a batch; see :class:`SliceEngine`."""
        step = len(crops) if self._device.type == "cuda" else CPU_CHUNK
        parts = [self._read(crops[i : i + step], tick) for i in range(0, len(crops), step)]
        return SliceReadings.join(parts)

    def _read(self, crops: NDArray[np.int16], tick: Callable[[int], None] | None) -> SliceReadings:
        hu = torch.from_numpy(crops).to(self._device).float()[:, None]  # (B, 1, H, W)
        sums: list[Tensor] = []
        for center_hu in self._window.centers_hu:
            out = self._net(self._windowed(hu, center_hu))
            if out.lesion_logits is None or out.location is None:
                raise TypeError("the slice network has no lesion head")
            terms = [
                out.features.float(),
                out.lesion_logits.float().softmax(dim=1)[:, 1],
                out.class_logits.float().softmax(dim=1),
                out.location[:, 0].float(),
            ]
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
            if tick is not None:
                tick(len(crops))
        features, lesion, classes, maps = (
            (total / len(self._window.centers_hu)).cpu().numpy() for total in sums
        )
        return SliceReadings(features, lesion, classes, maps)

    def _windowed(self, hu: Tensor, center_hu: float) -> Tensor:
        """(B, 1, H, W) HU -> (B, 3, H, W), the map of :mod:`inference.windowing`."""
        low = center_hu - self._window.width_hu / 2
        scaled = ((hu - low) / self._window.width_hu).clamp(0, 1)
        normalized = (scaled - self._mean) / self._std
        return normalized.to(dtype=self._dtype, memory_format=torch.channels_last)


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
