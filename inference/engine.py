"""Engines: what runs the slice network over a batch of crops.

:class:`SliceEngine` is the seam: :class:`~inference.torch_engine.TorchEngine` (any device) and
:class:`~inference.openvino_engine.OpenVinoEngine` (CPU) stand behind it. An engine gets cropped
Hounsfield units and gives back the mean over the bundle's window centres, so that decoding,
cropping and the transfer to the device are done once for all windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from inference.bundle import Bundle
from inference.errors import DeviceError

__all__ = [
    "EngineName",
    "SliceEngine",
    "SliceReadings",
    "choose_device",
    "choose_precision",
    "make_engine",
    "mean_over_windows",
]

DeviceName = Literal["auto", "cpu", "cuda"]
EngineName = Literal["auto", "torch", "openvino"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]


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


def make_engine(
    bundle: Bundle,
    *,
    name: EngineName = "auto",
    device: DeviceName = "auto",
    precision: Precision = "auto",
    threads: int = 0,
) -> SliceEngine:
    """Make the engine for a bundle.

    Parameters
    ----------
    bundle : Bundle
    name : "auto", "torch" or "openvino"
        auto: OpenVINO on a CPU, torch on a GPU.
    device, precision
        See :func:`choose_device`, :func:`choose_precision`.
    threads : int
        CPU threads; 0 takes the CPUs that this process may use.

    Raises
    ------
    DeviceError
        The device is absent, or the engine cannot use it.
    """
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    if name == "openvino" and where.type != "cpu":
        raise DeviceError("the engine openvino runs on the CPU only: set the device to cpu")
    if dtype == torch.int8 and (name == "torch" or where.type != "cpu"):
        raise DeviceError("int8 runs in the engine openvino on the CPU only")
    if name == "torch" or where.type != "cpu":
        from inference.torch_engine import TorchEngine

        return TorchEngine(bundle, where, dtype)
    from inference.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(bundle, dtype, threads)


def mean_over_windows(
    forward: Callable[[float], Sequence[NDArray[np.float32]]],
    centers_hu: Sequence[float],
    tick: Callable[[], None],
) -> SliceReadings:
    """Average what the network says of the same slices in each window.

    Parameters
    ----------
    forward : callable
        Takes a window centre, returns the four outputs of
        :class:`~inference.windowed_net.WindowedNet`.
    centers_hu : sequence of float
    tick : callable
        Called after each window.
    """
    sums: list[NDArray[np.float32]] = []
    for center_hu in centers_hu:
        terms = forward(center_hu)
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else list(terms)
        tick()
    features, lesion, classes, maps = (total / np.float32(len(centers_hu)) for total in sums)
    return SliceReadings(features, lesion, classes, maps)


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
    several times slower than float32. int8 is never chosen by itself: it reads a little
    differently, and somebody has to have looked how much (:class:`inference.quantized.Agreement`).
    """
    if name == "int8":
        return torch.int8
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
