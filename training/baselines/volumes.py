"""Volumes of a fixed size for the rivals, made from the same lung crops as the slice network's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.domain import BoundingBox
from inference.lung_crop import CropParameters, airway_and_lung, crop_to_input
from inference.windowing import WindowParameters, apply_window

__all__ = ["VolumeParameters", "lung_air", "network_input", "resample_volume"]


@dataclass(frozen=True, slots=True)
class VolumeParameters:
    """Size of a rival's input.

    Attributes
    ----------
    channels : 1 or 3
        Equal channels of the windowed slice.
    slices, size : int
        T, and H = W.
    lung_mask : bool
        One channel more: the air inside the crop.
    """

    channels: int
    slices: int
    size: int
    lung_mask: bool = False

    @property
    def input_channels(self) -> int:
        """C of the network's input."""
        return self.channels + int(self.lung_mask)


def resample_volume(crops: NDArray[np.int16], slices: int, size: int) -> NDArray[np.int16]:
    """Bring a patient's crops to T slices of one size.

    Parameters
    ----------
    crops : ndarray of int16, shape (n, S, S)
        Hounsfield units, most superior slice first.
    slices, size : int

    Returns
    -------
    ndarray of int16, shape (slices, size, size)
        Slices are taken evenly from the first to the last, repeated where there are fewer, never
        mixed **(decided)**; planes are resized by serving's own function.
    """
    index = np.rint(np.linspace(0, len(crops) - 1, slices)).astype(np.intp)
    side = crops.shape[1]
    whole = BoundingBox(0, 0, side, side)
    parameters = CropParameters(input_size=size)
    chosen: dict[int, NDArray[np.int16]] = {}
    for i in index:
        if int(i) not in chosen:
            plane = np.asarray(crops[i])
            chosen[int(i)] = plane if side == size else crop_to_input(plane, whole, parameters)
    return np.stack([chosen[int(i)] for i in index])


def lung_air(volume: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Lung mask of resampled crops: the air inside each, by the paper's own steps 2 to 5.

    Parameters
    ----------
    volume : ndarray of int16, shape (T, size, size)

    Returns
    -------
    ndarray of bool, shape of `volume`
        Consolidation inside the lung is not part of it: DeCovNet's original masks came from a
        network of its own, which is not at hand **(decided)**.
    """
    parameters = CropParameters()
    return np.stack([airway_and_lung(plane, parameters) for plane in volume])


def network_input(
    volume: NDArray[np.int16], center_hu: float, window: WindowParameters, shape: VolumeParameters
) -> Tensor:
    """Window a resampled volume and stack its channels.

    Parameters
    ----------
    volume : ndarray of int16, shape (T, H, W)
    center_hu : float
    window : WindowParameters
    shape : VolumeParameters

    Returns
    -------
    Tensor of float32, shape (C, T, H, W)
        Three channels are normalised by ImageNet's means, one channel by the mean of these
        **(decided)**; the mask is 0 or 1.
    """
    windowed = torch.from_numpy(apply_window(volume, center_hu, window.width_hu))[None]
    if shape.channels == 3:
        mean, std = torch.tensor(window.mean), torch.tensor(window.std)
    else:
        mean, std = torch.tensor(window.mean).mean()[None], torch.tensor(window.std).mean()[None]
    channels = (windowed - mean[:, None, None, None]) / std[:, None, None, None]  # (C, T, H, W)
    if not shape.lung_mask:
        return channels
    mask = torch.from_numpy(lung_air(volume)).float()[None]  # (1, T, H, W)
    return torch.cat([channels, mask])
