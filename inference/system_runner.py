"""What the readers of M²UNet and JCS share: the device, and the crops in a model's own size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from inference.domain import BoundingBox, CtVolume
from inference.engine import DeviceName, Precision, choose_device, choose_precision
from inference.errors import BundleError
from inference.lung_crop import CropParameters, LungCrop, crop_to_input

__all__ = ["Runner", "crops_as_displayed", "require_same_crop", "to_source"]


@dataclass(frozen=True)
class Runner:
    """Where a network runs, and in what.

    Attributes
    ----------
    device : torch.device
    dtype : torch.dtype
        Of autocast; float32 means none.
    batch : int
        Pictures per forward pass.
    """

    device: torch.device
    dtype: torch.dtype
    batch: int

    @classmethod
    def choose(cls, device: DeviceName, precision: Precision, batch: int) -> Runner:
        """As the main model chooses.

        Raises
        ------
        DeviceError
        """
        where = choose_device(device)
        return cls(where, choose_precision(precision, where), batch)

    def autocast(self) -> torch.autocast:
        """Compute in :attr:`dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def require_same_crop(main: CropParameters, other: CropParameters, name: str) -> None:
    """Make sure that a system can share the main model's crop.

    Raises
    ------
    BundleError
        They differ in more than the input's size.
    """
    if replace(other, input_size=main.input_size) != main:
        raise BundleError(
            f"{name} was trained on another lung crop than the main model: the node crops once"
        )


def crops_as_displayed(
    volume: CtVolume, crop: LungCrop, chosen: NDArray[np.intp], parameters: CropParameters
) -> NDArray[np.int16]:
    """Crops of some slices as the networks see them, shape (n, S, S)."""
    planes = [crop_to_input(volume.hu[i], crop.boxes[i], parameters) for i in chosen]
    return np.ascontiguousarray(np.stack(planes)[volume.as_displayed])


def to_source(plane: NDArray[np.uint8], box: BoundingBox, target: NDArray[np.uint8]) -> None:
    """Put labels of a crop back on their slice: nearest neighbour, inside the box only."""
    scaled = cv2.resize(plane, (box.width, box.height), interpolation=cv2.INTER_NEAREST)
    target[box.top : box.bottom, box.left : box.right] = scaled
